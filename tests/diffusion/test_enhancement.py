"""The switches that close a video into a panorama: what is on in which step, and where the panorama ends up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.diffusion import DDIM, Enhancement, Schedule
from panda_jax.diffusion.enhancement import PRESETS, latitude_weight, sample_panorama, turned, used

OFFICIAL, PAPER = PRESETS["official"], PRESETS["paper"]
SCHEDULE = Schedule.linear(0.00085, 0.012)


@pytest.mark.parametrize("steps, circular, condition", [(25, 12, 18), (8, 4, 6), (10, 5, 6), (26, 13, 18)])
def test_the_official_steps_are_those_of_the_code(steps, circular, condition):
  """Circular from step T // 2 on; features up to and with step 3 · (T // 4)."""
  told = OFFICIAL.steps(steps)
  assert told.circular.tolist() == [step >= circular for step in range(steps)]
  assert told.condition.tolist() == [step <= condition for step in range(steps)]
  assert told.turned.tolist() == [step % 4 for step in range(steps)]


@pytest.mark.parametrize("steps", [8, 25, 26])
def test_the_papers_steps_are_those_of_its_text(steps):
  """The last floor(T / 2) steps are circular, features never stop, the left goes to the right."""
  told = PAPER.steps(steps)
  assert told.circular.sum() == steps // 2 and not told.circular[:-(steps // 2)].any()
  assert told.condition.all() and told.turned.tolist() == [-step % 4 for step in range(steps)]


@pytest.mark.parametrize("preset, left", [(OFFICIAL, 1), (PAPER, 0)])
def test_a_panorama_that_is_denoised_alike_everywhere_ends_where_it_is_said_to(preset, left):
  sampler = DDIM(SCHEDULE, steps=25, prediction="epsilon")
  noise = jax.random.normal(jax.random.key(0), (1, 2, 8, 3))
  denoise = lambda x, timestep, step=None: 0.1 * x
  plain, out = sampler(denoise, noise), sample_panorama(sampler, denoise, noise, preset)
  assert preset.left_turned(25) == left
  np.testing.assert_allclose(out, turned(plain, left), atol=1e-6)


def test_the_condition_turns_with_the_latents_or_stays():
  """A condition that marks a column is seen beside the content of that column, whatever was turned."""
  sampler, mark = DDIM(SCHEDULE, steps=6, prediction="epsilon"), jnp.arange(8.0)[None, :, None]
  features, noise = [mark], jnp.broadcast_to(mark, (1, 1, 8, 1))
  apart = {}
  for name, switches in {"with": dataclasses.replace(PAPER, unrotate_output=False), "without": OFFICIAL}.items():
    steps = switches.steps(6)
    states = turned(noise, 0)
    apart[name] = []
    for index in range(6):
      step = jax.tree.map(lambda x: x[index], steps)
      told, = used(features, dataclasses.replace(step, condition=True), switches)
      apart[name].append(float(jnp.abs(states[0] - told).max()))
      states = turned(states, switches.rotation_sign)
  assert sampler.steps == 6 and max(apart["with"]) == 0 and apart["without"][1:4] == [6, 4, 6]


def test_features_that_stopped_are_zeros():
  steps = OFFICIAL.steps(8)
  features, = used([jnp.ones((1, 4, 2))], jax.tree.map(lambda x: x[7], steps), OFFICIAL)
  np.testing.assert_array_equal(features, 0)


def test_both_ways_of_padding_are_in_one_program():
  """The denoiser is traced once, for all steps."""
  seen = []

  def denoise(x, timestep, step):
    seen.append(step.circular)
    return jnp.where(step.circular, x, 0.5 * x)

  sample_panorama(DDIM(SCHEDULE, steps=5, prediction="epsilon"), denoise, jnp.ones((1, 4, 1)), OFFICIAL)
  assert len(seen) == 1 and isinstance(seen[0], jax.core.Tracer)


def test_the_latitude_weight_is_that_of_equation_10():
  rows = np.arange(64)
  weight = latitude_weight(64)[:, 0, 0]
  np.testing.assert_allclose(weight, np.abs(np.cos((2 * rows - 64 + 1) / 128 * np.pi)), atol=1e-6)
  assert weight.mean() == pytest.approx(0.6367, abs=1e-4) and weight.min() == pytest.approx(0.0245, abs=1e-4)
  np.testing.assert_allclose(latitude_weight(64, 2)[:, 0, 0], weight**2, atol=1e-6)
  assert latitude_weight(64, 2).mean() == pytest.approx(0.5) and (latitude_weight(64, 0) == 1).all()


@pytest.mark.parametrize("changes, words", [
  (dict(rotation_sign=2), "rotation_sign"), (dict(adapter_stop=1.5), "adapter_stop"),
  (dict(circular_start=-0.1), "circular_start"), (dict(circular_rounding="even"), "circular_rounding"),
  (dict(loss_weight_power=3), "loss_weight_power")])
def test_switches_that_mean_nothing_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    Enhancement(**changes)


def test_a_width_without_quarters_is_refused():
  with pytest.raises(ValueError, match="6 columns"):
    turned(jnp.ones((2, 6, 1)), 1)
