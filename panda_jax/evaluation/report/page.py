"""Writes report.html: one file that opens without a network, with tables, plots, videos and pictures inside."""

from __future__ import annotations

import base64
import collections
import hashlib
import importlib.resources
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panda_jax.data.clips import TRUTH
from panda_jax.evaluation.report import plots, tables
from panda_jax.evaluation.report.examples import Examples
from panda_jax.evaluation.report.markup import Metric, data_block, folded, metrics_of, number, safe
from panda_jax.evaluation.report.series import PRIMARY, SEAM, Series, chosen, clip_data, heading, series_of
from panda_jax.paths import written_whole


def write_report(path: str | os.PathLike, summary: Mapping[str, Any], scores: Sequence[Mapping[str, Any]],
                 video_of: Callable[[str, str], Path | None], reference_of: Callable[[str], Path | None],
                 prompt_of: Callable[[str], str], *, examples: int = 2) -> None:
  """Writes the report of an evaluation, whole or not at all.

  A video that has gone or got damaged since it was scored is named on the page, where it would be.

  Args:
    path: the HTML file.
    summary: as in summary.json: "protocol", "networks", "metrics", "clips", "methods", "rows", "differences",
      "problems", "left_out", "made_with"; any may be missing.
    scores: the rows of scores.csv; "value" may be a number, its text, or empty.
    video_of: (method, clip id) to the video that was scored; None if there is none.
    reference_of: clip id to the true panorama; None if there is none.
    prompt_of: clip id to its prompt; "" if it has none.
    examples: how many of the worst and of the best clips of each method are in the page.

  Raises:
    InputError: if the page cannot be written.
  """
  metrics = metrics_of(summary)
  for row in scores:
    metrics.setdefault(row["metric"], Metric(row["metric"], row["metric"]))
  methods = tables.methods_of(summary, scores)
  series = series_of(scores, metrics)
  clips = list(dict.fromkeys(row["clip_id"] for row in scores))
  shown = Examples(summary.get("protocol", {}), video_of, reference_of, prompt_of, methods)
  sections = [
    ("results", "Results", tables.results(summary, methods, metrics)),
    ("differences", "Differences to the baseline", _differences(summary, methods, metrics)),
    ("distributions", "Distributions", _distributions(series, methods, clips, summary)),
    ("clips", "Every clip", _every_clip(series, methods, clips)),
    ("protocol", "How these numbers were made", tables.protocol(summary)),
    ("examples", "Worst and best clips", _examples(shown, series, examples)),
    ("seams", "Seams", _seams(shown, series)),
    ("problems", "Problems", tables.problems(summary)),
    ("made", "Made with", tables.made_with(summary)),
  ]
  sections = [section for section in sections if section[2]]
  names = [name for name in methods if name != TRUTH]
  title = "Evaluation of " + (f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names))
  content = {
    "title": safe(title),
    "compared": tables.compared(summary, methods),
    "contents": " ".join(f'<a href="#{name}">{words}</a>' for name, words, _ in sections),
    "sections": "\n".join(f'<section id="{name}">\n<h2>{words}</h2>\n{body}\n</section>'
                          for name, words, body in sections),
    "clip_data": data_block("clip-data", clip_data(series, list(methods), clips)),
    "video_data": data_block("video-data", shown.videos),
  }
  template = importlib.resources.files(__package__).joinpath("report.html").read_text("utf-8")
  content["script_hash"] = _hash_of_script(template)
  with written_whole(path) as unfinished, open(unfinished, "w", encoding="utf-8") as page:
    for index, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):       # text and names take turns
      page.write(content[part] if index % 2 else part)


def _hash_of_script(template: str) -> str:
  """What the page's policy calls its own script by: no other one runs, whatever a file's name has smuggled in."""
  script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
  return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _differences(summary: Mapping[str, Any], methods: Mapping[str, int], metrics: Mapping[str, Metric]) -> str:
  """A panel for every metric and surface, for each baseline."""
  panels: dict[tuple, list[plots.Difference]] = collections.defaultdict(list)
  for row in summary.get("differences", ()):
    if (value := number(row.get("value"))) is not None:
      panels[row.get("baseline", ""), row.get("surface", ""), row["metric"], row.get("variant", "")].append(
        plots.Difference(row["method"], methods.get(row["method"], 0), value, number(row.get("low")),
                         number(row.get("high")), int(row.get("clips") or 0)))
  order = list(metrics)
  parts = []
  for baseline in dict.fromkeys(key[0] for key in panels):
    for surface in dict.fromkeys(key[1] for key in panels if key[0] == baseline):
      keys = sorted((key for key in panels if key[:2] == (baseline, surface)), key=lambda key: order.index(key[2]))
      parts.append(f"<h3>{tables.surface_title(surface, summary)}, difference to {safe(baseline)}</h3>")
      parts.append('<div class="panels broad">' + "\n".join(
        _panel(metrics[key[2]].heading + (f"<small>{safe(key[3])}</small>" if key[3] else ""),
               plots.forest(metrics[key[2]], panels[key])) for key in keys) + "</div>")
  if not parts:
    return ""
  reading = (f"Method minus baseline, paired over the clips that both have, with {tables.interval_name(summary)}. "
             'An interval that excludes zero is <b class="better">better</b> or <b class="worse">worse</b>; '
             'a <span class="unclear">hollow</span> point is a difference that may be chance.')
  return f'<p class="note">{reading}</p>\n' + "\n".join(parts)


def _distributions(series: Sequence[Series], methods: Mapping[str, int], clips: Sequence[str],
                   summary: Mapping[str, Any]) -> str:
  """A strip plot for every metric, by surface; only the first surface is unfolded."""
  place = {clip: index for index, clip in enumerate(clips)}
  parts = []
  for surface in dict.fromkeys(one.surface for one in series):
    here = [one for one in series if one.surface == surface]
    variants = collections.Counter(one.metric.key for one in here)
    panels = []
    for one in here:
      groups = [plots.Group(method, index, [place[clip] for clip in values], list(values), list(values.values()))
                for method, index in methods.items() if (values := one.values.get(method))]
      panels.append(_panel(heading(one, variants[one.metric.key] == 1), plots.strips(one.metric, groups)))
    parts.append(folded(tables.surface_title(surface, summary), '<div class="panels">' + "\n".join(panels) + "</div>",
                        unfolded=not parts))
  if not parts:
    return ""
  return ('<p class="note">Each point is a clip; boxes are quartiles with the median, lines reach from the 5th to the '
          "95th percentile. Point at a clip to read its id and to find it in all plots.</p>\n" + "\n".join(parts))


def _panel(head: str, plot: str) -> str:
  return f'<figure class="panel"><figcaption>{head}</figcaption>{plot}</figure>'


def _every_clip(series: Sequence[Series], methods: Mapping[str, int], clips: Sequence[str]) -> str:
  """What the page's script makes a table of."""
  if not series or not clips:
    return ""
  return ('<p class="note"><label>Metric <select id="choice"></select></label> Click a column to sort by it. '
          "All of it is in scores.csv.</p>\n"
          '<div class="wide tall"><table id="every-clip" class="narrow"></table></div>')


def _examples(shown: Examples, series: Sequence[Series], most: int) -> str:
  by = chosen(series, PRIMARY) or next(iter(series), None)
  if by is None or most < 1:
    return ""
  return (f'<p class="note">Ranked by {safe(by.name)}. Small copies of the scored frames; the videos beside each other '
          f"play together.</p>\n{shown.clips(by, most)}")


def _seams(shown: Examples, series: Sequence[Series]) -> str:
  by = chosen(series, SEAM)
  if by is None:
    return ""
  return (f'<p class="note">Worst and best clip of each method by {safe(by.name)}. The panorama is rolled by half its '
          "width, so that its left and right edge meet in the middle, between the marks; every pixel is enlarged to a "
          f"square. Shown is where the step across the seam is largest.</p>\n{shown.seams(by)}")
