"""Plots as inline SVG: differences with their intervals, and where the clips of each method lie.

Colours and letters come from the page's style, so that a plot follows its light and its dark form.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence

import numpy as np

from panda_jax.evaluation.report.markup import COLOURS, Metric, count, safe

_NAME = 126                                           # pixels for the names of methods
_LETTERS = 16                                         # of a name that fit there
_AXIS = 22                                            # pixels for the numbers under a plot
_BOX = 22                                             # height of the box of quartiles
_FEWEST = 5                                           # clips that have quartiles worth a box


@dataclasses.dataclass(frozen=True)
class Difference:
  """A method's paired difference to a baseline; `colour` is the method's number."""

  method: str
  colour: int
  value: float
  low: float | None
  high: float | None
  clips: int

  @property
  def clear(self) -> bool:
    """Whether the interval excludes zero."""
    return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclasses.dataclass(frozen=True)
class Group:
  """The clips of a method: their positions in the list of clips, their ids and their values."""

  method: str
  colour: int
  numbers: Sequence[int]
  clips: Sequence[str]
  values: Sequence[float]


def forest(metric: Metric, differences: Sequence[Difference], width: int = 560) -> str:
  """Differences to the baseline, one line each, with the interval and zero marked.

  An interval that excludes zero is drawn full and in bold, as better or worse where the metric has a direction.

  Args:
    metric: which, for its digits and its direction.
    differences: one per method.
    width: pixels.

  Returns:
    An <svg> element.
  """
  row, text = 24, 172
  ends = [end for item in differences for end in (item.value, item.low, item.high) if end is not None]
  scale = _Scale(min(0.0, *ends), max(0.0, *ends), _NAME, width - text - 12)
  height = row * len(differences)
  parts = [*scale.lines(height), f'<line class="zero" x1="{scale(0)}" x2="{scale(0)}" y1="0" y2="{height}"/>']
  for index, item in enumerate(differences):
    y = row * index + row / 2
    kind = _kind(metric, item)
    parts.append(f'<g class="difference {kind}"><title>{safe(item.method)}, {count(item.clips, "clip")}</title>')
    parts.append(_label(item.method, y))
    shown = metric.show(item.value)
    if item.low is not None and item.high is not None:
      parts.append(f'<line x1="{scale(item.low)}" x2="{scale(item.high)}" y1="{y:g}" y2="{y:g}"/>')
      shown += f" [{metric.show(item.low)}, {metric.show(item.high)}]"
    parts.append(f'<circle cx="{scale(item.value)}" cy="{y:g}" r="4"/><text x="{width}" y="{y + 4:g}" '
                 f'class="end">{shown}</text></g>')
  return _svg(width, height + _AXIS, parts, f"differences in {metric.title}")


def strips(metric: Metric, groups: Sequence[Group], width: int = 380) -> str:
  """A point for every clip and a box of the quartiles for every method, on one axis.

  A clip lies at the same height within the band of each method, in every plot.

  Args:
    metric: which.
    groups: one per method; at least one value in all.
    width: pixels.

  Returns:
    An <svg> element; every circle has its clip as <title>, and its position among the clips as data-c.
  """
  band = 36
  values = [value for group in groups for value in group.values]
  radius = 2 if len(values) > 50 * len(groups) else 3
  scale = _Scale(min(values), max(values), _NAME, width - 10)
  height = band * len(groups)
  parts = scale.lines(height)
  for index, group in enumerate(groups):
    middle = band * index + band / 2
    points = [f'<circle data-c="{number}" cx="{scale(value)}" cy="{middle + _jitter(clip) * 10:.1f}" r="{radius}">'
              f"<title>{safe(clip)}: {metric.show(value)}</title></circle>"
              for number, clip, value in zip(group.numbers, group.clips, group.values, strict=True)]
    behind, before = _box(metric, group, scale, middle) if len(group.values) >= _FEWEST else ("", "")
    parts += [f'<g class="m{group.colour % COLOURS}">{_label(group.method, middle)}', behind, *points, before, "</g>"]
  return _svg(width, height + _AXIS, parts, f"{metric.title} of the clips")


def _box(metric: Metric, group: Group, scale: _Scale, y: float) -> tuple[str, str]:
  """What is drawn behind the points of a method and what before them: quartiles, and the median."""
  low, first, median, third, high = np.percentile(group.values, [5, 25, 50, 75, 95])
  top, bottom = f"{y - _BOX / 2:g}", f"{y + _BOX / 2:g}"
  width = max(scale(third) - scale(first), 0.5)
  return (
    f'<line class="whisker" x1="{scale(low)}" x2="{scale(high)}" y1="{y:g}" y2="{y:g}"/>'
    f'<rect class="box" x="{scale(first)}" y="{top}" width="{width:.1f}" height="{_BOX}"/>',
    f'<line class="median" x1="{scale(median)}" x2="{scale(median)}" y1="{top}" y2="{bottom}">'
    f"<title>median {metric.show(median)}, {count(len(group.values), 'clip')}</title></line>")


class _Scale:
  """Values to pixels from `left` to `right`, and the marks of the axis."""

  def __init__(self, low: float, high: float, left: float, right: float):
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
      pad = abs(high) * 0.05 or 0.5
      low, high = low - pad, high + pad
    pad = (high - low) * 0.04
    self.low, self.high, self.left, self.right = low - pad, high + pad, left, right

  def __call__(self, value: float) -> float:
    return round(float(self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)), 1)

  def lines(self, height: float) -> list[str]:
    parts = []
    for value, text in ticks(self.low, self.high):
      x = self(value)
      parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height:g}"/>'
                   f'<text class="tick" x="{x}" y="{height + 15:g}">{text}</text>')
    return parts


def ticks(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
  """Round values between two ends, at most `most`, and how they are written."""
  rough = (high - low) / most
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  digits = max(0, -math.floor(math.log10(step) + 1e-9))
  return [(n * step, f"{n * step + 0.0:.{digits}f}") for n in range(first, last + 1)]


def _kind(metric: Metric, item: Difference) -> str:
  if not item.clear:
    return "unclear"
  if metric.better not in ("higher", "lower"):          # nearer to 1 or to 0: the sign does not say which it is
    return "clear"
  return "clear better" if (item.value > 0) == (metric.better == "higher") else "clear worse"


def _label(name: str, y: float) -> str:
  short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
  return f'<text class="name" x="{_NAME - 12}" y="{y + 4:g}">{safe(short)}<title>{safe(name)}</title></text>'


def _jitter(clip: str) -> float:
  """From -1 to 1, the same for a clip wherever it comes."""
  return zlib.crc32(clip.encode("utf-8", "surrogatepass")) / 0xFFFFFFFF * 2 - 1


def _svg(width: int, height: float, parts: Sequence[str], label: str) -> str:
  return (f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{safe(label)}">\n' + "\n".join(parts)
          + "\n</svg>")
