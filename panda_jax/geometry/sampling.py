"""A panorama seen by a camera.

The panorama has no border: columns wrap around, and a row beyond a pole is a row of the opposite meridian.
Sampling does not low-pass: shrink a panorama that is finer than the view first (a 90° view of w pixels wants W <= 4 w).
"""

import functools
from typing import TYPE_CHECKING

import numpy as np

from panda_jax.geometry.camera import Camera, check_size, local_rays
from panda_jax.geometry.sphere import equirect_pixels
from panda_jax.geometry.table import Table, apply_table, taps

if TYPE_CHECKING:
  import jax


def project(
  equirect: "np.ndarray | jax.Array", camera: Camera, size: tuple[int, int], method: str = "bicubic"
) -> "np.ndarray | jax.Array":
  """The view of a camera, cut out of a panorama.

  Args:
    equirect: [... H W c], NumPy or JAX; 2:1 by definition, other sizes are taken as a stretched full sphere.
    camera: where to look.
    size: (h, w) of the view in pixels.
    method: "nearest", "bilinear" or "bicubic".

  Returns:
    [... h w c], of the panorama's dtype, or float32 if that is an integer.

  Raises:
    ValueError: if the array is not [... H W c], a size is not positive, or the method is unknown.
  """
  if equirect.ndim < 3:
    raise ValueError(f"a panorama must be [... H W c], got shape {tuple(equirect.shape)}")
  return apply_table(projection_table(equirect.shape[-3:-1], camera, size, method), equirect)


def projection_table(
  equirect_size: tuple[int, int],
  camera: Camera,
  size: tuple[int, int],
  method: str = "bicubic",
  convention: str = "center",
) -> Table:
  """The table behind `project`; cached.

  Args:
    equirect_size: (H, W) of the panorama.
    camera: where to look.
    size: (h, w) of the view.
    method: "nearest", "bilinear" or "bicubic".
    convention: "center", or "corner" for networks that were trained with pixels on the corners of both grids (E2P in
      Imagine360 and PanFusion): outermost rays on the view's border, seam and poles on the panorama's outermost
      pixels, vertical field of view fov * h / w, rows clamped at the poles.

  Returns:
    A table from (H, W) to (h, w).

  Raises:
    ValueError: if a size is not positive, or the method or the convention is unknown.
  """
  equirect_size = check_size(equirect_size, "panorama size (H, W)")
  return _projection_table(equirect_size, camera, check_size(size, "view size (h, w)"), method, convention)


@functools.lru_cache(maxsize=32)      # four rigs of eight; a bicubic table of a 256² view is 8 MB, of a 512² view 34 MB
def _projection_table(equirect_size, camera, size, method, convention) -> Table:
  height, width = equirect_size
  directions = local_rays(camera, size, convention).reshape(-1, 3) @ camera.rotation().T
  x, y = equirect_pixels(directions, equirect_size, convention)                 # [n]
  rows, row_weights = taps(y, method)                                           # [n k]
  if convention == "center":
    rows = rows % (2 * height)                # up one meridian and down the opposite one is a circle of 2 H pixels
    opposite = rows >= height
    rows = np.where(opposite, 2 * height - 1 - rows, rows)
  else:
    opposite = np.zeros(rows.shape, bool)     # the rows are clamped: there is no half-turn in whole pixels on this grid
    rows = rows.clip(0, height - 1)
  columns, column_weights = taps(x[:, None] + opposite * (width / 2), method)   # [n k k]
  indices = rows[:, :, None] * width + columns % width
  weights = row_weights[:, :, None] * column_weights
  n = len(x)
  return Table(
    indices=indices.reshape(n, -1).astype(np.int32),
    weights=weights.reshape(n, -1).astype(np.float32),
    source_shape=equirect_size,
    target_shape=size,
  )
