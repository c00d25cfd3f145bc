"""What the runs of a sweep have come to: read from their folders, compared in one table. Needs no jax."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import json

from etils import epath

from panda_jax import paths
from panda_jax.sweeps.points import Point
from panda_jax.training.config import CONFIG_FILE
from panda_jax.training.metrics_file import METRICS_FILE, read_metrics

SUMMARY_FILE = "summary.csv"
_MEASURES = ("steps", "loss_mean", "validation_loss", "best_validation_loss", "steps_per_second")


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run has come to.

  Attributes:
    state: "done", "failed", "unfinished", or "not begun".
    reason: why it failed, or "".
    measures: those of steps, loss_mean, validation_loss (both as last measured), best_validation_loss and
      steps_per_second that it has written.
  """
  state: str
  reason: str
  measures: dict[str, float]


def is_done(point: Point, folder: epath.Path) -> bool:
  """Whether the run in `folder`, a path, has trained its steps and exported its model as the point's config is now.

  `panda train` has the last word on whether a config may go on in a folder: wherever this one differs from the
  model's, other than in what has no bearing on what was trained, the answer is no.
  """
  lines = read_metrics(folder / METRICS_FILE)
  if not lines or lines[-1]["step"] < point.steps:
    return False
  try:
    exported = json.loads((folder / "model" / CONFIG_FILE).read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return False
  return _comparable(exported) == _comparable(point.plain)


def read_result(point: Point, folder: epath.Path, reason: str = "") -> Result:
  """The result of a point from its folder.

  Args:
    reason: why its process failed just now, if it did.
  """
  lines = read_metrics(folder / METRICS_FILE)
  last = {name: value for line in lines for name, value in line.items()}
  measures = {name: last[name] for name in _MEASURES if name in last}
  if lines:
    measures["steps"] = last["step"]
  if "validation_loss" in last:
    measures["best_validation_loss"] = min(line["validation_loss"] for line in lines if "validation_loss" in line)
  state = "failed" if reason else "done" if is_done(point, folder) else "unfinished" if lines else "not begun"
  return Result(state, reason, measures)


def write_summary(path: epath.Path, points: Sequence[Point], results: Mapping[str, Result]) -> None:
  """Writes the table as CSV: a line per point with all that it sets and all that it has measured.

  Args:
    results: name -> result, for every point.
  """
  keys, text = _keys(points), io.StringIO(newline="")
  table = csv.writer(text, lineterminator="\n")
  table.writerow(("name", "config", *keys, "state", *_MEASURES, "reason"))
  for point in points:
    result = results[point.name]
    table.writerow((point.name, point.config, *(point.values.get(key, "") for key in keys), result.state,
                    *(result.measures.get(name, "") for name in _MEASURES), result.reason))
  paths.write_text(path, text.getvalue())


def summary_rows(points: Sequence[Point], results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
  """The table for people: (columns, rows), without what all points have alike."""
  keys = [key for key in _keys(points) if len({str(point.values.get(key)) for point in points}) > 1]
  named = any(point.is_named for point in points) or not keys
  columns = ["name"] * named + [key.removeprefix("optimizer.").removeprefix("training.") for key in keys]
  rows = []
  for point in points:
    result = results[point.name]
    measured = [_text(name, result.measures[name]) if name in result.measures else "-" for name in _MEASURES]
    rows.append([point.name] * named + [str(point.values.get(key, "-")) for key in keys] + [result.state] + measured)
  return [*columns, "state", "steps", "loss mean", "validation loss", "best", "steps/s"], rows


def _keys(points: Sequence[Point]) -> list[str]:
  """The keys that any point sets, in the order in which they come up."""
  return list(dict.fromkeys(key for point in points for key in point.values))


def _text(name: str, value: float) -> str:
  return str(value) if name == "steps" else f"{value:.2f}" if name == "steps_per_second" else f"{value:.5f}"


def _comparable(config: dict) -> dict:
  """A config without the mesh, on which nothing trained depends, and the tokenizer's place, which an export changes."""
  model = dict(config.get("model", {}))
  if isinstance(model.get("text"), dict):
    model["text"] = {key: value for key, value in model["text"].items() if key != "tokenizer"}
  return {**config, "model": model, "mesh": None}
