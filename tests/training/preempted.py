"""One of two processes that train the toy together; one of them may be asked to go.

  python -m tests.training.preempted PORT INDEX WORKDIR SIGNALLED
"""

import os
import signal
import sys
import time

import grain
import jax
import numpy as np

from panda_jax.training import loop
from panda_jax.training.preemption import STATUS
from tests.training.toy import ToySystem, toy_config, toy_data

STEPS = 30


class Signalling(grain.DatasetIterator):
  """Passes batches on; sends the own process a signal while one of them is read."""

  def __init__(self, batches, number: int, at: int, seconds: float = 0.0):
    super().__init__()
    self._batches, self._number, self._at, self._seconds = batches, number, at, seconds

  def __next__(self):
    batch = next(self._batches)
    time.sleep(self._seconds)
    self._at -= 1
    if self._at == 0:
      os.kill(os.getpid(), self._number)
    return batch

  def get_state(self):
    return self._batches.get_state()

  def set_state(self, state):
    self._batches.set_state(state)


def config(steps: int):
  return toy_config(steps=steps, checkpoint_every=5, keep=3, validate_every=0, validation_batches=0)


def main(port: str, index: int, workdir: str, signalled: bool) -> None:
  """Trains, half of each batch on each process; slowly, so that the news of the signal comes in time."""
  jax.distributed.initialize(f"localhost:{port}", 2, index, cluster_detection_method="deactivate")

  def data(config, system):
    result = toy_data(config, system)
    half = slice(index * config.batch_size // 2, (index + 1) * config.batch_size // 2)

    class Half(Signalling):
      def __next__(self):
        return {name: np.asarray(value)[half] for name, value in super().__next__().items()}
    result.train = Half(result.train, signal.SIGTERM, 8 if signalled else 0, seconds=0.1)
    return result

  try:
    loop.train(config(STEPS), workdir, ToySystem(), data)
  except loop.Preempted as stopped:
    print(stopped, file=sys.stderr)
    raise SystemExit(STATUS) from stopped


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")
