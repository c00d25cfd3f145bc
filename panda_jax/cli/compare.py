"""`panda compare`: several methods, trained first where they must be, make videos of the same clips."""

import argparse

from panda_jax.cli import console, generate
from panda_jax.errors import InputError

SUMMARY = "train or load several methods, and let each make videos of the same clips"
EXAMPLE = ("panda compare configs/comparisons/systems.py --batch clips/master.csv --workdir compared "
           "--config.data.path=worlds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments. The file is called config for main's sake, which then collects args.overrides."""
  parser.add_argument("config", metavar="METHODS.py",
                      help="compare(), which yields what each method loads or trains, and how it makes its videos; "
                           "--config.key=value here holds for all that is trained")
  parser.add_argument("--batch", required=True, metavar="FILE.csv",
                      help="the clips, as of `panda generate --batch`: all methods have the same prompts")
  parser.add_argument("--workdir", required=True, metavar="DIR",
                      help="for DIR/runs/METHOD and DIR/generated/METHOD/CLIP_ID.mp4; the same command goes on there")
  parser.add_argument("--frames", type=int, metavar="N", help="of every video (default: each model's own number)")
  parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all videos (default 0)")
  parser.add_argument("--dry-run", action="store_true", help="print the commands; run nothing")


def run(args: argparse.Namespace) -> None:
  """Trains, generates, and says what came of it.

  Raises:
    InputError: for bad input, in one sentence.
    SystemExit: with status 1 if a method could not be trained or lacks videos.
  """
  from panda_jax.data.clips import read_clips, videos_of
  from panda_jax.paths import as_path, is_remote
  from panda_jax.sweeps import comparisons, results, running

  if is_remote(args.workdir):
    raise InputError(f"methods are trained here, in folders of this machine, not in {args.workdir}: give a folder")
  clips = read_clips(args.batch)
  methods = comparisons.read_methods(args.config, args.overrides)
  batch = ["--batch", args.batch, "--seed", str(args.seed)]
  batch += ["--frames", str(args.frames)] if args.frames is not None else []
  commands = {method.name: comparisons.generate_words(method, methods, args.workdir, batch) for method in methods}
  for method in methods:
    _check(args.config, method, commands[method.name])
  workdir = as_path(args.workdir)
  runs = {workdir / comparisons.RUNS / method.name: method.trained for method in methods if method.trained}
  training = {folder: ["train", *point.arguments(f"{args.workdir.rstrip('/')}/{comparisons.RUNS}")]
              for folder, point in runs.items() if not results.is_done(point, folder)}
  if args.dry_run:
    for words in [*training.values(), *commands.values()]:
      print(comparisons.shell_line(words))
    return

  failures: dict = {}
  running.run_all(training, 1, console.note, failures)
  untrained = {folder.name for folder in failures}
  made = {workdir / comparisons.GENERATED / method.name: commands[method.name] for method in methods
          if method.uses not in untrained}
  running.run_all(made, 1, console.note, failures)
  rows = []
  for method in methods:
    folder = workdir / comparisons.GENERATED / method.name
    videos = videos_of(folder) if folder.is_dir() else {}
    there = sum(clip.name in videos for clip in clips)
    model = "trained" if method.trained else method.model or f"of {method.uses}"
    rows.append([method.name, model, f"{there} of {len(clips)}"])
  console.table(args.config, ["method", "model", "videos"], rows)
  for folder, reason in failures.items():
    print(f"{folder.name}: {reason}, see {folder / running.LOG_FILE}", flush=True)
  line = ["evaluate", "--reference", args.batch, "--generated", str(workdir / comparisons.GENERATED), "--output",
          str(workdir / "scores")]
  print(f"\nscore them with: {comparisons.shell_line(line)}", flush=True)
  if failures:
    raise SystemExit(1)


def _check(file: str, method, words: list[str]) -> None:
  """Refuses options that `panda generate` does not know, before anything is trained."""
  parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
  generate.add_arguments(parser)
  try:
    _, unknown = parser.parse_known_args(words[1:])
  except argparse.ArgumentError as error:
    raise InputError(f"{file}: the method {method.name!r}: {error}") from error
  if unknown:
    raise InputError(f"{file}: the method {method.name!r} has the options {' '.join(unknown)}, which `panda generate` "
                     "does not know")
