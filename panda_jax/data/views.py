"""From the encoded frames of a clip to the pictures and rays of one matrix: what a dataset of each kind can show.

Panoramas are turned by a random yaw and projected to cameras, or taken whole with their motion; flat clips are their
own and only view. What datasets show whose views were made beforehand is in `stored_views`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panda_jax.data import video
from panda_jax.data.flow import flip_flow
from panda_jax.data.mirror import mirrored, names_sides
from panda_jax.data.records import decode_frame
from panda_jax.errors import InputError
from panda_jax.geometry import Camera, Rig, Table, apply_table, rays, to_uint8
from panda_jax.geometry.camera import local_rays
from panda_jax.geometry.given import GivenCameras
from panda_jax.geometry.projector import Projector
from panda_jax.geometry.sphere import equirect_pixels
from panda_jax.geometry.table import taps

FLAT_CAMERA = Camera(0, 0, fov_deg=90)
"""What a flat clip is taken to be filmed with: nobody knows its field of view, and 90 degrees are the paper's views."""


class Cameras:
  """Which cameras of a rig a matrix has, in which order, and their rays.

  Args:
    rig: the cameras.
    rays_size: (h, w) of the rays.
    most_views: of any matrix that will be asked for.
    in_order: take the rig's cameras in its order instead of a random one.

  Raises:
    InputError: if the rig has too few cameras, or none that can give the first view.
  """

  def __init__(self, rig: Rig, rays_size: tuple[int, int], most_views: int, in_order: bool):
    check_enough(rig, most_views)
    self._count, self._in_order = len(rig), in_order
    self._horizontal = horizontal_views(rig)
    # 0: validation starts there whatever its pitch
    self._rays = {first: rig.rays(tuple(rays_size), reference=first) for first in (0, *self._horizontal)}

  def draw(self, rng: np.random.Generator, count: int) -> list[int]:
    """Cameras of one matrix: a random horizontal one, then others in random order, none twice."""
    if self._in_order:
      return list(range(count))
    first = self._horizontal[rng.integers(len(self._horizontal))]
    others = [index for index in range(self._count) if index != first]
    return [first, *rng.permutation(others)[:count - 1].tolist()]

  def rays(self, order: Sequence[int]) -> np.ndarray:
    """[v h w 3] float32 of these cameras, relative to the first."""
    return self._rays[order[0]][order]


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
    flip: how likely it is that a panorama is mirrored.

  Raises:
    InputError: if the rig has too few cameras, or has to give the first view and has no horizontal one.
  """

  def __init__(self, rig: Rig, view_size: tuple[int, int], rays_size: tuple[int, int], panorama_size: tuple[int, int],
               most_views: int, *, given: GivenCameras | None = None, in_order: bool = False, flip: float = 0.0):
    self.rig, self.view_size, self.rays_size = rig, tuple(view_size), tuple(rays_size)
    self.panorama_size, self.given, self.in_order, self.flip = panorama_size, given, in_order, flip
    if given:
      check_enough(rig, most_views, own=True)
    else:
      self._cameras = Cameras(rig, rays_size, most_views, in_order)
    self._projector = Projector(panorama_size, tuple(rig), self.view_size)

  def __call__(self, rng: np.random.Generator, record: dict[str, Any], frames: Sequence[int],
               count: int) -> dict[str, np.ndarray]:
    """One matrix of a clip.

    DO NOT CHANGE THE ORDER of the draws: runs resume to the last bit.

    Args:
      rng: draws the yaw, the given camera, the order of the rig's and whether to mirror, in this order.
      record: of the clip.
      frames: which of its frames.
      count: number of views.

    Returns:
      "images" uint8 [v f h w 3] and "rays" float32 [v h w 3] relative to the first view.
    """
    roll = int(rng.integers(self.panorama_size[1]))
    camera = None
    if self.given is None:
      order = self._cameras.draw(rng, count)
      directions = self._cameras.rays(order)
    else:
      camera = self.given.draw(rng)
      order = list(range(count - 1)) if self.in_order else rng.permutation(len(self.rig))[:count - 1].tolist()
      directions = Rig((camera, *(self.rig[index] for index in order))).rays(self.rays_size)
    flipped = draw_flip(rng, self.flip, record["caption"])
    panoramas = _panoramas([record["frames"][index] for index in frames], self.panorama_size, roll, flipped)
    images = self._projector(panoramas, order)
    if camera is not None:
      images = np.concatenate([self._passing(panoramas, camera)[None], images])
    return {"images": images, "rays": directions}

  def _passing(self, panoramas: np.ndarray, camera: Camera) -> np.ndarray:
    """What a camera that comes only once sees of panoramas uint8 [f H W 3]: uint8 [f h w 3]."""
    frames, height, width, channels = panoramas.shape
    pixels = panoramas.transpose(1, 2, 0, 3).reshape(height, width, -1)       # all frames in one sparse product
    view = apply_table(passing_table(self.panorama_size, camera, self.view_size), pixels)      # [h w (f c)]
    return to_uint8(view).reshape(*self.view_size, frames, channels).transpose(2, 0, 1, 3)


class PanoramaClips:
  """Whole panoramas as the one view of a matrix, with their motion where a system is conditioned on it.

  Args:
    path: of the dataset, for messages.
    about: what it says of its images, `dataset_info(path)["about"]`.
    panorama_size: (H, W) that panoramas and motion are reduced to.
    shapes: the matrices that will be asked for.
    motion: give the motion, too.
    flip: how likely it is that a clip is mirrored.
    fix_flow: exchange left and right in the motion of mirrored clips; False: as 360DVD's training, which does not.

  Raises:
    InputError: if a matrix has more than one view, or motion is wanted and not stored.
  """

  def __init__(self, path: str | Path, about: Mapping[str, Any], panorama_size: tuple[int, int],
               shapes: Sequence[tuple[int, int]], *, motion: bool = False, flip: float = 0.0, fix_flow: bool = True):
    if any(views != 1 for views, _ in shapes):
      many = next(shape for shape in shapes if shape[0] != 1)
      raise InputError(f"matrix.shapes has {many}, but a whole panorama is one view: every shape must be (1, frames), "
                       f"e.g. (1, {many[1]})")
    if motion and "motion" not in about:
      raise InputError(f"{path} has no motion, on which this model is conditioned: prepare it again with --flow, or "
                       "with --flow-videos DIR")
    self.panorama_size, self.motion, self.flip, self.fix_flow = tuple(panorama_size), motion, flip, fix_flow

  def __call__(self, rng: np.random.Generator, record: dict[str, Any], frames: Sequence[int],
               count: int) -> dict[str, np.ndarray]:
    """One clip.

    DO NOT CHANGE THE ORDER of the draws: runs resume to the last bit.

    Args:
      rng: draws the turn to the right, by whole pixels, and whether to mirror, in this order.
      record: of the clip.
      frames: which of its frames.
      count: number of views, 1.

    Returns:
      "images" uint8 [1 f H W 3] and, with motion, "motion" uint8 [f H W 3]: the colours of each frame's motion, turned
      and mirrored with it. There are no rays.
    """
    roll = int(rng.integers(self.panorama_size[1]))
    flipped = draw_flip(rng, self.flip, record["caption"])
    images = _panoramas([record["frames"][index] for index in frames], self.panorama_size, roll, flipped)
    if not self.motion:
      return {"images": images[None]}
    motion = _panoramas([record["motion"][index] for index in frames], self.panorama_size, roll, False)
    return {"images": images[None], "motion": flip_flow(motion, self.fix_flow) if flipped else motion}


class FlatViews:
  """The one view of a flat clip: its square frames, and the rays of `FLAT_CAMERA` relative to itself.

  Args:
    view_size: (h, w) of the view; square, as the clips are.
    rays_size: (h, w) of the rays.
    shapes: the matrices that will be asked for.
    flip: how likely it is that a clip is mirrored.

  Raises:
    InputError: if the view is not square or a matrix has more than one view.
  """

  def __init__(self, view_size: tuple[int, int], rays_size: tuple[int, int], shapes: Sequence[tuple[int, int]],
               flip: float = 0.0):
    if any(views != 1 for views, _ in shapes):
      many = next(shape for shape in shapes if shape[0] != 1)
      raise InputError(f"matrix.shapes has {many}, but a flat clip has one view: with data.kind='flat' every shape is "
                       f"(1, frames), e.g. (1, {many[1]})")
    self.view_size, self.flip = tuple(view_size), flip
    h, w = self.view_size
    if h != w:
      raise InputError(f"views of {w}x{h} pixels cannot be made of flat clips, which are stored as squares: take a "
                       "square view size, or data.kind='panorama' and 360° videos")
    self._rays = rays(FLAT_CAMERA, tuple(rays_size))[None]

  def __call__(self, rng: np.random.Generator, record: dict[str, Any], frames: Sequence[int],
               count: int) -> dict[str, np.ndarray]:
    """One matrix of a clip, as `PanoramaViews` gives it; nothing but `flip` is random.

    Mirrored pictures have the same rays: the camera looks straight ahead.
    """
    images = np.stack([video.resize(decode_frame(record["frames"][index]), self.view_size) for index in frames])[None]
    if draw_flip(rng, self.flip, record["caption"]):
      images = mirrored(images)
    return {"images": images, "rays": self._rays}


def horizontal_views(rig: Rig) -> list[int]:
  """The cameras that can give the first view of a matrix.

  Raises:
    InputError: if there is none.
  """
  horizontal = [index for index, camera in enumerate(rig) if abs(camera.pitch_deg) < 1]
  if not horizontal:
    raise InputError("the rig has no horizontal camera (pitch within 1 degree), and the first view must be one: take "
                     "another model.rig, or give the video a view of its own (model.own_view)")
  return horizontal


def check_enough(rig: Rig, views: int, own: bool = False) -> None:
  """Refuses matrices of more views than there are; `own`: a view that is none of the rig's is one more."""
  if views > len(rig) + own:
    more = " and the given view is one more" if own else ""
    raise InputError(f"matrix.shapes asks for {views} views, but the rig has {len(rig)} cameras{more}: "
                     "lower the number of views or take a larger rig")


def draw_flip(rng: np.random.Generator, flip: float, caption: str) -> bool:
  """Whether a sample is mirrored: with probability `flip`, and never where the caption would be wrong then.

  The last draw of a sample. At 0 nothing is drawn.
  """
  return flip > 0 and bool(rng.random() < flip) and not names_sides(caption)


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


def _panoramas(encoded: Sequence[bytes], size: tuple[int, int], roll: int, flipped: bool) -> np.ndarray:
  """Decodes, reduces to `size`, turns by `roll` pixels to the right and perhaps mirrors: uint8 [f H W 3]."""
  height, width = size
  panoramas = np.empty((len(encoded), height, width, 3), np.uint8)
  target = mirrored(panoramas) if flipped else panoramas
  for index, data in enumerate(encoded):
    frame = decode_frame(data)
    if frame.shape[:2] != size:
      frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    target[index, :, roll:] = frame[:, :width - roll]
    target[index, :, :roll] = frame[:, width - roll:]
  return panoramas
