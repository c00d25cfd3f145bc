"""The given perspective view, read in order as it is needed: one frame is in memory, however long the clip.

It is a film of its own (GivenVideo), or cut out of a 360° one (GivenPanorama).
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from panda_jax.data.checks import seam
from panda_jax.data.video import centre_square, decode, probe, resize, to_rgb
from panda_jax.errors import InputError
from panda_jax.geometry import Camera, project, to_uint8

Share = Callable[[int], float]
"""Frame of the clip as filmed -> the part of the side of its central square that is kept, 1 for all of it."""
RATIO_TOLERANCE = 0.04                   # of width / height, as `panda prepare` has it


def filmed_frame(frame: int, filmed_fps: float, fps: float) -> int:
  """Which frame of a film is on the screen at a tick of the model, which makes `fps` frames per second."""
  return math.floor((frame * filmed_fps + 1e-6) / fps)


class GivenClip(Protocol):
  """A clip at the model's rate.

  Attributes:
    picture_size: (h, w) as filmed.
    filmed_fps: its own frames per second; None where nobody knows.
  """

  picture_size: tuple[int, int]
  filmed_fps: float | None

  def read(self, start: int, count: int, share: Share = lambda frame: 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Frames start … of the model's: uint8 [count h w 3], and which frame of the clip as filmed each is, int [count].

    After the end its last frame stands. Frames are read fastest when asked for in order.
    """


class _Film(abc.ABC):
  """A file at the model's rate: faster ones lose frames, slower ones repeat them."""

  def __init__(self, path: str | Path, size: tuple[int, int], fps: float):
    self.path, self.size, self.fps = Path(path), size, fps
    info = probe(path)
    self._stored_size, self.filmed_fps = (info.height, info.width), info.fps
    self._rewind()
    self._advance(0)

  @abc.abstractmethod
  def _view(self, frame: av.VideoFrame, share: float) -> np.ndarray:
    """uint8 [h w 3] of the size wanted; see `Share`."""

  def count(self, most: int) -> int:
    """How many of the model's frames the clip gives, or `most` if it gives more. Decodes all of that.

    Raises:
      InputError: if decoding fails before that.
    """
    last = self._filmed(most - 1)
    there = sum(1 for _ in itertools.islice(decode(self.path), last + 1))
    return sum(self._filmed(frame) < there for frame in range(most)) if there <= last else most

  def read(self, start: int, count: int, share: Share = lambda frame: 1.0) -> tuple[np.ndarray, np.ndarray]:
    """See `GivenClip`.

    Raises:
      DamagedVideo: where decoding fails.
    """
    images, filmed = [], []
    for frame in range(start, start + count):
      at = self._advance(self._filmed(frame))
      if filmed and filmed[-1] == at:
        images.append(images[-1])
      else:
        images.append(self._view(self._frame, share(at)))
      filmed.append(at)
    return np.stack(images), np.array(filmed)

  def _filmed(self, frame: int) -> int:
    return filmed_frame(frame, self.filmed_fps, self.fps)

  def _rewind(self) -> None:
    self._frames: Iterator[av.VideoFrame] = decode(self.path)
    self._frame: av.VideoFrame | None = None
    self._at, self._ended = -1, False

  def _advance(self, wanted: int) -> int:
    """Makes frame `wanted` of the clip, or its last, the current one; returns which."""
    if wanted < self._at:
      self._rewind()
    while self._at < wanted and not self._ended:
      frame = next(self._frames, None)
      if frame is None:
        self._ended = True
      else:
        self._frame, self._at = frame, self._at + 1
    return self._at


class GivenVideo(_Film):
  """A perspective video, of which the central square is taken."""

  def __init__(self, path: str | Path, size: tuple[int, int], fps: float):
    """Looks at the header and the first frame.

    Args:
      path: any perspective video.
      size: (h, w) of the model's views.
      fps: frames per second that the model makes.

    Raises:
      InputError: if the file cannot be read or is a 360° video itself.
    """
    super().__init__(path, size, fps)
    self.picture_size = height, width = self._stored_size
    if width == 2 * height and (edges := seam(to_rgb(self._frame))) and edges.joins:
      raise InputError(f"{path} is twice as wide as high and its left and right edges join, as a 360° video's do: "
                       "`panda generate` wants an ordinary perspective clip, and `panda prepare` takes 360° videos")

  def _view(self, frame: av.VideoFrame, share: float) -> np.ndarray:
    return resize(centre_square(to_rgb(frame), share), self.size)


class GivenPanorama(_Film):
  """What a camera sees of a 360° video: a panorama made from it can be compared with that video."""

  def __init__(self, path: str | Path, camera: Camera, size: tuple[int, int], fps: float,
               panorama_height: int | None = None):
    """Looks at the header and the first frame.

    Args:
      path: an equirectangular video, 2:1.
      camera: where to look, in the panorama's own frame.
      size: (h, w) of the model's views.
      fps: frames per second that the model makes.
      panorama_height: rows to which a taller panorama is reduced before it is cut, as it was for training.

    Raises:
      InputError: if the file cannot be read or is not 2:1.
    """
    super().__init__(path, size, fps)
    self.picture_size, self._camera = size, camera
    height, width = self._stored_size
    if abs(width / height - 2) >= RATIO_TOLERANCE:
      raise InputError(f"{path} is {width}x{height}, not 2:1: a view can be given of a whole panorama only")
    height = min(height, panorama_height or height)
    self._panorama_size = height, 2 * height

  def _view(self, frame: av.VideoFrame, share: float) -> np.ndarray:
    camera = self._camera
    if share < 1:                         # the middle of a view is a narrower view
      half = share * math.tan(math.radians(camera.fov_deg) / 2)
      camera = dataclasses.replace(camera, fov_deg=2 * math.degrees(math.atan(half)))
    return to_uint8(project(to_rgb(frame, self._panorama_size), camera, self.size))


class GivenArray:
  """Frames in memory, at the model's rate already."""

  filmed_fps = None

  def __init__(self, frames: np.ndarray, size: tuple[int, int]):
    """`frames`: uint8 [f h w 3] at the views' size (h, w).

    Raises:
      InputError: if there are none, or of another size.
    """
    if frames.ndim != 4 or frames.shape[1:] != (*size, 3):
      raise InputError(f"the given video must have views of {size} pixels, got {frames.shape}")
    if not len(frames):
      raise InputError("the given video has no frames")
    self._frames, self.size, self.picture_size = frames, size, size

  def read(self, start: int, count: int, share: Share = lambda frame: 1.0) -> tuple[np.ndarray, np.ndarray]:
    """See `GivenClip`."""
    filmed = np.minimum(np.arange(start, start + count), len(self._frames) - 1)
    images = [resize(centre_square(self._frames[frame], share(int(frame))), self.size) for frame in filmed]
    return np.stack(images), filmed
