"""Whether views of one rig show the same where they overlap: what stitching hides."""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from panda_jax.evaluation.pixels import PEAK, checked
from panda_jax.geometry import Camera
from panda_jax.geometry.camera import local_rays, view_plane


def overlap_psnr(views: np.ndarray, cameras: Sequence[Camera]) -> float | None:
  """PSNR between what two views show of one place, pooled over all pairs that overlap and over frames.

  Every view is compared, at its own pixels, with every other one resampled to them (bilinear). Views that were cut out
  of one panorama have 35 to 50 dB, by their detail; 20 dB are plainly visible.

  Args:
    views: uint8 [v f h w 3].
    cameras: one per view.

  Returns:
    dB; inf where nothing differs, None where no two views overlap, as those of a cube.

  Raises:
    ValueError: if the views are not uint8 [v f h w 3] with one camera each.
  """
  views = checked(views)
  if views.dtype != np.uint8 or views.ndim != 5 or len(views) != len(cameras):
    raise ValueError(f"views must be uint8 [v f h w 3] with one camera each, got {views.dtype} {list(views.shape)} for "
                     f"{len(cameras)} cameras")
  squares = count = 0.0
  for here, there, maps in _overlaps(tuple(cameras), views.shape[2:4]):
    mask = maps[0] >= 0
    for mine, other in zip(views[here], views[there]):
      seen = cv2.remap(other, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
      squares += float(np.square(cv2.absdiff(mine, seen)[mask].astype(np.float64)).sum())
    count += mask.sum() * views.shape[1] * views.shape[-1]
  if not count:
    return None
  return 10 * math.log10(PEAK**2 * count / squares) if squares else math.inf


@functools.lru_cache(maxsize=4)
def _overlaps(cameras: tuple[Camera, ...], size: tuple[int, int]) -> list[tuple[int, int, tuple[np.ndarray, np.ndarray]]]:
  """(view, other, where the view's pixels lie in the other: columns and rows [h w], -1 outside) of pairs that overlap."""
  h, w = size
  found = []
  for here, camera in enumerate(cameras):
    directions = local_rays(camera, size) @ camera.rotation().T
    for there, other in enumerate(cameras):
      across, down, inside = view_plane(other, directions, h / w)
      columns, rows = ((across + 1) * w - 1) / 2, ((down + 1) * h - 1) / 2
      inside &= (columns >= 0) & (columns <= w - 1) & (rows >= 0) & (rows <= h - 1)      # between four pixels
      if here != there and inside.any():
        found.append((here, there, tuple(np.where(inside, x, -1).astype(np.float32) for x in (columns, rows))))
  return found
