"""panda demo: everything at toy size, on the CPU, without a download."""

import argparse

SUMMARY = "film, prepare, train, generate and score at toy size, on the CPU, without a download"
EXAMPLE = "panda demo --output demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda demo`."""
  parser.add_argument("--output", default=".", metavar="DIR", help="folder for everything it makes (default: here); "
                                                                   "what is there already is not done again")


def run(args: argparse.Namespace) -> None:
  """Runs the demo."""
  from panda_jax.demo import Demo
  Demo(args.output).run()
