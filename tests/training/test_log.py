from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from panda_jax.training import log as log_lib
from panda_jax.training.log import Log
from panda_jax.training.programs import Program


@pytest.fixture
def clock(monkeypatch):
  """Time that passes when the test says so."""
  clock = SimpleNamespace(now=100.0)
  monkeypatch.setattr(log_lib.time, "monotonic", lambda: clock.now)
  return clock


class Lines(list):
  """Stands for metrics.jsonl and for the terminal."""

  def write(self, step, values):
    self.append({"step": step, **values})

  def advance(self, step):
    pass

  def report(self, step, values):
    pass


def make_log(lines, feed, **options):
  options = SimpleNamespace(**{"log_every": 4, "steps": 100} | options)
  return Log(lines, lines, options, checkpoints=None, feed=feed, peak=1e12)


def results(loss):
  return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(1)}


def test_a_line_has_the_rates_of_the_steps_since_the_line_before(clock):
  """Also where they had different matrices; pauses count for nothing."""
  feed, lines = SimpleNamespace(waited=3.0), Lines()
  log = make_log(lines, feed)
  for step in range(1, 9):
    clock.now += 0.5
    feed.waited += 0.1 if step > 4 else 0
    if step == 6:
      with log.paused():
        clock.now += 1000
    log(step, results(step), Program(None, images=48 if step % 2 else 40, flops=1e11))
  first, second = lines
  assert first["step"] == 4 and first["loss"] == 4 and first["loss_mean"] == 2.5
  expected = {"steps_per_second": 2, "step_seconds": 0.5, "images_per_second": 88, "data_wait": 0.0,
              "tflops_per_second_per_chip": 0.2, "mfu": 0.2}
  assert {name: first[name] for name in expected} == pytest.approx(expected)
  assert {name: second[name] for name in expected} == pytest.approx(expected | {"data_wait": 0.2})


def test_mfu_is_not_made_up_for_a_chip_that_is_not_known(clock):
  lines = Lines()
  log = Log(lines, lines, SimpleNamespace(log_every=1, steps=9), None, SimpleNamespace(waited=0.0), peak=None)
  clock.now += 1
  log(1, results(1), Program(None, images=1, flops=1e11))
  clock.now += 1
  log(2, results(1), Program(None, images=1, flops=0))
  assert lines[0]["tflops_per_second_per_chip"] == pytest.approx(0.1) and "mfu" not in lines[0]
  assert "tflops_per_second_per_chip" not in lines[1]


def test_other_numbers_make_a_line_of_any_step(clock):
  lines = Lines()
  log = make_log(lines, SimpleNamespace(waited=0.0))
  clock.now += 2
  log(1, results(1), Program(None, 1, 0), extra={"validation_loss": 0.5})
  assert lines[0]["validation_loss"] == 0.5 and lines[0]["steps_per_second"] == 0.5
