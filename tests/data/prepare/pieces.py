"""What the processes of test_pool do."""

import os
import signal
import time
from pathlib import Path


def double(k: int) -> int:
  return 2 * k


def refuse_three(k: int) -> int:
  if k == 3:
    raise ValueError("piece 3 is bad")
  return k


def die_at_seven(k: int) -> int:
  if k == 7:
    os.kill(os.getpid(), signal.SIGSEGV)
  time.sleep(0.01)
  return k


def sign_and_sleep(folder: str, k: int) -> None:
  (Path(folder) / f"{os.getpid()}.pid").touch()
  time.sleep(120)
