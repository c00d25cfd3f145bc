"""Spherical metadata for mp4 files: what makes players show a video as a sphere.

Both published forms are written, because players differ in which they read: V1 is a `uuid` box with RDF/XML in the
track, V2 a `st3d` and a `sv3d` box in the sample entry. The samples themselves are copied untouched; when `moov` stands
before them, the chunk offsets that point behind it grow with it.

Source: the Spherical Video RFCs (V1, V2) of github.com/google/spatial-media; boxes as in ISO/IEC 14496-12.
"""

import contextlib
import itertools
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

import panda_jax
from panda_jax.data.video import write_video
from panda_jax.errors import InputError
from panda_jax.generate import written_whole

SOFTWARE = f"panda_jax {panda_jax.__version__}"

_V1_ID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
_V1_XML = (
  '<?xml version="1.0"?>'
  '<rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
  ' xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/">'
  "<GSpherical:Spherical>true</GSpherical:Spherical>"
  "<GSpherical:Stitched>true</GSpherical:Stitched>"
  f"<GSpherical:StitchingSoftware>{SOFTWARE}</GSpherical:StitchingSoftware>"
  "<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType>"
  "<GSpherical:StereoMode>mono</GSpherical:StereoMode>"
  "</rdf:SphericalVideo>"
)
_STEREO_MODES = ("mono", "top-bottom", "left-right")
_VISUAL_SAMPLE_ENTRY = 78              # bytes of fixed fields before the boxes inside avc1, hvc1, av01, vp09, …
_OPTIONAL_BOXES = (b"clap", b"pasp", b"colr", b"btrt")     # V2 asks to stand after the codec's box and before these


class _BadFile(ValueError):
  """The file cannot be tagged; the message is the second half of a sentence that starts with its name."""


@dataclass(frozen=True)
class _Box:
  """Where one box lies: [start, end) with its header, its content from `body`. Positions in bytes."""

  kind: bytes
  start: int
  body: int
  end: int


def add_spherical_metadata(path_in: str | os.PathLike, path_out: str | os.PathLike) -> None:
  """Copies an mp4 and marks its (first) video track as a monoscopic equirectangular sphere, in V1 and in V2.

  Args:
    path_in: an mp4 with its index (`moov`) in one piece, before or after the samples, in any codec.
    path_out: the file to write, at once; may be `path_in` itself.

  Raises:
    InputError: if `path_in` is missing, is not an mp4, is damaged, fragmented, without video or tagged already.

  Source: google/spatial-media docs/spherical-video-rfc.md and spherical-video-v2-rfc.md.
  """
  path_in = Path(path_in)
  with _open(path_in) as source, _naming(path_in):
    boxes = _top_level(source)
    moov = _only_moov(boxes)
    old = _read(source, moov.body, moov.end)
    if any(box.kind == b"moof" for box in boxes) or any(box.kind == b"mvex" for box in _boxes(old, 0, len(old))):
      raise _BadFile("is a fragmented mp4; rewrite it as a plain one first (ffmpeg -i in.mp4 -c copy out.mp4)")
    if _metadata(old):
      raise _BadFile("is tagged as spherical already; there is nothing to add")
    new = _tag_first_video(old)
    grown = len(_box(b"moov", new)) - (moov.end - moov.start)
    new = _shift_chunks(new, behind=moov.start, by=grown)
    with written_whole(path_out) as unfinished, open(unfinished, "wb") as target:
      _copy(source, target, 0, moov.start)
      target.write(_box(b"moov", new))
      _copy(source, target, moov.end, boxes[-1].end)


def spherical_metadata(path: str | os.PathLike) -> dict:
  """Reads the spherical metadata of an mp4.

  Args:
    path: an mp4, fragmented or not.

  Returns:
    {} for an ordinary video. Otherwise "v1" maps the names of the XML ("Spherical", "ProjectionType", …) to their text,
    and "v2" holds "stereo_mode", "metadata_source", "yaw_deg", "pitch_deg", "roll_deg", "projection" and "bounds" (top,
    bottom, left, right: the part of the sphere that is cut away, as fractions); each only if the file has it.

  Raises:
    InputError: if the file is missing, is not an mp4, is damaged or has no video.
  """
  path = Path(path)
  with _open(path) as source, _naming(path):
    moov = _only_moov(_top_level(source))
    return _metadata(_read(source, moov.body, moov.end))


def check_360_video(path: str | os.PathLike) -> Path:
  """The path of a 360° video to be written.

  Raises:
    InputError: if its name does not end in `_360.mp4`.
  """
  path = Path(path)
  if not path.name.endswith("_360.mp4"):
    raise InputError(f"{path}: the name of a 360° video must end in _360.mp4, because headset players go by the name")
  return path


def write_360_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float) -> None:
  """Writes equirectangular frames as an H.264 mp4 that players show as a sphere.

  Args:
    path: the file to write, at once. Its name must end in `_360.mp4`: headset players go by the name.
    frames: uint8 [H W 3] each, with W = 2 H; any iterable, read once.
    fps: frames per second.

  Raises:
    InputError: if the name does not end in `_360.mp4`, there is no frame, or the frames are not 2:1.
  """
  path = check_360_video(path)
  frames = iter(frames)
  first = next(frames, None)
  if first is None:
    raise InputError(f"{path}: there are no frames to write")
  height, width = first.shape[:2]
  if width != 2 * height:
    raise InputError(f"{path}: frames of {width}x{height} do not cover the sphere; a panorama is twice as wide as high")
  with written_whole(path) as unfinished:
    write_video(unfinished, itertools.chain([first], frames), fps)
    add_spherical_metadata(unfinished, unfinished)


# ---- the metadata itself

def _tag_first_video(moov: bytes) -> bytes:
  """The content of `moov` with both forms of the metadata in its first video track."""
  track = _first_video(moov)
  content = _edit(moov[track.body:track.end], (b"mdia", b"minf", b"stbl", b"stsd"), _tag_sample_entries)
  content += _box(b"uuid", _V1_ID + _V1_XML.encode())
  return moov[:track.start] + _box(b"trak", content) + moov[track.end:]


def _tag_sample_entries(stsd: bytes) -> bytes:
  entries = []
  for entry in _boxes(stsd, 8, len(stsd)):
    inside = _boxes(stsd, entry.body + _VISUAL_SAMPLE_ENTRY, entry.end)
    place = next((box.start for box in inside if box.kind in _OPTIONAL_BOXES), inside[-1].end if inside else entry.end)
    entries.append(_box(entry.kind, stsd[entry.body:place] + _v2_boxes() + stsd[place:entry.end]))
  return stsd[:8] + b"".join(entries)


def _v2_boxes() -> bytes:
  version = bytes(4)                                                    # version 0, no flags
  svhd = _box(b"svhd", version + SOFTWARE.encode() + b"\0")
  prhd = _box(b"prhd", version + struct.pack(">3i", 0, 0, 0))           # yaw, pitch, roll as 16.16 degrees
  equi = _box(b"equi", version + struct.pack(">4I", 0, 0, 0, 0))        # cut away at top, bottom, left, right as 0.32
  return _box(b"st3d", version + b"\0") + _box(b"sv3d", svhd + _box(b"proj", prhd + equi))


def _metadata(moov: bytes) -> dict:
  """What spherical_metadata returns, from the content of `moov`."""
  track = _first_video(moov)
  found, v2 = {}, {}
  for box in _boxes(moov, track.body, track.end):
    if box.kind == b"uuid" and moov[box.body:box.body + len(_V1_ID)] == _V1_ID:
      xml = moov[box.body + len(_V1_ID):box.end].decode("utf-8", "replace")
      found["v1"] = dict(re.findall(r"<GSpherical:(\w+)>([^<]*)</GSpherical:", xml))
  stsd = _find(moov, track, (b"mdia", b"minf", b"stbl", b"stsd"))
  for entry in _boxes(moov, stsd.body + 8, stsd.end):
    for box in _boxes(moov, entry.body + _VISUAL_SAMPLE_ENTRY, entry.end):
      if box.kind == b"st3d" and box.end - box.body >= 5:
        mode = moov[box.body + 4]
        v2["stereo_mode"] = _STEREO_MODES[mode] if mode < len(_STEREO_MODES) else f"unknown ({mode})"
      elif box.kind == b"sv3d":
        v2.update(_read_sv3d(moov, box))
  return {**found, "v2": v2} if v2 else found


def _read_sv3d(data: bytes, sv3d: _Box) -> dict:
  found = {}
  for box in _boxes(data, sv3d.body, sv3d.end):
    if box.kind == b"svhd":
      found["metadata_source"] = data[box.body + 4:box.end].split(b"\0")[0].decode("utf-8", "replace")
    for part in _boxes(data, box.body, box.end) if box.kind == b"proj" else []:
      numbers = data[part.body + 4:part.end]
      if part.kind == b"prhd" and len(numbers) >= 12:
        turn = (value / 65536 for value in struct.unpack(">3i", numbers[:12]))
        found.update(zip(("yaw_deg", "pitch_deg", "roll_deg"), turn))
      elif part.kind == b"equi" and len(numbers) >= 16:
        found["projection"] = "equirectangular"
        found["bounds"] = tuple(value / 2**32 for value in struct.unpack(">4I", numbers[:16]))
      elif part.kind in (b"cbmp", b"mshp"):
        found["projection"] = {b"cbmp": "cubemap", b"mshp": "mesh"}[part.kind]
  return found


# ---- boxes in memory (all of `moov`)

def _box(kind: bytes, content: bytes) -> bytes:
  return struct.pack(">I4s", 8 + len(content), kind) + content


def _boxes(data: bytes, start: int, end: int) -> list[_Box]:
  """The boxes that lie side by side in data[start:end]; a QuickTime terminator of four zero bytes is passed over."""
  boxes = []
  while end - start >= 8:
    box = _header(data[start:start + 16], start, end)
    boxes.append(box)
    start = box.end
  if data[start:end].strip(b"\0"):
    raise _BadFile("is damaged: a box of its index does not end where its parent ends")
  return boxes


def _header(head: bytes, start: int, end: int) -> _Box:
  size, kind = struct.unpack(">I4s", head[:8])
  body = start + 8
  if size == 1 and len(head) == 16:
    size, body = struct.unpack(">Q", head[8:])[0], start + 16
  elif size == 0:                                           # "up to the end", allowed for the last box
    size = end - start
  if size < body - start or start + size > end:
    raise _BadFile("is damaged or cut short: a box reaches beyond the end of what contains it")
  return _Box(kind, start, body, start + size)


def _find(data: bytes, box: _Box, path: tuple[bytes, ...]) -> _Box:
  for kind in path:
    box = next((child for child in _boxes(data, box.body, box.end) if child.kind == kind), None)
    if box is None:
      raise _BadFile(f"is damaged: its index has a track without a {kind.decode()} box")
  return box


def _edit(content: bytes, path: tuple[bytes, ...], change: Callable[[bytes], bytes]) -> bytes:
  """`content` with `change` applied to the content of every box at `path`, and the sizes around it set right."""
  if not path:
    return change(content)
  parts, done = [], 0
  for box in _boxes(content, 0, len(content)):
    if box.kind == path[0]:
      parts += [content[done:box.start], _box(box.kind, _edit(content[box.body:box.end], path[1:], change))]
      done = box.end
  return b"".join(parts) + content[done:]


def _first_video(moov: bytes) -> _Box:
  for box in _boxes(moov, 0, len(moov)):
    if box.kind == b"trak":
      handler = _find(moov, box, (b"mdia", b"hdlr"))
      if moov[handler.body + 8:handler.body + 12] == b"vide":
        return box
  raise _BadFile("has no video track")


def _shift_chunks(moov: bytes, behind: int, by: int) -> bytes:
  """`moov` with every chunk offset that points behind the file position `behind` moved on by `by` bytes."""

  def shifted(kind: str) -> Callable[[bytes], bytes]:
    def change(table: bytes) -> bytes:
      count = int.from_bytes(table[4:8], "big")
      if len(table) != 8 + count * np.dtype(kind).itemsize:
        raise _BadFile("is damaged: its table of chunk offsets has not the length it states")
      offsets = np.frombuffer(table[8:], dtype=kind).astype(np.uint64)
      offsets = np.where(offsets > behind, offsets + np.uint64(by), offsets)
      if offsets.size and offsets.max() > np.iinfo(np.dtype(kind)).max:
        raise _BadFile("is too close to 4 GiB for its 32-bit chunk offsets; cut it into shorter pieces first")
      return table[:8] + offsets.astype(kind).tobytes()
    return change

  table = (b"trak", b"mdia", b"minf", b"stbl")
  return _edit(_edit(moov, (*table, b"stco"), shifted(">u4")), (*table, b"co64"), shifted(">u8"))


# ---- boxes in the file (its top level only: the samples are never read into memory)

@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
  """Turns a _BadFile inside the block into an InputError that names the file."""
  try:
    yield
  except _BadFile as error:
    raise InputError(f"{path} {error}") from error


def _open(path: Path) -> BinaryIO:
  if not path.is_file():
    raise InputError(f"{path}: there is no such file")
  return open(path, "rb")


def _top_level(source: BinaryIO) -> list[_Box]:
  end = os.fstat(source.fileno()).st_size
  boxes = list(_walk(source, end))
  if not boxes or boxes[0].kind != b"ftyp":
    raise _BadFile("is not an mp4; convert it to H.264 in an mp4 first")
  return boxes


def _walk(source: BinaryIO, end: int) -> Iterator[_Box]:
  start = 0
  while start < end:
    head = _read(source, start, min(start + 16, end))
    if start == 0 and head[4:8] != b"ftyp":
      return
    if len(head) < 8:
      raise _BadFile("is damaged or cut short: it ends in the middle of a box")
    box = _header(head, start, end)
    yield box
    start = box.end


def _only_moov(boxes: list[_Box]) -> _Box:
  found = [box for box in boxes if box.kind == b"moov"]
  if len(found) != 1:
    raise _BadFile(f"is damaged or was never finished: it has {len(found)} moov boxes instead of one")
  return found[0]


def _read(source: BinaryIO, start: int, end: int) -> bytes:
  source.seek(start)
  return source.read(end - start)


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
  source.seek(start)
  left = end - start
  while left:
    chunk = source.read(min(left, 1 << 20))
    if not chunk:
      raise _BadFile("became shorter while it was read")
    target.write(chunk)
    left -= len(chunk)
