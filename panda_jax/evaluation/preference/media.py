"""Copies of videos that browsers play and that do not tell where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.video.stream import VideoStream

from panda_jax.data.tables import printable
from panda_jax.data.video import decode, open_container, probe, read_frames, write_video
from panda_jax.errors import InputError

LARGEST = 256 << 20                    # bytes of one video; browsers refuse the much longer text that it is carried in
_PLAYED = {"h264": ("yuv420p", "yuvj420p"), "vp9": ("yuv420p",)}             # by every usual browser
_TRACELESS = {"h264": "filter_units=remove_types=6"}      # where x264 writes its settings, beside the pictures


@dataclasses.dataclass(frozen=True)
class Copy:
  """A copy and what it shows.

  Attributes:
    path: an mp4.
    width, height: in pixels.
    frames: that decode.
    fps: frames per second, rounded to three digits.
    digest: SHA-256 of the file, in hexadecimal.
  """

  path: Path
  width: int
  height: int
  frames: int
  fps: float
  digest: str

  @property
  def shape(self) -> str:
    """For people: "1024x512, 16 frames, 8 fps"."""
    return f"{self.width}x{self.height}, {self.frames} frames, {self.fps:g} fps"


def anonymous_copy(source: Path, target: Path, encode: bool = False) -> Copy:
  """Copies the pictures of a video into an mp4 without titles, tags, sound or names of programs.

  The pictures are carried over as they are encoded.

  Args:
    source: a video.
    target: the mp4 to write.
    encode: encode the pictures anew (H.264, CRF 16), so that the videos of all methods have come the same way.

  Raises:
    InputError: if the video is missing, damaged or too large, or not every browser plays its pictures as they are
      and `encode` is not set.
  """
  info = probe(source)
  if encode:
    if info.width % 2 or info.height % 2:
      raise InputError(f"{printable(source)} is {info.width}x{info.height}, and only even sizes can be encoded for "
                       "browsers: crop or pad it by a pixel")
    encoded = target.with_name(f"{target.stem}.encoded.mp4")
    try:
      frames = write_video(encoded, read_frames(source), info.fps)
      _carry_over(encoded, target)
    finally:
      encoded.unlink(missing_ok=True)
  else:
    frames = sum(1 for _ in decode(source))               # finds damage that would otherwise show before participants
    _carry_over(source, target)
  if (size := target.stat().st_size) > LARGEST:
    raise InputError(f"{printable(source)} has {size / 2**20:.0f} MiB, more than the {LARGEST >> 20} MiB that browsers "
                     "take: make it smaller or shorter")
  with open(target, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return Copy(target, info.width, info.height, frames, round(info.fps, 3), digest)


def _carry_over(source: Path, target: Path) -> None:
  options = {"movflags": "+faststart", "fflags": "+bitexact"}       # bitexact: without the version of the library
  with open_container(source) as given, \
      av.open(str(target), "w", format="mp4", options=options) as made:
    stream = given.streams.video[0]
    codec, pixels = stream.codec_context.codec.canonical_name, stream.codec_context.pix_fmt
    if pixels not in _PLAYED.get(codec, ()):
      raise InputError(f"{printable(source)} is {codec} ({pixels}), which not every browser plays: add --encode to "
                       "encode all videos of the study alike, as H.264")
    copy = made.add_stream_from_template(stream)
    kept = _TRACELESS.get(codec)
    clean = BitStreamFilterContext(kept, stream, copy) if kept else None
    try:
      for packet in _packets(given, stream, clean):
        if packet.is_discard:
          raise InputError(f"{printable(source)} was cut without encoding it anew and holds frames that it does not "
                           "show: add --encode to encode all videos of the study alike")
        packet.stream = copy
        made.mux(packet)
    except av.FFmpegError as error:
      raise InputError(f"{printable(source)} cannot be copied into an mp4 ({error.strerror}): add --encode to encode "
                       "all videos of the study alike") from error


def _packets(container: InputContainer, stream: VideoStream,
             clean: BitStreamFilterContext | None) -> Iterator[av.Packet]:
  for packet in container.demux(stream):
    if packet.size == 0:                                  # at the end
      continue
    if clean is None:
      yield packet
    else:
      yield from clean.filter(packet)
  if clean is not None:
    yield from clean.filter(None)
