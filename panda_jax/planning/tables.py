"""A plan as text, and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from panda_jax.cli import console
from panda_jax.errors import InputError
from panda_jax.planning.search import Tried

_GIB = 2**30


def print_plan(reports: Sequence[dict], place: str) -> None:
  """Prints what was found about programs of one mesh.

  Args:
    reports: see `panda_jax.planning`.
    place: the topology, in words.
  """
  mesh = " x ".join(f"{axis} {size}" for axis, size in reports[0]["mesh"].items())
  rows = [row for row in _rows(reports) if any(cell not in ("", "0", "0.00") for cell in row[1:])]
  console.table(f"Per chip of {place}, mesh {mesh}", ["", *(report["name"] for report in reports)], rows)
  fitting = [report for report in reports if report["fits"]]
  if fitting:
    kinds = sorted({(item["kind"], item["network"]) for report in fitting for item in report["collectives"]})
    rows = [[f"{kind} ({network})", *(_exchanged(report, kind, network) for report in fitting)]
            for kind, network in kinds]
    if rows:
      console.table("Collectives per chip and run: how many, GB sent",
                    ["", *(report["name"] for report in fitting)], rows)
  for report in fitting:
    rows = [[item["shape"], item["bytes"] / _GIB, item["count"], _layer(item["layer"])] for item in report["buffers"]]
    console.table(f"Largest arrays of {report['name']}, not all of them at the same time",
                  ["", "GiB", "instructions", "layer"], rows)
  for report in reports:
    if not report["fits"]:
      print(f"\n{report['name']} does not fit: {report['reason']}")
  print("""
Nothing was run. Seconds and MFU are estimates: the compiler's (at quick effort its roofline, in which loop bodies count
once; at full effort the cycles of its cost model), in which collectives and Pallas kernels do not count, with the time
that these kernels take at the chip's peak, and for the lower MFU with the time that collectives take over all links at
once.""")


def print_search(attempts: Sequence[Tried], place: str, limit: int) -> None:
  """Prints what a search has tried, and what it proposes."""
  rows = [[f"context {tried.candidate.context}", tried.candidate.remat, f"fsdp {tried.candidate.fsdp}",
           "" if tried.needed is None else tried.needed / _GIB, tried.why] for tried in attempts]
  console.table(f"Tried on {place}, which has {limit / _GIB:.2f} GiB per chip", ["", "remat", "fsdp", "GiB", ""], rows)
  best = attempts[-1]
  if best.fits:
    print(f"\nThe smallest that fits: --config.mesh.data=-1 --config.mesh.fsdp={best.candidate.fsdp} "
          f"--config.mesh.context={best.candidate.context} --config.training.remat={best.candidate.remat}")
  else:
    print("\nNothing fits: take more chips, larger ones, or fewer clips per chip.")


def write_json(path: str, plan: dict) -> None:
  """Writes a plan as JSON; "-" is standard output.

  Raises:
    InputError: if the file cannot be written.
  """
  text = json.dumps(plan, indent=2) + "\n"
  if path == "-":
    print(text, end="")
    return
  try:
    Path(path).write_text(text, encoding="utf-8")
  except OSError as error:
    raise InputError(f"--json {path} cannot be written ({error.strerror}): give another file") from error


def _rows(reports: Sequence[dict]) -> list[list[str]]:
  """The rows of the main table: what each is of, and a cell per report."""

  def row(label, *keys, scale=1.0, form=".2f"):
    cells = [label]
    for report in reports:
      value = report
      for key in keys:
        value = (value or {}).get(key)
      cells.append("" if value is None else format(value / scale, form))
    return cells

  tera = {"scale": 1e12, "form": ".4g"}
  return [
      row("clips on all chips", "clips", form=".0f"), row("denoising steps", "denoising_steps", form=".0f"),
      ["", *("fits" if report["fits"] else "DOES NOT FIT" for report in reports)],
      row("GiB needed", "memory", "needed", scale=_GIB), row("  of", "memory", "limit", scale=_GIB),
      *(row(f"  {name}", "memory", name, scale=_GIB)
        for name in ("arguments", "outputs", "aliased", "temporaries", "program", "peak")),
      row("  state", "state", scale=_GIB), row("  on the host", "memory", "host", scale=_GIB),
      row("TFLOP", "flops", "total", **tera),
      *(row(f"  {name}", "flops", name, **tera) for name in ("attention", "linear", "convolution")),
      row("  without recomputation", "flops", "model", **tera),
      row("  in kernels", "flops", "kernels", **tera),
      row("  XLA's count, loops once", "flops", "xla", **tera),
      row("GB accessed, loops once", "bytes_accessed", scale=1e9, form=".0f"),
      row("seconds, the compiler's", "seconds", "compiler", form=".3g"),
      row("  kernels at peak", "seconds", "kernels", form=".3g"),
      row("  collectives in a slice", "seconds", "ici", form=".3g"),
      row("  between slices", "seconds", "dcn", form=".3g"),
      row("  all FLOPs at peak", "seconds", "at_peak", form=".3g"),
      row("MFU, collectives hidden", "mfu", "hidden", form=".1%"),
      row("  not hidden", "mfu", "exposed", form=".1%"),
      row("loops of unknown length", "unknown_loops", form=".0f"),
      row("compiled in s", "compiling", "compile", form=".0f"),
      row("  GiB on this machine", "compiling", "host", scale=_GIB),
      ["", *(f"kept from {report['made']}" if report.get("kept") else "" for report in reports)],
  ]


def _exchanged(report: dict, kind: str, network: str) -> str:
  found = next((item for item in report["collectives"] if (item["kind"], item["network"]) == (kind, network)), None)
  return "" if found is None else f"{found['count']}, {found['bytes'] / 1e9:.3g}"


def _layer(name: str, width: int = 70) -> str:
  """The end of a layer's name, which says most; an argument's keys become a path."""
  name = name.removeprefix("jit(").partition(")/")[2] or name
  name = re.sub(r"\['([^']*)'\]", r"/\1", name.replace("\\'", "'"))
  return name if len(name) <= width else "…" + name[-width + 1:]
