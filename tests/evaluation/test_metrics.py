"""The metrics agree with their textbook definitions, and know that a panorama is a sphere."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from panda_jax.evaluation import metrics
from panda_jax.geometry import Camera, coverage
from tests.evaluation.panoramas import H, W, smooth_world


@pytest.fixture
def panorama():
  return smooth_world()


@pytest.fixture
def noisy(panorama):
  return np.clip(panorama + np.random.default_rng(1).normal(0, 12, panorama.shape), 0, 255)


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
  assert metrics.ws_ssim(panorama, half_broken, mask=far) == pytest.approx(1)
  assert metrics.ws_ssim(panorama, half_broken, mask=mask) < 0.2


def test_every_frame_may_have_its_own_mask(panorama, noisy):
  masks = np.zeros((2, H, W), bool)
  masks[0, :10], masks[1, 10:] = True, True
  clip, other = np.stack([panorama] * 2), np.stack([noisy] * 2)
  assert metrics.psnr(clip, other, mask=masks) == pytest.approx(metrics.psnr(panorama, noisy))


@pytest.mark.parametrize("brightness, contrast", [(0, 1.0), (60, 0.02), (-110, 0.1)])
def test_ssim_is_scikit_images(panorama, noisy, brightness, contrast):
  """Over flat images and clips, bright and dark and nearly flat ones, too; and in the interior of one row of a sphere."""
  a, b = (np.clip(127.5 + brightness + contrast * (x - 127.5), 0, 255).round().astype(np.uint8) for x in (panorama, noisy))
  reference = lambda a, b, **more: structural_similarity(
    a, b, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **more)
  value, full = reference(a, b, full=True)
  assert metrics.ssim(a, b) == pytest.approx(value, abs=1e-6)
  assert metrics.ssim(np.stack([a, b]), np.stack([b, b])) == pytest.approx((value + 1) / 2, abs=1e-6)
  mask = np.zeros((H, W), bool)
  mask[H // 2, 5:-5] = True
  assert metrics.ws_ssim(a, b, mask=mask) == pytest.approx(full[mask].mean(), abs=1e-6)


def test_the_metrics_on_the_sphere_are_what_a_double_loop_says(panorama, noisy):
  """WS-PSNR and WS-SSIM from their definitions, pixel by pixel: Sun et al. 2017, Zhou et al. 2018."""
  a, b = panorama.round().astype(np.uint8).astype(float), noisy.round().astype(np.uint8).astype(float)
  window = np.exp(-np.add.outer(np.arange(-5, 6) ** 2, np.arange(-5, 6) ** 2) / (2 * 1.5**2))
  window /= window.sum()

  def around(image, row, column):
    patch = np.empty((11, 11, 3))
    for i in range(-5, 6):
      for j in range(-5, 6):
        y, x = row + i, column + j
        if y < 0 or y >= H:                              # over the pole: the same distance down the opposite meridian
          y, x = (-1 - y if y < 0 else 2 * H - 1 - y), x + W // 2
        patch[i + 5, j + 5] = image[y, x % W]
    return patch

  error = similarity = total = 0.0
  for row in range(H):
    weight = math.cos((row + 0.5 - H / 2) * math.pi / H)
    for column in range(W):
      total += weight
      error += weight * ((a[row, column] - b[row, column]) ** 2).mean()
      x, y = around(a, row, column), around(b, row, column)
      mean = lambda z: np.tensordot(window, z, 2)
      mx, my = mean(x), mean(y)
      vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
      c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
      similarity += weight * ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
  scores = metrics.fidelity(a.astype(np.uint8), b.astype(np.uint8), sphere=True)
  assert scores["ws_psnr"] == pytest.approx(10 * math.log10(255**2 * total / error), abs=1e-5)
  assert scores["ws_ssim"] == pytest.approx(similarity / total, abs=1e-6)


def test_all_at_once_is_each_alone(panorama, noisy):
  clip, other = (np.stack([x, y]).round().astype(np.uint8) for x, y in ((panorama, noisy), (noisy, panorama[::-1])))
  scores = metrics.fidelity(clip, other, sphere=True)
  assert scores == pytest.approx({"psnr": metrics.psnr(clip, other), "ws_psnr": metrics.ws_psnr(clip, other),
                                  "ssim": metrics.ssim(clip, other), "ws_ssim": metrics.ws_ssim(clip, other)}, abs=1e-6)
  flat = metrics.fidelity(clip, other, sphere=False)
  assert flat == pytest.approx({"psnr": scores["psnr"], "ssim": scores["ssim"]}, abs=1e-6)


def test_turning_both_changes_nothing(panorama, noisy):
  """The same yaw of both, by whole columns, leaves every figure on the sphere as it was."""
  a, b = panorama.round().astype(np.uint8), noisy.round().astype(np.uint8)
  still = metrics.fidelity(a, b, sphere=True)
  turned = metrics.fidelity(np.roll(a, 23, 1), np.roll(b, 23, 1), sphere=True)
  for name in ("psnr", "ws_psnr", "ws_ssim"):
    assert turned[name] == pytest.approx(still[name], abs=1e-6)


def test_ssim_does_not_care_where_the_panorama_is_cut(panorama, noisy):
  """Rolling both, or turning them upside down, changes nothing; equality is 1 and noise costs."""
  value = metrics.ws_ssim(panorama, noisy)
  assert metrics.ws_ssim(panorama, panorama) == pytest.approx(1) and 0 < value < 0.95
  for shift in (1, 13, W // 2):
    assert metrics.ws_ssim(np.roll(panorama, shift, 1), np.roll(noisy, shift, 1)) == pytest.approx(value, abs=1e-6)
  assert metrics.ws_ssim(panorama[::-1], noisy[::-1]) == pytest.approx(value, abs=1e-6)
  assert metrics.ws_ssim(np.stack([panorama] * 2), np.stack([noisy, panorama])) == pytest.approx((value + 1) / 2)


def test_ssim_looks_over_the_pole(panorama):
  """A window at the pole sees the opposite meridian: a disturbance there is noticed within the window's reach."""
  marked = panorama.copy()
  marked[:3, : W // 4] = 0
  opposite = np.zeros((H, W), bool)
  opposite[0, W // 2 + 6 : 3 * W // 4 - 6] = True
  assert metrics.ws_ssim(panorama, marked, mask=opposite) < 0.9


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
  (lambda a: metrics.ws_psnr(a[0], a[0]), r"\[\.\.\. h w c\]"),
  (lambda a: metrics.ws_ssim(a[:, :-1], a[:, :-1]), "even width"),
  (lambda a: metrics.mean_panorama([]), "at least one"),
  (lambda a: metrics.mean_panorama([a, a[1:]]), "one shape"),
])
def test_wrong_input_is_refused_with_a_reason(panorama, call, words):
  with pytest.raises(ValueError, match=words):
    call(panorama)
