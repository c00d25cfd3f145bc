"""The pixel grid of an equirectangular panorama."""

import numpy as np

from panda_jax.geometry.camera import check_size


def equirect_rays(size: tuple[int, int]) -> np.ndarray:
  """Unit world directions through the pixel centres of a panorama.

  Args:
    size: (H, W) in pixels; 2:1 for a full sphere with square pixels at the equator, any other ratio is stretched.

  Returns:
    [H W 3] float64, axes x right, y up, z forward.

  Raises:
    ValueError: if a side is not a positive whole number.
  """
  lon, lat = equirect_angles(size)
  lat = lat[:, None]
  return np.stack(np.broadcast_arrays(np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)), axis=-1)


def equirect_angles(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Longitudes of the columns and latitudes of the rows of a panorama, at the pixel centres.

  Args:
    size: (H, W) in pixels.

  Returns:
    lon [W] and lat [H], float64, in radians.

  Raises:
    ValueError: if a side is not a positive whole number.
  """
  height, width = check_size(size, "panorama size (H, W)")
  return ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi, _latitudes(height)


def equirect_pixels(
  directions: np.ndarray, size: tuple[int, int], convention: str = "center"
) -> tuple[np.ndarray, np.ndarray]:
  """Where unit directions fall on a panorama, in pixels; whole numbers are the pixels' own positions.

  Args:
    directions: [... 3] unit world directions.
    size: (H, W) in pixels.
    convention: "center": pixels are cells; the seam and the poles lie between them. "corner": the first and the last
      column are both the seam meridian, the first and the last row are the poles.

  Returns:
    x, y: [...] float64, columns and rows; x in [-1/2, W - 1/2] ("corner": [0, W - 1]), y likewise.

  Raises:
    ValueError: if the convention is unknown.
  """
  height, width = check_size(size, "panorama size (H, W)")
  lon = np.arctan2(directions[..., 0], directions[..., 2])
  lat = np.arctan2(directions[..., 1], np.hypot(directions[..., 0], directions[..., 2]))      # arcsin is blunt at poles
  across, down = 0.5 + lon / (2 * np.pi), 0.5 - lat / np.pi
  if convention == "center":
    return across * width - 0.5, down * height - 0.5
  if convention == "corner":
    return across * (width - 1), down * (height - 1)
  raise ValueError(f'convention must be "center" or "corner", got {convention!r}')


def solid_angle_weights(height: int) -> np.ndarray:
  """How much of the sphere a pixel of each panorama row stands for: cos(latitude), with mean 1.

  Args:
    height: number of rows.

  Returns:
    [H] float32.

  Raises:
    ValueError: if the height is not a positive whole number.
  """
  check_size((height, 1), "panorama size (H, W)")
  weights = np.cos(_latitudes(height))
  return (weights / weights.mean()).astype(np.float32)


def _latitudes(height: int) -> np.ndarray:
  """Latitudes [H] of the rows' centres in radians, from the zenith down."""
  return (0.5 - (np.arange(height) + 0.5) / height) * np.pi
