"""What `panda prepare` spends its time on, in frames per second of one core.

  python data_prep/make_web360.py --output web360 --clips 4
  python benchmarks/preparation.py web360/videos_512x1024x100/*.mp4

Steps are run one after the other over every film and measured in CPU time of this process, that of the decoder's
threads included; the table has the median over films. `check` and `write` are the two passes of `panda prepare`; the
others are what those consist of.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from panda_jax.data import checks, flow, repairs, stores, video
from panda_jax.data.prepare import Options
from panda_jax.data.prepare.plan import plan_clips, plan_units
from panda_jax.data.prepare.work import Job, Origin, write_unit
from panda_jax.data.records import decode_frame, encode_frame
from panda_jax.data.sources import Source
from panda_jax.geometry import VIDEOPANDA_RIG, Projector


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("films", nargs="+", type=Path)
  parser.add_argument("--height", type=int, default=512)
  parser.add_argument("--view-size", type=int, default=512)
  args = parser.parse_args()
  cv2.setNumThreads(1)
  seconds: dict[str, list[float]] = {}
  for film in args.films:
    for step, each in measure(film, args.height, (args.view_size, args.view_size)):
      seconds.setdefault(step, []).append(each)
  print("| step | ms per frame | frames/s per core |\n|---|---|---|")
  for step, values in seconds.items():
    median = statistics.median(values)
    print(f"| {step} | {1000 * median:.1f} | {1 / median:.0f} |")


def measure(film: Path, height: int, view_size: tuple[int, int]) -> Iterator[tuple[str, float]]:
  """(step, CPU seconds per frame)."""
  count = sum(1 for _ in video.decode(film))        # the file is in memory from here on
  timed = lambda step, work: (step, cpu(work) / count)
  yield timed("decode", lambda: exhaust(video.decode(film)))
  yield timed("decode, to RGB", lambda: exhaust(video.read_frames(film)))
  verdict = checks.check(film)
  yield timed("check (decode, all rules)", lambda: checks.check(film))
  frames = list(repairs.frames(verdict, (height, 2 * height), range(count)))
  for encoding in ("jpeg", "webp"):
    yield timed(f"encode {encoding} 95", lambda: exhaust(encode_frame(frame, encoding, 95) for frame in frames))
  encoded = [encode_frame(frame) for frame in frames]
  yield timed("decode jpeg", lambda: exhaust(map(decode_frame, encoded)))
  some = np.stack(frames[:9])
  estimates = flow.DISFlow()(some)[:8]
  yield "flow (DIS)", cpu(lambda: flow.DISFlow()(some)) / 8
  yield "flow to colours", cpu(lambda: flow.encode_flow(estimates, 2 * height)) / 8
  projector = Projector((height, 2 * height), tuple(VIDEOPANDA_RIG), view_size)
  yield timed("project to 8 views", lambda: exhaust(projector(frame[None]) for frame in frames))
  options = Options(height=height, holdout=0)
  yield timed("write pixels (decode, encode, ArrayRecord)", lambda: write(film, verdict, options))
  crops, options = stores.Crops(VIDEOPANDA_RIG, view_size), dataclasses.replace(options, store="crops")
  yield timed("write crops (decode, project, encode 8 views)", lambda: write(film, verdict, options, crops))


def write(film: Path, verdict: checks.Verdict, options: Options, store: stores.Store | None = None) -> None:
  with tempfile.TemporaryDirectory() as folder:
    clips = plan_clips([Source(film, film.stem)], [verdict], [""], options, store)
    unit, = plan_units(clips, options)
    write_unit(Job(unit, {0: Origin(film.name, "", verdict)}), options, Path(folder), store)


def exhaust(iterator: Iterator) -> None:
  for _ in iterator:
    pass


def cpu(work: Callable[[], None]) -> float:
  began = time.process_time()
  work()
  return time.process_time() - began


if __name__ == "__main__":
  main()
