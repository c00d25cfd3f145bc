"""Reads the files that participants send back, and says of each what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.evaluation.preference.trials import Study, Trial

_FORMAT = "panda_jax preference answers, version 1"
_CHOICES = ("left", "right", "tie")


@dataclasses.dataclass(frozen=True)
class Answer:
  """One participant's answer to one question about one pair of videos.

  Attributes:
    participant: a name.
    clip: its id.
    a, b: the methods compared, in the order of the study's.
    question: index among the study's questions.
    chosen: the method a or b; None for "cannot tell".
    side: "left", "right" or "tie".
    seconds: for which the pair was in sight.
    watched: whether both videos were played to their ends.
  """

  participant: str
  clip: str
  a: str
  b: str
  question: int
  chosen: str | None
  side: str
  seconds: float
  watched: bool


@dataclasses.dataclass(frozen=True)
class Sheet:
  """The answers of one participant.

  Attributes:
    participant: a name.
    path: of the file.
    answers: as many as were given.
    expected: as many as were asked.
  """

  participant: str
  path: Path
  answers: tuple[Answer, ...]
  expected: int


def read_sheets(paths: Sequence[Path], study: Study) -> list[Sheet]:
  """Reads answer files; each stands for one participant.

  Files that hold fewer answers than were asked are fine: `Sheet.expected` tells.

  Args:
    paths: at least one.
    study: from the key.

  Raises:
    InputError: if a file is missing, damaged, holds no answers, or is of another study; or if two are of one
      participant. Nothing is left out on its own.
  """
  sheets: dict[str, Sheet] = {}
  for path in paths:
    sheet = _read_sheet(path, study)
    other = sheets.setdefault(sheet.participant.casefold(), sheet)
    if other is not sheet:
      raise InputError(f"{printable(other.path)} ({len(other.answers)} answers) and {printable(path)} "
                       f"({len(sheet.answers)} answers) are both by {printable(sheet.participant)}: give the one that "
                       "counts")
  return list(sheets.values())


def _read_sheet(path: Path, study: Study) -> Sheet:
  try:
    content = json.loads(Path(path).read_text(encoding="utf-8"))
  except OSError as error:
    raise InputError(f"the answers {printable(path)} cannot be read ({error.strerror}): give the files that "
                     "participants sent back") from error
  except (ValueError, RecursionError) as error:
    raise InputError(f"{printable(path)} is damaged, or no file of answers ({error}): have it sent again") from error
  if not isinstance(content, dict) or content.get("format") != _FORMAT:
    raise InputError(f"{printable(path)} is no file of answers of this version: give those that the page saved, "
                     "answers_NAME.json")
  if content.get("study") != study.id:
    raise InputError(f"{printable(path)} answers another study ({printable(str(content.get('study')))}, the key is of "
                     f"{study.id}): give its own key, or leave the file out")
  try:
    participant = content["participant"].strip()
    if not participant:
      raise ValueError("participant has no name")
    trials = {trial.id: trial for trial in study.trials}
    answers = tuple(_answer(entry, participant, trials, study) for entry in content["answers"])
    asked = [(entry["trial"], entry["question"]) for entry in content["answers"]]
    if twice := [which for index, which in enumerate(asked) if which in asked[:index]]:
      raise ValueError(f"trial {twice[0][0]} is answered twice")
  except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
    what = f"{error} is missing" if isinstance(error, KeyError) else error
    raise InputError(f"{printable(path)} is damaged ({what}): have it sent again, as the page saved it") from error
  if not answers:
    raise InputError(f"{printable(path)} holds no answers: leave it out")
  return Sheet(participant, path, answers, len(trials) * len(study.questions))


def _answer(entry: dict, participant: str, trials: dict[str, Trial], study: Study) -> Answer:
  if entry["trial"] not in trials:
    raise ValueError(f"there is no trial {entry['trial']!r}")
  trial, question, side = trials[entry["trial"]], entry["question"], entry["choice"]
  left, right, seconds, watched = entry["left"], entry["right"], entry["seconds"], entry["watched"]
  if sorted((left, right)) != sorted(trial.media):
    raise ValueError(f"trial {trial.id} does not show {left!r} and {right!r}")
  if type(question) is not int or not 0 <= question < len(study.questions):
    raise ValueError(f"trial {trial.id} has no question {question!r}")
  if side not in _CHOICES or (side == "tie" and not study.ties):
    raise ValueError(f"trial {trial.id} cannot be answered by {side!r}")
  if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf or not isinstance(watched, bool):
    raise ValueError(f"trial {trial.id} lasted {seconds!r} s, watched {watched!r}")
  chosen = None if side == "tie" else study.media[left if side == "left" else right]
  return Answer(participant, trial.clip, *study.sides(trial), question, chosen, side, float(seconds), watched)
