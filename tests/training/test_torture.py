import os

from tests.training.torture import torture


def test_a_run_killed_again_and_again_ends_like_one_that_never_was(tmp_path, shared_programs, monkeypatch):
  """The short form of `python -m tests.training.torture --truncate`."""
  for name, value in (shared_programs | {"JAX_PLATFORMS": "cpu"}).items():
    monkeypatch.setitem(os.environ, name, value)
  report = torture(tmp_path, kills=3, truncate=True, steps=60, width=256)
  assert not report.differing
  assert report.kills                                          # how many depends on how fast the run is
