"""From verdicts to work: which frames become which clip, and which clips are written together.

A plan is a pure function of the verdicts and the options, so that every process, and every run after an interruption,
has the same one.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence

from panda_jax.data.checks import Verdict
from panda_jax.data.prepare.options import Options
from panda_jax.data.sources import Source
from panda_jax.data.stores import Store

# A still turns for 8 s at 6°/s: slow enough for a photograph's sharpness, 48 frames to train on and 16 (the longest
# matrix) to validate on at the default holdout.
STILL_FRAMES = 64
STILL_FPS = 8.0

# A unit is what one process writes at a time. Many small ones share out better and lose less when a run is stopped,
# few large ones make fewer files: about 64, of at least so many frames and at most so many bytes.
_UNITS = 64
_FEWEST_FRAMES = 256
_MOST_BYTES = 256 << 20
_BYTES_PER_PIXEL = 0.3                               # JPEG of quality 95; a rough guess will do


@dataclasses.dataclass(frozen=True)
class ClipPlan:
  """Frames of one source that become one clip.

  Attributes:
    id: of the clip.
    split: "train" or "validation".
    source: number of the source.
    fps: of the clip.
    start, ratio, skip, frames: it has the source's frames start + round(k ratio) for k = skip … skip + frames - 1.
    first: place of its first image among those of its split, in stores that keep images apart.
  """

  id: str
  split: str
  source: int
  fps: float
  start: int
  ratio: float
  skip: int
  frames: int
  first: int = 0

  def indices(self) -> list[int]:
    """The source's frames, in order."""
    return [self.start + int(k * self.ratio + 0.5) for k in range(self.skip, self.skip + self.frames)]


@dataclasses.dataclass(frozen=True)
class Unit:
  """Clips that one process writes at a time, into shards of their own; sources are never parted between units."""

  index: int
  clips: tuple[ClipPlan, ...]

  @property
  def frames(self) -> int:
    return sum(clip.frames for clip in self.clips)


def cut(frames: int, holdout: float, longest: int) -> list[tuple[str, int]]:
  """How a file's frames are shared out: (split, frames) of each clip, in order.

  The last `holdout` of the frames validate, unless that would leave one side empty. Each side is cut into clips of
  at most `longest` frames, as equal as can be, so that no clip of a few frames is left over.
  """
  held = round(frames * holdout)
  sides = [("train", frames - held), ("validation", held)] if 0 < held < frames else [("train", frames)]
  return [(split, count) for split, whole in sides for count in _pieces(whole, longest)]


def plan_clips(sources: Sequence[Source], verdicts: Sequence[Verdict], captions: Sequence[str], options: Options,
               store: Store | None) -> list[ClipPlan]:
  """Every clip of the dataset, in the order of the sources.

  Args:
    sources, verdicts, captions: one of each for every source; those that are not ok give no clips.
    options: of the run.
    store: None for pixels, whose images are in the clip records.
  """
  clips = [dataclasses.replace(clip, id=f"{source.id}_{index:03d}")
           for number, (source, verdict) in enumerate(zip(sources, verdicts, strict=True)) if verdict.ok
           for index, clip in enumerate(_clips_of(number, source, verdict, options))]
  return clips if store is None else place_images(clips, captions, store)


def place_images(clips: Sequence[ClipPlan], captions: Sequence[str], store: Store) -> list[ClipPlan]:
  """The clips with `first`: where each one's images begin among those of its split; `captions`: one for each source."""
  placed, ends = [], {}
  for clip in clips:
    first = ends.get(clip.split, 0)
    placed.append(dataclasses.replace(clip, first=first))
    variants = store.variants(clip.id, captions[clip.source])
    ends[clip.split] = first + clip.frames * len(variants) * store.views
  return placed


def plan_units(clips: Sequence[ClipPlan], options: Options) -> list[Unit]:
  """Clips in order, parted between sources where enough frames are together."""
  height, width = options.size
  most = max(1, int(_MOST_BYTES / (height * width * _BYTES_PER_PIXEL)))
  enough = min(most, max(_FEWEST_FRAMES, sum(clip.frames for clip in clips) // _UNITS))
  units, together, frames = [], [], 0
  for _, group in itertools.groupby(clips, lambda clip: clip.source):
    group = list(group)
    together += group
    frames += sum(clip.frames for clip in group)
    if frames >= enough:
      units.append(Unit(len(units), tuple(together)))
      together, frames = [], 0
  return units + ([Unit(len(units), tuple(together))] if together else [])


def kept(frames: int, ratio: float) -> int:
  """How many frames stay when only every ratio-th does (ratio >= 1, need not be whole)."""
  return sum(1 for _ in itertools.takewhile(lambda index: index < frames,
                                            (int(count * ratio + 0.5) for count in itertools.count())))


def _clips_of(number: int, source: Source, verdict: Verdict, options: Options) -> Iterator[ClipPlan]:
  if verdict.kind == "still":
    fps, ratio, shots = options.fps or STILL_FPS, 1.0, [(0, STILL_FRAMES)]
  else:
    fps = min(verdict.fps, options.fps or verdict.fps)      # frames are dropped, never made up
    ratio, shots = verdict.fps / fps, verdict.shots
  counts = [kept(stop - start, ratio) for start, stop in shots]
  for (start, _), shares in zip(shots, _shares(source, counts, options), strict=True):
    skip = 0
    for split, count in shares:
      yield ClipPlan("", split, number, fps, start, ratio, skip, count)
      skip += count


def _shares(source: Source, counts: Sequence[int], options: Options) -> list[list[tuple[str, int]]]:
  """For each shot of a file, (split, frames) of its clips."""
  longest = options.max_frames_per_clip
  if options.holdout_by == "files":
    # by the source's name, so that a file stays on its side when others come and go
    draw = int.from_bytes(hashlib.sha256(source.id.encode()).digest()[:8]) / 2**64
    split = "validation" if draw < options.holdout else "train"
    return [[(split, count) for count in _pieces(whole, longest)] for whole in counts]
  if len(counts) == 1:
    return [cut(counts[0], options.holdout, longest)]
  # Whole shots are held out: two halves of a scene are too much alike to be on both sides.
  before = [sum(counts[:index]) for index in range(1, len(counts))]
  wanted = (1 - options.holdout) * sum(counts)
  boundary = 1 + min(range(len(before)), key=lambda index: abs(before[index] - wanted)) if options.holdout else len(counts)
  return [[("train" if index < boundary else "validation", count) for count in _pieces(whole, longest)]
          for index, whole in enumerate(counts)]


def _pieces(frames: int, longest: int) -> list[int]:
  """Clips of at most `longest` frames, as equal as can be."""
  pieces = math.ceil(frames / longest)
  return [frames * (k + 1) // pieces - frames * k // pieces for k in range(pieces)]

