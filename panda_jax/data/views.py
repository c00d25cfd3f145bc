"""From the encoded frames of a clip to the pictures and rays of one matrix: what a dataset of each kind can show.

Panoramas are turned by a random yaw and projected to cameras; flat clips are their own and only view.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from panda_jax.data import video
from panda_jax.data.records import decode_frame
from panda_jax.errors import InputError
from panda_jax.geometry import Camera, Rig, Table, apply_table, projection_table, rays
from panda_jax.geometry.camera import local_rays
from panda_jax.geometry.given import GivenCameras
from panda_jax.geometry.sphere import equirect_pixels
from panda_jax.geometry.table import taps

FLAT_CAMERA = Camera(0, 0, fov_deg=90)
"""What a flat clip is taken to be filmed with: nobody knows its field of view, and 90 degrees are the paper's views."""


class PanoramaViews:
  """Views of panoramas: cameras of a rig, or a drawn camera and then cameras of a rig.

  Args:
    rig: the cameras.
    view_size: (h, w) of the views.
    rays_size: (h, w) of the rays.
    panorama_size: (H, W) that panoramas are reduced to before they are projected.
    most_views: of any matrix that will be asked for.
    given: draws the camera of the first view, which then comes in front of the rig's; None: the first view is one of
      the rig's.
    in_order: take the rig's cameras in its order instead of a random one.

  Raises:
    InputError: if the rig has too few cameras, or has to give the first view and has no horizontal one.
  """

  def __init__(self, rig: Rig, view_size: tuple[int, int], rays_size: tuple[int, int], panorama_size: tuple[int, int],
               most_views: int, *, given: GivenCameras | None = None, in_order: bool = False):
    most = len(rig) + (given is not None)
    if most_views > most:
      own = " and the given view is one more" if given else ""
      raise InputError(f"matrix.shapes asks for {most_views} views, but the rig has {len(rig)} cameras{own}: "
                       "lower the number of views or take a larger rig")
    self.rig, self.view_size, self.rays_size = rig, tuple(view_size), tuple(rays_size)
    self.panorama_size, self.given, self.in_order = panorama_size, given, in_order
    self._tables = [projection_table(panorama_size, camera, self.view_size) for camera in rig]
    if given:
      return
    self.horizontal = [index for index, camera in enumerate(rig) if abs(camera.pitch_deg) < 1]
    if not self.horizontal:
      raise InputError("the rig has no horizontal camera (pitch within 1 degree), and the first view must be one: take "
                       "another model.rig, or give the video a view of its own (model.own_view)")
    # 0: validation starts there whatever its pitch
    self._rays = {first: rig.rays(self.rays_size, reference=first) for first in (0, *self.horizontal)}

  def __call__(self, rng: np.random.Generator, encoded: Sequence[bytes], count: int) -> tuple[np.ndarray, np.ndarray]:
    """One matrix of a clip.

    DO NOT CHANGE THE ORDER of the draws: runs resume to the last bit.

    Args:
      rng: draws the yaw, the given camera and the order of the rig's, in this order.
      encoded: the frames.
      count: number of views.

    Returns:
      Images uint8 [v f h w 3] and rays float32 [v h w 3] relative to the first view.
    """
    roll = int(rng.integers(self.panorama_size[1]))
    if self.given is None:
      order = self._order(rng, count)
      tables, directions = [self._tables[index] for index in order], self._rays[order[0]][order]
    else:
      camera = self.given.draw(rng)
      order = list(range(count - 1)) if self.in_order else rng.permutation(len(self.rig))[:count - 1].tolist()
      drawn = passing_table(self.panorama_size, camera, self.view_size)
      tables = [drawn, *(self._tables[index] for index in order)]
      directions = Rig((camera, *(self.rig[index] for index in order))).rays(self.rays_size)
    return self._project(_panoramas(encoded, self.panorama_size, roll), tables), directions

  def _order(self, rng: np.random.Generator, count: int) -> list[int]:
    """Cameras of one matrix: a random horizontal one, then others in random order, none twice."""
    if self.in_order:
      return list(range(count))
    first = self.horizontal[rng.integers(len(self.horizontal))]
    others = [index for index in range(len(self.rig)) if index != first]
    return [first, *rng.permutation(others)[:count - 1].tolist()]

  def _project(self, panoramas: np.ndarray, tables: Sequence[Table]) -> np.ndarray:
    """Panoramas float32 [H W f c] -> views uint8 [v f h w c]."""
    frames, channels = panoramas.shape[2:]
    pixels = panoramas.reshape(*self.panorama_size, frames * channels)         # all frames in one sparse product
    images = np.empty((len(tables), frames, *self.view_size, channels), np.uint8)
    for place, table in enumerate(tables):
      view = apply_table(table, pixels)                                        # [h w (f c)]
      np.clip(np.rint(view, out=view), 0, 255, out=view)                       # bicubic overshoots
      images[place] = view.reshape(*self.view_size, frames, channels).transpose(2, 0, 1, 3)
    return images


class FlatViews:
  """The one view of a flat clip: its square frames, and the rays of `FLAT_CAMERA` relative to itself.

  Args:
    view_size: (h, w) of the view; square, as the clips are.
    rays_size: (h, w) of the rays.
    shapes: the matrices that will be asked for.

  Raises:
    InputError: if the view is not square or a matrix has more than one view.
  """

  def __init__(self, view_size: tuple[int, int], rays_size: tuple[int, int], shapes: Sequence[tuple[int, int]]):
    if any(views != 1 for views, _ in shapes):
      many = next(shape for shape in shapes if shape[0] != 1)
      raise InputError(f"matrix.shapes has {many}, but a flat clip has one view: with data.kind='flat' every shape is "
                       f"(1, frames), e.g. (1, {many[1]})")
    self.view_size = tuple(view_size)
    h, w = self.view_size
    if h != w:
      raise InputError(f"views of {w}x{h} pixels cannot be made of flat clips, which are stored as squares: take a "
                       "square view size, or data.kind='panorama' and 360° videos")
    self._rays = rays(FLAT_CAMERA, tuple(rays_size))[None]

  def __call__(self, rng: np.random.Generator, encoded: Sequence[bytes], count: int) -> tuple[np.ndarray, np.ndarray]:
    """One matrix of a clip, as `PanoramaViews` gives it; nothing is random."""
    frames = [video.resize(decode_frame(data), self.view_size) for data in encoded]
    return np.stack(frames)[None], self._rays


def passing_table(panorama_size: tuple[int, int], camera: Camera, view_size: tuple[int, int]) -> Table:
  """The bicubic `projection_table` of a camera that comes only once, in half the time or less.

  It is not cached: every drawn camera is a new one, and their tables (34 MB for a view of 512 x 512) would push out
  those in use. The half-turn beyond a pole is worked out only for the few pixels that are next to one.

  Args:
    panorama_size: (H, W).
    camera: where to look.
    view_size: (h, w).

  Returns:
    A table from (H, W) to (h, w); its weights differ from projection_table's by float32 rounding.
  """
  height, width = panorama_size
  # not with @: BLAS would start threads of its own in every thread of the pipeline, for a product this small
  directions = np.einsum("nc,dc->nd", local_rays(camera, view_size).reshape(-1, 3), camera.rotation())
  x, y = equirect_pixels(directions, panorama_size)                             # [n]
  rows, row_weights = taps(y, "bicubic")                                        # [n 4]
  columns, column_weights = taps(x, "bicubic")
  row_weights, column_weights = row_weights.astype(np.float32), column_weights.astype(np.float32)
  indices = (rows * width).astype(np.int32)[:, :, None] + (columns % width).astype(np.int32)[:, None, :]
  weights = row_weights[:, :, None] * column_weights[:, None, :]

  polar = np.flatnonzero((rows[:, 0] < 0) | (rows[:, -1] >= height))
  rows = rows[polar] % (2 * height)            # up one meridian and down the opposite one, as geometry.sampling has it
  opposite = rows >= height
  rows = np.where(opposite, 2 * height - 1 - rows, rows)
  columns, column_weights = taps(x[polar, None] + opposite * (width / 2), "bicubic")      # [m 4 4]
  indices[polar] = rows[:, :, None] * width + columns % width
  weights[polar] = row_weights[polar][:, :, None] * column_weights
  n = len(x)
  return Table(indices.reshape(n, -1), weights.reshape(n, -1), panorama_size, view_size)


def _panoramas(encoded: Sequence[bytes], size: tuple[int, int], roll: int) -> np.ndarray:
  """Decodes, reduces to `size` and turns by `roll` pixels to the right: float32 [H W f c]."""
  height, width = size
  panoramas = np.empty((height, width, len(encoded), 3), np.float32)
  for index, data in enumerate(encoded):
    frame = decode_frame(data)
    if frame.shape[:2] != size:
      frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    panoramas[:, roll:, index] = frame[:, :width - roll]
    panoramas[:, :roll, index] = frame[:, width - roll:]
  return panoramas
