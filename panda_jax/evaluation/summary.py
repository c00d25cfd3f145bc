"""From what was measured of clips to the tables that are published: means, distances, intervals and paired differences."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

import panda_jax
from panda_jax.data.clips import TRUTH, Clip
from panda_jax.errors import InputError
from panda_jax.evaluation.catalogue import LeftOut, Metric
from panda_jax.evaluation.frechet import frechet_by_groups, jackknife_error
from panda_jax.evaluation.intervals import NONE, Interval, bootstrap_mean, normal_interval
from panda_jax.evaluation.job import Job, Problem, Result, results
from panda_jax.evaluation.measure import CUBEMAP
from panda_jax.evaluation.protocol import PANORAMA, said_views

_SIDES = 4                                            # of a cubemap rig: front, right, back, left, then up and down
_RANDOM = "random features: NOT comparable with any published number"


@dataclasses.dataclass(frozen=True)
class _Scored:
  """One method's results, clip by clip in the order of the benchmark."""

  name: str
  clips: list[tuple[Clip, Result]]

  @property
  def usable(self) -> list[tuple[Clip, Result]]:
    return [(clip, result) for clip, result in self.clips if result.problem is None]


def summarise(job: Job, metrics: Sequence[Metric], left_out: Iterable[LeftOut], *, baseline: str | None = None,
              source: str = "", inputs: dict[str, str] | None = None, command: str = "") -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """All tables of a job that is complete.

  Args:
    job: what was measured.
    metrics: those that were taken.
    left_out: those that were not, and why.
    baseline: the method that the others are compared with; the first one by default.
    source: of the clips.
    inputs: how images reach each network, in words.
    command: that made it.

  Returns:
    summary.json's content, and the rows of scores.csv.

  Raises:
    InputError: if not everything is measured yet, or nothing could be.
  """
  scored = {name: _Scored(name, list(results(job, name))) for name in job.named}
  if not any(scored[name].usable for name in job.methods):
    problems = [result.problem for name in job.methods for _, result in scored[name].clips if result.problem]
    raise InputError(f"none of the {len(problems)} videos could be compared: {problems[0].sentence}")
  table = _Table(job, inputs or {})
  rows, per_clip = [], []
  for metric in metrics:
    for surface in surfaces_of(metric, job.protocol.surfaces):
      values = {name: _values(method, metric, surface) for name, method in scored.items()
                if not (metric.truth and name == TRUTH)}
      for name, of_clips in values.items():
        rows += table.rows(metric, surface, scored[name], of_clips, scored.get(TRUTH))
        if not metric.of_a_set:
          per_clip += table.per_clip(metric, surface, scored[name], of_clips)
  baseline = baseline or next(iter(job.methods))
  protocol = job.protocol.described()
  summary = {
      "protocol": protocol,
      "networks": {kind: {"file": weights.file, "sha256": weights.sha256, "input": (inputs or {}).get(kind, "")}
                   for kind, weights in job.weights.items()},
      "metrics": {table.name(metric): table.described(metric) for metric in metrics},
      "clips": {"source": source, "count": len(job.clips),
                "splits": dict(Counter(clip.split for clip in job.clips if clip.split))},
      "methods": {name: _counts(job, method) for name, method in scored.items()},
      "baseline": baseline,
      "rows": rows,
      "differences": [row for metric in metrics for row in _differences(table, metric, scored, baseline)],
      "problems": [dataclasses.asdict(problem) for problem in _problems(scored.values())],
      "left_out": [dataclasses.asdict(entry) for entry in left_out],
      "made_with": {"panda_jax": panda_jax.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind,
                    "command": command, "date": datetime.date.today().isoformat()}}
  return summary, per_clip


def surfaces_of(metric: Metric, surfaces: Sequence[str]) -> list[str]:
  """Where a metric is taken: on the panorama, or on every surface."""
  if metric.on == "both":
    return list(surfaces)
  return [PANORAMA] if metric.on == "file" or metric.name == "omni_fid" or PANORAMA in surfaces else []


class _Table:
  """Makes rows, each with all of the protocol that its number depends on."""

  def __init__(self, job: Job, inputs: dict[str, str]):
    self.job, self.protocol, self.inputs = job, job.protocol, inputs
    self._described = job.protocol.described()
    self._found: dict[tuple, tuple[float, np.ndarray] | None] = {}     # distances, which take minutes

  def name(self, metric: Metric) -> str:
    return f"random_{metric.name}" if self._random(metric) else metric.name

  def described(self, metric: Metric) -> dict[str, Any]:
    title = f"{metric.title} of random features" if self._random(metric) else metric.title
    digits = 5 if self._random(metric) else metric.digits               # their distances have any scale
    return {"title": title, "unit": metric.unit, "better": metric.better, "digits": digits,
            "definition": metric.definition, "variant": self._variant(metric)}

  def rows(self, metric: Metric, surface: str, method: _Scored, values: dict[str, float], truth: _Scored | None) -> list:
    """One row over all clips, and one for each split if there are several."""
    splits = sorted({clip.split for clip in self.job.clips})
    rows = []
    for split in ["", *splits] if len(splits) > 1 else [""]:
      usable = [(clip, result) for clip, result in method.usable if split in ("", clip.split)]
      if metric.of_a_set:
        value, interval, clips, items, note = self._distance(metric, surface, usable, truth)
      else:
        chosen = [values[clip.id] for clip, _ in usable if clip.id in values]
        value, clips, note = (float(np.mean(chosen)) if chosen else None), len(chosen), ""
        interval = self._interval(chosen)
        items = clips * (1 if metric.on == "file" else self.protocol.frames * self._views(surface))
        if chosen and clips < len(usable):
          note = f"{len(usable) - clips} of {len(usable)} clips have no value"
      rows.append({"method": method.name, "metric": self.name(metric), "surface": surface, "split": split,
                   "value": value, "low": interval[0], "high": interval[1], "clips": clips, "items": items,
                   **self.stamp(metric, surface, method), "note": note})
    return rows

  def per_clip(self, metric: Metric, surface: str, method: _Scored, values: dict[str, float]) -> list[dict[str, Any]]:
    """The rows of scores.csv: every clip, also those without a value."""
    stamp = self.stamp(metric, surface, method)
    rows = []
    for clip, result in method.clips:
      why = result.problem.kind if result.problem else result.why.get((metric.name, surface), "")
      if not why and clip.id not in values:
        why = "the clip has no true video"
      rows.append({"method": method.name, "clip_id": clip.id, "split": clip.split, "metric": self.name(metric),
                   "surface": surface, "value": values.get(clip.id), "why": why,
                   **stamp, "fps": self.protocol.fps or result.about.get("fps", "")})
    return rows

  def stamp(self, metric: Metric, surface: str, method: _Scored) -> dict[str, Any]:
    """The protocol of one number."""
    protocol, weights = self.protocol, self.job.weights.get(metric.network)
    rates = {round(result.about["fps"], 3) for _, result in method.usable}
    whole = metric.on == "file"
    return {"variant": self._variant(metric), "frames": "all" if whole else protocol.frames,
            "fps": protocol.fps or (rates.pop() if len(rates) == 1 else "mixed" if rates else ""),
            "stride": 1 if whole else protocol.stride, "start": 0 if whole else protocol.start,
            "height": protocol.height, "width": 2 * protocol.height, "resize": self._described["resize"],
            "views": said_views(self._described, surface), "network": weights.file if weights else "",
            "sha256": weights.sha256 if weights else "", "network_input": self.inputs.get(metric.network, ""),
            "normaliser": protocol.normaliser if metric.of_a_set else ""}

  def difference(self, metric: Metric, surface: str, method: _Scored, other: _Scored,
                 truth: _Scored | None) -> dict[str, Any] | None:
    """Method less other, over the clips that both have; None where these are none."""
    if metric.of_a_set:
      common = _common(method.usable, other.usable, truth)
      found = [self._distances([(m[which], t) for *m, t in common], metric, surface) for which in (0, 1)]
      if None in found:
        return None
      (mine, mine_without), (theirs, theirs_without) = found
      value, clips = mine - theirs, len(common)
      interval = self._spread(value, mine_without - theirs_without)
    else:
      mine, theirs = (_values(x, metric, surface) for x in (method, other))
      chosen = [mine[name] - theirs[name] for name in mine if name in theirs]
      if not chosen:
        return None
      value, clips, interval = float(np.mean(chosen)), len(chosen), self._interval(chosen)
    return {"metric": self.name(metric), "surface": surface, "method": method.name, "baseline": other.name,
            "value": value, "low": interval[0], "high": interval[1], "clips": clips}

  def _distance(self, metric: Metric, surface: str, usable: list,
                truth: _Scored | None) -> tuple[float | None, Interval, int, int, str]:
    """Value, interval, clips, images or videos on either side, and a remark."""
    pairs = [(made, true) for made, _, true in _common(usable, usable, truth)]
    found = self._distances(pairs, metric, surface)
    if found is None:
      return None, NONE, len(pairs), 0, "too few clips for a distance"
    images, dimensions = pairs[0][0].features(metric.network, _kept_of(metric, surface)).shape
    items = len(pairs) * (self.protocol.frames if metric.name == "omni_fid" else images)
    note = "" if items > dimensions else (f"{items} features of {dimensions} dimensions: far above its value for many, "
                                          "comparable with equal numbers alone")
    low, high = self._spread(*found)
    return found[0], (None if low is None else max(low, 0.0), high), len(pairs), items, note

  def _distances(self, pairs: list[tuple[Result, Result]], metric: Metric,
                 surface: str) -> tuple[float, np.ndarray] | None:
    """The metric of pairs of a made and a true clip, and without each group of them; None for too few."""
    key = metric.name, surface, tuple(made.place for made, _ in pairs)
    if key not in self._found:
      self._found[key] = self._measured_distances(pairs, metric, surface)
    return self._found[key]

  def _measured_distances(self, pairs: list[tuple[Result, Result]], metric: Metric,
                          surface: str) -> tuple[float, np.ndarray] | None:
    least, groups = self._least(metric, surface), min(self.protocol.groups, len(pairs))
    if not pairs or (self.protocol.normaliser == "n-1" and len(pairs) * least < 2):
      return None
    if (len(pairs) - -(-len(pairs) // groups)) * least < 2:
      groups = 1                                      # without a group there would be no distance
    of = lambda side, part: (part(pair[side].features(metric.network, _kept_of(metric, surface)), self.protocol.frames)
                             for pair in pairs)
    found = [frechet_by_groups(of(0, part), of(1, part), len(pairs), self.protocol.normaliser, groups)
             for part in ((_up, _down, _sides) if metric.name == "omni_fid" else (_all,))]
    return float(np.mean([distance for distance, _ in found])), np.mean([without for _, without in found], axis=0)

  def _least(self, metric: Metric, surface: str) -> int:
    """How many features of a clip are in one set."""
    if metric.name == "omni_fid":
      return self.protocol.frames
    return self._views(surface) * (1 if metric.network == "i3d" else self.protocol.frames)

  def _spread(self, value: float, without: np.ndarray) -> Interval:
    """An interval by the jackknife; none where nothing was left out, or what was left was too little."""
    if not without.size:
      return NONE
    return normal_interval(value, jackknife_error(without), self.protocol.confidence)

  def _interval(self, values: Sequence[float]) -> Interval:
    protocol = self.protocol
    return bootstrap_mean(values, samples=protocol.samples, confidence=protocol.confidence, seed=protocol.seed)

  def _views(self, surface: str) -> int:
    rig = self.protocol.rig(surface)
    return 1 if rig is None else len(rig)

  def _random(self, metric: Metric) -> bool:
    return bool(metric.network) and self.job.weights[metric.network].random

  def _variant(self, metric: Metric) -> str:
    return f"{_RANDOM}; {metric.variant}" if self._random(metric) else metric.variant


def _kept_of(metric: Metric, surface: str) -> str:
  """The surface whose features a distance is made of."""
  return CUBEMAP if metric.name == "omni_fid" else surface


def _all(features: np.ndarray, frames: int) -> np.ndarray:
  return features


def _up(features: np.ndarray, frames: int) -> np.ndarray:
  return features[_SIDES * frames:(_SIDES + 1) * frames]


def _down(features: np.ndarray, frames: int) -> np.ndarray:
  return features[(_SIDES + 1) * frames:]


def _sides(features: np.ndarray, frames: int) -> np.ndarray:
  """The mean over the four side faces of each frame: Christensen et al. 2024, OmniFID."""
  return features[:_SIDES * frames].reshape(_SIDES, frames, -1).mean(0)


def _values(method: _Scored, metric: Metric, surface: str) -> dict[str, float]:
  values = {clip.id: result.values.get((metric.name, surface)) for clip, result in method.usable}
  return {clip: value for clip, value in values.items() if value is not None}


def _common(mine: list, theirs: list, truth: _Scored | None) -> list[tuple[Result, Result, Result]]:
  """(mine, theirs, true) of the clips that all three have, in their order."""
  if truth is None:
    return []
  others, true = ({clip.id: result for clip, result in clips} for clips in (theirs, truth.usable))
  return [(result, others[clip.id], true[clip.id]) for clip, result in mine if clip.id in others and clip.id in true]


def _differences(table: _Table, metric: Metric, scored: dict[str, _Scored], baseline: str) -> list[dict[str, Any]]:
  found = [table.difference(metric, surface, method, scored[baseline], scored.get(TRUTH))
           for surface in surfaces_of(metric, table.protocol.surfaces)
           for name, method in scored.items() if name not in (baseline, TRUTH)]
  return [row for row in found if row is not None]


def _counts(job: Job, method: _Scored) -> dict[str, Any]:
  missing = sum(result.problem is not None and result.problem.kind == "missing" for _, result in method.clips)
  usable = len(method.usable)
  return {"folder": "" if method.name == TRUTH else str(job.methods[method.name]), "scored": usable, "missing": missing,
          "unusable": len(method.clips) - usable - missing}


def _problems(scored: Iterable[_Scored]) -> Iterable[Problem]:
  for method in scored:
    for clip, result in method.clips:
      if result.problem:
        yield result.problem
      elif result.about.get("one_colour"):
        yield Problem(method.name, clip.id, "one colour", "every frame is of one colour; it is scored like any other")
