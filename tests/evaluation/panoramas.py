"""A small panorama whose every property is known."""

import numpy as np

H, W = 32, 64


def smooth_world(turn: float = 0.0, height: int = H) -> np.ndarray:
  """Smooth on the sphere, [H 2H 3] float in [0, 255]: it wraps, and each pole row is nearly constant.

  `turn`: radians by which it is turned to the left.
  """
  width = 2 * height
  lon = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi + turn
  lat = (0.5 - (np.arange(height) + 0.5) / height)[:, None] * np.pi
  x, y, z = np.cos(lat) * np.sin(lon), np.sin(lat) + 0 * lon, np.cos(lat) * np.cos(lon)
  waves = [np.sin(5 * x + 2 * y), np.sin(4 * z - 3 * x), np.cos(6 * y + 3 * z)]
  return 127.5 + 90 * np.stack(waves, axis=-1)
