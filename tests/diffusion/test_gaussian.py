"""The sampler on data of which the best denoiser is known in closed form: a Gaussian of any mean and covariance.

With x = a x0 + s ε and x0 ~ N(m, λ) in each direction of the covariance, y = x - a m has variance D = a² λ + s², and

  E[x0 | x] = m + a λ y / D,    E[ε | x] = s y / D,    and v = a E[ε | x] - s E[x0 | x].

A step of DDIM puts these two together at the next noise level, so it maps a Gaussian to a Gaussian: y turns into
(a a' λ + s s') / D times itself. With tan φ = s / (a sqrt(λ)) that factor is sqrt(D' / D) cos(φ - φ'): the first is
what the exact flow does, so all the error of finite steps is the product of the cosines. It takes away spread, at most
half the sum of the squared (φ - φ'). The second error is that sampling begins with unit noise where the schedule still
has some signal, a m of the mean and a² (λ - 1) of the variance.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.diffusion import DDIM, Schedule
from tests.fast import jit

MEAN = np.array([0.7, -0.4, 0.1])
VARIANCES = np.array([0.5, 1.0, 4.0])
# Directions that lie across the channels, so that the channels are correlated.
DIRECTIONS = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
COVARIANCE = DIRECTIONS * VARIANCES @ DIRECTIONS.T

BASES = {"linear": Schedule.linear(0.00085, 0.012), "scaled_linear": Schedule.scaled_linear()}
SCHEDULES = {
  f"{name}{shift and '-' + shift}{'-zero' if zero else ''}": (base.shifted(8.0, mode=shift) if shift else base, zero)
  for name, base in BASES.items() for shift in ("", "uniform", "interpolated") for zero in (False, True)}
SCHEDULES = {name: schedule.zero_terminal_snr() if zero else schedule for name, (schedule, zero) in SCHEDULES.items()}

everywhere = pytest.mark.parametrize("name", SCHEDULES)
both_spacings = pytest.mark.parametrize("spacing", ["leading", "trailing"])
both_predictions = pytest.mark.parametrize("prediction", ["epsilon", "v"])


def denoiser(schedule, prediction):
  """The exact one, of [b … c]."""
  directions, variances, mean, alphas = (jnp.asarray(x, jnp.float32)
                                         for x in (DIRECTIONS, VARIANCES, MEAN, schedule.alphas_cumprod))

  def denoise(x, timestep):
    alpha = alphas[timestep].reshape(-1, *[1] * (x.ndim - 1))
    a, s = jnp.sqrt(alpha), jnp.sqrt(1 - alpha)
    share = (x - a * mean) @ directions / (alpha * variances + s**2)
    clean, epsilon = mean + a * (variances * share) @ directions.T, s * share @ directions.T
    return epsilon if prediction == "epsilon" else a * epsilon - s * clean

  return denoise


def levels(schedule, steps, spacing):
  """(a, s), [steps 1] each, of the levels that steps begin at and of those that they end at.

  A step ends a T // steps'th of the schedule lower, the last one without noise.
  """
  alphas, timesteps = schedule.alphas_cumprod, DDIM(schedule, steps=steps, spacing=spacing).timesteps
  ends = timesteps - len(alphas) // steps
  ends = np.where(ends >= 0, alphas[ends], 1.0)
  return [(np.sqrt(x)[:, None], np.sqrt(1 - x)[:, None]) for x in (alphas[timesteps], ends)]


def map_of_the_sampler(schedule, steps, spacing):
  """Per direction (gain, offset) of sample = gain * noise + offset, in float64."""
  gain, offset, mean = np.ones(3), np.zeros(3), MEAN @ DIRECTIONS
  for a, s, next_a, next_s in zip(*(x for level in levels(schedule, steps, spacing) for x in level)):
    factor = (a * next_a * VARIANCES + s * next_s) / (a**2 * VARIANCES + s**2)
    gain, offset = factor * gain, next_a * mean + factor * (offset - a * mean)
  return gain, offset


def cosines(schedule, steps, spacing):
  """cos(φ - φ') of every step and direction, [steps 3]: whose product is the spread that finite steps leave."""
  begins, ends = (np.arctan2(s, a * np.sqrt(VARIANCES)) for a, s in levels(schedule, steps, spacing))
  return np.cos(begins - ends)


def sample(schedule, prediction, steps, spacing, noise):
  sampler = DDIM(schedule, steps=steps, prediction=prediction, spacing=spacing)
  return np.asarray(jit(lambda x: sampler(denoiser(schedule, prediction), x))(noise))


@functools.cache
def of_25_steps(prediction, spacing):
  """(noise, {name: samples}) of all schedules that can be sampled so, in one program."""
  noise = np.random.default_rng(1).normal(size=(2, 64, 3)).astype(np.float32)
  samplers = {name: DDIM(schedule, prediction=prediction, spacing=spacing) for name, schedule in SCHEDULES.items()
              if not (name.endswith("zero") and prediction == "epsilon" and spacing == "trailing")}
  run = jit(lambda x: {name: sampler(denoiser(sampler.schedule, prediction), x) for name, sampler in samplers.items()})
  return noise, jax.tree.map(np.asarray, run(noise))


# --- what the sampler does is what its steps say


@everywhere
@both_spacings
@both_predictions
def test_25_steps_do_to_every_noise_what_their_closed_form_does(name, spacing, prediction):
  """To float32's rounding, which an ε-prediction divides by the signal that is left at the start."""
  if name.endswith("zero") and prediction == "epsilon" and spacing == "trailing":
    with pytest.raises(ValueError, match="zero signal"):
      DDIM(SCHEDULES[name], prediction=prediction, spacing=spacing)
    return
  noise, samples = of_25_steps(prediction, spacing)
  gain, offset = map_of_the_sampler(SCHEDULES[name], 25, spacing)
  expected = (gain * (noise @ DIRECTIONS) + offset) @ DIRECTIONS.T
  np.testing.assert_allclose(samples[name], expected, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 4, 30, 1000])
@both_spacings
@both_predictions
def test_so_does_any_other_number_of_steps(steps, spacing, prediction):
  schedule = SCHEDULES["scaled_linear-interpolated"]
  noise = np.random.default_rng(2).normal(size=(1, 16, 3)).astype(np.float32)
  gain, offset = map_of_the_sampler(schedule, steps, spacing)
  expected = (gain * (noise @ DIRECTIONS) + offset) @ DIRECTIONS.T
  np.testing.assert_allclose(sample(schedule, prediction, steps, spacing, noise), expected, atol=5e-4)


@everywhere
@both_spacings
def test_all_that_finite_steps_do_wrong_is_a_product_of_cosines(name, spacing):
  """The algebra at the top of this file: so the tolerances below are bounds and no guesses."""
  schedule = SCHEDULES[name]
  for steps in (5, 25, 250):                             # those that divide 1000: a step ends where the next begins
    (a, s), _ = levels(schedule, steps, spacing)
    spread_at_start = np.sqrt(a[0]**2 * VARIANCES + s[0]**2)
    gain, offset = map_of_the_sampler(schedule, steps, spacing)
    cosine = cosines(schedule, steps, spacing)
    np.testing.assert_allclose(gain, np.sqrt(VARIANCES) / spread_at_start * cosine.prod(0), rtol=1e-9)
    np.testing.assert_allclose(offset, (1 - gain * a[0]) * (MEAN @ DIRECTIONS), atol=1e-9)
    assert (1 - cosine.prod(0) <= np.square(np.arccos(cosine)).sum(0) / 2).all()


# --- and that is right


@everywhere
@both_spacings
@pytest.mark.parametrize("steps, lost, lost_to_uniform_shift", [(25, 0.11, 0.28), (250, 0.014, 0.046)])
def test_the_map_of_the_sampler_has_the_right_mean_and_variances(name, spacing, steps, lost, lost_to_uniform_shift):
  """As far as the number of steps allows, in every direction of the data.

  A quarter turn of φ in equal steps takes away π² / (8 steps) of the spread, 5 % and 0.5 %; schedules turn unevenly, by
  up to twice that. A uniform shift leaves a large last turn: from the noise of its first timesteps, where the unshifted
  schedule is nearly clean, to none.
  """
  gain, offset = map_of_the_sampler(SCHEDULES[name], steps, spacing)
  spread, missing = gain / np.sqrt(VARIANCES), np.abs(offset - MEAN @ DIRECTIONS) / np.sqrt(VARIANCES)
  (a, _), _ = levels(SCHEDULES[name], steps, spacing)
  assert (spread > 1 - (lost_to_uniform_shift if "uniform" in name else lost)).all() and (spread < 1).all()
  # Of the mean the signal is missing that the schedule has where sampling takes it for pure noise.
  np.testing.assert_allclose(missing, a[0] * np.abs(MEAN @ DIRECTIONS) * spread, atol=1e-9)
  assert missing.max() < (0.014 if name.endswith("zero") else 0.024 if "-" in name else 0.064)


@both_predictions
def test_many_samples_have_the_right_mean_and_covariance(prediction):
  """Channels that vary together do so in the samples; within five standard errors, and what 200 steps allow."""
  draws, schedule = 2**15, SCHEDULES["scaled_linear-interpolated"]
  noise = np.random.default_rng(3).normal(size=(1, draws, 3)).astype(np.float32)
  samples = sample(schedule, prediction, 200, "trailing", noise)[0].astype(np.float64)
  np.testing.assert_allclose(samples.mean(0), MEAN, atol=5 * np.sqrt(COVARIANCE.diagonal().max() / draws) + 0.02)
  np.testing.assert_allclose(np.cov(samples.T), COVARIANCE, atol=VARIANCES.max() * (5 * np.sqrt(2 / draws) + 2 * 0.01))
  assert np.abs(np.corrcoef((samples @ DIRECTIONS).T) - np.eye(3)).max() < 5 / np.sqrt(draws)


@everywhere
def test_twice_the_steps_make_half_the_error(name):
  """Of the turns that steps divide: the last one, to no noise at all, is the schedule's."""
  errors = [1 - cosines(SCHEDULES[name], steps, "trailing")[:-1].prod(0) for steps in (25, 50, 100, 200)]
  ratios = np.array(errors[:-1]) / np.array(errors[1:])
  slowest = 1.1 if "uniform" in name else 1.65                   # 25 steps of it spend themselves on the last turn
  assert (ratios > slowest).all() and (ratios < 2).all() and (ratios[-1] > 1.4).all()


@both_spacings
def test_a_shift_or_zero_terminal_snr_brings_the_mean_closer(spacing):
  """Sampling begins with unit noise, and the less signal the schedule has there, the less of the mean is missing."""
  missing = {name: np.abs(map_of_the_sampler(schedule, 25, spacing)[1] - MEAN @ DIRECTIONS).max()
             for name, schedule in SCHEDULES.items() if name.startswith("scaled_linear")}
  assert missing["scaled_linear"] > 2 * missing["scaled_linear-interpolated"]
  assert missing["scaled_linear-interpolated"] > 2 * missing["scaled_linear-interpolated-zero"]
  if spacing == "trailing":
    assert missing["scaled_linear-zero"] < 1e-12 and missing["scaled_linear-interpolated-zero"] < 1e-12


@both_spacings
def test_epsilon_and_v_take_the_same_path(spacing):
  schedule = SCHEDULES["linear-interpolated"]
  noise = np.random.default_rng(4).normal(size=(2, 8, 3)).astype(np.float32)
  paths = [jit(lambda x, sampler=sampler, name=name: sampler(denoiser(schedule, name), x, trace=True))(noise)
           for name in ("epsilon", "v") for sampler in [DDIM(schedule, steps=20, prediction=name, spacing=spacing)]]
  np.testing.assert_allclose(*paths, atol=2e-4)


def test_the_clips_of_a_batch_do_not_meet():
  """Each has its own noise and nothing else of the others'."""
  schedule = SCHEDULES["scaled_linear-uniform"]
  noise = np.random.default_rng(5).normal(size=(3, 4, 3)).astype(np.float32)
  together = sample(schedule, "v", 10, "trailing", noise)
  alone = np.concatenate([sample(schedule, "v", 10, "trailing", clip[None]) for clip in noise])
  np.testing.assert_allclose(together, alone, atol=1e-5)


@both_predictions
def test_the_exact_denoiser_is_the_regression_of_what_training_asks_for(prediction):
  """Its error has nothing to do with its input, so no linear function comes closer to the target of a loss."""
  schedule, draws, timestep = SCHEDULES["scaled_linear-interpolated"], 2**16, np.array([500])
  rng = np.random.default_rng(6)
  clean = rng.normal(size=(1, draws, 3)) * np.sqrt(VARIANCES) @ DIRECTIONS.T + MEAN
  noise = rng.normal(size=clean.shape)

  @jit
  def run(clean, noise):
    noised = schedule.noised(clean, noise, timestep)
    target = schedule.target(clean, noise, timestep, prediction)
    return noised, target - denoiser(schedule, prediction)(noised, timestep)

  noised, error = (np.asarray(x)[0].astype(np.float64) for x in run(clean, noise))
  assert (np.abs(error.mean(0)) < 5 * error.std(0) / np.sqrt(draws)).all()
  assert np.abs(np.corrcoef(noised.T, error.T)[:3, 3:]).max() < 5 / np.sqrt(draws)
