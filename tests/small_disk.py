"""A disk that is soon full."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(place, kibibytes: int):
  """An empty disk of that size, mounted at `place`; skips the test where none can be mounted."""
  place.mkdir()
  done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", place], capture_output=True,
                        text=True)
  if done.returncode:
    pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
  yield place
  subprocess.run(["umount", "--lazy", place], check=True)
