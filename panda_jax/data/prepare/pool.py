"""Work shared out to processes: one that dies takes its own piece of work with it, and none outlives the run."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_AHEAD = 2                                            # pieces per process that wait in line


class Died(Exception):
  """The process that worked on this piece ended without an answer, twice."""


class Pool:
  """Runs one function on many pieces of work, in processes or, with none, right here.

  Args:
    processes: how many; 0 for none.
  """

  def __init__(self, processes: int):
    self.processes = processes
    if processes:
      # Workers are forked from a small process of their own: JAX's threads, which this one may have, do not survive that.
      self._context = multiprocessing.get_context("forkserver")
      self._context.set_forkserver_preload(["panda_jax.data.prepare.work"])

  def map(self, function: Callable, pieces: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
    """Calls function(*piece) for each piece; what is finished first comes first.

    Yields:
      (number of the piece, result); the result is a `Died` where the process died over this very piece.

    Raises:
      whatever the function raises; work that has not begun is dropped then.
    """
    if not self.processes:
      for number, piece in enumerate(pieces):
        yield number, function(*piece)
      return
    left = list(range(len(pieces)))[::-1]
    while left:
      suspects: list[int] = []
      yield from self._run(function, pieces, left, suspects)
      for number in suspects:                         # one of these broke the pool: each alone tells which
        alone, dead = [number], []
        yield from self._run(function, pieces, alone, dead, processes=1)
        if dead:
          yield number, Died()

  def _run(self, function: Callable, pieces: Sequence[tuple], left: list[int], suspects: list[int],
           processes: int | None = None) -> Iterator[tuple[int, Any]]:
    """Works through `left` from its end; where a process dies, what was under way goes to `suspects`."""
    processes = processes or self.processes
    with self._executor(processes) as executor:
      running: dict[futures.Future, int] = {}
      while left or running:
        while left and len(running) < _AHEAD * processes:
          number = left.pop()
          running[executor.submit(function, *pieces[number])] = number
        done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
        for future in done:
          number = running.pop(future)
          try:
            result = future.result()
          except BrokenProcessPool:
            suspects += [number, *running.values()]
            return
          yield number, result

  @contextlib.contextmanager
  def _executor(self, processes: int) -> Iterator[futures.ProcessPoolExecutor]:
    """An executor whose processes end at once when the run does, however it ends."""
    theirs, ours = self._context.Pipe(duplex=False)
    executor = futures.ProcessPoolExecutor(processes, self._context, _begin, (theirs,))
    try:
      yield executor
    except BaseException:
      ours.close()                                    # nobody waits for what is under way
      raise
    finally:
      executor.shutdown(wait=True, cancel_futures=True)
      ours.close()
      theirs.close()


def _begin(lifeline: Any) -> None:
  """Sets a worker up: Ctrl-C is for the run, and when the run is gone, even killed, so is the worker."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch():
    with contextlib.suppress(EOFError, OSError):
      lifeline.recv()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
