"""Is this file a 360° panorama, or at least a whole film? Decodes it from end to end, looks at its shape and its seam.

A panorama's left and right edges are neighbours on the sphere, an ordinary film's are not. On a frame shrunk to
512x256 (never enlarged: that smooths the inside and not the seam), without the eighth of its rows nearest each pole,
three mean absolute differences of columns (levels of 255) decide:

  edge   the first column against the last
  inner  every column against the next: how sharp the picture is
  far    every column against the one a quarter turn away: how much it varies at all

The edges join if edge <= max(2, min(1.1 sqrt(inner far), 0.47 far)). The geometric mean tells more than edge / inner
(a blurred film has a tiny inner) and edge / far (a busy edge); 0.47 far refuses noise, where all three are equal.
edge / sqrt(inner far), as measured:

  18 camera-made 360° clips and photographs                                         0.26 … 0.87
  the same turned, with 0.5 % of the height of stitching error or 8 % of exposure   … 1.05
  540 crops to 16:9 of the same, 25-92 % of the width                               1.31 …
  719 perspective views of the same, 50-115° wide                                   1.16 …, and 1 blank sky below 2

What this does not see: a small panorama of 96 rows or fewer, or one that was enlarged fourfold (may be refused:
`allow_flat` keeps it), and a film whose sides are of one even colour other than black (taken).
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from panda_jax.data import video
from panda_jax.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv")
STILL_SUFFIXES = (".jpg", ".jpeg", ".png")
_LOOK = (256, 512)
_MAX_LOOKS = 16
_ONE_COLOUR = "shows one colour only: there is nothing in it to learn from"


@dataclasses.dataclass(frozen=True)
class Seam:
  """How well the left and right edges join: they do where `edge` <= `limit` (levels of 255)."""

  edge: float
  limit: float

  @property
  def joins(self) -> bool:
    return self.edge <= self.limit


@dataclasses.dataclass
class Verdict:
  """What a look at one file said. `why` is a clause that follows the file's name; empty for a plain panorama."""

  path: Path
  kind: str                                           # "video" or "still"
  ok: bool = False
  verdict: str = "broken"
  why: str = ""
  width: int = 0
  height: int = 0
  fps: float | None = None
  frames: int = 0                                     # as decoded; a header's count is not to be trusted
  seam: Seam | None = None


def seam(frame: np.ndarray) -> Seam | None:
  """Measures how the left and right edges of a frame join; None for a frame of one colour, which says nothing.

  Args:
    frame: uint8 [H W 3].
  """
  h, w = _look_size(*frame.shape[:2])
  image = video.resize(frame, (h, w)).astype(np.float32)
  if image.std() < 2:
    return None
  belt = image[h // 8:h - h // 8]
  edge = float(np.abs(belt[:, 0] - belt[:, -1]).mean())
  inner = float(np.abs(np.diff(belt, axis=1)).mean())
  far = float(np.abs(belt - np.roll(belt, w // 4, axis=1)).mean())
  return Seam(edge, max(2.0, min(1.1 * math.sqrt(inner * far), 0.47 * far)))


def check(path: str | Path, allow_flat: bool = False, on_frame: Callable[[], None] = lambda: None,
          flat: bool = False) -> Verdict:
  """Looks at a whole file; says what is wrong with it instead of raising.

  Args:
    path: a video or a still, told apart by the file's suffix.
    allow_flat: keep what decodes but is no panorama.
    on_frame: called once per decoded frame.
    flat: ordinary films are wanted: any video that decodes and shows something is good.

  Returns:
    The verdict; `ok` means it can go into a dataset.
  """
  path = Path(path)
  if flat:
    return _judge_flat(path, on_frame)
  if path.suffix.lower() in STILL_SUFFIXES:
    return _judge(_look_at_still(path), allow_flat)
  return _judge(_look_at_video(path, on_frame), allow_flat)


def read_still(path: str | Path) -> np.ndarray:
  """Reads a jpg or png as uint8 [H W 3] RGB.

  Raises:
    InputError: if it is missing, cut off or no image.
  """
  try:
    data = Path(path).read_bytes()
  except OSError as error:
    raise InputError(f"{path} cannot be read ({error.strerror})") from error
  # libjpeg fills what is missing with grey and reports success
  jpeg_cut = data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0
  png_cut = data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]
  if jpeg_cut or png_cut:
    raise InputError(f"{path} is cut off: its end is missing; get a whole copy")
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
  except cv2.error as error:
    raise InputError(f"{path} cannot be read as an image ({error.err})") from error
  if image is None:
    raise InputError(f"{path} cannot be read as an image: it is damaged or something else")
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclasses.dataclass
class _Looks:
  """Every stride-th frame, shrunk; the stride doubles when there are enough, so a video of any length gives 8 to 16."""

  frames: list[np.ndarray] = dataclasses.field(default_factory=list)
  stride: int = 1
  seen: int = 0

  def wants_next(self) -> bool:
    self.seen += 1
    return (self.seen - 1) % self.stride == 0

  def add(self, frame: np.ndarray) -> None:
    self.frames.append(frame)
    if len(self.frames) == _MAX_LOOKS:
      self.frames = self.frames[::2]
      self.stride *= 2


def _look_at_still(path: Path) -> tuple[Verdict, list[np.ndarray]]:
  found = Verdict(path, "still")
  try:
    image = read_still(path)
  except InputError as error:
    found.why = _without_name(error, path)
    return found, []
  found.height, found.width, found.frames = *image.shape[:2], 1
  return found, [video.resize(image, _look_size(*image.shape[:2]))]


def _look_at_video(path: Path, on_frame: Callable[[], None]) -> tuple[Verdict, list[np.ndarray]]:
  found, looks = Verdict(path, "video"), _Looks()
  try:
    info = video.probe(path)
    found.width, found.height, found.fps = info.width, info.height, info.fps
    for frame in video.decode(path):
      if looks.wants_next():
        looks.add(video.to_rgb(frame, _look_size(frame.height, frame.width)))
      on_frame()
  except InputError as error:
    found.frames = getattr(error, "frames", 0)
    found.why = _without_name(error, path)
    return found, []
  found.frames = looks.seen
  return found, looks.frames


def _judge(looked: tuple[Verdict, list[np.ndarray]], allow_flat: bool) -> Verdict:
  found, looks = looked
  if found.why:
    return found
  seams = [measured for measured in map(seam, looks) if measured]
  size = f"{found.width}x{found.height}"
  if not seams:
    found.why = _ONE_COLOUR
    return found
  found.seam = Seam(*np.median([(each.edge, each.limit) for each in seams], axis=0).tolist())
  shape = _shape(found.width, found.height)
  edges = f"edge difference {found.seam.edge:.1f}, a panorama of this sharpness has < {found.seam.limit:.1f}"
  advice = ("Give it to `panda generate --video` instead, or --allow-flat to keep it; --flat makes a dataset of "
            "ordinary films.")
  if shape and found.seam.joins and not _has_side_bars(looks):
    found.ok, found.verdict = True, "panorama"
    if shape == "16:9":
      found.why = f"is {size}: a 2:1 panorama stored as 16:9"
    return found
  found.verdict = "flat film" if found.kind == "video" else "flat picture"
  thing = "an ordinary film" if found.kind == "video" else "an ordinary picture"
  if not found.seam.joins:
    ratio = "" if shape == "2:1" else ", not 2:1,"
    found.why = (f"is {size}{ratio} and its left and right edges do not join ({edges}): it looks like {thing}. "
                 f"{advice}")
  elif shape:
    found.why = f"is {size} and has black bars at its sides: it looks like {thing}. {advice}"
  else:
    found.why = f"is {size}, not 2:1: it looks like {thing}, or a panorama of another kind. {advice}"
  if allow_flat:
    found.ok, found.why = True, f"is {size} and no panorama by its looks: kept, stretched to 2:1 (--allow-flat)"
  return found


def _judge_flat(path: Path, on_frame: Callable[[], None]) -> Verdict:
  if path.suffix.lower() in STILL_SUFFIXES:
    return Verdict(path, "still", verdict="picture", why="is a picture, and --flat keeps films only")
  found, looks = _look_at_video(path, on_frame)
  if found.why:
    return found
  if not any(map(seam, looks)):
    found.why = _ONE_COLOUR
    return found
  found.ok, found.verdict = True, "film"
  return found


def _look_size(h: int, w: int) -> tuple[int, int]:
  return min(h, _LOOK[0]), min(w, _LOOK[1])


def _shape(width: int, height: int) -> str | None:
  """"2:1" within 2 %, "16:9" within 1 %, None for anything else."""
  ratio = width / height
  if abs(ratio - 2) < 0.04:
    return "2:1"
  return "16:9" if abs(ratio - 16 / 9) < 0.02 else None


def _has_side_bars(looks: list[np.ndarray]) -> bool:
  """Whether the outermost columns are dark and even in every frame, so that they join without being neighbours."""
  return all(side.mean() < 24 and side.std() < 4 for look in looks for side in (look[:, :2], look[:, -2:]))


def _without_name(error: InputError, path: Path) -> str:
  return str(error).removeprefix(str(path)).strip()
