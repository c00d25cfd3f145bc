"""`panda`: finds the subcommand, runs it, and turns what goes wrong into one sentence and an exit status.

A subcommand is one file of this folder with

  SUMMARY: str                 one line, for `panda --help`
  EXAMPLE: str                 one real command line, for its own help
  add_arguments(parser)        declares its arguments; cheap imports only, because help must answer at once
  run(args)                    does the work; raises InputError for bad input

One that declares config also receives `args.overrides`, the list of "--config.key=value" arguments as typed.

Exit status: 0 done, 2 bad input or no room on the disk, 130 interrupted, 141 the reader of our output went away.
Any other exception is a bug and shows its traceback (status 1).
"""

import argparse
import errno
import importlib
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import panda_jax
from panda_jax.cli import console
from panda_jax.errors import InputError

COMMANDS = ("demo", "prepare", "inspect", "caption", "convert", "train", "sweep", "plan", "generate", "compare",
            "evaluate", "view", "study")

_NO_ROOM = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "the disk quota is used up"}
_NO_ENTRY = (errno.EACCES, errno.EPERM, errno.EROFS)


class _Parser(argparse.ArgumentParser):
  """Says what is wrong in one sentence, without the usage in front of it."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parsers() -> tuple[argparse.ArgumentParser, dict[str, tuple[ModuleType, argparse.ArgumentParser]]]:
  """The parser of `panda`, and each subcommand's module and parser by name."""
  parser = _Parser(
    prog="panda",
    description="Train, run and compare 360° video diffusion models.",
    epilog="example:\n  panda demo\n\n`panda COMMAND --help` shows a command's arguments and an example.",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--version", action="version", version=f"panda_jax {panda_jax.__version__}")
  group = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
  commands = {}
  for name in COMMANDS:
    module = importlib.import_module(f"panda_jax.cli.{name}")
    command = group.add_parser(
      name,
      help=module.SUMMARY,
      description=module.SUMMARY,
      epilog="example:\n" + textwrap.indent(module.EXAMPLE, "  "),
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    module.add_arguments(command)
    commands[name] = (module, command)
  return parser, commands


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one `panda` command line.

  Args:
    argv: the words after `panda`; sys.argv when None.

  Returns:
    The exit status, see the top of this file.
  """
  arguments = sys.argv[1:] if argv is None else list(argv)
  name = "panda"
  try:
    try:
      module, args = _parse(arguments)
    except SystemExit as stop:      # argparse has printed help or its sentence
      return stop.code
    name = f"panda {args.command}"
    console.quiet_libraries()
    console.use_compilation_cache()
    module.run(args)
    sys.stdout.flush()      # a reader that went away is noticed here and not at interpreter exit
    return 0
  except (KeyboardInterrupt, Exception) as error:
    if isinstance(error, BrokenPipeError) and _reader_left():
      return 141
    described = describe(error)
    if described is None:
      raise
    sentence, status = described
    print(f"{name}: {sentence}", file=sys.stderr)
    return status


def describe(error: BaseException) -> tuple[str, int] | None:
  """What the user is told about an exception, and the exit status; None for a bug."""
  if isinstance(error, KeyboardInterrupt):
    return "interrupted", 130
  sentence = str(error) if isinstance(error, InputError) else _disk_sentence(error)
  return None if sentence is None else (sentence, 2)


def entry() -> NoReturn:
  """The console script."""
  sys.exit(main())


def _parse(arguments: list[str]) -> tuple[ModuleType, argparse.Namespace]:
  parser, commands = build_parsers()
  if not arguments:
    parser.print_help(sys.stderr)
    raise SystemExit(2)
  arguments, overrides = _split_overrides(arguments)
  try:
    args, unknown = parser.parse_known_args(arguments)
  finally:
    sys.stdout.flush()      # help was printed
  module, command = commands[args.command]
  if hasattr(args, "config"):
    args.overrides = overrides
  else:
    unknown += overrides
  if unknown:
    command.error(f"unrecognized arguments: {' '.join(unknown)}")
  return module, args


def _split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
  """Takes `--config.key=value` and `--config.key value` out of the words; the latter comes out as the former."""
  rest, overrides = [], []
  words = list(arguments)
  while words and words[0] != "--":
    word = words.pop(0)
    if not word.startswith("--config."):
      rest.append(word)
    elif "=" not in word and words and not words[0].startswith("--"):
      overrides.append(f"{word}={words.pop(0)}")
    else:
      overrides.append(word)
  return rest + words, overrides


def _disk_sentence(error: BaseException) -> str | None:
  """One sentence when the disk is full, anywhere in the chain of causes, or a path is forbidden; otherwise None."""
  if isinstance(error, OSError) and error.errno in _NO_ENTRY and error.filename:
    return f"{error.filename} cannot be used ({error.strerror.lower()}): mend its permissions or choose another path"
  link: BaseException | None = error
  while link is not None:
    what, path = _no_room(link)
    if what:
      return f"{what}{f' while writing {path}' if path else ''}: free some, or choose another disk, and run this again"
    link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
  return None


def _no_room(error: BaseException) -> tuple[str | None, str | None]:
  """What is used up and, if known, the path that did not fit."""
  if isinstance(error, OSError) and error.errno in _NO_ROOM:
    return _NO_ROOM[error.errno], error.filename
  # tensorstore raises ValueError and array_record RuntimeError, with the system's words in their text
  text = str(error)
  for number, what in _NO_ROOM.items():
    if os.strerror(number) in text:
      quoted = re.search(r'"(/[^"]+)"', text) or re.search(r"(/[^\s;,:]+)", text)
      return what, quoted and quoted[1]
  return None, None


def _reader_left() -> bool:
  """Whether our own output has no reader any more (`panda … | head`); if so, nothing more is written to it."""
  gone = False
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except BrokenPipeError:
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())      # the flush at exit must not fail again
      gone = True
  return gone
