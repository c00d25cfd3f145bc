"""Renders procedural worlds straight into ArrayRecord, losslessly: the training data of the shipped tiny model.

  python data_prep/render_worlds.py --output worlds --train 1500 --validation 32

Worlds 0 … are held out (validation), the training worlds begin at 1000. About 10 ms per frame and core. With --flow
the same frames have their motion beside them, for 360DVD; models that take none train on them just as well.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
import functools
import sys

import numpy as np

from panda_jax.cli.console import progress
from panda_jax.data.flow import UNITS, describe_flow, encode_flow, estimate, films
from panda_jax.data.records import Clip, RecordWriter
from panda_jax.data.worlds import PLACES, TRAINING_PLACES, draw_world, render
from panda_jax.errors import InputError

FIRST_TRAINING_SEED = 1000


def render_clip(seed: int, frames: int, height: int, fps: float, places: tuple[str, ...], flow: str | None) -> Clip:
  """One world as a finished clip, for a worker process."""
  world = draw_world(seed, places)
  shown = np.stack(list(render(world, frames, (height, 2 * height), fps)))
  motion = encode_flow(estimate(films.estimator(flow), shown, flow), 2 * height) if flow else None
  return Clip(f"world_{seed:06d}", world.caption, fps, shown, motion)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output", required=True, help="folder to make")
  parser.add_argument("--train", type=int, default=1500, help="worlds to train on")
  parser.add_argument("--validation", type=int, default=32, help=f"held-out worlds, at most {FIRST_TRAINING_SEED}")
  parser.add_argument("--frames", type=int, default=24, help="frames per clip")
  parser.add_argument("--height", type=int, default=64, help="rows of the panorama")
  parser.add_argument("--fps", type=float, default=8.0)
  parser.add_argument("--places", default=",".join(TRAINING_PLACES), help=f"some of {', '.join(PLACES)}")
  parser.add_argument("--flow", nargs="?", const="dis", metavar="NAME",
                      help="store motion as `panda prepare --flow` does (default NAME: dis)")
  args = parser.parse_args()
  places = tuple(args.places.split(","))
  if unknown := set(places) - set(PLACES):
    parser.error(f"unknown places {', '.join(sorted(unknown))}: choose from {', '.join(PLACES)}")
  if not 0 <= args.validation <= FIRST_TRAINING_SEED:
    parser.error(f"--validation must be 0 to {FIRST_TRAINING_SEED}, got {args.validation}")

  jobs = [("validation", seed) for seed in range(args.validation)]
  jobs += [("train", FIRST_TRAINING_SEED + index) for index in range(args.train)]
  make = functools.partial(render_clip, frames=args.frames, height=args.height, fps=args.fps, places=places,
                           flow=args.flow)
  metadata = {"source": "procedural worlds", "fps": args.fps, "places": places}
  try:
    motion = describe_flow(args.flow, films.estimator(args.flow)) | UNITS if args.flow else None
    writer = RecordWriter(args.output, encoding="png", metadata=metadata, motion=motion)
    with writer, ProcessPoolExecutor() as pool:
      with progress("rendering", len(jobs)) as advance:
        for (split, _), clip in zip(jobs, pool.map(make, [seed for _, seed in jobs], chunksize=4)):
          writer.add(split, clip)
          advance()
  except InputError as error:
    sys.exit(f"render_worlds: {error}")


if __name__ == "__main__":
  main()
