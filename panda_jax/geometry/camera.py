"""One pinhole camera at the centre of the sphere."""

import dataclasses
import math

import numpy as np

# In half widths of a view: a ray this little outside still belongs to it, so that the faces of a cube meet.
EDGE = 1e-9


@dataclasses.dataclass(frozen=True)
class Camera:
  """A perspective view from the sphere's centre.

  A camera first rolls about its own axis, then is pitched, then turned: world = yaw · pitch · roll · camera.

  Attributes:
    yaw_deg: turn to the right; 0 looks at the middle of the panorama, 90 at three quarters of its width.
    pitch_deg: tilt upwards; 90 looks at the zenith.
    fov_deg: horizontal field of view. Pixels are square, so the vertical one follows from the view's height and width.
    roll_deg: the camera turns clockwise, as the person behind it sees it; the scene turns the other way in the picture.

  Raises:
    ValueError: if an angle is not finite or the field of view is not inside (0, 180) degrees.
  """

  yaw_deg: float
  pitch_deg: float
  fov_deg: float = 90.0
  roll_deg: float = 0.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if not math.isfinite(getattr(self, field.name)):
        raise ValueError(f"camera {field.name} must be a finite number of degrees, got {getattr(self, field.name)}")
    if not 0 < self.fov_deg < 180:
      raise ValueError(f"camera field of view must be between 0 and 180 degrees, got {self.fov_deg}")

  def rotation(self) -> np.ndarray:
    """[3 3] float64, camera -> world; its columns are the camera's right, up and forward in the world."""
    cos_yaw, sin_yaw = _cos_sin(self.yaw_deg)
    cos_pitch, sin_pitch = _cos_sin(self.pitch_deg)
    cos_roll, sin_roll = _cos_sin(self.roll_deg)
    yaw = np.array([[cos_yaw, 0, sin_yaw], [0, 1, 0], [-sin_yaw, 0, cos_yaw]])
    pitch = np.array([[1, 0, 0], [0, cos_pitch, sin_pitch], [0, -sin_pitch, cos_pitch]])
    roll = np.array([[cos_roll, sin_roll, 0], [-sin_roll, cos_roll, 0], [0, 0, 1]])
    return yaw @ pitch @ roll


def rays(camera: Camera, size: tuple[int, int]) -> np.ndarray:
  """Unit rays through the pixel centres of a camera.

  Args:
    camera: orientation and horizontal field of view.
    size: (h, w) in pixels.

  Returns:
    [h w 3] float32, world axes x right, y up, z forward.

  Raises:
    ValueError: if a side is not a positive whole number.

  Source: VideoPanda §3.1 feeds these, relative to the first view, to the network.
  """
  return (local_rays(camera, size) @ camera.rotation().T).astype(np.float32)


def local_rays(camera: Camera, size: tuple[int, int], convention: str = "center") -> np.ndarray:
  """Unit rays of a camera in its own frame, in double precision, so that tables are exact to float32.

  Args:
    camera: only its field of view matters here.
    size: (h, w) in pixels.
    convention: "center": through the pixel centres. "corner": the outermost rays lie on the border of the view, and the
      vertical field of view is fov * h / w in degrees (Imagine360 and PanFusion).

  Returns:
    [h w 3] float64, axes x right, y up, z forward.

  Raises:
    ValueError: if a side is not a positive whole number, the convention is unknown, or a tall view is 180 degrees high.
  """
  h, w = check_size(size, "view size (h, w)")
  if convention == "center":
    half = math.tan(math.radians(camera.fov_deg) / 2)
    x = half * (2 * (np.arange(w) + 0.5) / w - 1)
    y = half * (1 - 2 * (np.arange(h) + 0.5) / h) * h / w
  elif convention == "corner":
    vertical_deg = camera.fov_deg * h / w
    if vertical_deg >= 180:
      raise ValueError(f'convention "corner" makes a {h}x{w} view {vertical_deg:g} degrees high; use a smaller fov_deg')
    half_x, half_y = (math.tan(math.radians(degrees) / 2) for degrees in (camera.fov_deg, vertical_deg))
    x = np.linspace(-half_x, half_x, w)
    y = np.linspace(half_y, -half_y, h)
  else:
    raise ValueError(f'convention must be "center" or "corner", got {convention!r}')
  directions = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0), axis=-1)      # [h w 3]
  return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def view_plane(
  camera: Camera, directions: np.ndarray, aspect: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where world directions meet the picture of a camera.

  Args:
    camera: the view.
    directions: [... 3] world directions of any length.
    aspect: h / w of the view.

  Returns:
    across [...] from -1 at the left border to 1 at the right, down [...] from -1 at the top to 1 at the bottom, and
    inside [...] bool. Outside the view the first two mean nothing.
  """
  right, up, forward = np.moveaxis(directions @ camera.rotation(), -1, 0)      # the transpose turns world -> camera
  half = math.tan(math.radians(camera.fov_deg) / 2)
  depth = np.where(forward > 0, forward, np.inf)                               # behind the camera there is no picture
  across, down = right / (half * depth), -up / (half * aspect * depth)
  inside = (forward > 0) & (np.maximum(abs(across), abs(down)) <= 1 + EDGE)
  return across, down, inside


def check_size(size: tuple[int, int], name: str) -> tuple[int, int]:
  """(height, width) as Python ints, or a ValueError that says which size is wrong."""
  sides = tuple(size)
  if len(sides) != 2 or any(side != int(side) or side < 1 for side in sides):
    raise ValueError(f"{name} must be two positive whole numbers, got {sides}")
  return int(sides[0]), int(sides[1])


def _cos_sin(degrees: float) -> tuple[float, float]:
  return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
