"""Videos for an evaluation: the frames that are compared, or one sentence that says why there are none."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from panda_jax.data.tables import printable
from panda_jax.data.video import DamagedVideo, VideoInfo, decode, frames_before, probe, to_rgb
from panda_jax.errors import InputError
from panda_jax.evaluation.motion import flow_of
from panda_jax.evaluation.protocol import Protocol

_ASPECT = 0.02                                        # of 2:1; cameras give 640x322
_RATE = 0.01                                          # relative: 29.97 and 30 are one rate
KINDS = ("missing", "damaged", "not 2:1", "short", "fps", "features")


class Unusable(InputError):
  """A clip that cannot be compared; `kind` is one of KINDS."""

  def __init__(self, kind: str, sentence: str):
    super().__init__(sentence)
    self.kind = kind


@dataclasses.dataclass(frozen=True)
class Frames:
  """What is compared of a video.

  Attributes:
    panoramas: uint8 [f H W 3] at the protocol's size.
    fps: of the file.
    numbers: of the frames in the file.
    native: (H, W) of the file.
    count: frames in the file.
    shown: views of them by surface, once they were asked for: those of the truth are compared with every method's.
  """

  panoramas: np.ndarray
  fps: float
  numbers: tuple[int, ...]
  native: tuple[int, int]
  count: int
  shown: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)

  @functools.cached_property
  def flow(self) -> np.ndarray:
    """Of the panoramas, see `motion.flow_of`."""
    return flow_of(self.panoramas)

  @property
  def one_colour(self) -> bool:
    """Whether every frame is of a single colour, as the black ones of a generator that failed."""
    return bool((self.panoramas == self.panoramas[:, :1, :1]).all())


def read_frames(path: Path, protocol: Protocol) -> Frames:
  """The frames of a panorama that are compared.

  Raises:
    Unusable: if the file is missing, damaged, no panorama, too short, or slower than the protocol's rate.
  """
  info, count = look(path)
  numbers = frame_numbers(protocol, info.fps)
  if not numbers:
    raise Unusable("fps", f"{printable(path)} has {info.fps:g} frames per second, and {protocol.fps:g} are compared: "
                   f"give --config.fps={info.fps:g} or less")
  if numbers[-1] >= count:
    have = sum(number < count for number in numbers)
    raise Unusable("short", f"{printable(path)} has {count} frame{'s' * (count != 1)}, which give {have} of the "
                   f"{protocol.frames} that are compared: make longer clips or give --config.frames={max(have, 1)}")
  wanted = set(numbers)
  panoramas = np.empty((protocol.frames, *protocol.size, 3), np.uint8)
  found = 0
  for number, frame in enumerate(_decoded(path)):
    if number in wanted:
      panoramas[found] = to_rgb(frame, protocol.size)
      found += 1
    if number == numbers[-1]:
      break
  if found < len(numbers):
    raise Unusable("damaged", f"{printable(path)} promises {count} frames and gives {number + 1}: get a whole copy")
  return Frames(panoramas, info.fps, numbers, (info.height, info.width), count)


def all_frames(path: Path, protocol: Protocol) -> Iterator[np.ndarray]:
  """Every frame of a panorama at the protocol's size, uint8 [H W 3], one at a time.

  Raises:
    Unusable: if the file is damaged.
  """
  for frame in _decoded(path):
    yield to_rgb(frame, protocol.size)


def read_views(path: Path, views: int) -> np.ndarray:
  """A video of views side by side, [h, v * w], as uint8 [v f h w 3].

  Raises:
    Unusable: if it is damaged, or its width does not divide into square views.
  """
  frames = np.stack([to_rgb(frame) for frame in _decoded(path)])
  f, h, width, _ = frames.shape
  if width != views * h:
    raise Unusable("damaged", f"{printable(path)} is {width}x{h}, and {views} square views side by side are "
                   f"{views * h}x{h}: give the rig that they are of, --config.views_rig")
  return frames.reshape(f, h, views, h, 3).transpose(2, 0, 1, 3, 4)


def look(path: Path) -> tuple[VideoInfo, int]:
  """What a file says of itself, and how many frames are in it.

  Raises:
    Unusable: if it is missing, damaged, or no panorama.
  """
  if not path.is_file():
    raise Unusable("missing", f"there is no video {printable(path)}")
  try:
    info = probe(path)
    count = info.frames or frames_before(path, float("inf"))
  except InputError as error:
    raise Unusable("damaged", str(error)) from error
  if abs(info.width / info.height / 2 - 1) > _ASPECT:
    raise Unusable("not 2:1", f"{printable(path)} is {info.width}x{info.height}, and a panorama is 2:1: stretch it first "
                   "if it is one that was stored at another shape")
  return info, count


def frame_numbers(protocol: Protocol, fps: float) -> tuple[int, ...]:
  """The frames of a file of that rate that are compared; empty if it is slower than the protocol's rate."""
  if not protocol.fps:
    return tuple(range(protocol.start, protocol.start + protocol.frames * protocol.stride, protocol.stride))
  if fps < protocol.fps * (1 - _RATE):
    return ()
  return tuple(round((protocol.start + k) * fps / protocol.fps) for k in range(protocol.frames))


def check_pair(made: Frames, truth: Frames, path: Path, protocol: Protocol) -> None:
  """Refuses to compare by number what does not show the same times.

  Raises:
    Unusable: if two rates differ and the protocol has none.
  """
  if not protocol.fps and protocol.frames > 1 and abs(made.fps / truth.fps - 1) > _RATE:
    raise Unusable("fps", f"{printable(path)} has {made.fps:g} frames per second and the true video {truth.fps:g}, so "
                   f"frames of one number are of two times: give --config.fps={min(made.fps, truth.fps):g}")


def _decoded(path: Path) -> Iterator:
  try:
    yield from decode(path)
  except DamagedVideo as error:
    raise Unusable("damaged", str(error)) from error
