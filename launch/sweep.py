"""Runs every point of a sweep, one after the other, on this machine. The same command again resumes.

  python launch/sweep.py --sweep configs/sweeps/tiny_learning_rate.py --workdir runs/lr [--dry-run] [--config.key=value]

A sweep file has CONFIG, the base config, and sweep(), which yields each point's overrides. Beside those a point may
hold "config", which it has instead of CONFIG (such as another argument behind the colon), and "name", that of its
folder. A point is a `panda train` in its own folder below the workdir; one that fails does not stop the others. At the
end, summary.csv compares them.
"""

import argparse
import csv
import dataclasses
from pathlib import Path
import re
import runpy
import shlex
import subprocess
import sys

from panda_jax.errors import InputError
from panda_jax.training.config import find_config, load_config


@dataclasses.dataclass(frozen=True)
class Point:
  """One run: its config file, and the overrides as the command line has them."""

  config: str
  overrides: list[str]


def read_points(sweep: str, common: list[str]) -> dict[str, Point]:
  """name -> each point of a sweep file; a wrong key is found here, before any training.

  Raises:
    InputError: for a wrong key, and for points that would share a folder or have none.
  """
  content, points = runpy.run_path(str(find_config(sweep))), {}
  for values in content["sweep"]():
    values = dict(values)
    config, name = values.pop("config", content["CONFIG"]), values.pop("name", None)
    if name is None:
      name = ",".join(re.sub(r"[^\w.=+-]+", "_", f"{key.split('.')[-1]}={value}") for key, value in values.items())
    elif not re.fullmatch(r"\w[\w.=+,-]*", str(name)):
      raise InputError(f"{sweep} names a point {name!r}: give a folder's name of letters, digits and any of _.=+,-")
    if not name or name in points:
      raise InputError(f"{sweep} yields a second point named {name!r}, or one without overrides: make each differ")
    points[name] = Point(config, [f"--config.{key}={value}" for key, value in values.items()])
    load_config(config, [*common, *points[name].overrides])
  return points


def summarise(workdir: Path, points: dict[str, Point]) -> None:
  """Writes workdir/summary.csv from what the points have measured so far."""
  from panda_jax.training.metrics import METRICS_FILE, read_metrics      # imports jax; --dry-run need not wait
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / "summary.csv", "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(("name", "config", "overrides", "validation_loss", "steps"))
    for name, point in points.items():
      last = {key: value for line in read_metrics(workdir / name / METRICS_FILE) for key, value in line.items()}
      table.writerow((name, point.config, shlex.join(point.overrides), last.get("validation_loss", ""),
                      last.get("step", "")))


def main(argv: list[str] | None = None, trainer: tuple[str, ...] = (sys.executable, "-m", "panda_jax", "train")) -> int:
  """Runs the command line; returns 0, 1 if a point failed, 2 for bad input."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--sweep", required=True, metavar="FILE.py")
  parser.add_argument("--workdir", required=True, metavar="DIR")
  parser.add_argument("--dry-run", action="store_true", help="print the commands only")
  args, common = parser.parse_known_args(argv)
  try:
    points = read_points(args.sweep, common)
  except InputError as error:
    parser.exit(2, f"sweep: {error}\n")
  workdir, failed = Path(args.workdir), []
  for name, point in points.items():
    words = ["--config", point.config, "--workdir", str(workdir / name), *common, *point.overrides]
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
