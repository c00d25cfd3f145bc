"""Video files in and out, frame by frame, through PyAV."""

import contextlib
import dataclasses
import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from panda_jax.errors import InputError

# ITU-T H.273 code points; swscale numbers its matrices differently
_UNSPECIFIED, _BT709 = 2, 1
# without these swscale darkens or brightens by 1-2 levels of 255
_EXACT = Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_STANDARD_DEFINITION_ROWS = 576
# PyAV 19 dropped the argument
_LENIENT = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
_SEEK_FROM = 5.0                                      # seconds: what comes earlier is decoded faster than looked up


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a file's header says; `frames` and `duration` (seconds) are None where it does not say, and may be wrong."""

  width: int
  height: int
  fps: float
  frames: int | None
  duration: float | None


class DamagedVideo(InputError):
  """A video that decodes in part; `frames` is how many frames came out before the damage."""

  def __init__(self, message: str, frames: int):
    super().__init__(message)
    self.frames = frames


def probe(path: str | Path) -> VideoInfo:
  """Reads a video's header.

  Args:
    path: a video file. Fragmented files, whose header counts no frames, are fine.

  Returns:
    Size, frame rate, and the header's own idea of length.

  Raises:
    InputError: if the file is missing or holds no video.
  """
  with _open(path) as (_, stream):
    return _info(stream)


def read_frames(path: str | Path, size: tuple[int, int] | None = None, start: int = 0, count: int | None = None,
                stride: int = 1) -> Iterator[np.ndarray]:
  """Decodes frames start, start + stride, … one after the other.

  Args:
    path: a video file.
    size: (h, w) to resize to (area average when shrinking, cubic when growing); None keeps the file's own.
    start: index of the first frame.
    count: how many frames to give at most; None: to the end.
    stride: distance of two frames given.

  Yields:
    uint8 [H W 3] RGB. Fewer than `count` if the video is shorter.

  Raises:
    InputError: if the file is missing or holds no video.
    DamagedVideo: where decoding fails or the file stops long before the length its header promises.
  """
  if start < 0 or stride < 1 or (count is not None and count < 0):
    raise ValueError(f"start and count must be >= 0 and stride >= 1, got {start}, {count}, {stride}")
  given = 0
  if count == 0:
    return
  for index, frame in enumerate(decode(path)):
    if index >= start and (index - start) % stride == 0:
      yield to_rgb(frame, size)
      given += 1
      if given == count:
        return


def decode(path: str | Path, start: float = 0.0, end: float | None = None) -> Iterator[av.VideoFrame]:
  """Decodes a video frame by frame and leaves the conversion to `to_rgb`, so that skipped frames cost little.

  Args:
    path: a video file.
    start, end: only frames shown at start <= t < end, in seconds of the film; `end` None: to its end. A late start is
      found by a seek, and by decoding from the beginning where a seek does not land before it.

  Raises:
    InputError, DamagedVideo: as `read_frames`. A span that holds no frame of a whole film is no error.
  """
  for seek in (True, False) if start > _SEEK_FROM else (False,):
    if (yield from _decode(path, start, end, seek)):
      return


def frames_before(path: str | Path, start: float) -> int:
  """How many frames of a video are shown before `start` seconds, by its packets: nothing is decoded.

  Raises:
    InputError: if the file is missing or holds no video.
  """
  if start <= 0:
    return 0
  with _open(path) as (container, stream):
    origin = _origin(stream)
    try:
      return sum(1 for packet in container.demux(stream) if packet.pts is not None and not packet.is_discard
                 and float(packet.pts * packet.time_base) - origin < start)
    except av.FFmpegError as error:
      raise InputError(f"{path} is damaged: its packets cannot be read ({_reason(error)}); get a whole copy") from error


def _decode(path: str | Path, start: float, end: float | None, seek: bool) -> Iterator[av.VideoFrame]:
  """The frames of `decode`; returns False, before it gave any, where a seek did not land before the start."""
  decoded, given, begin, last = 0, 0, None, 0.0
  with _open(path) as (container, stream):
    info, origin = _info(stream), _origin(stream)
    stream.thread_type = "AUTO"
    if seek:
      try:
        container.seek(int((start + origin) / stream.time_base), stream=stream)
      except av.FFmpegError:
        return False
      begin = origin
    for frame in _frames_until_damage(path, container, stream):
      shown = decoded / info.fps if frame.time is None else frame.time - origin
      if seek and decoded == 0 and (frame.time is None or shown > start):
        return False
      decoded += 1
      if end is not None and shown >= end:
        return True
      if shown >= start:
        yield frame
        given += 1
      if frame.time is not None:
        begin = frame.time if begin is None else begin
        last = max(last, frame.time + 1 / info.fps)
    # A header's frame count includes frames an edit list hides, so time is what tells a file that was cut off. The
    # length of a whole container (webm, mkv) is also that of its sound: allow more.
    slack = 3.5 / info.fps + 0.02 * (info.duration or 0) if stream.duration else 1 + 0.05 * (info.duration or 0)
  short = info.duration is not None and begin is not None and last - begin < info.duration - slack
  if decoded == 0 or short:
    lasts = f" ({max(0.0, last - begin):.1f} s of the {info.duration:.1f} s its header promises)" if short else ""
    raise DamagedVideo(f"{path} is cut off: only {_count(given)} decode{lasts}; get a whole copy", given)
  return True


def _origin(stream) -> float:
  """The time that a stream's first frame is stamped with, in seconds."""
  return float(stream.start_time * stream.time_base) if stream.start_time else 0.0


def _frames_until_damage(path: str | Path, container, stream) -> Iterator[av.VideoFrame]:
  """All good frames in order, then DamagedVideo where one is not."""
  decoded, trouble = 0, None
  packets = container.demux(stream)
  while trouble is None:
    try:
      packet = next(packets, None)
      frames = packet.decode() if packet is not None else []
    except av.FFmpegError as error:
      packet, trouble, frames = None, error, []
      with contextlib.suppress(av.FFmpegError):       # the decoder's threads still hold the frames before the damage
        frames = stream.codec_context.decode(None)
    for frame in frames:
      if frame.is_corrupt:
        trouble = trouble or InputError("a frame is incomplete")
        break
      decoded += 1
      yield frame
    if packet is None:
      break
  if trouble is not None:
    raise DamagedVideo(f"{path} is damaged: {_count(decoded)} decode, then decoding fails ({_reason(trouble)}); "
                       "get a whole copy", decoded) from trouble


def to_rgb(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
  """A decoded frame as uint8 [H W 3] RGB, resized to (h, w) where `size` is given."""
  matrix = None
  if frame.colorspace == _UNSPECIFIED and frame.height > _STANDARD_DEFINITION_ROWS:
    matrix = Colorspace.ITU709                        # what players take untagged HD for; swscale would take BT.601
  h, w = size or (frame.height, frame.width)
  scaler = Interpolation.AREA if h <= frame.height and w <= frame.width else Interpolation.BICUBIC
  return frame.reformat(width=w, height=h, format="rgb24", src_colorspace=matrix, dst_color_range=ColorRange.JPEG,
                        interpolation=scaler | _EXACT).to_ndarray()


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes uint8 [H W 3] to (h, w): area average when shrinking, cubic when growing."""
  h, w = size
  if image.shape[:2] == (h, w):
    return image
  shrinks = h <= image.shape[0] and w <= image.shape[1]
  return cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def centre_square(image: np.ndarray, share: float = 1.0) -> np.ndarray:
  """The square in the middle of an image [H W 3]: a view of the same array, [side side 3].

  `share`: how much of the largest square's side to keep, above 0 and at most 1.
  """
  height, width = image.shape[:2]
  side = max(1, round(min(height, width) * share))
  top, left = (height - side) // 2, (width - side) // 2
  return image[top:top + side, left:left + side]


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float, crf: int = 16) -> int:
  """Writes an H.264 mp4 that plays everywhere (yuv420p, BT.709, index in front); whole or not at all.

  Args:
    path: the file to make; replaced if it exists.
    frames: uint8 [H W 3] RGB images of one even size, read once, one at a time.
    fps: frames per second.
    crf: x264 quality, 0 (lossless) to 51; 16 is visually clean.

  Returns:
    The number of frames written.

  Raises:
    InputError: for no frames, an odd or changing size, or a place that cannot be written.
  """
  path = Path(path)
  part = path.with_name(path.name + ".part")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = _encode(part, path, frames, fps, crf)
    os.replace(part, path)
  except OSError as error:                            # PyAV's errors are OSErrors too
    if error.errno == errno.ENOSPC:
      raise InputError(f"no space left on the disk while writing {path}: free some space or choose another folder, "
                       "and run again") from error
    raise InputError(f"cannot write {path} ({error.strerror}): choose another place") from error
  finally:
    part.unlink(missing_ok=True)
  return count


def _encode(part: Path, path: Path, frames: Iterable[np.ndarray], fps: float, crf: int) -> int:
  if fps <= 0:
    raise InputError(f"a video needs a frame rate above 0, got {fps}")
  frames = iter(frames)
  first = next(frames, None)
  if first is None:
    raise InputError(f"there are no frames to write to {path}")
  h, w = first.shape[:2]
  if h % 2 or w % 2:
    raise InputError(f"cannot write {path} at {w}x{h}: H.264 needs even sizes")
  with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
    stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = int(ColorRange.MPEG)
    count = 0
    for image in itertools.chain([first], frames):
      if image.dtype != np.uint8 or image.shape != (h, w, 3):
        raise InputError(f"frame {count} of {path} must be uint8 [{h} {w} 3] like the first, "
                         f"got {image.dtype} {list(image.shape)}")
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
      container.mux(stream.encode(frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | _EXACT)))
      count += 1
    container.mux(stream.encode(None))
  return count


def open_container(path: str | Path) -> InputContainer:
  """A file, opened by PyAV; titles and comments in broken UTF-8 are no reason to refuse it."""
  return av.open(str(path), **_LENIENT)


@contextlib.contextmanager
def _open(path: str | Path):
  """The container and its first video stream."""
  if not os.path.isfile(path):                        # False also for names that are too long
    raise InputError(f"there is no video file {path}: give the path of an mp4, mov, webm or mkv file")
  try:
    container = open_container(path)
  except (OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read as a video ({_reason(error)}): it is damaged or something else") from error
  with container:
    if not container.streams.video:
      raise InputError(f"{path} holds no pictures: it is damaged, or a sound file")
    yield container, container.streams.video[0]


def _info(stream) -> VideoInfo:
  context = stream.codec_context
  if context is None:
    raise InputError(f"{stream.container.name} holds a video stream of no codec known here: it is damaged, or needs "
                     "converting to H.264 first")
  if not context.width or not context.height:
    raise InputError(f"{stream.container.name} holds a video stream without a size: it is damaged, get a whole copy")
  rate = stream.average_rate or stream.guessed_rate or stream.base_rate
  duration = None
  if stream.duration:
    duration = float(stream.duration * stream.time_base)
  elif stream.container.duration:
    duration = stream.container.duration / av.time_base
  return VideoInfo(context.width, context.height, float(rate) if rate else 25.0, stream.frames or None, duration)


def _reason(error: Exception) -> str:
  return getattr(error, "strerror", None) or str(error)


def _count(count: int) -> str:
  return f"{count} frame{'' if count == 1 else 's'}"
