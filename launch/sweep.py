"""Runs every point of a sweep, one after the other, on this machine. The same command again resumes.

  python launch/sweep.py --sweep configs/sweeps/tiny_learning_rate.py --workdir runs/lr [--dry-run] [--config.key=value]

A sweep file has CONFIG, the base config, and sweep(), which yields each point's overrides. A point is a `panda train`
in its own folder below the workdir; one that fails does not stop the others. At the end, summary.csv compares them.
"""

import argparse
import csv
from pathlib import Path
import re
import runpy
import shlex
import subprocess
import sys

from panda_jax.errors import InputError
from panda_jax.training.config import find_config, load_config


def read_points(sweep: str, common: list[str]) -> tuple[str, dict[str, list[str]]]:
  """(base config, name -> overrides of each point) of a sweep file; a wrong key is found here, before any training."""
  content, points = runpy.run_path(str(find_config(sweep))), {}
  for point in content["sweep"]():
    name = ",".join(re.sub(r"[^\w.=+-]+", "_", f"{key.split('.')[-1]}={value}") for key, value in point.items())
    if not name or name in points:
      raise InputError(f"{sweep} yields a second point named {name!r}, or one without overrides: make each differ")
    points[name] = [f"--config.{key}={value}" for key, value in point.items()]
    load_config(content["CONFIG"], [*common, *points[name]])
  return content["CONFIG"], points


def summarise(workdir: Path, points: dict[str, list[str]]) -> None:
  """Writes workdir/summary.csv from what the points have measured so far."""
  from panda_jax.training.metrics import METRICS_FILE, read_metrics      # imports jax; --dry-run need not wait
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / "summary.csv", "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(("name", "overrides", "validation_loss", "steps"))
    for name, overrides in points.items():
      last = {key: value for line in read_metrics(workdir / name / METRICS_FILE) for key, value in line.items()}
      table.writerow((name, shlex.join(overrides), last.get("validation_loss", ""), last.get("step", "")))


def main(argv: list[str] | None = None, trainer: tuple[str, ...] = (sys.executable, "-m", "panda_jax", "train")) -> int:
  """Runs the command line; returns 0, 1 if a point failed, 2 for bad input."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--sweep", required=True, metavar="FILE.py")
  parser.add_argument("--workdir", required=True, metavar="DIR")
  parser.add_argument("--dry-run", action="store_true", help="print the commands only")
  args, common = parser.parse_known_args(argv)
  try:
    config, points = read_points(args.sweep, common)
  except InputError as error:
    parser.exit(2, f"sweep: {error}\n")
  workdir, failed = Path(args.workdir), []
  for name, overrides in points.items():
    words = ["--config", config, "--workdir", str(workdir / name), *common, *overrides]
    print(shlex.join(["panda", "train", *words]), flush=True)
    if not args.dry_run and (status := subprocess.run([*trainer, *words]).returncode):
      failed.append(f"{name} (exit status {status})")
  if not args.dry_run:
    summarise(workdir, points)
    print(f"{len(points) - len(failed)} of {len(points)} points done, see {workdir / 'summary.csv'}"
          f"{'; failed: ' * bool(failed)}{', '.join(failed)}")
  return int(bool(failed))


if __name__ == "__main__":
  sys.exit(main())
