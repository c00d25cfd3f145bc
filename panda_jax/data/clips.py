"""Where clips and their videos lie: a table of clips, and a folder per method.

  clips/master.csv                  clip_id, and any of split, prompt (or caption, or caption_path), video_path
  generated/METHOD/CLIP_ID.mp4      or CLIP_ID_360.mp4, as `panda generate` names them, or CLIP_ID/video.mp4
  generated/METHOD/CLIP_ID_views.mp4     perhaps: the views that it was stitched from, side by side

This is the layout of PanoWorld's benchmark, so its 150 clips and the outputs of its baselines can be used as they are.
"::" in a clip's id is "__" in the name of its files, as there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from panda_jax.data.tables import first_of_each, printable, read_table
from panda_jax.errors import InputError

_ENDINGS = (".mp4", ".webm", ".mov", ".mkv")
_MARK = "_360"                                        # what `panda generate` ends its names with
VIEWS_MARK = "_views"                                 # and the names of the views that a panorama was stitched from
_PARTS = ".parts"                                     # and of folders with what is not finished
TRUTH = "reference"                                   # what the true videos are called among methods
_INSIDE = "video"                                     # METHOD/CLIP_ID/video.mp4
_PROMPTS = ("prompt", "caption", "caption_path")
_LENGTHS = ("long", "medium", "short")                # of PanoWorld's captions, the one to prefer first


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip of the benchmark.

  Attributes:
    id: unique.
    prompt: the text that it is generated from; empty if there is none.
    video: the true panorama; None if there is none, as for prompts that nobody filmed.
    split: what it is counted with; empty if the table has none.
  """

  id: str
  prompt: str = ""
  video: Path | None = None
  split: str = ""

  @property
  def name(self) -> str:
    """What its files are called, without an ending."""
    return file_name(self.id)


def file_name(clip_id: str) -> str:
  """Stem of a clip's files: "argus::0001" -> "argus__0001"."""
  return clip_id.replace("::", "__")


def read_clips(reference: str | os.PathLike) -> list[Clip]:
  """The clips of a benchmark, in the order of its table, or of their names.

  Args:
    reference: a csv file with the column clip_id; a folder that holds master.csv; or a folder of videos, which are named
      after their clips. Paths in a table are relative to it. A `caption_path` is a text file, or JSON with "long",
      "medium" or "short" at its top or one level below; the longest is taken.

  Raises:
    InputError: if there is no clip, an id comes twice or cannot be a file's name, or a caption that is named cannot be
      read. A video that the table names and that is not there is found out when it is read.
  """
  path = Path(reference)
  if path.is_dir():
    if (path / "master.csv").is_file():
      return _clips_of_table(path / "master.csv")
    return _clips_of_folder(path)
  return _clips_of_table(path)


def find_methods(generated: str | os.PathLike) -> dict[str, Path]:
  """The folders of the methods, by name and in the order of their names.

  Args:
    generated: a folder of folders of videos, or one such folder, whose name is then the method's.

  Raises:
    InputError: if it is no folder, holds no video, or holds both videos and folders of them.
  """
  path = Path(generated)
  if not path.is_dir():
    raise InputError(f"{printable(path)} {'is a file' if path.exists() else 'does not exist'}: give a folder that holds "
                     "a folder of videos for each method")
  below = {folder.name: folder for folder in sorted(path.iterdir()) if _is_folder(folder)}
  methods = {name: folder for name, folder in below.items() if videos_of(folder)}
  if any(_is_video(file) for file in path.iterdir()):
    with_own = [name for name, folder in methods.items() if any(map(_is_video, folder.iterdir()))]
    if with_own:
      raise InputError(f"{printable(path)} holds videos and also {printable(with_own[0])}/ with videos, so it is not "
                       "clear what a method is: give each method a folder of its own")
    return {path.resolve().name: path}
  if methods and all(set(videos_of(folder)) == {_INSIDE} for folder in methods.values()):
    return {path.resolve().name: path}                # METHOD itself was given, of the kind METHOD/CLIP_ID/video.mp4
  if not methods:
    raise InputError(f"{printable(path)} holds no videos: give a folder of the kind {printable(path.name)}/METHOD/"
                     f"CLIP_ID.mp4 (endings: {', '.join(_ENDINGS)})")
  return methods


def find_video(method: Path, clip_id: str) -> Path | None:
  """A method's video of a clip; None if there is none.

  Raises:
    InputError: if there are several.
  """
  name = file_name(clip_id)
  stems = (method / name, method / f"{name}{_MARK}", method / name / _INSIDE)
  found = [path for stem in stems for ending in _ENDINGS if (path := stem.with_name(stem.name + ending)).is_file()]
  if len(found) > 1:
    raise InputError(f"{printable(found[0])} and {printable(found[1])} are both videos of the clip "
                     f"{printable(clip_id)}: keep one of them")
  return found[0] if found else None


def videos_of(method: Path) -> dict[str, Path]:
  """The videos in a folder by the file names of their clips; a folder CLIP_ID/video.mp4 counts as one."""
  found = {}
  for path in sorted(method.iterdir()):
    if _is_video(path):
      found.setdefault(path.stem.removesuffix(_MARK), path)
    elif _is_folder(path):
      for ending in _ENDINGS:
        if (path / f"{_INSIDE}{ending}").is_file():
          found.setdefault(path.name, path / f"{_INSIDE}{ending}")
  return found


def views_of(video: Path) -> Path:
  """Where the views lie that a panorama was stitched from, if they were written: CLIP_views.mp4 beside it."""
  return video.with_name(f"{video.stem.removesuffix(_MARK)}{VIEWS_MARK}.mp4")


def clips_of_methods(methods: Mapping[str, Path]) -> list[Clip]:
  """The clips that at least one method has made: where there is no table and no truth."""
  return [Clip(name) for name in sorted({name for folder in methods.values() for name in videos_of(folder)})]


def parse_shard(text: str) -> tuple[int, int]:
  """"2/8" -> (2, 8): the third of eight parts.

  Raises:
    InputError: if it is no such thing.
  """
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or not int(match[1]) < int(match[2]):
    raise InputError(f"--shard {text}: give I/N with I from 0 to N - 1, such as 0/4 to 3/4 for four processes")
  return int(match[1]), int(match[2])


def unlisted(methods: Mapping[str, Path], clips: Iterable[Clip]) -> dict[str, list[str]]:
  """Videos that belong to no clip, by method: they are not evaluated, and that is to be said."""
  names = {clip.name for clip in clips}
  extra = {method: sorted(videos_of(folder).keys() - names) for method, folder in methods.items()}
  return {method: files for method, files in extra.items() if files}


def _clips_of_table(path: Path) -> list[Clip]:
  table = read_table(path, [("clip_id",)], "list of clips")
  rows, repeats = first_of_each(table.rows, "clip_id")
  if repeats:
    raise InputError(f"{printable(path)} has the clip {printable(repeats[0]['clip_id'])} twice, again in line "
                     f"{repeats[0].line}: give every clip an id of its own")
  if table.warnings:
    raise InputError(f"{table.warnings[0]}: mend the table, because a clip that is left out changes every mean")
  clips = []
  for row in rows:
    _check_id(row["clip_id"], f"{printable(path)}, line {row.line}")
    video = row.values.get("video_path", "")
    clips.append(Clip(row["clip_id"], _prompt(row.values, path, row.line), path.parent / video if video else None,
                      row.values.get("split", "")))
  return _required(clips, path)


def _clips_of_folder(path: Path) -> list[Clip]:
  videos = videos_of(path)
  prompts = {}
  if (path / "captions.csv").is_file():
    table = read_table(path / "captions.csv", [("file", "caption"), ("clip_id", "caption")], "captions")
    prompts = {_clip_of_file(row[table.layout[0]]): row["caption"] for row in table.rows}
    if lost := sorted(prompts.keys() - videos.keys()):
      raise InputError(f"{printable(path / 'captions.csv')} has a caption for {printable(lost[0])}, of which there is no "
                       "video beside it: remove the row, or use a master.csv")
  return _required([Clip(name, prompts.get(name, ""), video) for name, video in videos.items()], path)


def _clip_of_file(name: str) -> str:
  path = Path(name)
  return file_name(path.stem if path.suffix in _ENDINGS else name).removesuffix(_MARK)


def _required(clips: list[Clip], path: Path) -> list[Clip]:
  if not clips:
    raise InputError(f"{printable(path)} has no clips: give a csv file with the column clip_id, a folder that holds "
                     f"master.csv, or a folder of videos ({', '.join(_ENDINGS)})")
  names: dict[str, str] = {}
  for clip in clips:
    if (other := names.setdefault(clip.name, clip.id)) != clip.id:
      raise InputError(f"the clips {printable(other)} and {printable(clip.id)} of {printable(path)} would have files of "
                       "one name: rename one of them")
  return clips


def _check_id(clip_id: str, where: str) -> None:
  if not clip_id or clip_id.startswith(".") or any(letter in clip_id for letter in "/\\\0\n"):
    raise InputError(f"{where}: {printable(clip_id)!r} cannot be a clip's id, which names its files: use letters, digits, "
                     "_ and -")


def _prompt(values: Mapping[str, str], table: Path, line: int) -> str:
  column = next((name for name in _PROMPTS if values.get(name)), None)
  if column is None:
    return ""
  if column != "caption_path":
    return values[column]
  path = table.parent / values[column]
  try:
    text = path.read_text(encoding="utf-8")
    return _longest(json.loads(text)) if path.suffix == ".json" else text.strip()
  except (OSError, ValueError) as error:
    raise InputError(f"{printable(table)}, line {line}: the caption {printable(path)} cannot be read "
                     f"({getattr(error, 'strerror', None) or error}): mend the file or leave its column empty") from error


def _longest(content: object) -> str:
  """The caption in PanoWorld's JSON: {"long": …}, {"model": {"long": …}}, or a list of such."""
  if isinstance(content, str):
    return content.strip()
  if isinstance(content, list) and content:
    return _longest(content[0])
  places = [content, *content.values()] if isinstance(content, dict) else []
  for place in places:
    for length in _LENGTHS:
      text = place.get(length) if isinstance(place, dict) else None
      if isinstance(text, list) and text:
        text = text[0]
      if isinstance(text, str) and text.strip():
        return text.strip()
  raise ValueError(f"it has none of {', '.join(_LENGTHS)}")


def _is_video(path: Path) -> bool:
  named = path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and not path.stem.endswith(VIEWS_MARK)
  return named and path.is_file()


def _is_folder(path: Path) -> bool:
  return path.is_dir() and not path.name.startswith(".") and path.suffix != _PARTS
