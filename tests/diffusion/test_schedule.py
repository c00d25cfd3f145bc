"""Noise schedules: the published numbers, what shifts keep, and the two predictions as two ways of saying one thing."""

import jax
import numpy as np
import pytest

from panda_jax.diffusion import Schedule
from panda_jax.diffusion.schedule import check_prediction, to_clean_and_noise

BASE = Schedule.scaled_linear()
TIMESTEPS = [0, 250, 500, 750, 999]


@pytest.mark.parametrize("schedule, expected", [
  (BASE, [7.069, 0.725, -0.963, -2.822, -5.364]),
  (BASE.shifted(8.0, mode="interpolated"), [7.069, 0.205, -2.003, -4.383, -7.443]),
  (BASE.shifted(8.0, mode="uniform"), [4.990, -1.354, -3.042, -4.901, -7.443]),
], ids=["stable diffusion", "interpolated", "uniform"])
def test_log_snr_is_that_of_the_published_schedules(schedule, expected):
  np.testing.assert_allclose(schedule.log_snr[TIMESTEPS], expected, atol=6e-4)


def test_the_last_timestep_keeps_as_little_signal_as_published():
  assert BASE.alphas_cumprod[-1] == pytest.approx(4.66e-3, rel=2e-3)
  shifted = BASE.shifted(8.0).alphas_cumprod
  assert shifted[-1] == pytest.approx(5.85e-4, rel=2e-3)
  assert (1 - shifted[1:] / shifted[:-1]).max() == pytest.approx(0.0141, abs=5e-5)


def test_linear_and_scaled_linear_run_between_the_same_betas():
  for schedule in (BASE, Schedule.linear(0.00085, 0.012)):
    assert len(schedule) == 1000
    assert 1 - schedule.alphas_cumprod[0] == pytest.approx(0.00085)
    assert 1 - schedule.alphas_cumprod[-1] / schedule.alphas_cumprod[-2] == pytest.approx(0.012)
  betas = 1 - Schedule.linear(0.00085, 0.012).alphas_cumprod[1:] / Schedule.linear(0.00085, 0.012).alphas_cumprod[:-1]
  np.testing.assert_allclose(np.diff(betas), (0.012 - 0.00085) / 999, atol=1e-12)


@pytest.mark.parametrize("mode", ["interpolated", "uniform"])
def test_a_shift_by_one_changes_nothing(mode):
  np.testing.assert_allclose(BASE.shifted(1.0, mode=mode).alphas_cumprod, BASE.alphas_cumprod, rtol=1e-12)


def test_an_interpolated_shift_keeps_the_clean_end_as_pretrained():
  shifted = BASE.shifted(8.0)
  assert shifted.alphas_cumprod[0] == pytest.approx(BASE.alphas_cumprod[0], rel=1e-12)
  np.testing.assert_allclose(BASE.log_snr - shifted.log_snr, np.linspace(0, np.log(8), 1000), atol=1e-9)


def test_a_uniform_shift_divides_every_signal_to_noise_ratio():
  np.testing.assert_allclose(np.exp(BASE.log_snr - BASE.shifted(5.0, mode="uniform").log_snr), 5, rtol=1e-9)


@pytest.mark.parametrize("schedule", [BASE, BASE.shifted(8.0), Schedule.linear(0.00085, 0.012)])
def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_timestep(schedule):
  stretched = schedule.zero_terminal_snr()
  assert stretched.alphas_cumprod[-1] == 0 and stretched.log_snr[-1] == -np.inf
  assert stretched.alphas_cumprod[0] == pytest.approx(schedule.alphas_cumprod[0], rel=1e-12)
  assert (np.diff(stretched.alphas_cumprod) < 0).all()
  again = stretched.shifted(8.0)                                     # and may still be shifted
  assert again.alphas_cumprod[-1] == 0 and np.isfinite(again.alphas_cumprod).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_clean_and_noise_come_back_from_the_target(prediction):
  """At every timestep, for a batch in which each clip has its own."""
  schedule = BASE.shifted(8.0)
  rng = np.random.default_rng(0)
  clean, noise = (rng.normal(size=(5, 2, 3, 4)).astype(np.float32) for _ in range(2))

  @jax.jit
  def there_and_back(timestep):
    noised = schedule.noised(clean, noise, timestep)
    target = schedule.target(clean, noise, timestep, prediction)
    a, s = schedule.signal_and_noise(timestep, clean.ndim)
    return noised, a, s, *to_clean_and_noise(prediction, target, noised, a, s)

  timestep = np.array(TIMESTEPS)
  noised, a, s, clean_again, noise_again = there_and_back(timestep)
  assert a.shape == s.shape == (5, 1, 1, 1)
  np.testing.assert_allclose(np.square(a) + np.square(s), 1, atol=1e-6)
  np.testing.assert_allclose(np.square(a).ravel(), schedule.alphas_cumprod[timestep], rtol=1e-5)
  np.testing.assert_allclose(noised, a * clean + s * noise, atol=1e-6)
  np.testing.assert_allclose(clean_again, clean, atol=5e-5)
  np.testing.assert_allclose(noise_again, noise, atol=2e-6)


def test_v_is_the_noise_at_the_clean_end_and_minus_the_image_in_pure_noise():
  schedule = Schedule(np.array([1.0, 0.5, 0.0]))
  clean, noise = np.full((3, 1), 2.0, np.float32), np.full((3, 1), 5.0, np.float32)
  v = schedule.target(clean, noise, np.arange(3), "v")
  np.testing.assert_allclose(v[:, 0], [5, (5 - 2) * 0.5**0.5, -2], rtol=1e-6)


@pytest.mark.parametrize("values", [[0.9], [0.5, 0.9], [1.1, 0.5], [0.5, -0.1], [[0.9, 0.5]]])
def test_schedules_that_do_not_fall_from_one_to_zero_are_refused(values):
  with pytest.raises(ValueError, match="must fall from at most 1 to at least 0"):
    Schedule(np.array(values))


@pytest.mark.parametrize("factor, mode", [(0.5, "uniform"), (0.0, "interpolated"), (8.0, "default")])
def test_impossible_shifts_are_refused(factor, mode):
  with pytest.raises(ValueError, match="shift needs a factor >= 1 and mode"):
    BASE.shifted(factor, mode=mode)


def test_unknown_predictions_are_refused():
  with pytest.raises(ValueError, match="'x0'"):
    check_prediction("x0")
  with pytest.raises(ValueError, match="'x0'"):
    BASE.target(np.ones((1, 1)), np.ones((1, 1)), np.zeros(1, int), "x0")
