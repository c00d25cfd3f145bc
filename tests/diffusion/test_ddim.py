"""The sampler against its reference, and as one compiled program."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.diffusion import DDIM, Schedule
from tests.paths import PARITY, needs_parity


def _gaussian_denoiser(schedule, mean, deviation, prediction):
  """The exact ε or v for data that is Gaussian: the posterior mean is linear in the noised value."""
  alphas = jnp.asarray(schedule.alphas_cumprod, jnp.float32)

  def denoise(x, timestep):
    alpha = alphas[timestep].reshape(-1, *[1] * (x.ndim - 1))
    a, s = jnp.sqrt(alpha), jnp.sqrt(1 - alpha)
    clean = mean + deviation**2 * a * (x - a * mean) / (alpha * deviation**2 + s**2)
    epsilon = (x - a * clean) / s
    return epsilon if prediction == "epsilon" else a * epsilon - s * clean

  return denoise


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_samples_of_a_gaussian_have_its_mean_and_spread(prediction):
  schedule = Schedule.scaled_linear().shifted(8.0)
  sampler = DDIM(schedule, steps=250, prediction=prediction, spacing="trailing")
  noise = jax.random.normal(jax.random.key(0), (4, 4096))
  samples = sampler(_gaussian_denoiser(schedule, 0.7, 0.3, prediction), noise)
  assert abs(float(samples.mean()) - 0.7) < 0.02
  assert abs(float(samples.std()) - 0.3) < 0.02


def test_epsilon_and_v_give_the_same_path():
  schedule = Schedule.scaled_linear()
  noise = jax.random.normal(jax.random.key(1), (2, 3, 5))
  paths = [DDIM(schedule, steps=10, prediction=p)(_gaussian_denoiser(schedule, 0.2, 0.5, p), noise, trace=True)
           for p in ("epsilon", "v")]
  np.testing.assert_allclose(*paths, atol=2e-5)


def test_jit_changes_nothing_and_the_trace_ends_with_the_result():
  schedule = Schedule.linear(0.00085, 0.012)
  sampler = DDIM(schedule, steps=7, prediction="v", spacing="trailing")
  denoise = _gaussian_denoiser(schedule, 0.0, 1.0, "v")
  noise = jax.random.normal(jax.random.key(2), (1, 8))
  trace = jax.jit(lambda x: sampler(denoise, x, trace=True))(noise)
  assert trace.shape == (8, 1, 8)
  np.testing.assert_array_equal(trace[0], noise)
  np.testing.assert_allclose(trace[-1], sampler(denoise, noise), atol=1e-6)


def test_the_network_is_called_once_per_step_inside_one_scan():
  calls = []

  def denoise(x, timestep):
    calls.append(1)
    return x

  DDIM(Schedule.scaled_linear(), steps=50, prediction="v")(denoise, jnp.ones((1, 2)))
  assert len(calls) == 1                                             # traced once, whatever the number of steps


@pytest.mark.parametrize("options, words", [
  ({"steps": 0}, "steps"), ({"steps": 1001}, "steps"), ({"spacing": "even"}, "spacing"),
  ({"prediction": "x0"}, "prediction"),
])
def test_bad_options_are_refused(options, words):
  with pytest.raises(ValueError, match=words):
    DDIM(Schedule.scaled_linear(), **options)


def test_epsilon_from_pure_noise_is_refused():
  schedule = Schedule.scaled_linear().zero_terminal_snr()
  with pytest.raises(ValueError, match="zero signal"):
    DDIM(schedule, steps=10, prediction="epsilon", spacing="trailing")


@needs_parity
def test_equals_the_reference_sampler_in_every_configuration():
  """64 configurations of diffusers' DDIMScheduler: timesteps exact, states to 2e-5 of their size."""
  expected = np.load(PARITY / "ddim" / "io.npz")
  configs = json.loads((PARITY / "ddim" / "configs.json").read_text())
  compared = 0
  for c in configs:
    name = c["id"]
    schedule = getattr(Schedule, c["beta_schedule"])(0.00085, 0.012)
    if c["rescale_betas_zero_snr"]:
      schedule = schedule.zero_terminal_snr()
    prediction = "v" if c["prediction_type"].startswith("v") else "epsilon"
    steps = len(expected[f"{name}_timesteps"])
    options = dict(steps=steps, prediction=prediction, spacing=c["timestep_spacing"],
                   final_alpha_one=c["set_alpha_to_one"])
    if not c["finite"]:
      with pytest.raises(ValueError, match="zero signal"):
        DDIM(schedule, **options)
      continue
    sampler = DDIM(schedule, **options)
    np.testing.assert_array_equal(sampler.timesteps, expected[f"{name}_timesteps"])
    states = sampler(lambda x, t: 0.3 * x * jnp.cos(t / 100)[:, None, None, None] + 0.1,
                     jnp.asarray(expected["x_init"]), trace=True)
    for ours, theirs in zip(states, expected[f"{name}_x"], strict=True):
      np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1, np.abs(theirs).max()))
    compared += 1
  assert compared == 56
