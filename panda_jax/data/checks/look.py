"""A look at a whole file: it is decoded once from end to end, and what the rules need is kept. Memory does not grow.

All frames are seen at 64x32 (`motion`), and 8 to 16 of them, evenly spread, at up to 512x256 (`Look.images`).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

from panda_jax.data import video
from panda_jax.data.checks import stills
from panda_jax.data.checks.edges import look_size
from panda_jax.data.checks.motion import Motion, Shot, brightest_rows
from panda_jax.data.checks.verdict import Finding, Thresholds
from panda_jax.errors import InputError

_MOST_IMAGES = 16


@dataclasses.dataclass
class Look:
  """What was seen.

  Attributes:
    problem: why it could not be seen whole.
    width, height, fps, frames, first: see `Verdict`.
    images: uint8 [h w 3] RGB, shrunk to `look_size`.
    brightest: [H] luma, the brightest of 128 cells of each row of the frame over all images, 0 to 255.
    shots: of a video, from cut to cut.
    black_frames: how many frames of a video are black.
  """

  kind: str
  problem: Finding | None = None
  width: int = 0
  height: int = 0
  fps: float | None = None
  frames: int = 0
  first: int = 0
  images: list[np.ndarray] = dataclasses.field(default_factory=list)
  brightest: np.ndarray | None = None
  shots: list[Shot] = dataclasses.field(default_factory=list)
  black_frames: int = 0

  def add(self, frame: av.VideoFrame) -> None:
    """Takes a frame among the images."""
    self.images.append(video.to_rgb(frame, look_size(frame.height, frame.width)))
    rows = brightest_rows(frame)
    if self.brightest is not None and len(rows) == len(self.brightest):         # sizes may change on the way
      rows = np.maximum(self.brightest, rows)
    self.brightest = rows


def look_at_still(path: Path, thresholds: Thresholds) -> Look:
  """Looks at a photograph."""
  look = Look("still")
  try:
    image = stills.read_still(path, thresholds.most_pixels)
  except InputError as error:
    cut = "is cut off" in str(error)
    look.problem = _problem("truncated" if cut else "unreadable", error, path)
    if isinstance(error, stills.TooLarge):
      look.width, look.height = error.width, error.height
      look.problem = _problem("too_large", error, path)
    return look
  look.height, look.width, look.frames = *image.shape[:2], 1
  look.images.append(video.resize(image, look_size(look.height, look.width)))
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  look.brightest = cv2.resize(grey, (min(128, look.width), look.height), interpolation=cv2.INTER_AREA).max(1)
  return look


def look_at_video(path: Path, thresholds: Thresholds, start: float = 0.0, end: float | None = None,
                  on_frame: Callable[[], None] = lambda: None) -> Look:
  """Looks at a video, or at its frames shown at start <= t < end seconds; `on_frame` is called once per frame."""
  look, motion = Look("video"), Motion(thresholds)
  try:
    info = video.probe(path)
    look.width, look.height, look.fps = info.width, info.height, info.fps
    _refuse_too_large(path, look.width, look.height, thresholds)
    look.first = video.frames_before(path, start)
    stride = max(1, _expected(info, start, end) // 10)
    for frame in video.decode(path, start, end):
      _refuse_too_large(path, frame.width, frame.height, thresholds)
      motion.add(frame)
      if look.frames % stride == 0:
        look.add(frame)
        if len(look.images) == _MOST_IMAGES:
          look.images, stride = look.images[::2], 2 * stride
      look.frames += 1
      on_frame()
  except stills.TooLarge as error:
    look.problem = _problem("too_large", error, path)
  except InputError as error:
    look.frames = getattr(error, "frames", look.frames)
    look.problem = _problem("truncated" if look.frames else "unreadable", error, path)
  except (av.FFmpegError, cv2.error, MemoryError) as error:      # of a frame that decodes to something odd
    look.problem = Finding("unreadable", "rejected", f"holds frames that cannot be converted ({error}): it is damaged")
  if look.problem:
    look.images = []
    return look
  motion.finish()
  look.shots, look.black_frames = motion.shots, motion.black_frames
  return look


def _expected(info: video.VideoInfo, start: float, end: float | None) -> int:
  """A header's guess at the frames of a span: how far apart the images may be to begin with."""
  frames = info.frames or round((info.duration or 0) * info.fps)
  last = frames if end is None else min(frames, round(end * info.fps))
  return max(0, last - round(start * info.fps))


def _refuse_too_large(path: Path, width: int, height: int, thresholds: Thresholds) -> None:
  if width * height > thresholds.most_pixels:
    raise stills.TooLarge(f"{path} is {stills.too_large(width, height, thresholds.most_pixels)}", width, height)


def _problem(rule: str, error: InputError, path: Path) -> Finding:
  return Finding(rule, "rejected", str(error).replace(f" {path}", "").removeprefix(str(path)).strip())
