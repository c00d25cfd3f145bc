"""Text and numbers as HTML.

Clip ids, prompts and file names are other people's: none of them reaches a page unescaped.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from panda_jax.data.tables import printable

NOTHING = "–"                                         # where there is no number
COLOURS = 8                                           # that methods have in the page's style; the last one is grey
_ARROWS = {"higher": "↑", "lower": "↓", "one": "→ 1", "zero": "→ 0"}


@dataclasses.dataclass(frozen=True)
class Metric:
  """How one metric is shown.

  Attributes:
    key: its name in summary.json.
    title: for people.
    unit: empty if it has none.
    better: "higher", "lower", "one", "zero", or empty if nobody says.
    digits: behind the decimal point.
    definition: one sentence.
  """

  key: str
  title: str
  unit: str = ""
  better: str = ""
  digits: int = 3
  definition: str = ""

  @property
  def arrow(self) -> str:
    """In which direction it gets better: "↑", "↓", "→ 1", "→ 0" or nothing."""
    return _ARROWS.get(self.better, "")

  @property
  def heading(self) -> str:
    """HTML of title, direction and unit."""
    marks = " ".join(filter(None, (self.arrow, safe(self.unit))))
    return safe(self.title) + (f' <span class="marks">{marks}</span>' if marks else "")

  def show(self, value: float | None) -> str:
    """The value with the metric's digits."""
    return NOTHING if value is None else f"{value:.{self.digits}f}"

  def badness(self, value: float) -> float:
    """What is smaller for a better value."""
    return {"higher": -value, "one": abs(value - 1), "zero": abs(value)}.get(self.better, value)


def metrics_of(summary: Mapping[str, Any]) -> dict[str, Metric]:
  """The metrics of a summary by key, in its order; those that only its rows name come last."""
  metrics = {}
  for key, about in summary.get("metrics", {}).items():
    metrics[key] = Metric(key, str(about.get("title") or key), str(about.get("unit") or ""),
                          str(about.get("better") or ""), int(about.get("digits", 3)),
                          str(about.get("definition") or ""))
  for row in (*summary.get("rows", ()), *summary.get("differences", ())):
    metrics.setdefault(row["metric"], Metric(row["metric"], row["metric"]))
  return metrics


def safe(value: object) -> str:
  """Anything as text in HTML: line breaks are blanks, and characters that cannot be seen are written out."""
  return html.escape(printable(" ".join(str(value).split())))


def number(value: object) -> float | None:
  """A number of a summary or a table of scores; None for an empty, infinite or undefined one."""
  if value is None or value == "" or isinstance(value, bool):
    return None
  value = float(value)
  return value if math.isfinite(value) else None


def count(n: int, noun: str) -> str:
  """ "1 clip", "2 clips"."""
  return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
  """A table of HTML cells, in a box that scrolls if it is wider than the page; the first column names the rows."""
  body = "\n".join(f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
                   for row in rows)
  head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
  return (f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
          f"<tbody>\n{body}\n</tbody></table></div>")


def folded(title: str, content: str, unfolded: bool = False) -> str:
  """HTML that is shown when its title is clicked, or from the start."""
  return f"<details{' open' if unfolded else ''}><summary>{title}</summary>\n{content}\n</details>"


def data_block(name: str, content: object) -> str:
  """JSON for the page's script; "<" is written so that nothing in it can end the element."""
  text = json.dumps(content, separators=(",", ":"), allow_nan=False)
  for letter in "<>&":
    text = text.replace(letter, f"\\u{ord(letter):04x}")
  return f'<script type="application/json" id="{name}">{text}</script>'


def method_name(name: str, index: int) -> str:
  """A method's name with its colour before it."""
  return f'<span class="method m{index % COLOURS}">{safe(name)}</span>'
