"""The measures of the seam look at the seam, and at nothing else."""

import math

import numpy as np
import pytest

from panda_jax.evaluation import seams
from tests.evaluation.panoramas import H, W, smooth_world


@pytest.fixture
def panorama():
  return smooth_world()


def textured(seed: int, height: int = 128) -> np.ndarray:
  """Smooth noise that wraps, [H 2H 3] uint8."""
  rng = np.random.default_rng(seed)
  noise = np.fft.rfft2(rng.normal(size=(height, 2 * height, 3)), axes=(0, 1))
  rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(2 * height)[None]
  smooth = np.fft.irfft2(noise * np.exp(-((rows**2 + columns**2) * 300))[..., None], (height, 2 * height), (0, 1))
  return np.clip(127 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def with_step(panorama: np.ndarray, step: float) -> np.ndarray:
  """A brightness ramp all around: it breaks at the edge by `step` levels."""
  ramp = np.linspace(-step / 2, step / 2, panorama.shape[1])[:, None]
  return np.clip(panorama * 0.6 + 50 + ramp, 0, 255).astype(np.uint8)


def test_the_discontinuity_score_tells_a_step_from_a_seamless_panorama():
  """Five times as much and more; a public implementation that leaves the seam out gives 0.20 for both."""
  seamless = [seams.discontinuity_score(with_step(textured(seed), 0)) for seed in range(4)]
  broken = [seams.discontinuity_score(with_step(textured(seed), 77)) for seed in range(4)]
  assert min(broken) > 5 * max(seamless)


def test_the_discontinuity_score_is_its_formula():
  """Row by row with a 3x3 Scharr kernel over six columns of grey, as the paper writes it."""
  panorama = textured(5, 16)
  grey = panorama @ np.array([0.299, 0.587, 0.114]) / 255
  strip = np.concatenate([grey[:, -3:], grey[:, :3]], axis=1)
  kernel = np.array([[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]]) / 32
  total, rows = 0.0, range(1, 15)
  for y in rows:
    column = [abs((kernel * strip[y - 1:y + 2, x:x + 3]).sum()) for x in range(4)]
    total += column[1] / (column[0] + seams.SCORE_CONSTANT) + column[2] / (column[3] + seams.SCORE_CONSTANT)
  assert seams.discontinuity_score(panorama) == pytest.approx(total / (2 * len(rows)), rel=1e-12)


@pytest.mark.parametrize("measure", [seams.discontinuity_score, seams.end_continuity, seams.seam_ratio])
def test_a_step_in_the_middle_is_no_seam(measure):
  """Rolled by half a turn, the break is in the middle of the file, where no measure of the seam looks."""
  broken = with_step(textured(1), 100)
  assert measure(np.roll(broken, 128, axis=1)) < measure(broken) / 3


@pytest.mark.parametrize("measure", [seams.discontinuity_score, seams.end_continuity, seams.seam_ratio])
def test_frames_are_pooled_and_greys_do(measure):
  panorama = textured(2)
  assert measure(np.stack([panorama] * 3)) == pytest.approx(measure(panorama))
  grey = np.repeat(panorama[..., :1], 3, axis=-1)
  assert measure(grey) == pytest.approx(measure(grey[..., :1]))


def test_a_black_clip_has_no_seam():
  """Nothing is divided by zero: nothing differs from nothing."""
  black = np.zeros((2, H, W, 3), np.uint8)
  assert (seams.discontinuity_score(black), seams.end_continuity(black), seams.seam_ratio(black)) == (0, 0, 1)


def test_end_continuity_is_in_levels():
  panorama = np.zeros((H, W, 3), np.uint8)
  panorama[:, -1] = 12
  assert seams.end_continuity(panorama) == 12


def test_an_invisible_seam_is_one_wherever_the_panorama_is_cut():
  """Over a clip that turns past the seam, the ratio of a world without seam is 1, rolled or not."""
  clip = np.stack([smooth_world(turn) for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False)])
  values = [seams.seam_ratio(np.roll(clip, shift, axis=2)) for shift in (0, 7, 20)]
  assert values == pytest.approx([1.0] * 3, abs=0.05)


def test_a_planted_seam_is_seen_where_it_is_and_nowhere_else(panorama):
  """A brightness step at the edge shows in proportion; rolled to the middle it is no seam of the file any more."""
  ramp = np.linspace(0, 1, W)[:, None]
  values = [seams.seam_ratio(panorama * 0.8 + step * ramp) for step in (0.0, 20.0, 40.0)]
  assert values[0] < 1.5 and values[1] > 3 and values[2] > 1.5 * values[1]
  assert seams.seam_ratio(np.roll(panorama * 0.8 + 40.0 * ramp, W // 2, axis=1)) < 1.5


def test_a_flat_panorama_has_no_seam_and_a_step_in_it_an_infinite_one():
  flat = np.full((H, W, 3), 7, np.uint8)
  assert seams.seam_ratio(flat) == 1
  flat[:, : W // 2] = 9
  assert seams.seam_ratio(flat) == math.inf


@pytest.mark.parametrize("call, words", [
  (lambda a: seams.seam_ratio(a[:, :8]), "W=8"),
  (lambda a: seams.discontinuity_score(a[:, :5]), "6 columns"),
  (lambda a: seams.discontinuity_score(a / 127.5 - 1), r"\[0, 255\]"),
  (lambda a: seams.end_continuity(a[0]), r"\[\.\.\. h w c\]"),
])
def test_wrong_input_is_refused_with_a_reason(panorama, call, words):
  with pytest.raises(ValueError, match=words):
    call(panorama)
