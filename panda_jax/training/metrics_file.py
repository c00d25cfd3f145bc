"""Reading the metrics.jsonl of a run; without jax, so that a glance at many runs is quick."""

import json
import os

from panda_jax.paths import as_path

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: str | os.PathLike) -> list[dict]:
  """The lines of a metrics.jsonl, or [] where there is none. A last line cut short by a kill is left out."""
  path = as_path(path)
  if not path.exists():
    return []
  lines = []
  for text in path.read_text(encoding="utf-8").splitlines():
    try:
      lines.append(json.loads(text))
    except ValueError:
      break
  return lines
