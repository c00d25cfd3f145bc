"""Full-reference metrics for panoramas and for views, in NumPy.

Pixels are uint8 or floats in [0, 255]; 255 is the peak of every metric, whatever the dtype. Panoramas are [... H W c]:
leading axes are frames, clips or whatever else is pooled. Masks are true where a pixel counts.
"""

import math
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from panda_jax.evaluation.pixels import PEAK, check_same_shape, checked
from panda_jax.geometry import Camera, coverage, solid_angle_weights

# SSIM's Gaussian window (Wang et al. 2004): 11x11 pixels, sigma 1.5; and its constants K1, K2, for a peak of 255.
_RADIUS = 5
_WINDOW = np.exp(-np.square(np.arange(-_RADIUS, _RADIUS + 1) / 1.5) / 2)
_WINDOW /= _WINDOW.sum()
_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None, mask: np.ndarray | None = None) -> float:
  """Peak signal-to-noise ratio in dB of the error pooled over everything given.

  The mean squared error is taken over all frames, then one logarithm: a clip's value is not the mean of its frames'.

  Args:
    a, b: [... H W c], of one shape; symmetric.
    weights: how much a pixel counts, [H W], [H 1] or [... H W]; all alike when None.
    mask: bool [H W] or [... H W], true where a pixel counts; everywhere when None.

  Returns:
    dB; inf where nothing differs.

  Raises:
    ValueError: if the shapes differ or do not fit, a value is not in [0, 255], or no pixel counts.
  """
  return _decibels(_pooled_mean(_squares, a, b, weights, mask))


def ws_psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
  """PSNR on the sphere: a pixel counts by its solid angle, cos(latitude) at its centre.

  Args, returns and raises as `psnr`. Source: Sun, Lu and Yu 2017, "Weighted-to-spherically-uniform quality evaluation".
  """
  return psnr(a, b, weights=_row_weights(a), mask=mask)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
  """Structural similarity of flat images, the mean over all windows that lie in the image and over frames.

  Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, covariances of N, per channel: scikit-image's with
  `gaussian_weights` and without `use_sample_covariance`.

  Args:
    a, b: [... h w c], of one shape, h and w >= 11; symmetric.

  Returns:
    At most 1, which is equality. Exact to 1e-6: windows are summed in float32.

  Raises:
    ValueError: if the shapes differ or do not fit, or a value is not in [0, 255].

  Source: Wang et al. 2004.
  """
  return fidelity(a, b, sphere=False)["ssim"]


def ws_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
  """Structural similarity on the sphere: the map of local similarities, averaged by solid angle over the mask.

  Windows continue across the seam and over the poles. A window near the mask's border also sees pixels outside it.

  Args:
    a, b: [... H W c], of one shape, H >= 6 and W even and >= 6; symmetric.
    mask: bool [H W] or [... H W], true where a pixel counts; everywhere when None.

  Returns:
    At most 1, which is equality. Exact to 1e-6.

  Raises:
    ValueError: if the shapes differ or do not fit, a value is not in [0, 255], or no pixel counts.

  Source: Wang et al. 2004; the weights are WS-SSIM's (Zhou et al. 2018).
  """
  return _pooled_mean(_similarity_on_sphere, a, b, _row_weights(a), mask)


def fidelity(truth: np.ndarray, made: np.ndarray, *, sphere: bool) -> dict[str, float]:
  """All metrics of this file at once, in the time of the slowest.

  Args:
    truth, made: [... H W c], of one shape; the leading axes are pooled.
    sphere: whether they are panoramas; otherwise they are flat.

  Returns:
    "psnr" and "ssim" as `psnr` and `ssim`, and for panoramas "ws_psnr" and "ws_ssim".

  Raises:
    ValueError: as they do.
  """
  truth, made = checked(truth), checked(made)
  check_same_shape(truth, made)
  height, width, channels = truth.shape[-3:]
  if min(height, width) <= 2 * _RADIUS:
    raise ValueError(f"ssim needs images of at least {2 * _RADIUS + 1} pixels each way, got {width}x{height}")
  rows, similar, similar_rows, frames = np.zeros(height), 0.0, np.zeros(height), 0
  inside = np.s_[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
  for index in np.ndindex(truth.shape[:-3]):
    a, b = truth[index], made[index]
    rows += np.einsum("hwc->h", _squares(a, b)) / channels
    local = _similarity_on_sphere(a, b) if sphere else _similarity(a, b)
    similar += float(local[inside].mean(dtype=np.float64))      # these windows lie in the image either way
    similar_rows += local.reshape(height, -1).mean(1, dtype=np.float64)
    frames += 1
  if not frames:
    raise ValueError("there is no frame to compare")
  scores = {"psnr": _decibels(rows.sum() / (frames * height * width)), "ssim": similar / frames}
  if sphere:
    share = _row_weights(truth)[:, 0]
    scores["ws_psnr"] = _decibels(rows @ share / (frames * width * share.sum()))
    scores["ws_ssim"] = float(similar_rows @ share / (frames * share.sum()))
  return scores


def unseen_mask(camera: Camera, size: tuple[int, int]) -> np.ndarray:
  """Where a panorama shows what a camera does not: the part that a model has to invent.

  Args:
    camera: the given view, square.
    size: (H, W) of the panorama.

  Returns:
    bool [H W], true outside the view.
  """
  return ~coverage(camera, size)


def mean_panorama(frames: Iterable[np.ndarray]) -> np.ndarray:
  """The average of many panoramas, read one at a time: what a guess knows that has seen the training set only.

  Args:
    frames: any number of [H W c] arrays of one shape; consumed.

  Returns:
    float64 [H W c] in [0, 255].

  Raises:
    ValueError: if there is no frame, the shapes differ, or a value is not in [0, 255].
  """
  total, count = None, 0
  for frame in frames:
    frame = checked(frame)
    if total is None:
      total = np.zeros(frame.shape)
    check_same_shape(total, frame)
    total += frame
    count += 1
  if total is None:
    raise ValueError("mean_panorama needs at least one frame, got none")
  return total / count


def _pooled_mean(
  per_pixel: Callable[[np.ndarray, np.ndarray], np.ndarray],
  a: np.ndarray,
  b: np.ndarray,
  weights: np.ndarray | None,
  mask: np.ndarray | None,
) -> float:
  """The mean of per_pixel(frame of a, frame of b) [H W c] over all frames and the mask, each pixel by its weight.

  One frame at a time, because a clip in float64 takes eight times the memory it came in.
  """
  a, b = checked(a), checked(b)
  check_same_shape(a, b)
  share = np.float64(1) if weights is None else np.asarray(weights, np.float64)
  if mask is not None:
    mask = np.asarray(mask)
    if mask.dtype != bool:
      raise ValueError(f"mask must be bool, got {mask.dtype}")
    share = share * mask
  try:
    share = np.broadcast_to(share, a.shape[:-1])
  except ValueError:
    raise ValueError(f"weights and mask must fit [... H W] = {a.shape[:-1]}, got {share.shape}") from None
  total = count = 0.0
  for index in np.ndindex(a.shape[:-3]):
    total += float((per_pixel(a[index], b[index]).mean(-1) * share[index]).sum())
    count += float(share[index].sum())
  if not count > 0:
    raise ValueError("the mask and weights leave no pixel to compare")
  return total / count


def _decibels(mse: float) -> float:
  return 10 * math.log10(PEAK**2 / mse) if mse > 0 else math.inf


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[H W c] twice -> squared differences [H W c] float64."""
  if a.dtype == b.dtype == np.uint8:
    return np.square(cv2.absdiff(a, b), dtype=np.float64)
  return np.square(a.astype(np.float64) - b)


def _similarity_on_sphere(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[H W c] twice -> the map of structural similarity [H W c]; windows go on past the edges."""
  height, width = a.shape[:2]
  if height <= _RADIUS or width <= _RADIUS or width % 2:
    raise ValueError(f"ssim needs a panorama of at least 6x6 pixels and of even width, got {width}x{height}")
  local = _similarity(_continue_sphere(a, _RADIUS), _continue_sphere(b, _RADIUS))
  return local[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[h w c] twice -> the map of structural similarity [h w c]; reflected at the edges."""
  # About their means: squares of numbers near 255 would leave float32 few digits for the variances.
  offset_a, offset_b = (np.float32(x.mean()) for x in (a, b))
  a, b = a.astype(np.float32) - offset_a, b.astype(np.float32) - offset_b
  mean_a, mean_b = _blurred(a), _blurred(b)
  covariance = _blurred(a * b) - mean_a * mean_b
  variances = _blurred(a * a + b * b) - mean_a * mean_a - mean_b * mean_b
  mean_a, mean_b = mean_a + offset_a, mean_b + offset_b
  luminance = (2 * mean_a * mean_b + _C1) / (mean_a * mean_a + mean_b * mean_b + _C1)
  return luminance * ((2 * covariance + _C2) / (variances + _C2))


def _blurred(x: np.ndarray) -> np.ndarray:
  return cv2.sepFilter2D(x, -1, _WINDOW, _WINDOW, borderType=cv2.BORDER_REFLECT).reshape(x.shape)


def _continue_sphere(image: np.ndarray, margin: int) -> np.ndarray:
  """Adds `margin` pixels, [H+2m W+2m c], of what lies past the edges: the other side of the seam and of the poles."""
  half = image.shape[1] // 2
  top = np.roll(image[:margin][::-1], half, axis=1)      # over the pole one comes down on the opposite meridian
  bottom = np.roll(image[-margin:][::-1], half, axis=1)
  return np.pad(np.concatenate([top, image, bottom]), ((0, 0), (margin, margin), (0, 0)), mode="wrap")


def _row_weights(image: np.ndarray) -> np.ndarray:
  """Solid-angle weights [H 1] for panoramas [... H W c]."""
  return solid_angle_weights(checked(image).shape[-3]).astype(np.float64)[:, None]
