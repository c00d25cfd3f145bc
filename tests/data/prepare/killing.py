"""Kills `panda prepare` at random moments, runs it again, and holds the outcome against an undisturbed run.

  python -m tests.data.prepare.killing --kills 20 --folder /tmp/kills -- --input web360 --height 512

The suite does it with a small data set.
"""

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def prepare(arguments: list[str], output: Path) -> subprocess.Popen:
  return subprocess.Popen([sys.executable, "-m", "panda_jax", "prepare", *arguments, "--output", str(output)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digests(folder: Path) -> dict[str, str]:
  """Every file of a folder by its name."""
  return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
          for path in sorted(folder.rglob("*")) if path.is_file()}


def disturb(arguments: list[str], output: Path, kills: int, longest: float, seed: int = 0) -> dict[str, int]:
  """Runs the command until it is done, killing it after up to `longest` seconds at most `kills` times.

  Returns:
    How many kills came when: while files were checked, while units were written, or before and after both.
  """
  draw, when = random.Random(seed), {"checking": 0, "writing": 0, "between": 0}
  place = output.with_name(output.name + ".incomplete")
  for _ in range(kills):
    run = prepare(arguments, output)
    # starting takes a while, in which nothing can be harmed
    deadline = time.monotonic() + 1.5 + draw.uniform(0, longest)
    while run.poll() is None and time.monotonic() < deadline:
      time.sleep(0.005)
    if run.poll() is not None:
      break
    parts = list(place.glob("work/*.part")) if place.exists() else []
    begun = (place / "verdicts.jsonl").exists()
    when["writing" if parts else "checking" if begun and not (place / "work").exists() else "between"] += 1
    run.send_signal(signal.SIGKILL)
    run.communicate()
  run = prepare(arguments, output)
  said, trouble = run.communicate()
  if run.returncode:
    raise RuntimeError(f"the last run failed ({run.returncode}): {said}{trouble}")
  return when


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--longest", type=float, default=30.0, help="seconds that a run gets, at most")
  parser.add_argument("--folder", type=Path, required=True)
  parser.add_argument("arguments", nargs="+", help="of `panda prepare`, behind --")
  args = parser.parse_args()
  args.folder.mkdir(parents=True, exist_ok=True)
  whole, killed = args.folder / "undisturbed", args.folder / "killed"
  for folder in (whole, killed, whole.with_name("undisturbed.incomplete"), killed.with_name("killed.incomplete")):
    shutil.rmtree(folder, ignore_errors=True)
  began = time.monotonic()
  run = prepare(args.arguments, whole)
  said, trouble = run.communicate()
  print(said, trouble, f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
  print("kills:", disturb(args.arguments, killed, args.kills, args.longest))
  theirs, ours = digests(whole), digests(killed)
  differing = [name for name in sorted(theirs | ours) if theirs.get(name) != ours.get(name)]
  left = killed.with_name("killed.incomplete").exists()
  print(f"{len(theirs)} files, {len(differing)} differ{': ' + ', '.join(differing) if differing else ''}; "
        f"{'something' if left else 'nothing'} was left beside them")
  sys.exit(bool(differing or left))


if __name__ == "__main__":
  main()
