"""Makes a data set in WEB360's layout out of procedural worlds: something of its size to try `panda prepare` on.

  python data_prep/make_web360.py --output web360 --clips 200

  web360/WEB360_360TF_train.csv                    videoid,name: an integer and a caption
  web360/videos_512x1024x100/100001.mp4 …          H.264, 100 frames of 1024x512

The same arguments make the same worlds. Interrupted and started again it goes on with the clips that are not there;
the table is written last. About 0.5 s per frame and core, a fifth of that with --render-height 256.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
import csv
import functools
import os
from pathlib import Path
import sys

import cv2
import numpy as np

from panda_jax.cli.console import progress
from panda_jax.data.video import write_video
from panda_jax.data.worlds import draw_world, render
from panda_jax.errors import InputError

TABLE = "WEB360_360TF_train.csv"
FIRST_ID = 100001
CRF = 20


def write_clip(path: Path, seed: int, frames: int, height: int, render_height: int, fps: float) -> None:
  """Writes one world as an mp4, whole or not at all, unless the file is there already; for a worker process."""
  if path.exists():
    return
  oversample = 2 if render_height == height else 1    # enlarging smooths enough
  images = render(draw_world(seed), frames, (render_height, 2 * render_height), fps, oversample)
  write_video(path, (enlarge(image, height) for image in images), fps, CRF)


def enlarge(panorama: np.ndarray, height: int) -> np.ndarray:
  """A panorama uint8 [H 2H 3] as [height 2*height 3], cubic, with no seam where its edges meet."""
  factor = height // panorama.shape[0]
  if factor == 1:
    return panorama
  margin = 4
  around = np.pad(panorama, ((0, 0), (margin, margin), (0, 0)), mode="wrap")
  around = cv2.resize(around, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
  return around[:, margin * factor:-margin * factor]


def write_table(path: Path, rows: list[tuple[int, str]]) -> None:
  """Writes `videoid,name`, whole or not at all."""
  part = path.with_name(path.name + ".part")
  try:
    with open(part, "w", encoding="utf-8", newline="") as file:
      csv.writer(file, lineterminator="\n").writerows([("videoid", "name"), *rows])
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output", required=True, type=Path, help="folder to make")
  parser.add_argument("--clips", type=int, default=200)
  parser.add_argument("--frames", type=int, default=100, help="frames per clip")
  parser.add_argument("--height", type=int, default=512, help="rows of the panorama")
  parser.add_argument("--render-height", type=int, help="render this many rows, then enlarge: saves time")
  parser.add_argument("--fps", type=float, default=20.0)
  parser.add_argument("--seed", type=int, default=0, help="of the first world; the others follow")
  parser.add_argument("--processes", type=int, default=os.cpu_count())
  args = parser.parse_args()
  render_height = args.render_height or args.height
  for name in ("clips", "frames", "height", "fps", "processes"):
    if getattr(args, name) <= 0:
      parser.error(f"--{name} must be above 0, got {getattr(args, name)}")
  if args.height % 2:
    parser.error(f"--height must be even, got {args.height}")
  if not 8 <= render_height <= args.height or args.height % render_height:
    parser.error(f"--render-height must divide --height {args.height} and be at least 8, got {render_height}")

  videos = args.output / f"videos_{args.height}x{2 * args.height}x{args.frames}"
  ids, seeds = ([start + index for index in range(args.clips)] for start in (FIRST_ID, args.seed))
  make = functools.partial(write_clip, frames=args.frames, height=args.height, render_height=render_height,
                           fps=args.fps)
  try:
    videos.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.processes) as pool, progress("rendering", args.clips) as advance:
      for _ in pool.map(make, [videos / f"{number}.mp4" for number in ids], seeds):
        advance()
    write_table(args.output / TABLE, [(number, draw_world(seed).caption) for number, seed in zip(ids, seeds)])
  except InputError as error:
    sys.exit(f"make_web360: {error}")
  except OSError as error:
    sys.exit(f"make_web360: cannot write {args.output} ({error.strerror}): choose another folder")


if __name__ == "__main__":
  main()
