"""The metrics agree with their textbook definitions, and know that a panorama is a sphere."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from panda_jax.evaluation import metrics
from panda_jax.geometry import Camera, coverage

H, W = 32, 64


@pytest.fixture
def panorama():
  """Smooth on the sphere, [H W 3] float in [0, 255]: it wraps, and each pole row is nearly constant."""
  return _view_of_a_smooth_world(0.0)


@pytest.fixture
def noisy(panorama):
  return np.clip(panorama + np.random.default_rng(1).normal(0, 12, panorama.shape), 0, 255)


def _view_of_a_smooth_world(turn):
  lon = ((np.arange(W) + 0.5) / W - 0.5) * 2 * np.pi + turn
  lat = (0.5 - (np.arange(H) + 0.5) / H)[:, None] * np.pi
  x, y, z = np.cos(lat) * np.sin(lon), np.sin(lat) + 0 * lon, np.cos(lat) * np.cos(lon)
  waves = [np.sin(5 * x + 2 * y), np.sin(4 * z - 3 * x), np.cos(6 * y + 3 * z)]
  return 127.5 + 90 * np.stack(waves, axis=-1)


def test_psnr_is_scikit_images(panorama, noisy):
  """Same figure as the reference on uint8 and on floats, over one frame and over a clip."""
  a, b = panorama.round().astype(np.uint8), noisy.round().astype(np.uint8)
  assert metrics.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), rel=1e-12)
  clip, other = np.stack([panorama, noisy]), np.stack([noisy, noisy])
  assert metrics.psnr(clip, other) == pytest.approx(peak_signal_noise_ratio(clip, other, data_range=255), rel=1e-12)


def test_dtype_does_not_change_the_peak(panorama, noisy):
  """uint8 and the same values as floats give the same decibels; equal images give infinity."""
  a, b = panorama.round().astype(np.uint8), noisy.round().astype(np.uint8)
  assert metrics.psnr(a, b) == metrics.psnr(a.astype(np.float32), b) == metrics.psnr(b, a)
  assert metrics.psnr(a, a) == metrics.ws_psnr(a, a) == math.inf


def test_ws_psnr_weighs_a_row_by_its_area_on_the_sphere():
  """An error confined to one row counts by the solid angle between the row's edges, computed from its definition."""
  for row in (0, 5, H // 2):
    a, b = np.zeros((H, W, 3)), np.zeros((H, W, 3))
    b[row] = 51.0
    edges = (0.5 - np.arange(H + 1) / H) * np.pi
    share = (np.sin(edges[row]) - np.sin(edges[row + 1])) / 2
    assert metrics.ws_psnr(a, b) == pytest.approx(10 * math.log10(255**2 / (51.0**2 * share)), abs=1e-4)


def test_a_uniform_error_is_the_same_on_the_plane_and_on_the_sphere():
  a = np.full((2, H, W, 3), 100.0)
  assert metrics.ws_psnr(a, a + 10) == pytest.approx(metrics.psnr(a, a + 10)) == pytest.approx(20 * math.log10(25.5))


def test_only_pixels_in_the_mask_count(panorama, noisy):
  """Outside the mask anything may happen; inside, each metric is what it is on that part alone."""
  mask = np.zeros((H, W), bool)
  mask[8:20, 10:31] = True
  broken = np.where(mask[..., None], noisy, 0)
  assert metrics.psnr(panorama, broken, mask=mask) == metrics.psnr(panorama, noisy, mask=mask)
  part = metrics.psnr(panorama[8:20, 10:31], noisy[8:20, 10:31])
  assert metrics.psnr(panorama, noisy, mask=mask) == pytest.approx(part)
  assert metrics.ws_psnr(panorama, broken, mask=mask) == metrics.ws_psnr(panorama, noisy, mask=mask)

  far = np.roll(mask, W // 2, axis=1)
  half_broken = np.where(mask[..., None], 0, panorama)
  assert metrics.ssim(panorama, half_broken, mask=far) == pytest.approx(1)
  assert metrics.ssim(panorama, half_broken, mask=mask) < 0.2


def test_every_frame_may_have_its_own_mask(panorama, noisy):
  masks = np.zeros((2, H, W), bool)
  masks[0, :10], masks[1, 10:] = True, True
  clip, other = np.stack([panorama] * 2), np.stack([noisy] * 2)
  assert metrics.psnr(clip, other, mask=masks) == pytest.approx(metrics.psnr(panorama, noisy))


def test_ssim_is_scikit_images_away_from_the_edges(panorama, noisy):
  """In the interior of one row the sphere plays no part, and the figure is the reference's own map there."""
  _, full = structural_similarity(panorama, noisy, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5,
                                  use_sample_covariance=False, full=True)
  mask = np.zeros((H, W), bool)
  mask[H // 2, 5:-5] = True
  assert metrics.ssim(panorama, noisy, mask=mask) == pytest.approx(full[mask].mean(), rel=1e-12)


def test_ssim_does_not_care_where_the_panorama_is_cut(panorama, noisy):
  """Rolling both, or turning them upside down, changes nothing; equality is 1 and noise costs."""
  value = metrics.ssim(panorama, noisy)
  assert metrics.ssim(panorama, panorama) == pytest.approx(1) and 0 < value < 0.95
  for shift in (1, 13, W // 2):
    assert metrics.ssim(np.roll(panorama, shift, 1), np.roll(noisy, shift, 1)) == pytest.approx(value, abs=1e-9)
  assert metrics.ssim(panorama[::-1], noisy[::-1]) == pytest.approx(value, abs=1e-7)
  assert metrics.ssim(np.stack([panorama] * 2), np.stack([noisy, panorama])) == pytest.approx((value + 1) / 2)


def test_ssim_looks_over_the_pole(panorama):
  """A window at the pole sees the opposite meridian: a disturbance there is noticed within the window's reach."""
  marked = panorama.copy()
  marked[:3, : W // 4] = 0
  opposite = np.zeros((H, W), bool)
  opposite[0, W // 2 + 6 : 3 * W // 4 - 6] = True
  assert metrics.ssim(panorama, marked, mask=opposite) < 0.9


def test_an_invisible_seam_is_one_wherever_the_panorama_is_cut():
  """Over a clip that turns past the seam, the ratio of a world without seam is 1, rolled or not."""
  clip = np.stack([_view_of_a_smooth_world(turn) for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False)])
  values = [metrics.seam_ratio(np.roll(clip, shift, axis=2)) for shift in (0, 7, 20)]
  assert values == pytest.approx([1.0] * 3, abs=0.05)


def test_a_planted_seam_is_seen_where_it_is_and_nowhere_else(panorama):
  """A brightness step at the edge shows in proportion; rolled to the middle it is no seam of the file any more."""
  ramp = np.linspace(0, 1, W)[:, None]
  values = [metrics.seam_ratio(panorama * 0.8 + step * ramp) for step in (0.0, 20.0, 40.0)]
  assert values[0] < 1.5 and values[1] > 3 and values[2] > 1.5 * values[1]
  assert metrics.seam_ratio(np.roll(panorama * 0.8 + 40.0 * ramp, W // 2, axis=1)) < 1.5


def test_a_flat_panorama_has_no_seam_and_a_step_in_it_an_infinite_one():
  flat = np.full((H, W, 3), 7, np.uint8)
  assert metrics.seam_ratio(flat) == 1
  flat[:, : W // 2] = 9
  assert metrics.seam_ratio(flat) == math.inf


def test_the_unseen_part_is_what_the_camera_does_not_cover():
  """A 90° view is a sixth of the sphere (one face of a cube), so the unseen part is five sixths of its solid angle."""
  camera = Camera(yaw_deg=30, pitch_deg=0, fov_deg=90)
  unseen = metrics.unseen_mask(camera, (256, 512))
  np.testing.assert_array_equal(unseen, ~coverage(camera, (256, 512)))
  weights = np.cos((0.5 - (np.arange(256) + 0.5) / 256) * np.pi)[:, None] * np.ones(512)
  assert (weights * unseen).sum() / weights.sum() == pytest.approx(5 / 6, abs=0.003)
  assert not unseen[128, 256 + 43]      # yaw 30 is 43 pixels to the right of the middle


def test_the_mean_panorama_reads_a_stream(panorama):
  """A generator is enough; the mean does not lose digits to uint8."""
  frames = [np.full((H, W, 3), value, np.uint8) for value in (0, 1, 1)]
  np.testing.assert_allclose(metrics.mean_panorama(iter(frames)), 2 / 3)
  np.testing.assert_allclose(metrics.mean_panorama([panorama]), panorama)


@pytest.mark.parametrize("call, words", [
  (lambda a: metrics.psnr(a, a[:, :-2]), "one shape"),
  (lambda a: metrics.psnr(a / 127.5 - 1, a), r"\[0, 255\]"),
  (lambda a: metrics.psnr(a * np.nan, a), r"\[0, 255\]"),
  (lambda a: metrics.psnr(a, a, mask=np.zeros(a.shape[:2], bool)), "no pixel"),
  (lambda a: metrics.psnr(a, a, mask=np.ones((3, 3), bool)), "must fit"),
  (lambda a: metrics.psnr(a, a, mask=np.ones(a.shape[:2])), "bool"),
  (lambda a: metrics.ws_psnr(a[0], a[0]), r"\[\.\.\. H W c\]"),
  (lambda a: metrics.ssim(a[:, :-1], a[:, :-1]), "even width"),
  (lambda a: metrics.seam_ratio(a[:, :8]), "W=8"),
  (lambda a: metrics.mean_panorama([]), "at least one"),
  (lambda a: metrics.mean_panorama([a, a[1:]]), "one shape"),
])
def test_wrong_input_is_refused_with_a_reason(panorama, call, words):
  with pytest.raises(ValueError, match=words):
    call(panorama)
