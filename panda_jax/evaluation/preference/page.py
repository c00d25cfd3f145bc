"""Builds a study: the page that is handed out, and the key that is not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.resources
import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from panda_jax.data.clips import Clip, find_video
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.evaluation.preference.media import Copy, anonymous_copy
from panda_jax.evaluation.preference.trials import Pair, Study, Trial, write_key
from panda_jax.paths import written_whole

QUESTION = "Which video do you prefer?"
EMBEDDED = 200 << 20                   # bytes of all videos together that still go into the page itself
_CHUNK = 3 << 20                       # a multiple of 3, so that the pieces of base64 join without padding


def _quiet(description: str, total: int) -> AbstractContextManager:
  return contextlib.nullcontext(lambda: None)


def build_study(output: Path, methods: Mapping[str, Path], pairs: Sequence[Pair], seed: int,
                questions: Sequence[str] = (QUESTION,), ties: bool = False, conditions: Path | None = None,
                encode: bool = False, progress: Callable[..., AbstractContextManager] = _quiet,
                ) -> tuple[Study, Path, list[str]]:
  """Writes OUTPUT/index.html, if need be OUTPUT/media, and beside the folder OUTPUT.key.json.

  The same arguments and videos give the same bytes. Nothing in OUTPUT names a method, a clip or a file.

  Args:
    output: folder of the page; made if missing.
    methods: folders of videos by name.
    pairs: from `draw_pairs`.
    seed: of the names and the order of videos.
    questions: asked of each pair of videos, one after the other.
    ties: allow "cannot tell".
    conditions: a folder of videos named after their clips, shown above the pair.
    encode: see `anonymous_copy`.
    progress: called with a description and a number of steps, gives a context whose value is called after each.

  Returns:
    The study, the path of its key, and what the user should know, a line each.

  Raises:
    InputError: if a video cannot be shown, or OUTPUT.key.json is the key of another study.
  """
  output = output.resolve()
  if not output.name:
    raise InputError(f"--output {output} has no name that a key beside it could be called after: give one below it")
  if output.exists() and not output.is_dir():
    raise InputError(f"--output {printable(output)} is a file: give a folder")
  output.mkdir(parents=True, exist_ok=True)
  if strange := [path for path in output.rglob("*") if not re.fullmatch(r"index\.html|media(/m\d+\.js)?",
                                                                          path.relative_to(output).as_posix())]:
    raise InputError(f"--output {printable(output)} is to be handed out, and holds "
                     f"{printable(strange[0].relative_to(output))}, which is no part of a study: give a folder of its "
                     "own")
  with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.unfinished.") as folder:
    copies = _copy_all(methods, pairs, conditions, Path(folder), encode, progress)
    shown = {method: copy for method, copy in copies.items() if method[0] is not None}
    notes = list(_differences(pairs, shown))
    clips = {clip.id: clip for pair in pairs for clip in pair.clips}
    if conditions is not None:
      without = [clip for clip in clips if (None, clip) not in copies]
      if without:
        notes.append(f"{len(without)} of {len(clips)} clips have no video in {printable(conditions)} and are shown "
                     f"without one: {_some(without)}")
    study, names = _name(methods, pairs, copies, seed, questions, ties)
    key = output.with_name(f"{output.name}.key.json")
    write_key(key, study)
    _write_page(output, study, clips, names, copies)
  return study, key, notes


def _copy_all(methods: Mapping[str, Path], pairs: Sequence[Pair], conditions: Path | None, folder: Path,
              encode: bool, progress: Callable[..., AbstractContextManager]) -> dict[tuple[str | None, str], Copy]:
  """Copies of every video of the study by method and clip; the method of what is given is None."""
  wanted = dict.fromkeys((method, clip.id) for pair in pairs for clip in pair.clips for method in (pair.a, pair.b))
  sources: dict[tuple[str | None, str], Path] = {(m, clip): find_video(methods[m], clip) for m, clip in wanted}
  if conditions is not None:
    for clip in dict.fromkeys(clip for _, clip in wanted):
      if given := find_video(conditions, clip):
        sources[None, clip] = given
  copies = {}
  with progress("copying", total=len(sources)) as advance:
    for which, source in sources.items():
      copies[which] = anonymous_copy(source, folder / f"{len(copies)}.mp4", encode)
      advance()
  return copies


def _differences(pairs: Sequence[Pair], copies: Mapping[tuple[str, str], Copy]) -> Iterator[str]:
  """A line for every pair of methods whose videos differ in more than the pictures, or not at all."""
  for pair in pairs:
    two = {clip.id: (copies[pair.a, clip.id], copies[pair.b, clip.id]) for clip in pair.clips}
    unlike = [clip for clip, (a, b) in two.items() if a.shape != b.shape]
    if unlike:
      a, b = two[unlike[0]]
      yield (f"{printable(pair.a)} and {printable(pair.b)} differ in size, length or frame rate in {len(unlike)} of "
             f"{len(two)} clips, which gives them away: in {printable(unlike[0])}, {a.shape} and {b.shape}")
    same = [clip for clip, (a, b) in two.items() if a.digest == b.digest]
    if same:
      yield (f"{printable(pair.a)} and {printable(pair.b)} have the very same video in {len(same)} of {len(two)} "
             f"clips: {_some(same)}")


def _name(methods: Mapping[str, Path], pairs: Sequence[Pair], copies: Mapping[tuple[str | None, str], Copy], seed: int,
          questions: Sequence[str], ties: bool) -> tuple[Study, dict[tuple[str | None, str], str]]:
  """The study, and the name of each video: its place in a random order, so that it says nothing."""
  made_of = [seed, list(questions), ties, [[pair.a, pair.b, clip.id] for pair in pairs for clip in pair.clips],
             [copy.digest for copy in copies.values()]]
  identity = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
  rng = random.Random(f"names {seed} {identity}")
  order = list(copies)
  rng.shuffle(order)
  names = {which: f"m{index:0{len(str(len(order)))}d}" for index, which in enumerate(order)}
  compared = [(clip.id, rng.sample((names[pair.a, clip.id], names[pair.b, clip.id]), 2))
              for pair in pairs for clip in pair.clips]
  rng.shuffle(compared)
  trials = tuple(Trial(f"t{index:0{len(str(len(compared)))}d}", clip, (first, second))
                 for index, (clip, (first, second)) in enumerate(compared))
  media = {names[which]: which[0] for which in sorted(order, key=names.get) if which[0] is not None}
  return Study(identity, seed, tuple(questions), ties, tuple(methods), media, trials), names


def _write_page(output: Path, study: Study, clips: Mapping[str, Clip], names: Mapping[tuple[str | None, str], str],
                copies: Mapping[tuple[str | None, str], Copy]) -> None:
  embedded = sum(copy.path.stat().st_size for copy in copies.values()) <= EMBEDDED
  about = {
    "study": study.id,
    "questions": study.questions,
    "ties": study.ties,
    "embedded": embedded,
    "trials": [{"id": trial.id, "media": trial.media, "prompt": clips[trial.clip].prompt,
                "given": names.get((None, trial.clip))} for trial in study.trials],
  }
  folder = output / "media"
  if folder.exists():                                    # of an earlier study in this place; nothing else is in it
    shutil.rmtree(folder)
  videos = sorted((names[which], copy.path) for which, copy in copies.items())
  if not embedded:
    # Scripts and not mp4 files: pages opened from a disk may show a video file, but not draw it on a sphere.
    for name, path in videos:
      with written_whole(folder / f"{name}.js") as unfinished, open(unfinished, "wb") as script:
        script.write(f'video("{name}","'.encode())
        _write_base64(path, script)
        script.write(b'");\n')
  template = importlib.resources.files(__package__).joinpath("page.html").read_text("utf-8")
  with written_whole(output / "index.html") as unfinished, open(unfinished, "wb") as page:
    for index, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):       # text and names take turns
      if index % 2 == 0:
        page.write(part.encode())
      elif part == "study":
        page.write(json.dumps(about).replace("<", "\\u003c").encode())
      elif embedded:
        for name, path in videos:
          page.write(f'<script id="{name}" type="text/plain">'.encode())
          _write_base64(path, page)
          page.write(b"</script>\n")


def _write_base64(path: Path, target: BinaryIO) -> None:
  with open(path, "rb") as video:
    while chunk := video.read(_CHUNK):
      target.write(base64.b64encode(chunk))


def _some(names: Sequence[str], most: int = 5) -> str:
  shown = ", ".join(printable(name) for name in names[:most])
  return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
