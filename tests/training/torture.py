"""A run that is killed again and again must end like one that never was: bit for bit.

  python -m tests.training.torture [--kills 30] [--truncate] [--seed 0] [--folder DIR]

The toy system, with checkpoints so large and so frequent that one is nearly always being written, is ended by kill -9,
SIGTERM or SIGINT at random moments, also while it starts, and started again with the same command. With --truncate the
files of its newest checkpoint, or of one that was being written, are also cut short, emptied, deleted or flipped.
"""

import argparse
import collections
import dataclasses
import os
from pathlib import Path
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from panda_jax.training import loop
from panda_jax.training.preemption import STATUS
from tests.training.toy import ToySystem, toy_config, toy_data

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 600                                                  # seconds that one start may take


@dataclasses.dataclass
class Report:
  """What was done, and what came of it.

  Attributes:
    kills: by kind.
    while_saving: those that met a checkpoint half-written.
    while_starting: those before the first step.
    damaged: checkpoints whose files were harmed, complete or half-written.
    passed_over: warnings that a damaged checkpoint is not used.
    differing: files and leaves that are not what they are in the undisturbed run.
    seconds: for everything.
  """
  kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  while_saving: int = 0
  while_starting: int = 0
  damaged: int = 0
  passed_over: int = 0
  differing: list[str] = dataclasses.field(default_factory=list)
  seconds: float = 0.0


class Child:
  """One start of the run, whose lines of news are read as they come."""

  def __init__(self, workdir: Path, steps: int, width: int):
    self.step, self.lines, self.began = None, [], time.time()
    self.process = subprocess.Popen(
        [sys.executable, "-m", "tests.training.torture", "--run", str(workdir), str(steps), str(width)], cwd=ROOT,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def wait_for(self, steps: int, seconds: float) -> bool:
    """Until it has made so many steps or ended, and no longer than so; whether it has made them."""
    first, deadline = None, time.monotonic() + seconds
    while time.monotonic() < deadline and self.process.poll() is None:
      first = self.step if first is None else first
      if first is not None and self.step >= first + steps:
        return True
      time.sleep(0.002)
    return False

  def end(self, number: int | None = None) -> int:
    """Its exit status, after a signal if one is named."""
    try:
      if number is not None:
        self.process.send_signal(number)
      status = self.process.wait(LONGEST)
    finally:
      self.process.kill()
    self._reader.join()
    return status

  def _read(self) -> None:
    for line in self.process.stderr:
      self.lines.append(line.rstrip())
      if match := re.match(r"step (\d+)/", line):
        self.step = int(match[1])


def torture(folder: Path, kills: int, truncate: bool = False, seed: int = 0, steps: int = 400, width: int = 1200,
            say=print) -> Report:
  """Makes an undisturbed and a tortured run below `folder`, and compares them.

  Raises:
    AssertionError: if a start fails, or one that SIGTERM ended has not saved its last step.
  """
  report, rng, began = Report(), random.Random(seed), time.monotonic()
  whole, tortured = folder / "whole", folder / "tortured"
  child = Child(whole, steps, width)
  assert child.end() == 0, child.lines[-20:]
  for count in range(kills):
    child = Child(tortured, steps, width)
    in_time = rng.random() < 0.85
    started = child.wait_for(rng.randint(0, 2 * steps // (kills + 1) - 1) if in_time else steps,
                             LONGEST if in_time else rng.uniform(0, 8))
    time.sleep(rng.uniform(0, 0.3) if in_time else 0)          # not at the moment of a line
    number = rng.choice([signal.SIGKILL] * 5 + [signal.SIGTERM] * 4 + [signal.SIGINT])
    if child.process.poll() is not None:
      assert child.end() == 0, child.lines[-20:]
      say(f"done after {count} kills")
      break
    half_written = [path for path in (tortured / "checkpoints").glob("*.orbax-checkpoint-tmp")
                    if path.stat().st_ctime > child.began]     # an older one is of a kill before
    status = child.end(number)
    report.kills[number.name] += 1
    report.while_saving += bool(half_written)
    report.while_starting += child.step is None
    report.passed_over += sum("is damaged" in line for line in child.lines)
    _check_end(number, status, child.lines, tortured)
    say(f"{count + 1}: {number.name} at step {child.step}{', starting' * (not started and not in_time)}"
        f"{', saving' * bool(half_written)}: status {status}")
    if truncate:
      report.damaged += _harm(tortured / "checkpoints", rng)
  child = Child(tortured, steps, width)
  assert child.end() == 0, child.lines[-20:]
  report.passed_over += sum("is damaged" in line for line in child.lines)
  report.differing = compare(whole, tortured, steps)
  report.seconds = time.monotonic() - began
  return report


def compare(one: Path, other: Path, steps: int) -> list[str]:
  """What differs between the ends of two runs, to the last bit."""
  read = ocp.StandardCheckpointer().restore
  states = [jax.tree_util.tree_flatten_with_path(read(run / "checkpoints" / str(steps) / "state"))[0]
            for run in (one, other)]
  differing = [jax.tree_util.keystr(path) for (path, leaf), (_, same) in zip(*states, strict=True)
               if np.asarray(leaf).tobytes() != np.asarray(same).tobytes()]
  weights = [(run / "model" / "model.safetensors").read_bytes() for run in (one, other)]
  return differing + ["model.safetensors"] * (weights[0] != weights[1])


def _check_end(number: int, status: int, lines: list[str], workdir: Path) -> None:
  said = [match for line in lines if (match := re.search(r"after step (\d+), which is saved", line))]
  if number == signal.SIGTERM and said:
    assert status == STATUS, (status, lines[-20:])
    assert (workdir / "checkpoints" / said[0][1] / "files.json").exists(), lines[-20:]
  elif number == signal.SIGINT:
    assert status in (130, -signal.SIGINT, 1), (status, lines[-20:])
  else:
    assert status == -number, (status, lines[-20:])            # before the loop SIGTERM ends it as it ends anything


def _harm(checkpoints: Path, rng: random.Random) -> int:
  """Harms files of the newest checkpoint, if another one is left, and of one that was being written."""
  complete = sorted((path for path in checkpoints.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
  victims = complete[-1:] * (len(complete) > 1 and rng.random() < 0.6) + list(checkpoints.glob("*-tmp"))
  for victim in victims:
    files = sorted(path for path in victim.rglob("*") if path.is_file())
    for file in rng.sample(files, min(len(files), rng.randint(1, 3))):
      content = file.read_bytes()
      place = rng.randrange(len(content) or 1)
      how = rng.choice(("cut", "delete", "empty", "flip"))
      if how == "delete":
        file.unlink()
      elif how == "flip" and content:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1:])
      else:
        file.write_bytes(content[:place] if how == "cut" else b"")
  return len(victims)


def _run(workdir: str, steps: int, width: int) -> None:
  """One start."""
  config = toy_config(steps=steps, checkpoint_every=3, keep=3, validate_every=0, validation_batches=0)
  try:
    loop.train(config, workdir, ToySystem(width), toy_data)
  except loop.Preempted as stopped:
    print(stopped, file=sys.stderr)
    raise SystemExit(STATUS) from stopped
  except KeyboardInterrupt as stopped:
    raise SystemExit(130) from stopped


def main() -> int:
  """The command at the top of this file."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=30)
  parser.add_argument("--truncate", action="store_true", help="also harm files of checkpoints")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--folder", help="default: a temporary one, deleted when all went well")
  parser.add_argument("--run", nargs=3, metavar=("WORKDIR", "STEPS", "WIDTH"), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.run:
    _run(args.run[0], int(args.run[1]), int(args.run[2]))
    return 0
  folder = Path(args.folder or tempfile.mkdtemp(prefix="torture-"))
  report = torture(folder, args.kills, args.truncate, args.seed)
  print(report)
  if report.differing:
    print(f"NOT the same as the undisturbed run: see {folder}")
    return 1
  print("bit for bit the undisturbed run")
  if not args.folder:
    shutil.rmtree(folder)
  return 0


if __name__ == "__main__":
  sys.exit(main())
