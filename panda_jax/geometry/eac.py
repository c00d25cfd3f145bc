"""Equi-angular cubemaps (EAC), as video sites store 360° films, and panoramas from them.

A frame is two strips of three square faces each, every pixel of a face as wide in degrees as the next:

  left  front  right      upright
  down  back   up         on its side: back in the middle, up to its right

The lower strip is the upper one as seen by someone who turned round and lay down, so one mapping serves both. Each
strip is bordered by a few pixels that no direction falls on: tools fill them with what lies beyond. FFmpeg's v360
filter calls this layout `eac`.
"""

import functools

import numpy as np

from panda_jax.geometry.camera import check_size
from panda_jax.geometry.sphere import equirect_rays
from panda_jax.geometry.table import Table, taps

PADDING = 2.0
"""Pixels of border around each strip, at the size as stored."""


def eac_rays(size: tuple[int, int], padding: tuple[float, float] = (PADDING, PADDING)) -> np.ndarray:
  """Unit world directions through the pixel centres of an equi-angular cubemap.

  Args:
    size: (H, W) of the frame in pixels, H even.
    padding: border of each strip in (rows, columns). Border pixels continue the angles of their face.

  Returns:
    [H W 3] float64, axes x right, y up, z forward.

  Raises:
    ValueError: if the size is not positive and even in height, or the borders leave nothing.
  """
  height, width = _check(size, padding)
  across, down = np.meshgrid((np.arange(width) + 0.5 - padding[1]) / (width - 2 * padding[1]),
                             (np.arange(height // 2) + 0.5 - padding[0]) / (height / 2 - 2 * padding[0]))
  lon = (3 * across - 1.5) * np.pi / 2                                          # [h w], 0 in the middle of the strip
  face = np.clip(np.rint(lon / (np.pi / 2)), -1, 1) * np.pi / 2                 # where the pixel's face looks
  rise = np.tan((0.5 - down) * np.pi / 2) * np.cos(lon - face)
  strip = np.stack([np.sin(lon), rise, np.cos(lon)], axis=-1)
  strip /= np.linalg.norm(strip, axis=-1, keepdims=True)
  return np.concatenate([strip, _lie_down(strip)])


def strip_border_rays(count: int, beyond: tuple[float, float]) -> np.ndarray:
  """Unit world directions along the borders of both strips, each of the eight edges of the cube there seen twice.

  Args:
    count: directions per face and border.
    beyond: how far outside its face each direction lies (inside, if negative), across (top and bottom, left and right)
      borders, as a share of a face.

  Returns:
    [n 3] float64.
  """
  along = ((np.arange(count) + 0.5) / count - 0.5) * np.pi / 2
  lines = []
  for face in (-1, 0, 1):
    edges = [(along, np.full(count, sign * np.pi / 2 * (0.5 + beyond[0]))) for sign in (1, -1)]
    if face:
      edges.append((np.full(count, face * np.pi / 2 * (0.5 + beyond[1])), along))
    for right, up in edges:
      x, y = np.tan(right), np.tan(up)
      here = np.ones(count)
      lines.append(np.stack([x, y, here] if face == 0 else [face * here, y, -face * x], axis=-1))
  strip = np.concatenate(lines)
  strip /= np.linalg.norm(strip, axis=-1, keepdims=True)
  return np.concatenate([strip, _lie_down(strip)])


def eac_pixels(directions: np.ndarray, size: tuple[int, int], padding: tuple[float, float] = (PADDING, PADDING)
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where unit directions fall on an equi-angular cubemap, in pixels; whole numbers are the pixels' own positions.

  Args:
    directions: [... 3] unit world directions.
    size, padding: see `eac_rays`.

  Returns:
    x, y: [...] float64, columns and rows; lower: [...] bool, true in the lower strip.

  Raises:
    ValueError: as `eac_rays`.
  """
  height, width = _check(size, padding)
  x, y, z = np.moveaxis(np.abs(directions), -1, 0)
  lower = (y > np.maximum(x, z)) | ((directions[..., 2] < 0) & (z > x))         # down, up or back
  strip = np.where(lower[..., None], _lie_down(directions), directions)
  lon = np.arctan2(strip[..., 0], strip[..., 2])
  face = np.clip(np.rint(lon / (np.pi / 2)), -1, 1) * np.pi / 2
  lat = np.arctan2(strip[..., 1], np.hypot(strip[..., 0], strip[..., 2]) * np.cos(lon - face))
  across, down = lon / (1.5 * np.pi) + 0.5, 0.5 - lat / (np.pi / 2)
  columns = across * (width - 2 * padding[1]) + padding[1] - 0.5
  rows = down * (height / 2 - 2 * padding[0]) + padding[0] - 0.5 + lower * (height // 2)
  return columns, rows, lower


def eac_table(eac_size: tuple[int, int], equirect_size: tuple[int, int], method: str = "bicubic",
              padding: tuple[float, float] = (PADDING, PADDING)) -> Table:
  """A resampling of an equi-angular cubemap to a panorama; cached.

  It does not low-pass: shrink a frame that is finer than the panorama first, each strip for itself, and its padding
  with it.

  Args:
    eac_size: (H, W) of the cubemap frame, H even.
    equirect_size: (H, W) of the panorama.
    method: "nearest", "bilinear" or "bicubic"; taps stay in the strip, its border included.
    padding: border of each strip in (rows, columns).

  Returns:
    A table from the frame to the panorama.

  Raises:
    ValueError: if a size is not positive, the frame's height is odd, the borders leave nothing or the method is
      unknown.
  """
  _check(eac_size, padding)
  equirect_size = check_size(equirect_size, "panorama size (H, W)")
  return _eac_table(tuple(eac_size), equirect_size, method, tuple(padding))


@functools.lru_cache(maxsize=4)      # bicubic at 512x1024: 67 MB
def _eac_table(eac_size, equirect_size, method, padding) -> Table:
  height, width = eac_size
  x, y, lower = eac_pixels(equirect_rays(equirect_size).reshape(-1, 3), eac_size, padding)      # [n]
  columns, column_weights = taps(x, method)                                                     # [n k]
  rows, row_weights = taps(y, method)
  top = (lower * (height // 2))[:, None]
  rows = rows.clip(top, top + height // 2 - 1)
  indices = rows[:, :, None] * width + columns.clip(0, width - 1)[:, None, :]
  weights = row_weights[:, :, None] * column_weights[:, None, :]
  return Table(
    indices=indices.reshape(len(x), -1).astype(np.int32),
    weights=weights.reshape(len(x), -1).astype(np.float32),
    source_shape=eac_size,
    target_shape=equirect_size,
  )


def _lie_down(directions: np.ndarray) -> np.ndarray:
  """Between the world and the lower strip's own axes (up is its right, right its up); its own inverse."""
  return directions[..., [1, 0, 2]] * np.array([1, 1, -1])


def _check(size: tuple[int, int], padding: tuple[float, float]) -> tuple[int, int]:
  height, width = check_size(size, "cubemap size (H, W)")
  if height % 2 or height / 2 <= 2 * padding[0] or width <= 2 * padding[1] or min(padding) < 0:
    raise ValueError(f"an equi-angular cubemap has two strips of equal height and a border smaller than they are, got "
                     f"size {size} and padding {padding}")
  return height, width
