"""`panda sweep`: trains every point of a sweep file here, or writes the commands for elsewhere, and compares them."""

import argparse

from panda_jax.cli import console
from panda_jax.errors import InputError

SUMMARY = "train every point of a sweep; the same command again resumes what is unfinished"
EXAMPLE = """\
panda sweep configs/sweeps/tiny_learning_rate.py --workdir runs/lr --config.data.path=worlds
panda sweep configs/sweeps/tiny_learning_rate.py --workdir gs://bucket/lr --commands \\
  --launcher 'launch/gke.sh lr-{name} IMAGE tpu-v6e-slice 4x4'
panda sweep configs/sweeps/tiny_learning_rate.py --workdir gs://bucket/lr --collect"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments. The sweep file is called config for main's sake, which then collects args.overrides."""
  parser.add_argument("config", metavar="SWEEP.py",
                      help="CONFIG and sweep(), which yields each point's overrides; --config.key=value here holds for "
                           "all points")
  parser.add_argument("--workdir", required=True, metavar="DIR",
                      help="each point trains in a folder of its own below; summary.csv compares them")
  parser.add_argument("--jobs", type=int, default=1, metavar="N",
                      help="points to train at a time (default 1). Each takes all accelerators and most of their "
                           "memory, so on such a machine more than one makes no sense")
  instead = parser.add_mutually_exclusive_group()
  instead.add_argument("--dry-run", action="store_true", help="print the commands of what is unfinished; run nothing")
  instead.add_argument("--commands", action="store_true", help="print one shell line per point; run nothing")
  instead.add_argument("--collect", action="store_true",
                       help="compare what there is, wherever it was trained; run nothing")
  parser.add_argument("--launcher", default="panda train", metavar="WORDS",
                      help="with --commands: what stands before the arguments of `panda train`, such as "
                           "'launch/tpu_vm.sh my-tpu us-east5-b'; {name} in it becomes the point's name")


def run(args: argparse.Namespace) -> None:
  from panda_jax import paths
  from panda_jax.sweeps import points as points_lib
  from panda_jax.sweeps import results, running
  if args.jobs < 1:
    raise InputError(f"--jobs must be 1 or more, got {args.jobs}")
  if args.launcher != "panda train" and not args.commands:
    raise InputError("--launcher is for --commands: without that, points are trained here")
  here = not (args.dry_run or args.commands or args.collect)
  if here and paths.is_remote(args.workdir):
    raise InputError(f"points are trained here in folders of this machine, not in {args.workdir}: give a folder, or "
                     "have the commands for elsewhere with --commands")
  points = points_lib.read_points(args.config, args.overrides)
  if args.commands:
    _print(points_lib.shell_lines(points, args.workdir, args.launcher))
    return
  workdir = paths.as_path(args.workdir)
  unfinished = [point for point in points if not results.is_done(point, workdir / point.name)]
  if args.dry_run:
    _print(points_lib.shell_lines(unfinished, args.workdir))
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise InputError(f"--workdir {args.workdir} cannot be made a folder: a file is in its place") from error
  failures = {}
  try:
    if here:
      if len(unfinished) < len(points):
        console.note(f"{len(points) - len(unfinished)} of {len(points)} points were done before")
      commands = {workdir / point.name: ["train", *point.arguments(args.workdir)] for point in unfinished}
      running.run_all(commands, args.jobs, console.note, failures)
  finally:                                                     # after Ctrl-C, too
    table = {point.name: results.read_result(point, workdir / point.name, failures.get(workdir / point.name, ""))
             for point in points}
    results.write_summary(workdir / results.SUMMARY_FILE, points, table)
    console.table(args.config, *results.summary_rows(points, table))
    done = sum(result.state == "done" for result in table.values())
    _print([f"\n{done} of {len(points)} points are done; {workdir / results.SUMMARY_FILE} has the table"])
    _print([f"{folder.name}: {reason}, see {folder / running.LOG_FILE}" for folder, reason in failures.items()])
  if failures:
    raise SystemExit(1)


def _print(lines: list[str]) -> None:
  for line in lines:
    print(line, flush=True)
