"""Scores of single clips, sorted by what they measure."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from panda_jax.evaluation.report.markup import Metric, number, safe

# What clips are ranked by, the first that there are scores of; scores against a reference come first.
PRIMARY = ("ws_psnr", "clip_score", "discontinuity_score")
SEAM = ("discontinuity_score", "seam_ratio", "end_continuity")


@dataclasses.dataclass(frozen=True)
class Series:
  """One metric in one variant on one surface.

  Attributes:
    metric, variant, surface: which.
    values: by method, then by clip.
    why: why there is no value, by method, then by clip.
  """

  metric: Metric
  variant: str
  surface: str
  values: dict[str, dict[str, float]]
  why: dict[str, dict[str, str]]

  @property
  def name(self) -> str:
    """Text that tells it from the others: "WS-PSNR, panorama"."""
    return f"{self.metric.title}, {self.surface}" if self.surface else self.metric.title

  def extremes(self, method: str, most: int) -> list[tuple[str, str]]:
    """The worst clips of a method and then its best ones, none twice: ("Worst" or "Best", clip id)."""
    ranked = sorted(self.values.get(method, {}).items(), key=lambda item: (-self.metric.badness(item[1]), item[0]))
    clips = [clip for clip, _ in ranked]
    few = min(most, (len(clips) + 1) // 2)
    best = clips[max(few, len(clips) - most):][::-1]
    return [*(("Worst", clip) for clip in clips[:few]), *(("Best", clip) for clip in best)]


def series_of(scores: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> list[Series]:
  """The series that have a value, in the order of the metrics and, within one, of the scores."""
  found: dict[tuple, Series] = {}
  for row in scores:
    key = row["metric"], row.get("variant") or "", row.get("surface") or ""
    series = found.setdefault(key, Series(metrics[key[0]], key[1], key[2], {}, {}))
    value = number(row.get("value"))
    place, content = (series.why, str(row.get("why") or "")) if value is None else (series.values, value)
    place.setdefault(row["method"], {})[row["clip_id"]] = content
  order = {key: index for index, key in enumerate(metrics)}
  return sorted((series for series in found.values() if series.values), key=lambda series: order[series.metric.key])


def chosen(series: Iterable[Series], keys: Sequence[str]) -> Series | None:
  """The series of the first of these metrics that there is, on the whole panorama if possible."""
  ranked = [one for one in series if one.metric.key in keys]
  return min(ranked, key=lambda one: (keys.index(one.metric.key), one.surface != "panorama"), default=None)


def clip_data(series: Sequence[Series], methods: Sequence[str], clips: Sequence[str]) -> dict[str, Any]:
  """What the page's table of single clips is made of, as JSON."""
  alike = collections.Counter(one.name for one in series)

  def column(one: Series, method: str) -> list[float | None]:
    values = one.values.get(method, {})
    return [round(values[clip], one.metric.digits + 2) if clip in values else None for clip in clips]

  return {
    "methods": list(methods), "clips": list(clips),
    "series": [{
      "name": f"{one.name}, {one.variant}" if alike[one.name] > 1 else one.name, "digits": one.metric.digits,
      "arrow": one.metric.arrow, "values": [column(one, method) for method in methods],
      "why": [{str(place): one.why[method][clip] for place, clip in enumerate(clips) if one.why[method].get(clip)}
              if method in one.why else {} for method in methods],
    } for one in series],
  }


def heading(series: Series, alone: bool) -> str:
  """HTML over a plot: the metric, and its variant where it is not the only one (`alone`) of its surface."""
  variant = "" if alone or not series.variant else f"<small>{safe(series.variant)}</small>"
  return f"{series.metric.heading}{variant}"
