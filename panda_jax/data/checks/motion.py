"""What happens from frame to frame: shots, stillness, blackness. Every frame is shrunk to 64x32 cells of YUV.

Cuts. A frame starts a new shot if its mean difference to the one before is >= 5 levels and >= 3 times the fourth
largest among the eight frames before and the eight after: motion, however fast, lasts; a cut does not. The fourth,
because frames that a film repeats, flashes and other cuts may be near. The difference and that ratio, as measured:

  the three real clips, and 2, 4, 8 and 12 times as fast       above 5 levels the ratio is at most 2.3
  530 cuts between them (also 2 and 4 times as fast) and 15
  photographs that turn                                        13 levels …, ratio 3.7 …
  600 cuts between procedural worlds                           5.2 levels …, ratio 10 …

It is a flash and no cut if one of the five frames from here on is as one of the five before, within 0.5 of the change
(of the cuts: 0.71 …). A film that fades to black and comes back starts a new shot where it leaves black; black frames
are a shot that is left out. Cross-fades from one picture to another are not seen.

Stillness. A shot moves if at some moment more than 0.1 % of the cells differ from its first frame by more than 4 levels
and by more than 8 times the noise, which is the median change of the cells since the frame before. Procedural worlds
with nothing but a small balloon that moves: 0.4 % …; a picture under film grain of 8 levels: none.
"""

import collections
import dataclasses

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from panda_jax.data.checks.verdict import Thresholds

_CELLS = (32, 64)
_AROUND, _RANK = 8, 3                                 # frames on either side; the fourth largest change counts
_FLASH = 5                                            # frames
# one byte per sample and one plane per channel: shrunk as they lie, without a conversion
_PLANAR = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}


@dataclasses.dataclass
class Shot:
  """Frames [start, stop) between two cuts."""

  start: int
  stop: int = 0
  moves: bool = False
  black: bool = True                                  # all of it

  @property
  def lives(self) -> bool:
    """There is something in it to learn from."""
    return self.moves and not self.black


class Motion:
  """Takes a film's frames one by one; keeps a few small ones and a few numbers for each."""

  def __init__(self, thresholds: Thresholds):
    self.thresholds = thresholds
    self.shots: list[Shot] = []
    self.black_frames = 0
    self._shrink = Shrinker()
    self._changes: list[float] = []                   # of every frame to the one before
    self._dark: list[bool] = []
    self._recent: collections.deque[np.ndarray] = collections.deque(maxlen=_AROUND + _FLASH + 1)
    self._reference: np.ndarray | None = None
    self._decided = 0

  def add(self, frame: av.VideoFrame) -> None:
    """The next frame."""
    cells, floor = self._shrink(frame)
    bright = np.count_nonzero(cells[..., 0] > floor + self.thresholds.black_level)
    self._dark.append(bright <= 0.005 * _CELLS[0] * _CELLS[1])
    self._changes.append(_difference(cells, self._recent[-1]) if self._recent else 0.0)
    self._recent.append(cells)
    self.black_frames += self._dark[-1]
    if len(self._changes) > _AROUND:
      self._decide()

  def finish(self) -> None:
    """After the last frame: `shots` is complete."""
    while self._decided < len(self._changes):
      self._decide()
    if self.shots:
      self.shots[-1].stop = len(self._changes)

  def _decide(self) -> None:
    """Whether the oldest frame not yet placed starts a shot, and what it adds to its shot."""
    at = self._decided
    cells = self._frame(at)
    if at == 0 or self._is_cut(at) or self._leaves_or_enters_black(at):
      if self.shots:
        self.shots[-1].stop = at
      self.shots.append(Shot(at))
      self._reference = cells
    shot = self.shots[-1]
    shot.black = shot.black and self._dark[at]
    if not shot.moves and at > shot.start:
      noise = float(np.median(cv2.absdiff(cells, self._frame(at - 1))))
      level = max(self.thresholds.static_level, self.thresholds.static_noise * noise)
      changed = (cv2.absdiff(cells, self._reference) > level).any(-1)
      shot.moves = bool(changed.mean() > self.thresholds.static_share)
    self._decided += 1

  def _frame(self, index: int) -> np.ndarray:
    return self._recent[index - len(self._changes)]

  def _is_cut(self, at: int) -> bool:
    change = self._changes[at]
    if change < self.thresholds.cut_level:
      return False
    near = sorted(self._changes[max(1, at - _AROUND):at] + self._changes[at + 1:at + 1 + _AROUND], reverse=True)
    if near and change < self.thresholds.cut_ratio * near[min(_RANK, len(near) - 1)]:
      return False
    oldest = len(self._changes) - len(self._recent)
    before = range(max(oldest, at - _FLASH), at)
    after = range(at, min(len(self._changes), at + _FLASH))
    nearest = min(_difference(self._frame(i), self._frame(j)) for i in before for j in after)
    return nearest >= self.thresholds.cut_return * change

  def _leaves_or_enters_black(self, at: int) -> bool:
    run = self.thresholds.black_run
    leaves = not self._dark[at] and at >= run and all(self._dark[at - run:at])
    ahead = self._dark[at:at + run]
    return leaves or (not self._dark[at - 1] and len(ahead) == run and all(ahead))


class Shrinker:
  """Frames as cells: uint8 [32 64 3] YUV, and the luma that is black in them."""

  def __init__(self):
    self._reformatter = VideoReformatter()            # keeps its tables from frame to frame

  def __call__(self, frame: av.VideoFrame) -> tuple[np.ndarray, int]:
    black = black_luma(frame)
    if frame.format.name not in _PLANAR:
      frame = self._reformatter.reformat(frame, width=_CELLS[1], height=_CELLS[0], format="yuv444p",
                                         dst_color_range=ColorRange.MPEG, interpolation=Interpolation.AREA)
      black = 16
    return cv2.merge([_shrink(samples(frame, plane)) for plane in range(3)]), black


def brightest_rows(frame: av.VideoFrame) -> np.ndarray:
  """[H] the brightest of 128 cells of each row, luma from 0 to 255 where 0 is black."""
  black = black_luma(frame)
  if frame.format.name not in _PLANAR:
    frame, black = frame.reformat(format="yuv444p", dst_color_range=ColorRange.MPEG), 16
  luma = samples(frame, 0)
  rows = cv2.resize(luma, (min(128, luma.shape[1]), luma.shape[0]), interpolation=cv2.INTER_AREA).max(1).astype(float)
  return (rows - black) * (255 / 219 if black else 1)


def samples(frame: av.VideoFrame, plane: int) -> np.ndarray:
  """One plane of a frame with one byte per sample: uint8 [h w], the frame's own memory."""
  plane = frame.planes[plane]
  return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:plane.height, :plane.width]


def black_luma(frame: av.VideoFrame) -> int:
  """The luma of black: 0 of full range, else 16."""
  return 0 if frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj") else 16


def _shrink(plane: np.ndarray) -> np.ndarray:
  step = max(1, plane.shape[0] // (4 * _CELLS[0]))    # some lines of each cell say enough, and large frames are slow
  return cv2.resize(plane[::step], _CELLS[::-1], interpolation=cv2.INTER_AREA)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
  return float(cv2.absdiff(one, other).mean())
