"""`panda train`: trains the system a config describes; the same command again resumes."""

import argparse
import re
import sys

SUMMARY = "train a model; the same command with the same workdir resumes"
EXAMPLE = "panda train --config configs/tiny.py --workdir runs/tiny --config.training.steps=2000"


def add_arguments(parser) -> None:
  """Declares the arguments. `--config.a.b=value` are not known to argparse: main collects them in args.overrides."""
  parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]",
                      help="a config file; single values are overridden with --config.optimizer.learning_rate=1e-4")
  parser.add_argument("--workdir", required=True, metavar="DIR",
                      help="checkpoints, metrics and the finished model go here")
  parser.add_argument("--profile", type=_window, metavar="START:STOP",
                      help="trace these steps of this session, counted from 0, into DIR/profile: 10:13 is three steps")
  group = parser.add_argument_group(
    "several processes", "Cloud TPU pods, SLURM and Open MPI need none of these. Elsewhere, each process is started "
    "with the same command line and its own --process; they end together.")
  group.add_argument("--coordinator", metavar="HOST:PORT", help="the machine of process 0, and a free port of it")
  group.add_argument("--processes", type=int, metavar="N",
                     help="how many there are; 1: this one runs alone, whatever a scheduler says")
  group.add_argument("--process", type=int, metavar="I", help="which one this is, 0 to N - 1")


def run(args) -> None:
  from panda_jax.parallel.distributed import NotMet, find_place, together
  from panda_jax.training.errors import TrainingStopped
  from panda_jax.training.preemption import Preempted
  try:
    with together(find_place(args.coordinator, args.processes, args.process), name="panda train", describe=describe):
      _train(args)
  except (NotMet, TrainingStopped, Preempted) as stopped:
    sentence, status = describe(stopped)
    print(f"panda train: {sentence}", file=sys.stderr)
    raise SystemExit(status) from stopped


def _train(args) -> None:
  from panda_jax.data import records
  from panda_jax.parallel.distributed import require_same, require_shared
  from panda_jax.training import config as config_lib
  config = config_lib.load_config(args.config, getattr(args, "overrides", ()))
  config_lib.check_config(config)
  require_same("config", config.to_json_best_effort())
  require_shared(args.workdir)
  records.open_records(config.data.path, config.data.split)
  if config.data.validation_path:
    records.open_records(config.data.validation_path, config.data.validation_split)

  from panda_jax.training import loop                          # after these: a typing error is answered at once
  loop.train(config, args.workdir, profile=args.profile)


def _window(text: str) -> tuple[int, int]:
  """(start, stop) of "10:13"."""
  numbers = re.fullmatch(r"(\d+):(\d+)", text)
  if not numbers or int(numbers[1]) >= int(numbers[2]):
    raise argparse.ArgumentTypeError(f"give START:STOP with START below STOP, such as 10:13, not {text!r}")
  return int(numbers[1]), int(numbers[2])


def describe(error: BaseException) -> tuple[str, int] | None:
  """What the user is told about an exception, and the exit status; None for a bug."""
  from panda_jax.cli import main
  from panda_jax.parallel.distributed import NotMet
  from panda_jax.training.errors import TrainingStopped
  from panda_jax.training.preemption import STATUS, Preempted
  if isinstance(error, (NotMet, TrainingStopped)):             # not 2: a scheduler may start it again
    return str(error), 1
  return (str(error), STATUS) if isinstance(error, Preempted) else main.describe(error)
