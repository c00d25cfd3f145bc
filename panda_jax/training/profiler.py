"""A trace of a few steps of a run, for TensorBoard's profiler or Perfetto."""

from pathlib import Path
import shutil
import tempfile
from typing import Any, Callable

from etils import epath
import jax

from panda_jax.paths import is_remote, upload


class Profiler:
  """Records the steps of a window, on the first process."""

  def __init__(self, folder: epath.Path, window: tuple[int, int] | None, say: Callable[[str], None]):
    """
    Args:
      folder: where the trace goes, on this machine or in a bucket.
      window: (start, stop): the steps of this session from number `start`, counted from 0, to the one before `stop`.
        None: no step.
      say: is told where the trace is.
    """
    self._folder, self._say = folder, say
    self._start, self._stop = window if window and jax.process_index() == 0 else (None, None)
    self._recording = None                                     # the local folder that a trace is being written to

  def __call__(self, number: int, running: Any = ()) -> None:
    """Comes before each step.

    Args:
      number: of the step in this session, from 0.
      running: what the step before returns. The last step of the window is waited for; no other is.
    """
    if number == self._start:
      self._recording = tempfile.mkdtemp() if is_remote(self._folder) else str(self._folder)
      jax.profiler.start_trace(self._recording)
    elif number == self._stop:
      jax.block_until_ready(running)
      self.close()

  def close(self) -> None:
    """Writes what was recorded, also where the session ends inside the window."""
    if self._recording is None:
      return
    recorded, self._recording = self._recording, None
    jax.profiler.stop_trace()
    if is_remote(self._folder):                                # the profiler writes to local folders only
      upload(Path(recorded), self._folder)
      shutil.rmtree(recorded)
    self._say(f"the profile is in {self._folder}")
