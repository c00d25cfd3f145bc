"""Reads the steps' numbers, stops a run whose numbers are none, and passes on those that are due."""

import contextlib
import math
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from panda_jax.training.checkpoint import Checkpoints
from panda_jax.training.errors import TrainingStopped
from panda_jax.training.feed import Feed
from panda_jax.training.metrics import MetricWriter
from panda_jax.training.programs import Program
from panda_jax.training.progress import Progress


class Log:
  """Reads a step's numbers from the device, stops the run if they are not finite, and writes those that are due."""

  def __init__(self, metrics: MetricWriter, progress: Progress, options: ConfigDict, checkpoints: Checkpoints,
               feed: Feed, peak: float | None):
    """
    Args:
      options: config.training.
      checkpoints: for what the log says when it stops the run.
      feed: where the batches come from; it knows how long the devices waited for them.
      peak: bfloat16 FLOP/s of one device, or None where that is not known.
    """
    self._metrics, self._progress, self._options, self._checkpoints = metrics, progress, options, checkpoints
    self._feed, self._peak = feed, peak
    self._begin(time.monotonic())

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

  def __call__(self, step: int, results: dict, program: Program, extra: dict[str, float] | None = None) -> None:
    """Checks a step's numbers, and writes them if they are due or there are others beside them.

    Args:
      step: the steps come one after the other.
      results: of the step, on the device.
      program: that made them.
      extra: other numbers for the same line.
    """
    values = self.check(step, results)
    self._losses.append(values["loss"])
    self._images += program.images
    self._flops += program.flops
    self._progress.advance(step)
    if not (due(step, self._options.log_every, step == self._options.steps) or extra):
      return
    now = time.monotonic()
    values = {**values, "loss_mean": float(np.mean(self._losses)), **(extra or {}), **self._rates(now)}
    self._metrics.write(step, values)
    self._progress.report(step, values)
    self._begin(now)

  @contextlib.contextmanager
  def paused(self):
    """Time spent inside does not count as training."""
    began = time.monotonic()
    yield
    self._paused += time.monotonic() - began

  def _begin(self, now: float) -> None:
    """Starts to count for the next line."""
    self._losses, self._images, self._flops = [], 0, 0.0
    self._began, self._paused, self._waited = now, 0.0, self._feed.waited

  def _rates(self, now: float) -> dict[str, float]:
    """How fast the steps since the last line were.

    A step is read when it is done, so these are the devices' times, whatever the host does meanwhile. MFU is the
    model's FLOPs, see `Program`, by those that the devices could have computed in the time: what is computed again to
    save memory lowers it. `data_wait` is the part of the time that `Feed.waited` grew by, on this process.
    """
    seconds, steps = max(now - self._began - self._paused, 1e-9), len(self._losses)
    rates = {"steps_per_second": steps / seconds, "step_seconds": seconds / steps,
             "images_per_second": self._images / seconds, "data_wait": (self._feed.waited - self._waited) / seconds}
    if self._flops:
      rates["tflops_per_second_per_chip"] = self._flops / seconds / 1e12
      if self._peak:
        rates["mfu"] = self._flops / seconds / self._peak
    return rates


def due(step: int, every: int, last: bool = False) -> bool:
  """Whether something happens at this step; `every` 0: never but at the last."""
  return last or (every > 0 and step % every == 0)
