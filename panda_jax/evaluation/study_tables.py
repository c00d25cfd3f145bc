"""From the scores of a study's runs to Markdown tables: means and spreads, every seed, and paired differences."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Run:
  """Scores of one run, of each world as `evaluation.study.Scorer` gives them.

  Attributes:
    row: what was varied.
    seed: of the training.
    loss, sampling, long: one entry per world; `long` may be empty.
  """

  row: str
  seed: int
  loss: Sequence[dict]
  sampling: Sequence[dict]
  long: Sequence[dict]


@dataclasses.dataclass(frozen=True)
class Column:
  """A column: its heading, where it is in `numbers`, and how many digits behind the point."""

  heading: str
  name: str
  digits: int


def numbers(run: Run) -> dict[str, float]:
  """A run's scores over all its worlds, by name.

  PSNR, SSIM, losses and jumps are means over the worlds; sharpness and flicker are ratios of sums, made to truth, since
  the truth of a single world may have none. A number that some world does not have is left out, but for jumps and PSNR,
  which are means over those that have.
  """
  result = {}
  for name in (run.loss[0] if run.loss else ()):
    values = [world[name] for world in run.loss]
    if None not in values:
      result[name] = statistics.fmean(values)
  for kind in sorted({name.rsplit(" ", 1)[0] for name in result if name.startswith("loss ")}):
    result[kind] = statistics.fmean(value for name, value in result.items() if name.startswith(f"{kind} "))
  for part in ("all", "early", "late"):
    result |= _pooled([world[part] for world in run.sampling], part)
  windows = len(run.long[0]["windows"]) if run.long else 0
  for window in range(windows):
    result |= _pooled([world["windows"][window] for world in run.long], f"window {window}")
  for measure in ("psnr", "sharpness"):
    values = [result.get(f"window {window} {measure}") for window in range(windows)]
    if windows > 1 and None not in values:
      result[f"slope {measure}"] = statistics.linear_regression(range(windows), values).slope
  if jumps := [world["jump"] for world in run.long if world["jump"] is not None]:
    result["jump"] = statistics.fmean(jumps)
  return result


def _pooled(worlds: Sequence[dict], part: str) -> dict[str, float]:
  result = {}
  for name in worlds[0] if worlds else ():
    values = [world[name] for world in worlds if world[name] is not None]
    if values and isinstance(values[0], (list, tuple)):
      made, truth = (sum(column) for column in zip(*values))
      if truth > 0:
        result[f"{part} {name}"] = made / truth
    elif values:
      result[f"{part} {name}"] = statistics.fmean(values)
  return result


def report(runs: Sequence[Run], baseline: str = "full") -> str:
  """All tables, as Markdown.

  Args:
    runs: of all rows and seeds.
    baseline: the row that the others are compared with, seed by seed.

  Returns:
    For each group of scores that some run has: a table of mean ± standard deviation over seeds, one of every run, and
    one of paired differences to the baseline with the number of seeds that agree with their mean's sign.
  """
  rows: dict[str, dict[int, dict[str, float]]] = {}
  for run in sorted(runs, key=lambda run: (run.row != baseline, run.row, run.seed)):
    rows.setdefault(run.row, {})[run.seed] = numbers(run)
  parts = []
  for title, columns in _groups(rows):
    shown = {row: seeds for row, seeds in rows.items() if _has(seeds, columns)}
    headings = [column.heading for column in columns]
    means = [[row, str(len(seeds)), *_means(seeds, columns)] for row, seeds in shown.items()]
    each = [[f"{row}-{seed}", *_means({seed: scores}, columns)] for row, seeds in shown.items()
            for seed, scores in seeds.items()]
    parts += [f"### {title}", markdown(["row", "seeds", *headings], means),
              "Every run:", markdown(["run", *headings], each)]
    pairs = {row: _paired(seeds, shown.get(baseline, {})) for row, seeds in shown.items() if row != baseline}
    differences = [[row, str(len(seeds)), *_differences(seeds, columns)] for row, seeds in pairs.items() if seeds]
    if differences:
      parts += [f"Less {baseline}, seed by seed (and in how many seeds the sign is the mean's):",
                markdown(["row", "seeds", *headings], differences)]
  return "\n\n".join(parts)


def spread(values: Sequence[float | None], digits: int) -> str:
  """ "21.30 ± 0.12": mean and standard deviation (of n - 1) of those that are there; one has no deviation."""
  values = [value for value in values if value is not None]
  if not values:
    return "–"
  mean = f"{statistics.fmean(values):.{digits}f}"
  return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def difference(values: Sequence[float], digits: int) -> str:
  """ "+0.31 (3 of 3)": the mean, and how many have its sign."""
  if not values:
    return "–"
  mean = statistics.fmean(values)
  return f"{mean:+.{digits}f} ({sum(value * mean > 0 for value in values)} of {len(values)})"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table, the first column to the left and the others to the right."""
  lines = [headings, [":--", *["--:"] * (len(headings) - 1)], *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _groups(rows: dict[str, dict[int, dict[str, float]]]) -> list[tuple[str, list[Column]]]:
  """The tables: titles and columns, of what some run has."""
  names = {name for seeds in rows.values() for scores in seeds.values() for name in scores}
  levels = sorted({name[-4:] for name in names if name.startswith("clean ")})
  windows = sum(name.startswith("window ") and name.endswith(" psnr") for name in names)
  regimes = [regime for regime in ("text", "video", "continuation") if f"loss {regime}" in names]
  of = lambda part: [Column("PSNR dB ↑", f"{part} psnr", 2), Column("SSIM ↑", f"{part} ssim", 3)]
  ratios = lambda part: [Column("sharpness → 1", f"{part} sharpness", 2), Column("flicker → 1", f"{part} flicker", 2)]
  tables = [
      ("Sampled from a given video, over what it does not show",
       [*of("all"), Column("PSNR dB within 35° of the horizon ↑", "all horizon", 2), *ratios("all")]),
      ("The first frames of it", [*of("early"), *ratios("early")]),
      ("The later frames of it", [*of("late"), *ratios("late")]),
      ("Loss in the run's own prediction, mean over timesteps ↓",
       [Column(f"{regime} given" if regime != "text" else "text alone", f"loss {regime}", 4) for regime in regimes]),
      *((f"Squared error of the clean latents by noise level ({regime}) ↓",
         [Column(f"as at {int(level)}", f"clean {regime} {level}", 4) for level in levels]) for regime in regimes),
      ("Long video: PSNR dB by window ↑",
       [*(Column(str(window + 1), f"window {window} psnr", 2) for window in range(windows)),
        Column("slope per window", "slope psnr", 2)]),
      ("Long video: sharpness by window → 1",
       [*(Column(str(window + 1), f"window {window} sharpness", 2) for window in range(windows)),
        Column("slope per window", "slope sharpness", 3), Column("jump at borders → 1", "jump", 2)]),
  ]
  present = ((title, [column for column in columns if column.name in names]) for title, columns in tables)
  return [(title, columns) for title, columns in present if columns]


def _has(seeds: dict[int, dict[str, float]], columns: Sequence[Column]) -> bool:
  return any(column.name in scores for scores in seeds.values() for column in columns)


def _means(seeds: dict[int, dict[str, float]], columns: Sequence[Column]) -> list[str]:
  return [spread([scores.get(column.name) for scores in seeds.values()], column.digits) for column in columns]


def _paired(seeds: dict[int, dict[str, float]], others: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
  """Differences of what both have."""
  return {seed: {name: value - others[seed][name] for name, value in scores.items() if name in others[seed]}
          for seed, scores in seeds.items() if seed in others}


def _differences(seeds: dict[int, dict[str, float]], columns: Sequence[Column]) -> list[str]:
  return [difference([scores[column.name] for scores in seeds.values() if column.name in scores], column.digits)
          for column in columns]
