"""Makes a growing video over and over, killed at every change it makes to its folder, and finishes it each time.

  python -m tests.generate.killing FOLDER

A child process is killed (SIGKILL) just before its n-th change below its own folder: a file opened for writing, renamed
or removed, a folder made or removed; and in the middle of encoding or joining each window. Then the same is run again to
its end. Prints, as JSON, for every kill: which change it was, of how many frames the video then was, which windows the
second run made, and whether the finished files are those of a run without a kill. Nothing here imports JAX, so that
forking is safe and quick.
"""

import json
import os
import re
import signal
import sys
import traceback
from pathlib import Path

import numpy as np

from panda_jax.data.video import read_frames
from panda_jax.generate import segments
from panda_jax.generate.segments import GrowingVideo
from panda_jax.generate.spherical import spherical_metadata

FPS, WINDOWS = 8.0, (4, 3, 2)                       # frames that each window adds
REQUEST = {"prompt": "sea", "seed": 1}
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def window(number: int) -> list[np.ndarray]:
  """Smooth pictures that move: uint8 [16 32 3] each."""
  x = np.linspace(0, 2 * np.pi, 32, endpoint=False)
  wave = 127 + 100 * np.sin(x)[None, :, None] * np.ones((16, 1, 3))
  return [np.roll(wave, 3 * (10 * number + frame), axis=1).astype(np.uint8) for frame in range(WINDOWS[number])]


def row(number: int) -> np.ndarray:
  return np.full((1, 2, 3), number + 0.5, np.float32)


def make(folder: Path, made: list) -> None:
  """The whole work, from wherever it stands."""
  with GrowingVideo(folder / "a_360.mp4", FPS, REQUEST, len(WINDOWS)) as video:
    before = video.row((1, 2, 3), np.float32)
    for number in range(video.finished, len(WINDOWS)):
      if number:
        assert np.array_equal(before, row(number - 1))
      made.append(number)
      video.add(window(number), row(number))
      before = row(number)


def changes_below(folder: Path, on_change) -> None:
  """Calls on_change(what) before every change below the folder, from now on."""
  def hook(event, arguments):
    if event not in CHANGES or not str(arguments[0]).startswith(str(folder)):
      return
    if event == "open" and not set(arguments[1] or "") & set("wax+"):
      return
    on_change(re.sub(rf"\.{os.getpid()}\.", ".PID.", f"{event} {Path(arguments[0]).name}"))
  sys.addaudithook(hook)


def in_child(work) -> str:
  """Runs work() in a forked process; what it returned as text, "" where it was killed."""
  read, write = os.pipe()
  if not (child := os.fork()):
    try:
      os.write(write, work().encode())
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(0)
  os.close(write)
  with open(read, "rb") as pipe:
    said = pipe.read().decode()
  os.waitpid(child, 0)
  return said


def killed_at(folder: Path, wanted: int) -> str:
  seen = []

  def on_change(what):
    seen.append(what)
    if len(seen) == wanted + 1:
      (folder.parent / "last_change").write_text(what)
      os.kill(os.getpid(), signal.SIGKILL)

  changes_below(folder, on_change)
  make(folder, [])
  return json.dumps(seen)


def killed_while(folder: Path, work: str, number: int) -> str:
  """Killed when two frames of window `number` have been encoded, or two packets of its joining copied."""
  def cut(items):
    for index, item in enumerate(items):
      if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
      yield item

  if work == "joining":
    packets = segments._packets
    name = f"window_{number:04d}.mp4"
    segments._packets = lambda segment: (cut if Path(segment).name == name else iter)(packets(segment))
  else:
    whole = globals()["window"]
    globals()["window"] = lambda number_: cut([*whole(number_)] * 20) if number_ == number else whole(number_)
  make(folder, [])
  return "not killed"


def finished(folder: Path) -> str:
  made = []
  make(folder, made)
  return json.dumps(made)


def contents(folder: Path) -> dict:
  return {path.name: path.read_bytes() for path in folder.rglob("*")}


def look(folder: Path) -> int | None:
  """How many frames the video has, all of them read; None where there is none."""
  video = folder / "a_360.mp4"
  if not video.exists():
    return None
  assert set(spherical_metadata(video)) == {"v1", "v2"}
  return sum(1 for _ in read_frames(video))


def main(place: Path) -> None:
  (place / "straight").mkdir()
  changes = json.loads(in_child(lambda: killed_at(place / "straight", 10**6)))
  straight, report = contents(place / "straight"), []
  kills = [(change, lambda folder, number=number: killed_at(folder, number)) for number, change in enumerate(changes)]
  kills += [(f"{work} {number}", lambda folder, work=work, number=number: killed_while(folder, work, number))
            for work in ("encoding", "joining") for number in range(2)]
  for number, (change, kill) in enumerate(kills):
    folder = place / f"killed_{number}"
    folder.mkdir()
    assert in_child(lambda: kill(folder)) == "", change
    assert number >= len(changes) or (place / "last_change").read_text() == change
    frames = json.loads(in_child(lambda: json.dumps(look(folder))))
    made = json.loads(in_child(lambda: finished(folder)))
    report.append({"change": change, "frames": frames, "made": made, "same": contents(folder) == straight})
  print(json.dumps(report))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
