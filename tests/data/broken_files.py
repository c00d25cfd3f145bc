"""Makes what people's disks really hold: broken, mislabelled, oddly named and hostile files beside a few good ones."""

import contextlib
import os
import random
import signal
import socket
import struct
import wave
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from panda_jax.data import video
from tests.data.made_clips import panorama

LONG_NAME = "海" * 83 + ".mp4"                          # 253 bytes: one more character and no disk takes it
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
WEB360_TABLE = "WEB360_360TF_train.csv"


def frames(count: int = 24, h: int = 64, seed: int = 0) -> list[np.ndarray]:
  """A turn of the camera: uint8 [h 2h 3] each."""
  return [np.roll(panorama(h, seed), -2 * k, axis=1) for k in range(count)]


@contextlib.contextmanager
def deadline(seconds: float):
  """Ends what hangs with a TimeoutError; for the main thread."""
  def ring(number, frame):
    raise TimeoutError(f"still at it after {seconds} s")

  before = signal.signal(signal.SIGALRM, ring)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def make_corpus(folder: Path) -> dict[str, str | None]:
  """Fills a folder with files to prepare.

  Returns:
    path below the folder (as the file system has it: it may hold undecodable bytes) -> the rule that it must be
    rejected by, or None where any verdict will do as long as there is one. Hidden files, links to files that are there
    anyway and files of other kinds are not in it: nobody needs to hear about them.
  """
  folder.mkdir(parents=True, exist_ok=True)
  expected: dict[str, str | None] = {}
  good = folder / "good.mp4"
  video.write_video(good, frames(), 24)
  expected["good.mp4"] = None
  whole = good.read_bytes()
  picture = _encode(".jpg", panorama(128))
  drawing = _encode(".png", panorama(128))

  def put(name: str, data: bytes, rule: str | None) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    expected[name] = rule

  video.write_video(folder / "long.mp4", frames(96, seed=1), 24)
  expected["long.mp4"] = None
  _damage(put, whole, (folder / "long.mp4").read_bytes(), picture, drawing)
  _mislabel(put, folder, expected, whole, picture, drawing)
  _absurd(put, folder, expected, whole)
  _odd_names(put, whole)
  _no_files(folder, expected)
  if not ROOT:                                         # root may read everything
    put("unreadable.mp4", whole, "unreadable")
    os.chmod(folder / "unreadable.mp4", 0)
  # what nobody needs to hear about
  (folder / ".hidden.mp4").write_bytes(b"text")
  (folder / "._good.mp4").write_bytes(b"\x00\x05\x16\x07")
  (folder / "notes.txt").write_text("text")
  (folder / "captions.csv").write_bytes(b"")
  (folder / "zz_link.mp4").symlink_to(good)
  return expected


def make_broken_web360(folder: Path) -> dict[str, str | None]:
  """WEB360's layout with everything that can be wrong with a table and still be read.

  Returns:
    id of the clip -> the rule that it must be rejected by, or None for a good one.
  """
  videos = folder / "videos_64x128x24"
  for number, name in enumerate(("1", "2", "3", "5", "extra")):
    video.write_video(videos / f"{name}.mp4", frames(24, seed=number), 20)
  (videos / "4.mp4").write_bytes((videos / "3.mp4").read_bytes()[:2000])
  (videos / "6.mp4").write_bytes(b"")
  rows = ['videoid,name', '1,"a beach, ""the best"", at noon"', "", "2,Strand — пляж — 海滩 🏖", "3,first", "3,second",
          "4,cut off", "missing,never downloaded", "5,a text, without quotes", "6",
          '../../escape,"out, of here"', ",", ""]
  (folder / WEB360_TABLE).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
  return {"1": None, "2": None, "3": None, "3-2": "duplicate", "4": "truncated", "missing": "missing", "5": None,
          "6": "unreadable", "_._.._escape": "missing", "extra": None}


TABLES: dict[str, tuple[bytes, str | None]] = {
  "empty": (b"", "it is empty"),
  "blank": (b"\r\n\r\n", "it is empty"),
  "no header": (b"beach.mp4,a beach\n", "lack a header: its first line must be `file,caption`"),
  "one column": (b"file\nbeach.mp4\n", "lacks caption"),
  "semicolons": (b"file;caption\nbeach.mp4;a beach\n", "separated by commas"),
  "column twice": (b"file,caption,caption\na,b,c\n", "names the column caption twice"),
  "latin 1": (b"file,caption\nbeach.mp4,caf\xe9\n", "is not in UTF-8 (line 2)"),
  "utf 16": ("file,caption\nbeach.mp4,a beach\n".encode("utf-16"), "is in UTF-16"),
  "zero bytes": (b"file,caption\nbeach.mp4,a\0beach\n", "line 2 holds a zero byte"),
  "open quote": (b'file,caption\nbeach.mp4,a beach\nhall.jpg,"open\n' + b"x,y\n" * 9, "begins in line 3"),
  "endless quote": (b'file,caption\nbeach.mp4,"' + b"x" * (1 << 20), "begins in line 2"),
  "text after quote": (b'file,caption\nbeach.mp4,"a" beach\n', "begins in line 2"),
  "a video": (b"\x00\x00\x00\x20ftypisom" + bytes(range(256)) * 4, "UTF-8"),
  "mark": (b"\xef\xbb\xbffile,caption\nbeach.mp4,a beach\n", None),
  "windows": (b"file,caption\r\nbeach.mp4,a beach\r\n", None),
  "old mac": (b"file,caption\rbeach.mp4,a beach\r", None),
  "shouted": (b'"Caption", FILE ,fps\na beach,beach.mp4,24\n', None),
  "video id": (b"Video ID,name\nbeach,a beach\n", None),
  "padded": (b"file,caption,,\nbeach.mp4,a beach,,\n", None),
  "gaps": (b"file,caption\n\n  \n,\nbeach.mp4, a beach \n\n", None),
}
"""Name -> the bytes of a table of captions for beach.mp4, and words of the sentence that refuses it, or None."""


def _damage(put, whole: bytes, long: bytes, picture: bytes, drawing: bytes) -> None:
  draw = random.Random(0)
  index_ends = whole.index(b"mdat") - 4                # the index comes first
  middle = (index_ends + len(whole)) // 2

  def flipped(data: bytes, first: int, last: int, count: int) -> bytes:
    data = bytearray(data)
    for _ in range(count):
      data[draw.randrange(first, last)] ^= 1 << draw.randrange(8)
    return bytes(data)

  put("flipped_bit.mp4", flipped(whole, middle, middle + 1, 1), None)
  put("flipped_bits.mp4", flipped(whole, index_ends + 100, len(whole), 400), None)
  put("flipped_index.mp4", flipped(whole, 40, index_ends, 20), None)
  put("zeroed_middle.mp4", whole[:middle] + bytes(2000) + whole[middle + 2000:], None)
  put("cut_in_index.mp4", whole[:index_ends // 2], "unreadable")
  put("cut_in_first_frame.mp4", whole[:index_ends + 800], None)
  ends = long.index(b"mdat")
  for percent in (40, 60, 90):
    put(f"cut_{percent}.mp4", long[:ends + (len(long) - ends) * percent // 100], "truncated")
  put("cut_last_byte.mp4", whole[:-1], None)
  put("garbage_behind.mp4", whole + draw.randbytes(5000), None)
  put("index_only.mp4", whole[:index_ends], None)
  put("empty.mp4", b"", "unreadable")
  put("empty.webm", b"", "unreadable")
  put("empty.jpg", b"", "unreadable")
  put("zeros.mp4", bytes(100_000), "unreadable")
  put("noise.mkv", draw.randbytes(20_000), "unreadable")
  put("cut.jpg", picture[:len(picture) // 2], "truncated")
  put("cut.png", drawing[:len(drawing) // 2], "truncated")
  put("flipped.png", flipped(drawing, 100, len(drawing) - 100, 50), None)
  put("flipped.jpg", flipped(picture, 700, len(picture) - 100, 50), None)


def _mislabel(put, folder: Path, expected: dict, whole: bytes, picture: bytes, drawing: bytes) -> None:
  put("text.mp4", b"not a video\n" * 100, "unreadable")
  put("page.jpg", b"<!doctype html><html><body>404 Not Found</body></html>\n" * 20, "unreadable")
  put("page.mp4", b"<!doctype html><html><body>Sign in to continue</body></html>\n" * 20, "unreadable")
  put("picture.mp4", picture, None)
  put("drawing.jpg", drawing, None)                    # only its name is wrong
  put("film.png", whole, "unreadable")
  put("archive.mp4", b"PK\x03\x04" + whole[4:4000], "unreadable")
  put("mp4_as.webm", whole, None)
  _write(folder / "webm.part", "webm", "libvpx", "yuv420p", frames(12))
  put("webm_as.mp4", (folder / "webm.part").read_bytes(), None)
  (folder / "webm.part").unlink()
  with wave.open(str(folder / "sound.mov"), "wb") as sound:
    sound.setparams((1, 2, 8000, 8000, "NONE", ""))
    sound.writeframes(bytes(16000))
  expected["sound.mov"] = "unreadable"
  _write_sound(folder / "sound_only.mp4")
  expected["sound_only.mp4"] = "unreadable"


def _absurd(put, folder: Path, expected: dict, whole: bytes) -> None:
  huge = struct.pack(">HH", 60000, 30000)
  put("huge.png", _png_that_claims(60000, 60000), "too_large")
  data = bytearray(_encode(".jpg", panorama(32)))
  at = data.index(b"\xff\xc0") + 5                     # the frame header: height, then width
  data[at:at + 4] = struct.pack(">HH", 60000, 60000)
  put("huge.jpg", bytes(data), "too_large")
  data = bytearray(whole)
  at = data.index(b"avc1", data.index(b"stsd")) + 28   # a sample entry: width, then height
  data[at:at + 4] = huge
  put("huge_index.mp4", bytes(data), None)             # the stream itself knows better
  _write(folder / "huge.part", "matroska", "ffv1", "yuv420p", frames(2, 280))
  data = (folder / "huge.part").read_bytes()           # its codec takes the size from the container
  (folder / "huge.part").unlink()
  pixels = lambda w, h: struct.pack(">HHHH", 0xb082, w, 0xba82, h)
  assert data.count(pixels(560, 280)) == 1
  put("huge.mkv", data.replace(pixels(560, 280), pixels(60000, 30000)), None)     # beyond what a decoder believes
  put("large.mkv", data.replace(pixels(560, 280), pixels(16000, 16000)), "too_large")
  _write(folder / "no_frames.mp4", "mp4", "libx264", "yuv420p", [])
  expected["no_frames.mp4"] = "unreadable"
  _write(folder / "one_pixel.mkv", "matroska", "ffv1", "yuv444p", [np.full((1, 1, 3), 200, np.uint8)] * 24)
  expected["one_pixel.mkv"] = None
  put("two_by_one.png", _encode(".png", panorama(2)[:1, :2]), None)
  video.write_video(folder / "one_frame.mp4", frames(1), 24)
  expected["one_frame.mp4"] = "short"
  video.write_video(folder / "thin.mp4", [frame[30:32] for frame in frames()], 24)
  expected["thin.mp4"] = None
  video.write_video(folder / "film.mp4", [video.resize(frame[10:55, 10:90], (90, 160)) for frame in frames()], 24)
  expected["film.mp4"] = "flat"


def _odd_names(put, whole: bytes) -> None:
  for name in ("пляж 海滩 🏖.mp4", LONG_NAME, "two\nlines.mp4", "quo\"te's.mp4", "-rf.mp4", "{0} %s $HOME `x`.mp4",
               "🎉.mp4", "LOUD.MP4", " .mp4", "a" * 100 + ".mp4", "a" * 101 + ".mp4", "Good.mp4", "\x1b[31mred.mp4",
               "deep/" * 40 + "down.mp4", "e\u0301te\u0301.mp4", "below/good.mp4",
               os.fsdecode(b"bytes_\xff\xfe.mp4")):
    put(name, whole, None)


def _no_files(folder: Path, expected: dict) -> None:
  (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
  (folder / "dangling.jpg").symlink_to("../nowhere.jpg")
  expected["dangling.mp4"] = expected["dangling.jpg"] = "missing"
  (folder / "circle.mp4").symlink_to("circle.mp4")
  (folder / "to.mp4").symlink_to("fro.mp4")
  (folder / "fro.mp4").symlink_to("to.mp4")
  (folder / "again").symlink_to(".")                   # folders in a circle
  (folder / "below" / "up").symlink_to("..")
  os.mkfifo(folder / "pipe.mp4")
  os.mkfifo(folder / "pipe.jpg")
  (folder / "directory.mp4").mkdir()
  (folder / "device.mp4").symlink_to("/dev/zero")
  names = ["circle.mp4", "to.mp4", "fro.mp4", "pipe.mp4", "pipe.jpg", "directory.mp4", "device.mp4"]
  here = os.getcwd()
  with socket.socket(socket.AF_UNIX) as listener:      # its address must be short
    os.chdir(folder)
    try:
      listener.bind("socket.mp4")
    finally:
      os.chdir(here)
  expected.update(dict.fromkeys([*names, "socket.mp4"], "unreadable"))


def _encode(suffix: str, image: np.ndarray) -> bytes:
  return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def _write(path: Path, container: str, codec: str, pixels: str, images: list[np.ndarray]) -> None:
  with av.open(str(path), "w", format=container) as file:
    stream = file.add_stream(codec, rate=Fraction(24))
    stream.height, stream.width = images[0].shape[:2] if images else (64, 128)
    stream.pix_fmt = pixels
    for image in images:
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
      file.mux(stream.encode(frame.reformat(format=pixels)))
    if images:
      file.mux(stream.encode(None))
    else:
      file.start_encoding()                            # an index without a frame


def _write_sound(path: Path) -> None:
  with av.open(str(path), "w", format="mp4") as file:
    stream = file.add_stream("aac", rate=44100)
    stream.layout = "mono"
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 44100, 0
    for packet in (*stream.encode(frame), *stream.encode(None)):
      file.mux(packet)


def _png_that_claims(width: int, height: int) -> bytes:
  """A well-formed png of a few bytes whose header promises a picture of any size."""
  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
          + chunk(b"IEND", b""))
