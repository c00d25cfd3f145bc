"""Motion that is drawn instead of estimated, for control without a film: turns, travel, regions of their own motion.

  draw_motion(16, (512, 1024), [Turn(yaw_deg=1.0)])                          # the camera pans to the right
  draw_motion(16, (512, 1024), [Forward(0.02)])                              # it moves ahead
  draw_motion(16, (512, 1024), [Forward(0.02, yaw_deg=90), Region(Drift(right_deg=2), box=(-60, -20, 0, 10))])

All are seen from the middle of the sphere and in its angles, so they look the same at any size.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from panda_jax.geometry import Camera, equirect_rays
from panda_jax.geometry.sphere import equirect_angles, equirect_pixels

Motion = Callable[[np.ndarray], np.ndarray]
"""Where directions [H W 3] are seen one frame later: [H W 3] of any length. `Turn`, `Forward` and `Drift` are such."""


@dataclasses.dataclass(frozen=True)
class Turn:
  """The camera turns, so that the picture moves the other way: with yaw alone by W * yaw_deg / 360 pixels everywhere.

  Attributes:
    yaw_deg: to the right, per frame.
    pitch_deg: upwards, per frame.
    roll_deg: clockwise, per frame.
  """

  yaw_deg: float = 0.0
  pitch_deg: float = 0.0
  roll_deg: float = 0.0

  def __call__(self, directions: np.ndarray) -> np.ndarray:
    return directions @ Camera(self.yaw_deg, self.pitch_deg, roll_deg=self.roll_deg).rotation()


@dataclasses.dataclass(frozen=True)
class Forward:
  """The camera moves ahead among things at the distance 1: they flow out of its heading and into the point behind it.

  Attributes:
    step: distance per frame, below 1; negative: backwards.
    yaw_deg, pitch_deg: of the heading.

  Raises:
    ValueError: if a step goes as far as things are, or further.
  """

  step: float
  yaw_deg: float = 0.0
  pitch_deg: float = 0.0

  def __post_init__(self):
    if not -1 < self.step < 1:
      raise ValueError(f"a step forward is a share of the distance of things, between -1 and 1, got {self.step}")

  def __call__(self, directions: np.ndarray) -> np.ndarray:
    heading = Camera(self.yaw_deg, self.pitch_deg).rotation()[:, 2]
    return directions - self.step * heading


@dataclasses.dataclass(frozen=True)
class Drift:
  """Things move along the panorama's rows and columns, as an object does that is drawn with a brush.

  Attributes:
    right_deg: in longitude, per frame.
    up_deg: in latitude, per frame; it ends at the poles.
  """

  right_deg: float = 0.0
  up_deg: float = 0.0

  def __call__(self, directions: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(directions, -1, 0)
    lon = np.arctan2(x, z) + np.radians(self.right_deg)
    lat = np.arctan2(y, np.hypot(x, z)) + np.radians(self.up_deg)
    lat = lat.clip(-np.pi / 2, np.pi / 2)
    return np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Region:
  """A part of the panorama that moves in a way of its own.

  Attributes:
    motion: of it.
    box: (west, south, east, north) in degrees, longitudes -180 … 180 to the right, latitudes -90 … 90 upwards. A box
      whose west is larger than its east lies across the seam. None: everywhere, or where `mask` says.
    mask: [H W] of 0 … 1, how far the motion counts at a pixel; bool is fine. Give this or `box`.
    add: to the motion below; otherwise it takes that one's place.
    pace: [f] how fast it is in each frame, for a soft start or a stop; None: 1 in all.
  """

  motion: Motion
  box: tuple[float, float, float, float] | None = None
  mask: np.ndarray | None = None
  add: bool = False
  pace: Sequence[float] | None = None


def draw_motion(frames: int, size: tuple[int, int], regions: Sequence[Region | Motion]) -> np.ndarray:
  """The flow of a motion that is described.

  Args:
    frames: how many.
    size: (H, W) of the panoramas.
    regions: painted one over the other, the first one lowest; a motion alone is everywhere. Where nothing is
      painted, nothing moves.

  Returns:
    float32 [f H W 2], pixels to the right and down per frame; `encode_flow(…, width=W)` makes colours of it.

  Raises:
    ValueError: for a mask of another size, a box outside the sphere, a pace of another length, or a size that is none.
  """
  if frames < 1:
    raise ValueError(f"a motion has 1 frame or more, got {frames}")
  directions = equirect_rays(size)
  flow = np.zeros((frames, *directions.shape[:2], 2))
  for region in regions:
    if not isinstance(region, Region):
      region = Region(region)
    share = _share(region, size)[..., None]
    moved = share * _displacement(region.motion(directions), size) * _pace(region, frames)[:, None, None, None]
    flow = flow + moved if region.add else (1 - share) * flow + moved
  return flow.astype(np.float32)


def _displacement(moved: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """From the pixels' own positions to where these directions [H W 3] are seen, the short way around: [H W 2]."""
  height, width = size
  x, y = equirect_pixels(moved, size)
  across = (x - np.arange(width) + width / 2) % width - width / 2
  return np.stack([across, y - np.arange(height)[:, None]], axis=-1)


def _share(region: Region, size: tuple[int, int]) -> np.ndarray:
  """[H W] of 0 … 1: where a region is."""
  if region.mask is not None:
    mask = np.asarray(region.mask, np.float64)
    if region.box is not None:
      raise ValueError("give a region a box or a mask, not both")
    if mask.shape != tuple(size) or not (0 <= mask).all() or not (mask <= 1).all():
      raise ValueError(f"a region's mask is [H W] = {list(size)} of 0 to 1, got {list(mask.shape)}")
    return mask
  if region.box is None:
    return np.ones(size)
  west, south, east, north = region.box
  if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
    raise ValueError("a region's box is (west, south, east, north), longitudes from -180 to 180 and latitudes from -90 "
                     f"to 90 with south below north, got {region.box}")
  lon, lat = (np.degrees(angle) for angle in equirect_angles(size))
  columns = (west <= lon) & (lon <= east) if west <= east else (west <= lon) | (lon <= east)
  return ((south <= lat) & (lat <= north))[:, None] * columns.astype(np.float64)


def _pace(region: Region, frames: int) -> np.ndarray:
  if region.pace is None:
    return np.ones(frames)
  pace = np.asarray(region.pace, np.float64)
  if pace.shape != (frames,) or not np.isfinite(pace).all():
    raise ValueError(f"a region's pace has a finite number for each of {frames} frames, got {region.pace}")
  return pace
