"""Reads the steps' numbers, stops a run whose numbers are none, and passes on those that are due."""

import contextlib
import math
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from panda_jax.training.checkpoint import Checkpoints
from panda_jax.training.errors import TrainingStopped
from panda_jax.training.metrics import MetricWriter, Progress


class Log:
  """Reads a step's numbers from the device, stops the run if they are not finite, and writes those that are due."""

  def __init__(self, metrics: MetricWriter, progress: Progress, options: ConfigDict, start: int,
               checkpoints: Checkpoints):
    """`options`: config.training; `start`: the last step of earlier sessions; `checkpoints`: for what it says."""
    self._metrics, self._progress, self._options, self._checkpoints = metrics, progress, options, checkpoints
    self._losses, self._written = [], start
    self._began, self._paused = time.monotonic(), 0.0

  def check(self, step: int, results: dict) -> dict[str, float]:
    """The step's numbers on the host; waits for the step if it still runs.

    Raises:
      TrainingStopped: if the loss or the gradient is not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(results).items()}
    for name in ("loss", "grad_norm"):
      if not math.isfinite(values[name]):
        kept = self._checkpoints.latest_step()
        where = f"the checkpoint of step {kept} is good" if kept is not None else "no checkpoint had been written yet"
        raise TrainingStopped(f"{name} became {values[name]} at step {step}; {where}; lower optimizer.learning_rate "
                              "or optimizer.clip_norm in another --workdir")
    return values

  def __call__(self, step: int, results: dict, extra: dict[str, float] | None = None) -> None:
    """Checks a step's numbers and writes them, if they are due or there are others beside them."""
    values = self.check(step, results)
    self._losses.append(values["loss"])
    self._progress.advance(step)
    if not (due(step, self._options.log_every, step == self._options.steps) or extra):
      return
    now = time.monotonic()
    seconds = now - self._began - self._paused
    values = {**values, "loss_mean": float(np.mean(self._losses)), **(extra or {}),
              "steps_per_second": (step - self._written) / max(seconds, 1e-9)}
    self._metrics.write(step, values)
    self._progress.report(step, values)
    self._losses, self._written, self._began, self._paused = [], step, now, 0.0

  @contextlib.contextmanager
  def paused(self):
    """Time spent inside does not count as training."""
    began = time.monotonic()
    yield
    self._paused += time.monotonic() - began


def due(step: int, every: int, last: bool = False) -> bool:
  """Whether something happens at this step; `every` 0: never but at the last."""
  return last or (every > 0 and step % every == 0)
