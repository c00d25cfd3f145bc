"""Full-reference and seam metrics for equirectangular panoramas, in NumPy and float64.

Pixels are uint8 or floats in [0, 255]; 255 is the peak of every metric, whatever the dtype. Panoramas are [... H W c]:
leading axes are frames, clips or whatever else is pooled. Masks are true where a pixel counts.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from panda_jax.geometry import Camera, coverage, solid_angle_weights

PEAK = 255.0

# SSIM's Gaussian window (Wang et al. 2004): 11x11 pixels, sigma 1.5.
_SIGMA = 1.5
_RADIUS = 5


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
  mse = _pooled_mean(_squared_error, a, b, weights, mask)
  return 10 * math.log10(PEAK**2 / mse) if mse > 0 else math.inf


def ws_psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
  """PSNR on the sphere: a pixel counts by its solid angle, cos(latitude) at its centre.

  Args, returns and raises as `psnr`. Source: Sun, Lu and Yu 2017, "Weighted-to-spherically-uniform quality evaluation".
  """
  return psnr(a, b, weights=_row_weights(a), mask=mask)


def ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
  """Structural similarity on the sphere: the map of local similarities, averaged by solid angle over the mask.

  Windows continue across the seam and over the poles. A window near the mask's border also sees pixels outside it.
  Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, per channel.

  Args:
    a, b: [... H W c], of one shape, H >= 6 and W even and >= 6; symmetric.
    mask: bool [H W] or [... H W], true where a pixel counts; everywhere when None.

  Returns:
    At most 1, which is equality.

  Raises:
    ValueError: if the shapes differ or do not fit, a value is not in [0, 255], or no pixel counts.

  Source: Wang et al. 2004; the weights are WS-SSIM's (Zhou et al. 2018).
  """
  return _pooled_mean(_similarity, a, b, _row_weights(a), mask)


def seam_ratio(frames: np.ndarray, columns: int = 4) -> float:
  """How much the left and right edge differ, in units of how much neighbouring columns near them do.

  1 says that the seam cannot be told from its surroundings; published systems have 1.05 to 1.9. Single images scatter
  with their texture, so judge it over many frames or clips.

  Args:
    frames: [... H W c], pooled.
    columns: how many pairs of neighbouring columns on either side of the seam make up the surroundings.

  Returns:
    mean |first - last column| / mean |neighbouring columns|; 1 if both are flat, inf if only the surroundings are.

  Raises:
    ValueError: if the shape is not [... H W c] with W > 2 * columns, or a value is not in [0, 255].
  """
  frames = _panoramas(frames)
  if frames.shape[-2] <= 2 * columns:
    raise ValueError(f"seam_ratio compares {columns} column pairs on either side, too many for W={frames.shape[-2]}")
  strip = _pixels(np.concatenate([frames[..., -columns - 1 :, :], frames[..., : columns + 1, :]], axis=-2))
  steps = np.abs(np.diff(strip, axis=-2))      # [... H 2*columns+1 c], the seam in the middle
  seam = float(steps[..., columns, :].mean())
  surroundings = float(np.delete(steps, columns, axis=-2).mean())
  if surroundings == 0:
    return math.inf if seam > 0 else 1.0
  return seam / surroundings


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
    frame = _panoramas(frame)
    if total is None:
      total = np.zeros(frame.shape)
    _check_same_shape(total, frame)
    total += _pixels(frame)
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
  """The mean of per_pixel(frame of a, frame of b) [H W] over all frames and the mask, each pixel by its weight.

  One frame at a time, because a clip in float64 takes eight times the memory it came in.
  """
  a, b = _panoramas(a), _panoramas(b)
  _check_same_shape(a, b)
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
    total += float((per_pixel(_pixels(a[index]), _pixels(b[index])) * share[index]).sum())
    count += float(share[index].sum())
  if not count > 0:
    raise ValueError("the mask and weights leave no pixel to compare")
  return total / count


def _squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[H W c] twice -> [H W], the mean over channels."""
  return np.mean((a - b) ** 2, axis=-1)


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[H W c] twice -> the map of structural similarity [H W], the mean over channels."""
  from skimage.metrics import structural_similarity      # imports scipy: only when needed

  height, width = a.shape[:2]
  if height <= _RADIUS or width <= _RADIUS or width % 2:
    raise ValueError(f"ssim needs a panorama of at least 6x6 pixels and of even width, got {width}x{height}")
  _, full = structural_similarity(
    _continue_sphere(a, _RADIUS),
    _continue_sphere(b, _RADIUS),
    data_range=PEAK,
    channel_axis=-1,
    gaussian_weights=True,
    sigma=_SIGMA,
    use_sample_covariance=False,
    full=True,
  )
  return full[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS].mean(-1)


def _continue_sphere(image: np.ndarray, margin: int) -> np.ndarray:
  """Adds `margin` pixels, [H+2m W+2m c], of what lies past the edges: the other side of the seam and of the poles."""
  half = image.shape[1] // 2
  top = np.roll(image[:margin][::-1], half, axis=1)      # over the pole one comes down on the opposite meridian
  bottom = np.roll(image[-margin:][::-1], half, axis=1)
  return np.pad(np.concatenate([top, image, bottom]), ((0, 0), (margin, margin), (0, 0)), mode="wrap")


def _panoramas(image: np.ndarray) -> np.ndarray:
  """The image as an array [... H W c], checked."""
  image = np.asarray(image)
  if image.ndim < 3 or image.size == 0:
    raise ValueError(f"panoramas must be [... H W c] and not empty, got shape {image.shape}")
  return image


def _pixels(image: np.ndarray) -> np.ndarray:
  """The pixels as float64, checked."""
  if image.dtype != np.uint8:
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= PEAK):      # also false for NaN
      raise ValueError(f"pixels must be uint8 or in [0, 255], got {image.dtype} from {low} to {high}")
  return image.astype(np.float64)


def _check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
  if a.shape != b.shape:
    raise ValueError(f"panoramas of one comparison must have one shape [... H W c], got {a.shape} and {b.shape}")


def _row_weights(image: np.ndarray) -> np.ndarray:
  """Solid-angle weights [H 1] for panoramas [... H W c]."""
  return solid_angle_weights(_panoramas(image).shape[-3]).astype(np.float64)[:, None]
