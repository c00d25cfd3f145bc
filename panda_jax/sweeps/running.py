"""Runs `panda` commands as processes of this machine, a few at a time, each with a log in its own folder."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
import fcntl
import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time

from panda_jax.errors import InputError

LOG_FILE = "log.txt"
PANDA = (sys.executable, "-m", "panda_jax")
_POLL_SECONDS = 0.1


def run_all(commands: Mapping[Path, Sequence[str]], jobs: int, note: Callable[[str], None],
            failures: dict[Path, str]) -> None:
  """Runs commands, at most `jobs` at once; one that fails does not stop the others.

  What a command says goes to log.txt in its folder, after what earlier runs have said. The log is locked while the
  command runs, so that no second process works in the same folder: not even when this one was killed and the command
  lives on.

  Args:
    commands: folder of the run -> the words after `panda`.
    jobs: processes at a time.
    note: is given a line whenever a run begins or ends.
    failures: receives folder -> why it failed, for those that do.

  Raises:
    KeyboardInterrupt: on Ctrl-C or SIGTERM, when all processes have ended. They are asked to end with SIGTERM, on
      which a training saves; a second Ctrl-C kills them.
  """
  waiting, running = deque(commands.items()), {}
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    while waiting or running:
      while waiting and len(running) < jobs:
        folder, arguments = waiting.popleft()
        try:
          running[folder] = _Run(folder, arguments)
          note(f"{folder.name}: begins, see {folder / LOG_FILE}")
        except BlockingIOError:
          failures[folder] = "another process still works in it; run this again when that has ended"
          note(f"{folder.name}: {failures[folder]}")
      time.sleep(_POLL_SECONDS)
      for folder, run in list(running.items()):
        if run.process.poll() is None:
          continue
        del running[folder]
        if reason := run.reason():
          failures[folder] = reason
        note(f"{folder.name}: failed, {reason}" if reason else
             f"{folder.name}: done in {time.monotonic() - run.began:.0f} s")
  finally:
    _end([run.process for run in running.values()], note)
    signal.signal(signal.SIGTERM, before)


class _Run:
  """A process that writes to the log of its folder.

  Raises:
    BlockingIOError: if a process with this log still runs.
  """

  def __init__(self, folder: Path, arguments: Sequence[str]):
    self.began = time.monotonic()
    self._log = folder / LOG_FILE
    folder.mkdir(parents=True, exist_ok=True)
    with open(self._log, "ab") as log:
      try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)        # held by whoever has inherited the open file
      except BlockingIOError:
        raise
      except OSError as error:
        raise InputError(f"{self._log} cannot be locked ({error.strerror}): "
                         "give a --workdir on a local disk") from error
      log.write(f"$ {shlex.join(['panda', *arguments])}\n".encode())
      log.flush()
      self._start = log.tell()
      # A session of its own: Ctrl-C in the terminal reaches this process alone, which passes it on.
      self.process = subprocess.Popen([*PANDA, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                      start_new_session=True)

  def reason(self) -> str | None:
    """Why the process failed: its exit status and the last line that it wrote. None if it did not."""
    status = self.process.returncode
    if status == 0:
      return None
    with open(self._log, "rb") as log:
      log.seek(self._start)
      said = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    ended = f"exit status {status}" if status > 0 else f"ended by {signal.Signals(-status).name}"
    return f"{ended}: {said[-1].strip()}" if said else ended


def _end(processes: Iterable[subprocess.Popen], note: Callable[[str], None]) -> None:
  """Asks processes to end, and waits for it."""
  processes = list(processes)
  if not processes:
    return
  for process in processes:
    process.terminate()
  note(f"{len(processes)} run(s) save and end; Ctrl-C again kills them")
  try:
    for process in processes:
      process.wait()
  except KeyboardInterrupt:
    for process in processes:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raise
