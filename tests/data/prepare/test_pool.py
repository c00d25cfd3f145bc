"""Work in processes: everything is done, one that dies is named, and none outlives the run."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from panda_jax.data.prepare.pool import Died, Pool
from tests.data.prepare import pieces


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_every_piece_is_done_once(processes):
  done = dict(Pool(processes).map(pieces.double, [(k,) for k in range(20)]))
  assert done == {k: 2 * k for k in range(20)}
  assert dict(Pool(processes).map(pieces.double, [])) == {}


@pytest.mark.parametrize("processes", [0, 2])
def test_an_error_in_a_piece_is_raised_here(processes):
  with pytest.raises(ValueError, match="piece 3 is bad"):
    for _ in Pool(processes).map(pieces.refuse_three, [(k,) for k in range(6)]):
      pass


def test_a_piece_that_kills_its_process_is_named_and_the_others_are_done():
  """As a decoder that crashes does."""
  done = dict(Pool(2).map(pieces.die_at_seven, [(k,) for k in range(12)]))
  assert sorted(done) == list(range(12))
  assert isinstance(done.pop(7), Died) and all(done[k] == k for k in done)


def test_no_process_outlives_a_run_that_was_killed(tmp_path):
  """Not even with SIGKILL, in the middle of a piece: it would write into the next run's files."""
  script = textwrap.dedent(f"""
    from panda_jax.data.prepare.pool import Pool
    from tests.data.prepare import pieces
    if __name__ == "__main__":
      for _ in Pool(2).map(pieces.sign_and_sleep, [({str(tmp_path)!r}, k) for k in range(2)]):
        pass
  """)
  (tmp_path / "run.py").write_text(script)
  run = subprocess.Popen([sys.executable, tmp_path / "run.py"], env=os.environ | {"PYTHONPATH": os.getcwd()})
  deadline = time.monotonic() + 60
  while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.05)
  run.send_signal(signal.SIGKILL)
  run.wait()
  workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
  assert len(workers) == 2
  while any(map(alive, workers)) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not any(map(alive, workers))


def alive(pid: int) -> bool:
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except (FileNotFoundError, ProcessLookupError):
    return False
