"""Sentences for views that were written elsewhere, by people or by another program."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from panda_jax.captioning.clips import Clip
from panda_jax.captioning.fusion import tidy
from panda_jax.data.tables import read_table
from panda_jax.errors import InputError

Sentences = Mapping[str, Mapping[int, str]]
"""clip id -> yaw in degrees, as in `views.YAWS_DEG` -> sentence."""

_COLUMNS = ("id", "yaw_deg", "sentence")


def read_sentences(path: str | Path, clips: Sequence[Clip], yaws_deg: Sequence[int]) -> Sentences:
  """Reads sentences for the views of clips.

  Args:
    path: one of
      a csv file with a header that has `id,yaw_deg,sentence`; `id` is a clip's id or what names it in captions.csv,
      and other columns are ignored, so that views.csv of `panda caption --export` can be filled in;
      a txt file as 360DVD's scripts read it: the lines of a clip one after the other, in the order of its views,
      `name,sentence` or the sentence alone, clips in the order of the input;
      the .partial.jsonl of an earlier run.
    clips: what the rows may name; others are ignored.
    yaws_deg: of the views, in order.

  Returns:
    What was found; a view may lack its sentence.

  Raises:
    InputError: if the file cannot be read, lacks its columns, repeats a view, or has another number of lines.
  """
  path = Path(path)
  kind = path.suffix.lower()
  if kind not in (".txt", ".jsonl"):
    return _from_table(path, clips, yaws_deg)
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"the sentences {path} cannot be read ({error}): give a csv or txt file in UTF-8") from error
  return (_from_lines(path, text, clips, yaws_deg) if kind == ".txt" else _from_journal(text, clips, yaws_deg))


def _from_table(path: Path, clips: Sequence[Clip], yaws_deg: Sequence[int]) -> Sentences:
  table = read_table(path, [_COLUMNS], "sentences")
  by_name = {clip.file: clip.id for clip in clips} | {clip.id: clip.id for clip in clips}
  by_angle = {yaw % 360: yaw for yaw in yaws_deg}
  found: dict[str, dict[int, str]] = {}
  for row in table.rows:
    name, angle, sentence = (row[column] for column in _COLUMNS)
    try:
      yaw = by_angle.get(round(float(angle)) % 360)
    except (ValueError, OverflowError):
      raise InputError(f"line {row.line} of {path} has the yaw {angle!r}: give a number of degrees, one of "
                       f"{', '.join(map(str, yaws_deg))}") from None
    if name not in by_name or yaw is None or not tidy(sentence):
      continue
    if yaw in found.setdefault(by_name[name], {}):
      raise InputError(f"line {row.line} of {path} repeats {name} at {yaw} degrees: keep one of them")
    found[by_name[name]][yaw] = tidy(sentence)
  return found


def _from_lines(path: Path, text: str, clips: Sequence[Clip], yaws_deg: Sequence[int]) -> Sentences:
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  wanted = len(clips) * len(yaws_deg)
  if len(lines) != wanted:
    raise InputError(f"{path} has {len(lines)} lines, {len(clips)} clips of {len(yaws_deg)} views need {wanted}: one "
                     f"for each view in the order {', '.join(map(str, yaws_deg))} degrees, clips in the order of the "
                     "input")
  heads = [line.partition(",")[0] for line in lines]
  if all("," in line and not any(map(str.isspace, head)) for line, head in zip(lines, heads)):
    lines = [line.partition(",")[2].strip() for line in lines]      # "frames/100001/pers_0_90.png,a beach, with trees"
    _refuse_misplaced(path, heads, clips, len(yaws_deg))
  share = iter(lines)
  return {clip.id: {yaw: sentence for yaw in yaws_deg if (sentence := tidy(next(share)))} for clip in clips}


def _refuse_misplaced(path: Path, heads: Sequence[str], clips: Sequence[Clip], views: int) -> None:
  """InputError if a line's name speaks of another clip than the one whose turn it is."""
  ids = {clip.id for clip in clips}
  for number, head in enumerate(heads):
    place, expected = PurePosixPath(head), clips[number // views].id
    named = ids & {*place.parts, place.stem}
    if named and expected not in named:
      raise InputError(f"line {number + 1} of {path} speaks of {named.pop()}, it is the turn of {expected}: put the "
                       "clips in the order of the input, or give a csv table, whose order is free")


def _from_journal(text: str, clips: Sequence[Clip], yaws_deg: Sequence[int]) -> Sentences:
  ids, found = {clip.id for clip in clips}, {}
  for line in text.splitlines():
    try:
      entry = json.loads(line)
    except ValueError:                                # the last line of a run that was killed
      continue
    sentences = entry.get("sentences", ()) if isinstance(entry, dict) else ()
    if len(sentences) == len(yaws_deg) and entry.get("id") in ids:
      found[entry["id"]] = {yaw: sentence for yaw, sentence in zip(yaws_deg, sentences) if sentence}
  return found
