"""`panda train`: trains the system a config describes; the same command again resumes."""

import sys

SUMMARY = "train a model; the same command with the same workdir resumes"
EXAMPLE = "panda train --config configs/tiny.py --workdir runs/tiny --config.training.steps=2000"


def add_arguments(parser) -> None:
  """Declares the arguments. `--config.a.b=value` are not known to argparse: main collects them in args.overrides."""
  parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]",
                      help="a config file; single values are overridden with --config.optimizer.learning_rate=1e-4")
  parser.add_argument("--workdir", required=True, metavar="DIR",
                      help="checkpoints, metrics and the finished model go here")


def run(args) -> None:
  from panda_jax.data import records
  from panda_jax.training import config as config_lib
  config = config_lib.load_config(args.config, getattr(args, "overrides", ()))
  config_lib.check_config(config)
  records.open_records(config.data.path, config.data.split)
  if config.data.validation_path:
    records.open_records(config.data.validation_path, config.data.validation_split)

  from panda_jax.training import loop                          # after these: a typing error is answered at once
  try:
    loop.train(config, args.workdir)
  except loop.TrainingStopped as stopped:
    print(f"panda train: {stopped}", file=sys.stderr)
    raise SystemExit(1) from stopped
