"""The files of an evaluation: scores.csv, one number of one clip per row, and summary.json."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from panda_jax.errors import InputError
from panda_jax.paths import written_whole

COLUMNS = ("method", "clip_id", "split", "metric", "variant", "surface", "value", "why", "frames", "fps", "stride", "start",
           "height", "width", "resize", "views", "network", "sha256", "network_input")


def write_scores(path: Path, rows: Iterable[dict[str, Any]]) -> None:
  """Writes scores.csv whole; a number that is not there is an empty field."""
  with written_whole(path) as place, open(place, "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


def read_scores(path: Path) -> list[dict[str, Any]]:
  """The rows of scores.csv; `value` is a float or None.

  Raises:
    InputError: if it is no such file.
  """
  try:
    with open(path, encoding="utf-8", newline="") as file:
      rows = list(csv.DictReader(file))
  except OSError as error:
    raise InputError(f"{path} cannot be read ({error.strerror}): give the folder that `panda evaluate` wrote") from error
  if rows and not set(COLUMNS) <= rows[0].keys():
    raise InputError(f"{path} has other columns than the scores of an evaluation: run `panda evaluate` again")
  return [row | {"value": float(row["value"]) if row["value"] else None} for row in rows]


def write_summary(path: Path, summary: dict[str, Any]) -> None:
  """Writes summary.json whole."""
  with written_whole(path) as place:
    place.write_text(json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_summary(path: Path) -> dict[str, Any]:
  """summary.json.

  Raises:
    InputError: if it is no such file.
  """
  try:
    summary = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read ({error}): give the folder that `panda evaluate` wrote") from error
  if not isinstance(summary, dict) or "rows" not in summary:
    raise InputError(f"{path} is no summary of an evaluation: give the folder that `panda evaluate` wrote")
  return summary
