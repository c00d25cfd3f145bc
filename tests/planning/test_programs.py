"""The programs of a config, traced for the one device that is here."""

import jax
import pytest

from panda_jax.parallel.flops import count_flops
from panda_jax.planning.programs import make_program
from panda_jax.training.config import load_config


def program(kind, shape=None, guidance=None, clips_per_chip=1):
  config = load_config("configs/videopanda.py:size=tiny,scratch,runlocal")
  return make_program(config, jax.devices()[:1], kind, shape, clips_per_chip, guidance)


def test_a_window_of_the_sampler():
  """Without guidance it is half of the work, but for the text, which is read for both."""
  guided, alone = program("sample"), program("sample", guidance=1.0)
  assert (guided.name, guided.clips, guided.denoising_steps, guided.state) == ("sample 8x4", 1, 3, 0)
  flops = [count_flops(each.trace().jaxpr).total() for each in (guided, alone)]
  assert flops[0] == pytest.approx(2 * flops[1], rel=0.02)


def test_decoding():
  decode = program("decode", shape=(8, 2), clips_per_chip=2)
  assert (decode.name, decode.clips, decode.denoising_steps) == ("decode 8x2", 2, None)
  assert decode.trace().jaxpr.out_avals[0].shape == (2, 2, 32, 64, 3)


def test_a_step_has_the_clips_that_were_asked_for():
  step = program("step", shape=(2, 3), clips_per_chip=3)
  assert (step.name, step.clips, step.mesh) == ("step 2x3", 3, {"data": 1, "fsdp": 1, "context": 1})
  assert step.state > 0 and count_flops(step.trace().jaxpr)["attention"] > 0
