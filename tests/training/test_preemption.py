from concurrent import futures
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys

import pytest

from panda_jax.training import loop
from panda_jax.training.metrics import read_metrics
from panda_jax.training.preemption import STATUS, Preempted, Preemption
from tests.training import preempted
from tests.training.toy import ToySystem, toy_config, toy_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def signal_after(monkeypatch):
  """A function: the process sends itself a signal after a step."""
  def plan(number, step):
    asked = Preemption.requested

    def requested(self, now):
      if now == step:
        os.kill(os.getpid(), number)
      return asked(self, now)
    monkeypatch.setattr(Preemption, "requested", requested)
  yield plan
  monkeypatch.undo()


def steps_saved(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def test_sigterm_saves_the_present_step_and_the_same_command_goes_on(tmp_path, shared_programs, signal_after,
                                                                     monkeypatch):
  """Without the validation that is due then, and with the numbers of every step."""
  before = signal.getsignal(signal.SIGTERM)
  config = toy_config(steps=12, checkpoint_every=100, keep=1, validate_every=7)
  signal_after(signal.SIGTERM, 7)
  with pytest.raises(Preempted, match="stopped by SIGTERM after step 7, which is saved: the same command goes on"):
    loop.train(config, tmp_path, ToySystem(), toy_data)
  assert signal.getsignal(signal.SIGTERM) is before
  assert steps_saved(tmp_path) == [7] and not (tmp_path / "model").exists()
  monkeypatch.undo()
  loop.train(config, tmp_path, ToySystem(), toy_data)
  lines = read_metrics(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == list(range(13))
  assert [line["step"] for line in lines if "validation_loss" in line] == [0, 12]


def test_a_signal_at_the_last_step_changes_nothing(tmp_path, shared_programs, signal_after):
  signal_after(signal.SIGTERM, 4)
  loop.train(toy_config(steps=4), tmp_path, ToySystem(), toy_data)
  assert (tmp_path / "model").is_dir()


def test_ctrl_c_completes_a_save_and_begins_none(tmp_path, shared_programs, signal_after):
  signal_after(signal.SIGINT, 6)
  with pytest.raises(KeyboardInterrupt):
    loop.train(toy_config(steps=12, checkpoint_every=5), tmp_path, ToySystem(), toy_data)
  assert steps_saved(tmp_path) == [5]
  assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_a_second_signal_ends_the_process_at_once():
  child = subprocess.run([sys.executable, "-c", """
import os, signal
from panda_jax.training.preemption import Preemption
with Preemption() as preemption:
  assert not preemption.requested(1)
  os.kill(os.getpid(), signal.SIGTERM)
  assert preemption.requested(2)
  os.kill(os.getpid(), signal.SIGTERM)
"""], cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=60)
  assert child.returncode == -signal.SIGTERM, child.stderr


def test_two_processes_save_the_same_step_and_take_the_same_checkpoint(tmp_path, shared_programs):
  """Whichever is asked to go. What is damaged neither takes; one process alone can go on with what they leave."""
  def run(signalled=-1):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = str(free.getsockname()[1])
    children = [subprocess.Popen(
        [sys.executable, "-m", "tests.training.preempted", port, str(index), str(tmp_path),
         str(int(index == signalled))], cwd=ROOT, env=os.environ | shared_programs | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE, text=True) for index in range(2)]
    try:
      said = [child.communicate(timeout=120)[1] for child in children]
    finally:
      for child in children:
        child.kill()
    return [child.returncode for child in children], said

  statuses, said = run(signalled=1)
  assert statuses == [STATUS, STATUS], said
  *_, before, saved = steps_saved(tmp_path)
  assert all(f"stopped by SIGTERM after step {saved}, which is saved" in text for text in said)

  (tmp_path / "checkpoints" / str(saved) / "state" / "_METADATA").write_text("{}")
  for step in (before, saved):
    (tmp_path / "checkpoints" / str(step) / "files.json").unlink()         # the first process reads them alone
  statuses, said = run()
  assert statuses == [0, 0], said
  assert f"continues from that of step {before}" in said[0] and "damaged" not in said[1]
  steps = preempted.STEPS
  loop.train(preempted.config(steps + 2), tmp_path, ToySystem(), toy_data)
  assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, steps + 3))


def test_a_run_in_another_thread_leaves_signals_alone():
  """Python allows handlers in the main thread only."""
  def inside():
    with Preemption() as preemption:
      return preemption.requested(1)

  with futures.ThreadPoolExecutor(1) as threads:
    assert threads.submit(inside).result() is False
