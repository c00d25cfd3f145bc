"""A given clip as a system takes it: a view of its own in front of the rig, or the rig's first view."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from panda_jax.data.video import resize
from panda_jax.errors import InputError
from panda_jax.generate.camera_track import CameraTrack
from panda_jax.generate.given_video import GivenClip
from panda_jax.geometry import Camera
from panda_jax.systems.base import System

STRAIGHT_AHEAD_FOV_DEG = 90.0             # of the cut square, where nobody says how the clip was filmed
TOLERANCE_DEG = 0.5                       # cameras nearer than this are the same: no measured one is truer


class GivenView:
  """The pictures of a clip and where each of them looks.

  A system with `own_view` takes any camera. The others know one for the given view, the rig's first: yaw then turns the
  finished panorama, a wider clip is cut to that camera's field of view, and nothing else is possible.
  """

  def __init__(self, system: System, clip: GivenClip, track: CameraTrack | None,
               say: Callable[[str], None] = lambda line: None):
    """`say` is told, once, what a user may not expect.

    Raises:
      InputError: if the system cannot take this camera.
    """
    first = system.rig[0]
    self._system, self._clip, self._track = system, clip, track
    self._unknown_fov_deg = STRAIGHT_AHEAD_FOV_DEG if system.own_view else first.fov_deg
    if track is None:
      self._track = CameraTrack() if system.own_view else CameraTrack.still(first)
      return
    if track.unit == "time" and clip.filmed_fps is None:
      raise InputError("the camera table counts seconds, and the given frames have no rate: give a table of frames")
    # Between the entries everything is linear, so what holds at them holds everywhere.
    entries = CameraTrack(**{**vars(track), "unit": "frame", "positions": tuple(range(len(track.positions)))})
    cameras = entries.cameras(range(len(track.positions)), None, clip.picture_size, self._unknown_fov_deg)
    if system.own_view:
      _note_untrained(system, cameras, say)
      return
    for camera in cameras:
      _check_first(camera, first)
    if any(abs(_difference(camera.yaw_deg, first.yaw_deg)) > TOLERANCE_DEG for camera in cameras):
      say("this model was trained without own_view, so the yaw turns the finished panorama, by whole columns of pixels")
    if max(camera.fov_deg for camera in cameras) > first.fov_deg + TOLERANCE_DEG:
      say(f"the clip is cut to the {first.fov_deg:g}° that this model knows as the given view's field of view")

  def read(self, start: int, count: int) -> tuple[np.ndarray, list[Camera]]:
    """Frames start … as views uint8 [count h w 3], and the camera of each."""
    images, filmed = self._clip.read(start, count, self._share)
    return images, [self._camera(int(frame)) for frame in filmed]

  def _camera(self, filmed: int) -> Camera:
    return self._track.cameras([filmed], self._clip.filmed_fps, self._clip.picture_size, self._unknown_fov_deg)[0]

  def _share(self, filmed: int) -> float:
    """How much of the central square is left at the rig's field of view."""
    if self._system.own_view:
      return 1.0
    filmed_as, wanted = (math.tan(math.radians(camera.fov_deg) / 2)
                         for camera in (self._camera(filmed), self._system.rig[0]))
    return min(1.0, wanted / filmed_as)


def softened(image: np.ndarray, fov_deg: float, panorama_width: int) -> np.ndarray:
  """A view uint8 [h w 3] without the detail that is too fine for a panorama, at its own size.

  It is laid over the panorama by bilinear sampling, which would make moiré of that.
  """
  side = round(panorama_width * math.tan(math.radians(fov_deg) / 2) / math.pi)      # as fine as the panorama in the middle
  if side >= max(image.shape[:2]):
    return image
  return resize(resize(image, (max(side, 1), max(side, 1))), image.shape[:2])


def turned_columns(cameras: list[Camera], first: Camera, panorama_width: int) -> np.ndarray:
  """By how many columns to the right a panorama around `first` turns to lie around each camera: int32 [f]."""
  turns = [round((camera.yaw_deg - first.yaw_deg) / 360 * panorama_width) % panorama_width for camera in cameras]
  return np.array(turns, np.int32)


def _check_first(camera: Camera, first: Camera) -> None:
  for name in ("pitch_deg", "roll_deg"):
    if abs(_difference(getattr(camera, name), getattr(first, name))) > TOLERANCE_DEG:
      raise InputError(f"the given clip has a {name.removesuffix('_deg')} of {getattr(camera, name):g}°, and this model "
                       f"knows given views of {getattr(first, name):g}° only: use a model that was trained with "
                       "config.model.own_view=True")
  if camera.fov_deg < first.fov_deg - TOLERANCE_DEG:
    raise InputError(f"the central square of the given clip is {camera.fov_deg:.1f}° wide, and this model knows given "
                     f"views of {first.fov_deg:g}° only: use a model that was trained with config.model.own_view=True")


def _note_untrained(system: System, cameras: list[Camera], say: Callable[[str], None]) -> None:
  for name in ("fov_deg", "pitch_deg", "roll_deg"):
    low, high = getattr(system.given_cameras, name)
    values = [getattr(camera, name) for camera in cameras]
    if name != "fov_deg":
      values = [_difference(value, 0.0) for value in values]
    if min(values) < low - TOLERANCE_DEG or max(values) > high + TOLERANCE_DEG:
      seen = f"{min(values):.4g}°" if min(values) == max(values) else f"{min(values):.4g}° to {max(values):.4g}°"
      what = "field of view of its central square" if name == "fov_deg" else name.removesuffix("_deg")
      say(f"the given clip's {what}, {seen}, lies outside what this model was trained on, {low:g}° to {high:g}°")


def _difference(degrees: float, other: float) -> float:
  """degrees - other, the shorter way round, in [-180, 180)."""
  return (degrees - other + 180) % 360 - 180
