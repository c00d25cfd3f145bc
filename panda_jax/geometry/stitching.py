"""Views blended into a panorama."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from panda_jax.geometry.camera import Camera, check_size, view_plane
from panda_jax.geometry.sphere import equirect_rays
from panda_jax.geometry.table import Table, apply_table, taps

if TYPE_CHECKING:
  import jax


def stitch(
  views: "np.ndarray | jax.Array",
  rig: Sequence[Camera],
  size: tuple[int, int],
  method: str = "bicubic",
  weights: str = "uniform",
  uncovered: str = "error",
) -> "np.ndarray | jax.Array":
  """The panorama that a rig's views show together.

  Args:
    views: [... v h w c], NumPy or JAX, one view per camera of the rig, in its order.
    rig: a `Rig` or any sequence of cameras.
    size: (H, W) of the panorama, 2:1 by definition.
    method: "nearest", "bilinear" or "bicubic".
    weights: where views overlap, "uniform" averages them (VideoPanda, supplement); "smooth" lets each fade out towards
      its border, which hides small disagreements.
    uncovered: of pixels that no camera sees, "error" refuses the rig; "black" leaves them black: 0 where the views are
      integers (0 to 255), -1 where they are floats (pixels in [-1, 1]).

  Returns:
    [... H W c], of the views' dtype, or float32 if that is an integer.

  Raises:
    ValueError: if the array is not [... v h w c] with one view per camera, the rig leaves a pixel uncovered and that is
      an error, a size is not positive, or the method, the weights or what to do with uncovered pixels are unknown.
  """
  if views.ndim < 4:
    raise ValueError(f"views must be [... v h w c], got shape {tuple(views.shape)}")
  if views.shape[-4] != len(rig):
    raise ValueError(f"views are {tuple(views.shape)}, so v={views.shape[-4]}, but the rig has {len(rig)} cameras")
  table = stitch_table(rig, views.shape[-3:-1], size, method, weights, uncovered)
  panorama = apply_table(table, views)
  if views.dtype.kind in "biu" or not table.empty.any():
    return panorama
  return panorama - table.empty[..., None].astype(panorama.dtype)      # from 0 to -1; NumPy stays NumPy, JAX stays JAX


def stitch_table(
  rig: Sequence[Camera],
  view_size: tuple[int, int],
  equirect_size: tuple[int, int],
  method: str = "bicubic",
  weights: str = "uniform",
  uncovered: str = "error",
) -> Table:
  """The table behind `stitch`; cached.

  Args:
    rig: a `Rig` or any sequence of cameras.
    view_size: (h, w) of every view.
    equirect_size: (H, W) of the panorama.
    method: "nearest", "bilinear" or "bicubic"; taps beyond a view's border repeat its outermost pixels.
    weights: "uniform" or "smooth", see `stitch`.
    uncovered: "error" or "black". The table itself makes uncovered pixels 0; they are its `empty` ones.

  Returns:
    A table from (v, h, w) to (H, W). It has as many taps as the most covered pixel needs.

  Raises:
    ValueError: as `stitch`.
  """
  if uncovered not in ("error", "black"):
    raise ValueError(f'uncovered must be "error" or "black", got {uncovered!r}')
  view_size = check_size(view_size, "view size (h, w)")
  equirect_size = check_size(equirect_size, "panorama size (H, W)")
  table = _stitch_table(tuple(rig), view_size, equirect_size, method, weights)
  if uncovered == "error":
    _check_covered(table, len(rig))
  return table


def coverage(camera: Camera, size: tuple[int, int], view_size: tuple[int, int] = (1, 1)) -> np.ndarray:
  """Which pixels of a panorama a camera sees.

  Args:
    camera: the view.
    size: (H, W) of the panorama.
    view_size: (h, w) of the view; only the ratio matters, and it is square unless told.

  Returns:
    [H W] bool, true where the pixel's centre is in the view.

  Raises:
    ValueError: if a side is not a positive whole number.
  """
  h, w = check_size(view_size, "view size (h, w)")
  _, _, inside = view_plane(camera, equirect_rays(size), aspect=h / w)
  return inside


@functools.lru_cache(maxsize=4)      # bicubic at 512x1024: 200 MB, of the icosahedron 340 MB
def _stitch_table(cameras, view_size, equirect_size, method, weights) -> Table:
  h, w = view_size
  directions = equirect_rays(equirect_size).reshape(-1, 3)                              # [n 3]
  planes = [view_plane(camera, directions, aspect=h / w) for camera in cameras]
  inside = np.array([inside for _, _, inside in planes]).reshape(len(cameras), -1)      # [v n]
  layers = max(1, inside.sum(0).max())             # views that see the most covered pixel
  layer = np.cumsum(inside, axis=0) - 1            # [v n] each pixel's views, numbered from 0
  k = taps(np.zeros(1), method)[0].size ** 2
  indices = np.zeros((inside.shape[1], layers, k), np.int32)
  shares = np.zeros((inside.shape[1], layers, k), np.float32)
  total = np.zeros(inside.shape[1])
  for v, (across, down, seen) in enumerate(planes):
    across, down = across[seen], down[seen]
    blend = _blend_weight(across, down, weights)
    total[seen] += blend
    columns, column_weights = taps((across + 1) / 2 * w - 0.5, method)                  # [m k]
    rows, row_weights = taps((down + 1) / 2 * h - 0.5, method)
    index = (v * h + rows.clip(0, h - 1))[:, :, None] * w + columns.clip(0, w - 1)[:, None, :]
    share = row_weights[:, :, None] * column_weights[:, None, :] * blend[:, None, None]
    pixel = np.flatnonzero(seen)
    indices[pixel, layer[v, seen]] = index.reshape(-1, k)
    shares[pixel, layer[v, seen]] = share.reshape(-1, k)
  shares /= np.where(total > 0, total, 1)[:, None, None]      # what no view sees stays zero
  return Table(
    indices=indices.reshape(len(indices), -1),
    weights=shares.reshape(len(shares), -1),
    source_shape=(len(cameras), h, w),
    target_shape=equirect_size,
  )


def _blend_weight(across: np.ndarray, down: np.ndarray, weights: str) -> np.ndarray:
  """A view's say in its own pixels, [m]; positions run from -1 to 1 between its borders."""
  if weights == "uniform":
    return np.ones_like(across)
  if weights == "smooth":
    fade = np.cos(np.pi / 2 * across) * np.cos(np.pi / 2 * down)
    return fade**2 + 1e-6      # a pixel that only borders see still gets their mean
  raise ValueError(f'stitching weights must be "uniform" or "smooth", got {weights!r}')


def _check_covered(table: Table, cameras: int) -> None:
  holes = np.flatnonzero(table.empty)
  if holes.size:
    height, width = table.target_shape
    row, column = divmod(int(holes[0]), width)
    lon, lat = ((column + 0.5) / width - 0.5) * 360, (0.5 - (row + 0.5) / height) * 180
    raise ValueError(
      f"the rig's {cameras} cameras leave {holes.size} of {height * width} panorama pixels uncovered, the first at "
      f"longitude {lon:.1f}, latitude {lat:.1f} degrees; add a camera that looks there, widen fov_deg, or stitch with "
      'uncovered="black"'
    )
