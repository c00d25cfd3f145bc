"""The report's tables: what was compared, the results, how they were made, and what went wrong."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from panda_jax.data.clips import TRUTH
from panda_jax.evaluation.report.markup import NOTHING, Metric, count, folded, method_name, number, safe, table

_MOST_COLUMNS = 7                                     # of a table of results that fit a window of 1280 pixels
_FEW_PROBLEMS = 12                                    # of a kind, that are shown unfolded


def methods_of(summary: Mapping[str, Any], scores: Iterable[Mapping[str, Any]] = ()) -> dict[str, int]:
  """The methods and their numbers, which their colours go by; the true videos, if they are among them, come last."""
  names = dict.fromkeys(summary.get("methods", {}))
  names |= dict.fromkeys(row["method"] for row in (*summary.get("rows", ()), *scores))
  numbers = {name: index for index, name in enumerate(name for name in names if name != TRUTH)}
  return numbers | ({TRUTH: -1} if TRUTH in names else {})


def compared(summary: Mapping[str, Any], methods: Mapping[str, int]) -> str:
  """How many clips of which table, and how many of them each method has."""
  clips = summary.get("clips", {})
  total = clips.get("count")
  splits = {name: n for name, n in clips.get("splits", {}).items() if name}
  text = count(len(methods) - (TRUTH in methods), "method") + (f", {count(total, 'clip')}" if total is not None else "")
  if clips.get("source"):
    text += f" of {safe(clips['source'])}"
  if splits:
    text += f" ({', '.join(f'{safe(name)} {n}' for name, n in splits.items())})"
  problems = collections.Counter(str(problem.get("kind")) for problem in summary.get("problems", ()))
  if problems:
    kinds = ", ".join(f"{n} {safe(kind)}" for kind, n in problems.most_common())
    text += f'. <a href="#problems">{count(problems.total(), "problem")}</a>: {kinds}.'
  else:
    text += ". No problems."
  rows = []
  for name, index in methods.items():
    about = summary.get("methods", {}).get(name, {})
    scored = about.get("scored")
    of = NOTHING if scored is None else f"{scored} of {total}" if total is not None else str(scored)
    rows.append([method_name(name, index), of, safe(about.get("missing", NOTHING)),
                 safe(about.get("unusable", NOTHING)), f"<code>{safe(about.get('folder', ''))}</code>"])
  return f'<p class="lead">{text}</p>\n' + table(["Method", "Clips scored", "Missing", "Unusable", "Folder"], rows,
                                                "compared")


# --- results


def results(summary: Mapping[str, Any], methods: Mapping[str, int], metrics: Mapping[str, Metric]) -> str:
  """A table for every surface, over all clips and, folded, over each split; then the metrics that are left out."""
  rows = summary.get("rows", ())
  parts = []
  for surface in dict.fromkeys(row.get("surface", "") for row in rows):
    here = [row for row in rows if row.get("surface", "") == surface]
    splits = sorted(dict.fromkeys(row.get("split", "") for row in here), key=bool)
    parts.append(f"<h3>{surface_title(surface, summary)}</h3>")
    for split in splits:
      content = _results([row for row in here if row.get("split", "") == split], summary, methods, metrics)
      parts.append(folded(f"Split {safe(split)}", content) if split else content)
  if not parts:
    parts.append('<p class="lead">There is no number.</p>')
  parts.append(_reading(summary, metrics, rows))
  if left_out := summary.get("left_out", ()):
    parts.append("<h3>Left out</h3>\n<ul>" + "\n".join(
      f"<li>{safe(item.get('sentence') or item.get('metric'))}</li>" for item in left_out) + "</ul>")
  return "\n".join(parts)


def surface_title(surface: str, summary: Mapping[str, Any]) -> str:
  """ "Panorama", "horizontal8 (8 views)"."""
  cameras = summary.get("protocol", {}).get("views", {}).get(surface)
  if surface == "panorama":
    return "Panorama"
  return safe(surface) + (f" ({count(len(cameras), 'view')})" if cameras else "")


def _results(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], methods: Mapping[str, int],
             metrics: Mapping[str, Metric]) -> str:
  """Methods by metrics, in tables as wide as the page; a metric of several variants has a column for each.

  Metrics that no method has a value of are listed below.
  """
  order = {key: place for place, key in enumerate(metrics)}
  columns = sorted(dict.fromkeys((row["metric"], row.get("variant", "")) for row in rows), key=lambda x: order[x[0]])
  named = collections.Counter(key for key, _ in columns)
  cells = {(row["method"], row["metric"], row.get("variant", "")): row for row in rows}
  present = [name for name in methods if any(row["method"] == name for row in rows)]
  best = {column: _best(metrics[column[0]], {name: cells.get((name, *column)) for name in present if name != TRUTH})
          for column in columns}
  filled = {(row["metric"], row.get("variant", "")) for row in rows if number(row.get("value")) is not None}
  tables = []
  for some in _parts([column for column in columns if column in filled], _MOST_COLUMNS):
    heads = ["Method", *(metrics[key].heading + (f"<small>{safe(variant)}</small>" if named[key] > 1 else "")
                         for key, variant in some)]
    body = [[_row_head(name, methods[name], summary),
             *(_cell(metrics[column[0]], cells.get((name, *column)), name in best[column], summary) for column in some)]
            for name in present if any((name, *column) in cells for column in some)]
    tables.append(table(heads, body, "results"))
  if empty := dict.fromkeys(safe(metrics[column[0]].title) for column in columns if column not in filled):
    tables.append(f'<p class="note">Without a value for any clip: {", ".join(empty)}.</p>')
  return "\n".join(tables)


def _parts(items: Sequence, most: int) -> list[Sequence]:
  """Consecutive parts of about one length."""
  parts = -(-len(items) // most)
  ends = [round(len(items) * part / parts) for part in range(parts + 1)]
  return [items[start:end] for start, end in zip(ends, ends[1:])]


def _best(metric: Metric, rows: Mapping[str, Mapping[str, Any] | None]) -> set[str]:
  """The methods whose value, as it is shown, is the best one; nobody where there is nothing to choose."""
  shown = {name: round(value, metric.digits) for name, row in rows.items()
           if row and (value := number(row.get("value"))) is not None}
  if len(shown) < 2 or not metric.better:
    return set()
  least = min(map(metric.badness, shown.values()))
  best = {name for name, value in shown.items() if metric.badness(value) == least}
  return best if len(best) < len(shown) else set()


def _row_head(name: str, index: int, summary: Mapping[str, Any]) -> str:
  """A method's name, and how many clips it has where that is not all of them."""
  scored, total = summary.get("methods", {}).get(name, {}).get("scored"), summary.get("clips", {}).get("count")
  few = scored is not None and total is not None and scored != total
  return method_name(name, index) + (f"<small>{safe(scored)} of {count(total, 'clip')}</small>" if few else "")


def _cell(metric: Metric, row: Mapping[str, Any] | None, best: bool, summary: Mapping[str, Any]) -> str:
  """A value, its interval below, and the number of clips where it is not that of the method."""
  if row is None:
    return NOTHING
  value, low, high = (number(row.get(name)) for name in ("value", "low", "high"))
  note = safe(row.get("note") or "")
  text = f"<b>{metric.show(value)}</b>" if best else metric.show(value)
  if note:
    text = f'<span title="{note}">{text}<sup>*</sup></span>'
  below = [] if low is None or high is None else [f"{metric.show(low)} to {metric.show(high)}"]
  clips, scored = row.get("clips"), summary.get("methods", {}).get(row["method"], {}).get("scored")
  if clips is not None and not row.get("split") and clips != scored:
    below.append(f"n = {clips}")
  return text + "".join(f"<small>{line}</small>" for line in below)


def _reading(summary: Mapping[str, Any], metrics: Mapping[str, Metric], rows: Sequence[Mapping[str, Any]]) -> str:
  """How the tables are to be read: marks, notes, and what each metric is."""
  text = ["↑ higher is better, ↓ lower is better, → nearer to that value is better."]
  if len({row["method"] for row in rows}) > 1:
    text.insert(0, "Bold: the best value, where methods differ in what is shown.")
  if any(number(row.get("low")) is not None for row in rows):
    text.append(f"Small numbers: {interval_name(summary)}.")
  if any(row.get("clips") is not None for row in rows):
    text.append("n: clips that have a value, where not all of the method's have.")
  if any(row["method"] == TRUTH for row in rows):
    text.append("reference: the true videos themselves, where a metric needs nothing to compare with.")
  notes = dict.fromkeys((metrics[row["metric"]].title, row["note"]) for row in rows
                        if row.get("note") and not row.get("split"))
  parts = [f'<p class="note">{" ".join(text)}</p>']
  if notes:
    parts.append('<ul class="note">' + "\n".join(f"<li><sup>*</sup> {safe(title)}: {safe(note)}</li>"
                                                 for title, note in notes) + "</ul>")
  used = {row["metric"] for row in rows}
  variants = collections.defaultdict(dict)
  for row in rows:
    variants[row["metric"]][row.get("variant", "")] = None
  about = [[metric.heading, safe(metric.definition), safe("; ".join(filter(None, variants[key])))]
           for key, metric in metrics.items() if key in used]
  if about:
    parts.append(folded("What the metrics are", table(["Metric", "Definition", "Variant"], about, "text")))
  return "\n".join(parts)


def interval_name(summary: Mapping[str, Any]) -> str:
  """ "95 % intervals over clips (bootstrap of means, 1000 samples; jackknife of distances, 10 groups)"."""
  protocol = summary.get("protocol", {})
  confidence, samples, groups = (number(protocol.get(name)) for name in ("confidence", "samples", "groups"))
  ways = [f"bootstrap of means, {samples:g} samples"] if samples else []
  ways += [f"jackknife of distances, {groups:g} groups"] if groups else []
  share = f"{100 * confidence:g} % " if confidence else ""
  return f"{share}intervals over clips" + (f" ({'; '.join(ways)})" if ways else "")


# --- how they were made


def protocol(summary: Mapping[str, Any]) -> str:
  """Every field of the protocol, the networks and their files, the cameras, and each number with all that it has."""
  fields = dict(summary.get("protocol", {}))
  cameras = fields.pop("views", {})
  parts = [_fields(fields)]
  if networks := summary.get("networks", {}):
    parts.append("<h3>Networks</h3>")
    heads = list(dict.fromkeys(field for about in networks.values() for field in about))
    parts.append(table(["Network", *map(safe, heads)], [
      [safe(name), *(f"<code>{_value(about.get(field))}</code>" for field in heads)]
      for name, about in networks.items()], "text"))
  for rig, views in cameras.items():
    heads = list(dict.fromkeys(field for view in views for field in view))
    parts.append(f"<h3>Cameras of {safe(rig)}</h3>")
    parts.append(table(["View", *(safe(head.replace("_deg", " °")) for head in heads)], [
      [str(index), *(_value(view.get(field)) for field in heads)] for index, view in enumerate(views)], "narrow"))
  if rows := summary.get("rows", ()):
    heads = list(dict.fromkeys(field for row in rows for field in row))
    parts.append(folded(f"Every number with all that it was made with ({count(len(rows), 'row')})", table(
      [safe(head) for head in heads], [[_value(row.get(field)) for field in heads] for row in rows], "all")))
  return "\n".join(parts)


def _fields(fields: Mapping[str, Any]) -> str:
  lines = []
  for name, value in _flat(fields):
    remark = " (as stored)" if name == "fps" and not value else ""
    lines.append(f"<dt>{safe(name)}</dt><dd>{_value(value)}{remark}</dd>")
  return "<dl>" + "\n".join(lines) + "</dl>"


def _flat(fields: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
  for name, value in fields.items():
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f"{above}{name} ")
    else:
      yield f"{above}{name}", value


def _value(value: Any) -> str:
  if value is None or value == "" or value == {} or value == []:
    return NOTHING
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, (list, tuple)):
    return ", ".join(map(_value, value))
  if isinstance(value, Mapping):
    return ", ".join(f"{safe(name)} {_value(inner)}" for name, inner in value.items())
  return safe(value)


# --- the rest


def problems(summary: Mapping[str, Any]) -> str:
  """All problems by kind, the most frequent kind first."""
  kinds = collections.defaultdict(list)
  for problem in summary.get("problems", ()):
    kinds[str(problem.get("kind"))].append(problem)
  if not kinds:
    return '<p class="lead">None.</p>'
  parts = []
  for kind, some in sorted(kinds.items(), key=lambda item: -len(item[1])):
    rows = [[safe(problem.get("method", "")), f"<bdi>{safe(problem.get('clip', ''))}</bdi>",
             safe(problem.get("sentence", ""))] for problem in some]
    parts.append(folded(f"{safe(kind)}: {len(some)}", table(["Method", "Clip", "What is wrong"], rows, "text"),
                        unfolded=len(some) <= _FEW_PROBLEMS))
  return "\n".join(parts)


def made_with(summary: Mapping[str, Any]) -> str:
  """Versions, device, command and date."""
  return _fields(summary.get("made_with", {}))
