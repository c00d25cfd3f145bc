"""SIGTERM: the machine is wanted elsewhere, and there are some seconds left to save in."""

import signal
import threading

import jax
from jax.experimental import multihost_utils

STATUS = 128 + signal.SIGTERM                                  # what a shell says of a command that SIGTERM ended


class Preempted(Exception):
  """A run that was asked to make room has saved and stops; the same command continues it."""


class Preemption:
  """Notices SIGTERM while a run is under way; a second one ends the process at once, as it would without this.

  With several processes jax spreads the news: the one that is asked to go may be any of them, and all must save after
  the same step. jax.distributed.initialize has then taken over the signal, and holds it until the run looks.

  Ctrl-C stays what it is, a KeyboardInterrupt: a save that is under way is completed, and no other is begun.
  """

  def __init__(self):
    self._several, self._received, self._before = jax.process_count() > 1, False, None

  def __enter__(self) -> "Preemption":
    if not self._several and threading.current_thread() is threading.main_thread():    # Python allows no other
      self._before = signal.signal(signal.SIGTERM, self._receive)
    return self

  def __exit__(self, *_) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
      self._before = None

  def requested(self, step: int) -> bool:
    """Whether to save and stop after this step: the same answer on all processes.

    Args:
      step: ask after every step, on every process.
    """
    if not self._several:
      return self._received
    if not multihost_utils.reached_preemption_sync_point(step):
      return False
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return True

  def _receive(self, *_) -> None:
    self._received = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
