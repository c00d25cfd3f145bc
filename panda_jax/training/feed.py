"""Batches on the devices: the next one is read and copied while a step runs."""

from concurrent import futures
import time
from typing import Any, Callable

import grain
import jax
import numpy as np

_POLL = 0.002                                                  # seconds; how finely waiting is measured


class Feed(grain.DatasetIterator):
  """Takes batches from an iterator and puts them on the devices, one batch ahead of the loop and in its own thread.

  So a step waits neither for the data nor for its copy, unless reading takes longer than a step. A checkpoint takes
  the feed in place of the iterator: its state is that of the batches which the loop was given, not of the one that is
  read ahead.

  Attributes:
    running: what the step dispatched last returns; the loop sets it.
    waited: seconds for which the devices had nothing to do because a batch was missing, so far: the time from when the
      loop asked for a batch and `running` was there, to when the batch was there. While a step still runs, waiting
      costs nothing and is not counted. To `_POLL` seconds.
  """

  def __init__(self, batches: grain.DatasetIterator, place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]):
    """
    Args:
      batches: this process's, from where the run continues. Nobody else may move it from here on.
      place: puts a batch on the devices.
    """
    super().__init__()
    self.running, self.waited = (), 0.0
    self._batches, self._place = batches, place
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="feed")
    self._state = batches.get_state()
    self._next = None                                          # a future of a batch and the state after it

  def start_prefetch(self) -> None:
    """Begins to read, long before the first batch is asked for."""
    if self._next is None:
      self._next = self._thread.submit(self._read)

  def __next__(self) -> dict[str, jax.Array]:
    """The next batch, on the devices. Raises what reading it raised."""
    self.start_prefetch()
    self._wait()
    batch, self._state = self._next.result()
    self._next = self._thread.submit(self._read)
    return batch

  def get_state(self) -> dict[str, Any]:
    """The iterator's state after the batches given so far."""
    return self._state

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from there; what was read ahead is dropped."""
    if self._next is not None:
      futures.wait([self._next])
    self._batches.set_state(state)
    self._state, self._next = state, None

  def close(self) -> None:
    """Waits for the batch that is being read, and ends the thread. The iterator stays open."""
    self._thread.shutdown(cancel_futures=True)
    super().close()

  def _read(self) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    batch = self._place(next(self._batches))
    return batch, self._batches.get_state()

  def _wait(self) -> None:
    idle = None                                                # since when the devices have nothing to do
    while not self._next.done():
      if idle is None and all(array.is_ready() for array in jax.tree.leaves(self.running)):
        idle = time.monotonic()
      futures.wait([self._next], timeout=_POLL)
    if idle is not None:
      self.waited += time.monotonic() - idle
