"""What every subcommand shares on the screen: quiet libraries, progress, tables, and the compilation cache.

Standard output carries results, standard error carries progress; heavy imports stay inside the functions.
"""

import contextlib
import hashlib
import logging
import numbers
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# What libraries say at start-up, or repeat beside the exception they raise; the command line keeps only the sentence.
_QUIET = {
  "TF_CPP_MIN_LOG_LEVEL": "2",  # XLA's and tensorstore's information and warnings
  "TRANSFORMERS_VERBOSITY": "error",  # "PyTorch was not found", true and harmless: only the tokenizer is used
  "OPENCV_LOG_LEVEL": "ERROR",
}


def quiet_libraries() -> None:
  """Silences third-party start-up banners and duplicate error logs; call it before the heavy imports.

  PANDA_VERBOSE=1 in the environment leaves every message as its library wants it. Settings that the user has already
  made in the environment win.
  """
  if os.environ.get("PANDA_VERBOSE", "0") != "0":
    return
  for name, value in _QUIET.items():
    os.environ.setdefault(name, value)
  from absl import logging as absl_logging  # here and not above, so that help does not wait for it

  # orbax logs a traceback for each exception that it also raises, and so does asyncio for those of orbax's writers
  absl_logging.set_verbosity(absl_logging.FATAL)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def use_compilation_cache() -> None:
  """Lets JAX keep compiled programs in the user's cache folder, so that a second run starts in less time.

  PANDA_CACHE names another folder, or switches it off with "off"; JAX_COMPILATION_CACHE_DIR, if set, wins. Programs for
  one processor can be wrong on another (home folders are shared in clusters), so each kind has its own folder.
  Measured on 2 CPU cores, jax 0.10.2: compiling a training step took 1.2 s instead of 3.3 s, same bits.
  """
  place = cache_folder()
  if place is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  folder = place / "xla" / _processor()
  # JAX reads the variable when it is imported; it makes do without a cache in a folder that cannot be written.
  with contextlib.suppress(OSError):
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def cache_folder() -> Path | None:
  """Where this user's programs keep what can be made again; None if the user wants nothing kept (PANDA_CACHE=off)."""
  place = os.environ.get("PANDA_CACHE", "")
  if place.lower() in ("off", "0"):
    return None
  home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  return Path(place or Path(home) / "panda_jax")


def _processor() -> str:
  """A short name for this kind of processor: its architecture and a digest of its model and features."""
  cpuinfo = Path("/proc/cpuinfo")
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
  kinds = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
  return f"{platform.machine()}-{hashlib.sha256(repr(sorted(kinds)).encode()).hexdigest()[:12]}"


def note(line: str) -> None:
  """One line for the user beside the results: on standard error."""
  print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(description: str, total: int | None, completed: int = 0) -> Iterator[Callable[..., None]]:
  """A progress bar with rate and time left on standard error; nothing when that is not a terminal.

    with progress("training", total=1000, completed=200) as advance:
      advance(note="loss 0.31")            # advance(n=1, note=None)

  Args:
    description: what is being done, one or two words.
    total: number of steps, or None when nobody knows.
    completed: steps done before this run; they count for the bar and not for the rate.
  """
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
  from rich.text import Text

  class Rate(ProgressColumn):
    def render(self, task) -> Text:
      return Text(format_rate(task.finished_speed or task.speed))

  console = Console(stderr=True)
  if not console.is_terminal:
    yield lambda n=1, note=None: None
    return
  columns = (
    TextColumn("{task.description}"),
    BarColumn(bar_width=30),
    MofNCompleteColumn(),
    Rate(),
    TimeRemainingColumn(elapsed_when_finished=True),
    TextColumn("{task.fields[note]}"),
  )
  with Progress(*columns, console=console) as bar:
    task = bar.add_task(description, total=total, completed=completed, note="")

    def advance(n: int = 1, note: str | None = None) -> None:
      bar.update(task, advance=n, **({} if note is None else {"note": note}))

    yield advance


def format_rate(per_second: float | None) -> str:
  """A speed for people: "12.5/s" above one per second, "3.2 s each" below, "" when unknown."""
  if not per_second:
    return ""
  return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
  """Prints a table on standard output: the first column to the left, the others to the right, floats with two digits.

  The same text on a terminal and in a file.

  Raises:
    ValueError: if a row has not as many cells as there are columns.
  """
  cells = [[_cell(value) for value in row] for row in rows]
  for row in cells:
    if len(row) != len(columns):
      raise ValueError(f"table {title!r} has {len(columns)} columns, but a row with {len(row)} cells: {row}")
  widths = [max(map(len, column)) for column in zip(columns, *cells)]
  print(f"\n{title}")
  for line in ([*columns], ["-" * width for width in widths], *cells):
    first, *others = line
    others = [cell.rjust(width) for cell, width in zip(others, widths[1:])]
    print("  ".join([first.ljust(widths[0]), *others]).rstrip())
  sys.stdout.flush()


def _cell(value: object) -> str:
  """Text of a cell; NumPy's floats count as floats."""
  is_float = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
  return f"{value:.2f}" if is_float else str(value)
