"""Which videos are compared: clips are drawn, every pair of methods meets on them, and names are taken away."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from panda_jax.data.clips import Clip, find_video
from panda_jax.data.tables import printable
from panda_jax.errors import InputError

_FORMAT = "panda_jax preference key, version 1"


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two methods and the clips on which they are compared.

  Attributes:
    a, b: names of the methods; preferences are of a.
    clips: in the order in which they were drawn.
    lacking: clips that were left out, by the method that has no video of them.
  """

  a: str
  b: str
  clips: tuple[Clip, ...]
  lacking: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Trial:
  """One pair of videos of a clip.

  Attributes:
    id: says nothing.
    clip: its id.
    media: names of the two videos in random order.
  """

  id: str
  clip: str
  media: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Study:
  """What is needed to make sense of answers: the contents of the key.

  Attributes:
    id: answers carry it.
    seed: of the clips drawn, the names and the order of pairs.
    questions: asked of every trial, in this order.
    ties: whether "cannot tell" is an answer.
    methods: names, in the order in which tables have them.
    media: the method of each video, by name.
    trials: in random order.
  """

  id: str
  seed: int
  questions: tuple[str, ...]
  ties: bool
  methods: tuple[str, ...]
  media: Mapping[str, str]
  trials: tuple[Trial, ...]

  def sides(self, trial: Trial) -> tuple[str, str]:
    """The methods (a, b) that a trial compares, in the order of `methods`."""
    a, b = sorted((self.media[name] for name in trial.media), key=self.methods.index)
    return a, b


def draw_pairs(methods: Mapping[str, Path], clips: Sequence[Clip], count: int, seed: int) -> list[Pair]:
  """Draws the clips for every pair of methods.

  Clips are shuffled once, and each pair takes the first `count` that both have videos of: pairs share clips where they
  can, which makes their results comparable and the page smaller.

  Args:
    methods: folders of videos by name, at least two.
    clips: to choose from.
    count: how many clips a pair gets; fewer if there are no more.
    seed: of the draw.

  Raises:
    InputError: if two methods have no clip in common, or one has several videos of a clip.

  Source: VideoPanda §4.1, 20 videos for each comparison.
  """
  order = list(clips)
  random.Random(f"clips {seed}").shuffle(order)
  having = {name: {clip.id for clip in order if find_video(folder, clip.id)} for name, folder in methods.items()}
  pairs = []
  for a, b in itertools.combinations(methods, 2):
    both = [clip for clip in order if clip.id in having[a] and clip.id in having[b]]
    if not both:
      raise InputError(f"{printable(a)} and {printable(b)} have no clip in common, of {len(order)}: videos are matched "
                       "by name, METHOD/CLIP_ID.mp4")
    lacking = {name: tuple(clip.id for clip in clips if clip.id not in having[name]) for name in (a, b)}
    pairs.append(Pair(a, b, tuple(both[:count]), {name: ids for name, ids in lacking.items() if ids}))
  return pairs


def write_key(path: Path, study: Study) -> None:
  """Writes the key, without which answers mean nothing.

  Raises:
    InputError: if the key of another study is there, or the place cannot be written.
  """
  from panda_jax.paths import written_whole
  if path.exists():
    there = read_key(path)
    if there.id != study.id:
      raise InputError(f"{printable(path)} is the key of another study ({there.id}), whose answers cannot be read "
                       "without it: choose another --output, or delete it if nobody has taken part")
  content = {"format": _FORMAT, "note": "Says which method made which video: keep it away from participants.",
             **dataclasses.asdict(study)}
  with written_whole(path) as unfinished:
    unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_key(path: Path) -> Study:
  """Reads what `write_key` wrote.

  Raises:
    InputError: if it is missing, no key, or damaged.
  """
  try:
    content = json.loads(Path(path).read_text(encoding="utf-8"))
  except OSError as error:
    raise InputError(f"the key {printable(path)} cannot be read ({error.strerror}): give the file that panda study "
                     "wrote beside the folder of the page, DIR.key.json") from error
  except ValueError as error:
    raise InputError(f"{printable(path)} is not a key: it is damaged, or another file ({error})") from error
  if not isinstance(content, dict) or content.get("format") != _FORMAT:
    raise InputError(f"{printable(path)} is not a key of this version: give the DIR.key.json that panda study wrote")
  try:
    trials = tuple(Trial(str(trial["id"]), str(trial["clip"]), _two(trial["media"])) for trial in content["trials"])
    study = Study(str(content["id"]), int(content["seed"]), tuple(content["questions"]), bool(content["ties"]),
                  tuple(content["methods"]), dict(content["media"]), trials)
    for trial in trials:
      study.sides(trial)
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(f"the key {printable(path)} is damaged ({type(error).__name__}: {error}): get a whole copy, or "
                     "build the study again with the same arguments") from error
  return study


def _two(names: Sequence[str]) -> tuple[str, str]:
  first, second = names
  return str(first), str(second)
