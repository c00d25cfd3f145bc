"""The result of a study for people and for programs: rows, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import statistics as python_statistics
from collections.abc import Sequence

from panda_jax.data.tables import printable
from panda_jax.evaluation.preference.answers import Sheet
from panda_jax.evaluation.preference.statistics import CONFIDENCE, RESAMPLES, Interval, Preference, Tally, binomial_p
from panda_jax.evaluation.preference.trials import Study

COLUMNS = ("A against B", "A %", "95 % two-way bootstrap", "95 % Wilson", "binomial p", "answers", "ties",
           "participants", "clips")
NOTE = ("A % is of the answers that are no ties. The bootstrap draws participants and clips anew; Wilson's interval "
        "and the binomial p take every answer as independent of all others.")


def rows(results: Sequence[Preference]) -> list[list[object]]:
  """Cells of COLUMNS for each result, ready to print."""
  return [[printable(f"{result.a} against {result.b}"), _percent(result.total.preference), _interval(result.bootstrap),
           _interval(result.wilson), "–" if result.p is None else f"{result.p:.2g}", _count(result.total),
           result.total.ties, len(result.participants), len(result.clips)] for result in results]


def remarks(sheets: Sequence[Sheet]) -> list[str]:
  """What a reader should know about the answers: who has not finished, which side was chosen, what was watched."""
  lines = []
  unfinished = [f"{printable(sheet.participant)} {len(sheet.answers)} of {sheet.expected}" for sheet in sheets
                if len(sheet.answers) < sheet.expected]
  if unfinished:
    lines.append(f"Not everything was answered by {len(unfinished)} of {len(sheets)} participants, whose answers count "
                 f"as far as they go: {', '.join(unfinished)}.")
  habits = _habits(sheets)
  if habits["decided"]:
    lines.append(f"The left video was chosen in {habits['left_percent']:.0f} % of {habits['decided']} answers "
                 f"(binomial p {habits['left_p']:.2g}).")
  lines.append(f"Both videos were watched to the end for {habits['watched_percent']:.0f} % of all answers, which took "
               f"{habits['median_seconds']:.1f} s (median).")
  return lines


def as_json(study: Study, sheets: Sequence[Sheet], results: Sequence[Preference], seed: int) -> str:
  """Everything, with tables by clip and by participant. Shares are in percent."""
  content = {
    "study": study.id,
    "methods": list(study.methods),
    "bootstrap": {"seed": seed, "resamples": RESAMPLES, "over": ["participants", "clips"]},
    "confidence": CONFIDENCE,
    "participants": [{"participant": sheet.participant, "file": sheet.path.name, "answers": len(sheet.answers),
                      "asked": sheet.expected} for sheet in sheets],
    "habits": _habits(sheets),
    "results": [{
      "question": result.question, "a": result.a, "b": result.b, **_shares(result.total),
      **{f"{kind}_percent": interval for kind, interval in _intervals(result).items()}, "binomial_p": result.p,
      "clips": [{"clip": tally.name, **_shares(tally)} for tally in result.clips],
      "participants": [{"participant": tally.name, **_shares(tally)} for tally in result.participants],
    } for result in results],
  }
  return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_csv(results: Sequence[Preference]) -> str:
  """One row per question and pair of methods, with a header; empty where there is no number."""
  lines = []
  for result in results:
    line = {"question": result.question, "a": result.a, "b": result.b, **_shares(result.total),
            "participants": len(result.participants), "clips": len(result.clips)}
    for kind, interval in _intervals(result).items():
      line[f"{kind}_low_percent"], line[f"{kind}_high_percent"] = interval or (None, None)
    lines.append(line | {"binomial_p": result.p})
  text = io.StringIO()
  writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return text.getvalue()


def as_markdown(study: Study, sheets: Sequence[Sheet], results: Sequence[Preference]) -> str:
  """A table for each question, and what belongs below it."""
  parts = []
  for question in study.questions:
    mine = [result for result in results if result.question == question]
    table = [COLUMNS, ["---", *["--:"] * (len(COLUMNS) - 1)], *rows(mine)]
    lines = [f"| {' | '.join(_escaped(str(cell)) for cell in line)} |" for line in table]
    parts += [f"**{question}**", "\n".join(lines)]
  return "\n\n".join([*parts, NOTE, *remarks(sheets)]) + "\n"


def _escaped(cell: str) -> str:
  return cell.replace("|", "\\|").replace("\n", " ")


def _intervals(result: Preference) -> dict[str, list[float] | None]:
  return {f"{name}_95": interval and [100 * end for end in interval]
          for name, interval in (("bootstrap", result.bootstrap), ("wilson", result.wilson))}


def _shares(tally: Tally) -> dict:
  share = tally.preference
  return {"preference_percent": None if share is None else 100 * share, "answers": _count(tally), "for_a": tally.a,
          "for_b": tally.b, "ties": tally.ties}


def _habits(sheets: Sequence[Sheet]) -> dict:
  answers = [answer for sheet in sheets for answer in sheet.answers]
  sides = [answer.side for answer in answers if answer.side != "tie"]
  left = sides.count("left")
  return {"decided": len(sides), "left_percent": 100 * left / len(sides) if sides else None,
          "left_p": binomial_p(left, len(sides)) if sides else None,
          "watched_percent": 100 * sum(answer.watched for answer in answers) / len(answers),
          "median_seconds": python_statistics.median(answer.seconds for answer in answers)}


def _count(tally: Tally) -> int:
  return tally.a + tally.b + tally.ties


def _percent(share: float | None) -> str:
  return "–" if share is None else f"{100 * share:.1f}"


def _interval(interval: Interval | None) -> str:
  return "–" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
