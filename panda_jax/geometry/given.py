"""Any camera as the given view: which ones training draws, and the rays of one that moves."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from panda_jax.geometry.camera import Camera, check_size, local_rays
from panda_jax.geometry.rig import Rig


@dataclasses.dataclass(frozen=True)
class GivenCameras:
  """The cameras that training draws for a given view of its own; each angle is uniform in its range.

  Attributes:
    fov_deg: lowest and highest horizontal field of view.
    pitch_deg: lowest and highest tilt upwards.
    roll_deg: lowest and highest roll.

  Raises:
    ValueError: if a range is not two finite numbers in order, or a field of view is not inside (0, 180) degrees.

  Source: ours. VideoPanda §5 names it as a limit that the given view must have the field of view and the elevation of
  training.
  """

  fov_deg: tuple[float, float] = (90.0, 90.0)
  pitch_deg: tuple[float, float] = (0.0, 0.0)
  roll_deg: tuple[float, float] = (0.0, 0.0)

  def __post_init__(self):
    for field in dataclasses.fields(self):
      object.__setattr__(self, field.name, _check_range(field.name, getattr(self, field.name)))
    low, high = self.fov_deg
    if not 0 < low <= high < 180:
      raise ValueError(f"given camera fov_deg must lie between 0 and 180 degrees, got {low:g} to {high:g}")

  def draw(self, rng: np.random.Generator) -> Camera:
    """A camera; its yaw is uniform over the circle. Takes four numbers from `rng` whatever the ranges."""
    yaw, pitch, fov, roll = (
      float(rng.uniform(low, high)) for low, high in ((0, 360), self.pitch_deg, self.fov_deg, self.roll_deg)
    )
    return Camera(yaw, pitch, fov, roll)


def frame_rays(rig: Rig, given: Sequence[Camera], size: tuple[int, int]) -> np.ndarray:
  """Rays of a given camera that may move, and of a rig that stands still around it.

  Args:
    rig: the views to generate.
    given: the given view's camera in every frame, in the rig's world.
    size: (h, w) of every view.

  Returns:
    [1 + v f h w 3] float32, view 0 the given one, then the rig's in its order. The rays of a frame are as the given
    camera of that frame sees them: those of `Rig((camera, *rig)).rays(size)`.

  Raises:
    ValueError: if there is no frame, or a side is not a positive whole number.
  """
  h, w = check_size(size, "view size (h, w)")
  if not len(given):
    raise ValueError("frame_rays needs the given camera of at least one frame")
  rig_rays = [(camera.rotation(), local_rays(camera, (h, w))) for camera in rig]
  rays = np.empty((1 + len(rig), len(given), h, w, 3), np.float32)
  frame_of: dict[Camera, int] = {}                      # a camera that stands still is worked out once
  for frame, camera in enumerate(given):
    same = frame_of.setdefault(camera, frame)
    if same < frame:
      rays[:, frame] = rays[:, same]
      continue
    to_given = camera.rotation().T
    rays[0, frame] = local_rays(camera, (h, w))
    for view, (rotation, local) in enumerate(rig_rays, 1):
      rays[view, frame] = local @ (to_given @ rotation).T
  return rays


def crop_fov_deg(fov_deg: float, size: tuple[int, int]) -> float:
  """The field of view that is left when a picture is cut to its central square.

  Args:
    fov_deg: horizontal field of view of the whole picture.
    size: (h, w) of the whole picture in pixels; only the ratio matters.

  Returns:
    The square's horizontal (and vertical) field of view in degrees; `fov_deg` itself where the picture is not wider
    than high, because its full width is kept.

  Raises:
    ValueError: if the field of view is not inside (0, 180) degrees, or a side is not a positive whole number.
  """
  h, w = check_size(size, "picture size (h, w)")
  if not 0 < fov_deg < 180:
    raise ValueError(f"camera field of view must be between 0 and 180 degrees, got {fov_deg}")
  if h >= w:
    return float(fov_deg)
  return math.degrees(2 * math.atan(math.tan(math.radians(fov_deg) / 2) * h / w))


def _check_range(name: str, values: Sequence[float]) -> tuple[float, float]:
  try:
    low, high = (float(value) for value in values)
  except (TypeError, ValueError):
    raise ValueError(f"given camera {name} must be two numbers, lowest and highest, got {values!r}") from None
  if not (math.isfinite(low) and math.isfinite(high) and low <= high):
    raise ValueError(f"given camera {name} must be two finite numbers, the lower one first, got {low:g} and {high:g}")
  return low, high
