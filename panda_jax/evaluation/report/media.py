"""Pictures and videos inside the page: clips re-encoded small, and what lies left and right of the seam, enlarged."""

from __future__ import annotations

import base64
import dataclasses
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panda_jax.data.tables import printable
from panda_jax.data.video import probe, read_frames, write_video
from panda_jax.errors import InputError

LARGEST = (256, 512)                                  # (h, w) of videos in the page
MOST_FRAMES = 120
_QUALITY = 27                                         # x264's crf: about 100 kB for 16 frames of 512x256
_COLUMNS, _ROWS, _ENLARGED = 72, 64, 4                # of a seam's picture


@dataclasses.dataclass(frozen=True)
class Span:
  """Which frames of a video are shown: `count` from `start` on, every `stride`-th."""

  start: int
  stride: int
  count: int


@dataclasses.dataclass(frozen=True)
class Seam:
  """Where a seam is looked at: the size (H, W) of frames, a frame's number, the first row, how many rows, columns."""

  size: tuple[int, int]
  frame: int
  top: int
  rows: int
  columns: int


def span_of(protocol: Mapping[str, Any], fps: float) -> Span:
  """The part of a video that is scored, at the video's own rate.

  Args:
    protocol: "start", "stride", "frames" and "fps" as in summary.json; absent or 0: from the beginning, every frame, to
      the end, at the rate of the video.
    fps: of the video.
  """
  start, stride = int(protocol.get("start") or 0), int(protocol.get("stride") or 1)
  frames, wanted = int(protocol.get("frames") or MOST_FRAMES), float(protocol.get("fps") or 0)
  if wanted > 0:                                      # scored at another rate: all frames of the same seconds
    start, frames, stride = round(start * fps / wanted), max(1, round(frames * fps / wanted)), 1
  thinned = -(-frames // MOST_FRAMES)
  return Span(start, stride * thinned, -(-frames // thinned))


def small_video(path: Path, protocol: Mapping[str, Any]) -> bytes:
  """A video as an H.264 mp4 of at most 512x256 and `MOST_FRAMES` frames.

  Raises:
    InputError: if it is missing, damaged, or ends before the scored part begins.
  """
  info = probe(path)
  span = span_of(protocol, info.fps)
  scale = min(1.0, LARGEST[0] / info.height, LARGEST[1] / info.width)
  size = tuple(max(2, 2 * round(side * scale / 2)) for side in (info.height, info.width))
  with tempfile.TemporaryDirectory() as folder:
    small = Path(folder) / "small.mp4"
    write_video(small, _frames(path, span, size), info.fps / span.stride, crf=_QUALITY)
    return small.read_bytes()


def find_seam(path: Path, protocol: Mapping[str, Any]) -> tuple[Seam, np.ndarray]:
  """The middle frame of the scored part, and the rows of it where the step across the seam is largest.

  Returns:
    Where it is, and the picture of `cut_seam`.

  Raises:
    InputError: if the video is missing, damaged, or ends before the scored part begins.
  """
  info = probe(path)
  height = int(protocol.get("height") or 0)
  height, width = size = (height, 2 * height) if height else (info.height, info.width)
  span = span_of(protocol, info.fps)
  number, frame = span.start, None
  for index, frame in enumerate(_frames(path, dataclasses.replace(span, count=span.count // 2 + 1), size)):
    number = span.start + index * span.stride
  rows, columns = min(_ROWS, height), min(_COLUMNS, width // 2 * 2)
  steps = np.abs(frame[:, 0].astype(int) - frame[:, -1]).sum(-1)                # [H]
  top = int(np.convolve(steps, np.ones(rows), "valid").argmax())
  seam = Seam(size, number, top, rows, columns)
  return seam, cut(frame, seam)


def cut_seam(path: Path, seam: Seam) -> np.ndarray:
  """The same directions in another video: uint8 [rows columns 3], the seam between the two columns in the middle.

  Raises:
    InputError: if the video is missing, damaged, or too short.
  """
  (frame,) = _frames(path, Span(seam.frame, 1, 1), seam.size)
  return cut(frame, seam)


def cut(frame: np.ndarray, seam: Seam) -> np.ndarray:
  """Columns around the seam of a panorama [H W 3]: the right edge on the left, the left edge on the right."""
  half = seam.columns // 2
  rows = frame[seam.top: seam.top + seam.rows]
  return np.concatenate([rows[:, -half:], rows[:, :half]], axis=1)


def enlarged_png(image: np.ndarray, times: int = _ENLARGED) -> bytes:
  """A picture uint8 [h w 3] as a png with every pixel a square of `times`."""
  large = image.repeat(times, axis=0).repeat(times, axis=1)
  with io.BytesIO() as file:
    Image.fromarray(large).save(file, "png", optimize=True)
    return file.getvalue()


def base64_of(content: bytes) -> str:
  return base64.b64encode(content).decode("ascii")


def _frames(path: Path, span: Span, size: tuple[int, int]) -> Iterator[np.ndarray]:
  """The frames of a span, fewer if the video is shorter, and an InputError if it has none of them."""
  none = True
  for frame in read_frames(path, size, span.start, span.count, span.stride):
    none = False
    yield frame
  if none:
    raise InputError(f"{printable(path)} ends before frame {span.start}, where the scored part begins")
