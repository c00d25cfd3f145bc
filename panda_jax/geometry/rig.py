"""Sets of cameras around one point."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from panda_jax.geometry.camera import Camera, local_rays
from panda_jax.geometry.sampling import project
from panda_jax.geometry.stitching import stitch

if TYPE_CHECKING:
  import jax


@dataclasses.dataclass(frozen=True)
class Rig:
  """An ordered set of cameras that share the sphere's centre; its order is the axis v of every array of views.

  Attributes:
    cameras: the views.
    name: for logs and configs.
  """

  cameras: tuple[Camera, ...]
  name: str = ""

  def __post_init__(self):
    object.__setattr__(self, "cameras", tuple(self.cameras))      # a list would make the rig unhashable
    if not self.cameras:
      raise ValueError("a rig needs at least one camera")

  def __len__(self) -> int:
    return len(self.cameras)

  def __iter__(self) -> Iterator[Camera]:
    return iter(self.cameras)

  def __getitem__(self, view: int) -> Camera:
    return self.cameras[view]

  def select(self, views: Sequence[int]) -> "Rig":
    """The rig of some of these cameras, in the given order."""
    return Rig(tuple(self.cameras[self._check_view(view)] for view in views), self.name)

  def turned(self, yaw_deg: float) -> "Rig":
    """The whole rig turned to the right about the vertical axis."""
    turned = (dataclasses.replace(camera, yaw_deg=camera.yaw_deg + yaw_deg) for camera in self.cameras)
    return Rig(tuple(turned), self.name)

  def rays(self, size: tuple[int, int], reference: int = 0, views: Sequence[int] | None = None) -> np.ndarray:
    """Unit rays through the pixel centres of the views, as the camera `reference` sees them.

    Args:
      size: (h, w) of every view.
      reference: the camera in whose frame (right, up, forward) the rays are given: the first view of a matrix.
      views: the cameras to return, in this order; all of them by default.

    Returns:
      [v h w 3] float32. The reference's own rays do not depend on where it looks.

    Raises:
      ValueError: if the rig has no such view or a side is not a positive whole number.

    Source: VideoPanda §3.1; design.md §3 (relative to the conditioning view).
    """
    to_reference = self.cameras[self._check_view(reference)].rotation().T
    cameras = self if views is None else self.select(views)
    relative = [local_rays(camera, size) @ (to_reference @ camera.rotation()).T for camera in cameras]
    return np.stack(relative).astype(np.float32)

  def project(
    self, equirect: "np.ndarray | jax.Array", size: tuple[int, int], method: str = "bicubic"
  ) -> "np.ndarray | jax.Array":
    """All views of a panorama: [... H W c] -> [... v h w c]; see `project`."""
    views = [project(equirect, camera, size, method) for camera in self.cameras]
    if isinstance(equirect, np.ndarray):
      return np.stack(views, axis=-4)
    import jax.numpy as jnp
    return jnp.stack(views, axis=-4)

  def stitch(
    self,
    views: "np.ndarray | jax.Array",
    size: tuple[int, int],
    method: str = "bicubic",
    weights: str = "uniform",
    uncovered: str = "error",
  ) -> "np.ndarray | jax.Array":
    """The panorama of all views: [... v h w c] -> [... H W c]; see `stitch`."""
    return stitch(views, self, size, method, weights, uncovered)

  def _check_view(self, view: int) -> int:
    if not 0 <= view < len(self):
      raise ValueError(f"the rig has views 0 to {len(self) - 1}, got view {view}")
    return view


def horizontal_rig(n: int, fov_deg: float = 90.0) -> Rig:
  """n cameras around the horizon at equal steps to the right, the first at yaw 0."""
  return Rig(tuple(Camera(360 * k / n, 0, fov_deg) for k in range(n)), f"horizontal{n}")


def cubemap_rig() -> Rig:
  """The six faces of a cube: front, right, back, left, up, down; no overlap."""
  return Rig((*horizontal_rig(4), Camera(0, 90), Camera(0, -90)), "cubemap")


def icosahedron_rig(fov_deg: float = 90.0) -> Rig:
  """Twenty cameras through the middles of an icosahedron's faces: four rings of five, from the top down.

  At 90 degrees every direction is seen by two to five of them. Source: Imagine360, which has the rig from PanFusion.
  """
  inner, outer = (math.degrees(math.atan((3 + sign * math.sqrt(5)) / 4)) for sign in (-1, 1))      # 10.8 and 52.6
  rings = ((outer, -144), (inner, -144), (-inner, -180), (-outer, -180))
  return Rig(tuple(Camera(start + 72 * k, pitch, fov_deg) for pitch, start in rings for k in range(5)), "icosahedron")


VIDEOPANDA_RIG = Rig((*horizontal_rig(6), Camera(0, 90, fov_deg=100), Camera(0, -90, fov_deg=100)), "videopanda")
"""Six overlapping side views and two wider ones that close the sphere. Source: VideoPanda, supplement "Processing"."""


def make_rig(spec: str | Sequence[Camera | Sequence[float]]) -> Rig:
  """The rig that a config names or lists.

  Args:
    spec: a name, or the cameras themselves:
      "videopanda": the paper's eight views, `VIDEOPANDA_RIG`.
      "cubemap": the six faces of a cube.
      "horizontalN": N views around the horizon, of 90 degrees ("horizontal3": 120, to close the circle). They do not
        see the poles. "horizontal4" are the four side faces of a cube.
      "icosahedron": twenty views of 90 degrees (Imagine360).
      A sequence: each camera a `Camera` or (yaw_deg, pitch_deg, fov_deg, roll_deg), of which the last two may be left
        out: 90 and 0.

  Returns:
    The rig; those with a name carry it.

  Raises:
    ValueError: if the name is unknown, fewer than three horizontal views are asked for, or a camera is not one.
  """
  if isinstance(spec, Rig):
    return spec
  if isinstance(spec, Iterable) and not isinstance(spec, str):
    return Rig(tuple(_as_camera(number, values) for number, values in enumerate(spec)))
  named = {rig.name: rig for rig in (VIDEOPANDA_RIG, cubemap_rig(), icosahedron_rig())}
  if spec in named:
    return named[spec]
  horizontal = re.fullmatch(r"horizontal(\d+)", str(spec))
  if horizontal is None:
    raise ValueError(f"unknown rig {spec!r}: use {', '.join(named)}, horizontalN (such as horizontal8), or a tuple of "
                     "cameras (yaw_deg, pitch_deg, fov_deg, roll_deg)")
  n = int(horizontal[1])
  if n < 3:
    raise ValueError(f"rig {spec!r} does not see the whole circle: use horizontal3 or more")
  return horizontal_rig(n, 120.0 if n == 3 else 90.0)


def _as_camera(number: int, values: Camera | Sequence[float]) -> Camera:
  if isinstance(values, Camera):
    return values
  try:
    angles = tuple(float(value) for value in values)
  except (TypeError, ValueError):
    angles = ()
  if isinstance(values, str) or not 2 <= len(angles) <= 4:
    raise ValueError(f"camera {number} of the rig must be (yaw_deg, pitch_deg, fov_deg, roll_deg), got {values!r}")
  return Camera(*angles)
