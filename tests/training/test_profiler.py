import jax
import jax.numpy as jnp
import pytest

from panda_jax import paths
from panda_jax.cli import main
from panda_jax.training import profiler as profiler_lib
from panda_jax.training.profiler import Profiler


@pytest.fixture
def calls(monkeypatch):
  """What is asked of JAX's profiler."""
  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
  return calls


def trace(folder, window, steps):
  profiler = Profiler(paths.as_path(folder), window, lambda text: None)
  for number in range(steps):
    profiler(number, jnp.zeros(()))
  return profiler


@pytest.mark.parametrize("window, steps, expected", [
    ((1, 3), 2, ["start"]), ((1, 3), 4, ["start", "stop"]), ((0, 1), 2, ["start", "stop"]), ((5, 6), 4, []),
    (None, 4, [])])
def test_the_steps_of_the_window_are_recorded_and_no_others(tmp_path, calls, window, steps, expected):
  profiler = trace(tmp_path, window, steps)
  assert calls == expected
  profiler.close()
  assert calls == (["start", "stop"] if expected else [])


def test_only_the_first_process_records(tmp_path, calls, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  trace(tmp_path, (0, 1), 3).close()
  assert calls == []


def test_a_trace_reaches_a_bucket_by_way_of_this_machine(tmp_path, monkeypatch):
  """The profiler itself writes to local folders only."""
  uploaded = {}
  monkeypatch.setattr(profiler_lib, "is_remote", lambda path: True)
  monkeypatch.setattr(profiler_lib, "upload", lambda folder, target: uploaded.update(
      {path.name: target for path in folder.rglob("*") if path.is_file()}))
  profiler = Profiler(paths.as_path(tmp_path / "profile"), (0, 1), lambda text: None)
  profiler(0)
  profiler(1, jnp.ones(3) + 1)
  assert any(name.endswith(".xplane.pb") for name in uploaded)
  assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("window", ["3", "5:5", "9:2", "-1:4", "a:b"])
def test_a_window_that_is_none_is_refused_in_one_sentence(window, capsys):
  assert main.main(["train", "--config", "c.py", "--workdir", "w", f"--profile={window}"]) == 2
  assert "give START:STOP with START below STOP, such as 10:13" in capsys.readouterr().err
