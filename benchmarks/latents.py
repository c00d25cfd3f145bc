"""How fast stored latents are read: matrices per second through the pipeline of `panda train`, against plain reading.

  python benchmarks/latents.py                             # 1 GB of them, in a temporary folder
  python benchmarks/latents.py --folder /mnt/disk --gigabytes 8

A dataset is made here, as `panda prepare --store latents` lays it out: the mean and logarithm of the variance of 8 views
of 512 pixels, bfloat16 [64 64 8], 64 KiB for each image, with CLIP's states of the caption. A matrix is 48 images of
random views, frames and a random yaw, 3.1 MB. Warm: the files are in the page cache. Cold: they are put out of it before.
Plain reading takes the same files from front to back, in pieces of a matrix: into one buffer again and again, and into
new memory, as a pipeline must. Both use one core; the last lines say what more threads of the pipeline reach.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import tempfile
import time

import numpy as np

from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import train_iterator
from panda_jax.data.shards import NAME, ShardWriter, Split, describe, put_in_place, serialise
from panda_jax.data.stores import cameras_to_json
from panda_jax.geometry import VIDEOPANDA_RIG

SHAPE, WORDS = (64, 64, 8), (77, 768)
FRAMES, YAWS, VIEWS = 24, 2, len(VIDEOPANDA_RIG)
IMAGE = 2 * int(np.prod(SHAPE))
MATRIX = 48 * IMAGE
SHAPES = ((3, 16), (4, 12), (6, 8), (8, 6))


def write(folder: Path, clips: int) -> None:
  rng = np.random.default_rng(0)
  folder.mkdir()
  with ShardWriter(folder, "clips") as records, ShardWriter(folder, "images") as images:
    for clip in range(clips):
      count = FRAMES * YAWS * VIEWS
      for image in np.split(rng.integers(0, 256, count * IMAGE, np.uint8), count):
        images.write(image.tobytes())
      records.write(serialise({
        "id": f"clip{clip}", "caption": "Noise.", "fps": 8.0, "length": FRAMES, "first": clip * count,
        "yaw_deg": [0.0, 30.0], "flip": [0] * YAWS, "text": rng.bytes(2 * int(np.prod(WORDS)))}, "latents"))
  splits = [{"train": Split(shards.paths, shards.lengths, shards.bytes)} for shards in (records, images)]
  for name, split in zip((NAME, "images"), splits):
    put_in_place(folder, name, split)
  describe(folder, splits[0], {
    "kind": "panorama", "size": [512, 1024], "encoding": "jpeg", "quality": 95, "shortest": {"train": (FRAMES, "clip0")},
    "about": {"store": "latents", "rig": cameras_to_json(VIDEOPANDA_RIG), "view_size": [512, 512], "yaws": YAWS,
              "flips": False, "shape": list(SHAPE), "text": {"kind": "clip"}, "text shape": list(WORDS)},
    "metadata": {}}, store="latents")


def files(folder: Path) -> list[Path]:
  return sorted(folder.glob("images-*"))


def plain(folder: Path, again: bool) -> float:
  """GB/s of reading all files in pieces of a matrix, into the same buffer `again` or into new memory."""
  buffer, size, began = bytearray(MATRIX), 0, time.perf_counter()
  for path in files(folder):
    with open(path, "rb", buffering=0) as file:
      while count := file.readinto(buffer) if again else len(file.read(MATRIX)):
        size += count
  return size / (time.perf_counter() - began) / 1e9


def pipeline(folder: Path, steps: int, clips: int, threads: int) -> tuple[float, float]:
  """Matrices per second, and per second of a core's time."""
  batches = train_iterator(
    folder, "train", rig=VIDEOPANDA_RIG, view_size=(512, 512), rays_size=SHAPE[:2], schedule=MatrixSchedule(SHAPES, 0),
    batch_size=clips, tokenize=lambda text: np.zeros(77, np.int32), seed=0, fps=8.0, threads=threads, prefetch=4)
  next(batches)
  began, processor = time.perf_counter(), time.process_time()
  for _ in range(steps):
    next(batches)
  wall, processor = time.perf_counter() - began, time.process_time() - processor
  batches.close()
  return clips * steps / wall, clips * steps / processor


def forget(folder: Path) -> None:
  """Puts the files out of the page cache."""
  for path in folder.iterdir():
    with open(path, "rb") as file:
      os.fsync(file.fileno())
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def best(function, repeats: int = 3):
  return max(function() for _ in range(repeats))


def report(name: str, rate: float, reference: float) -> None:
  print(f"{name:44} {rate:7.0f} matrices/s {rate * MATRIX / 1e9:6.2f} GB/s  {rate * MATRIX / 1e9 / reference:5.2f} of plain")


def main(folder: Path, gigabytes: float, steps: int, clips: int) -> None:
  write(folder, max(2, round(gigabytes * 1e9 / (FRAMES * YAWS * VIEWS * IMAGE))))
  print(f"{sum(path.stat().st_size for path in files(folder)) / 1e9:.2f} GB of latents, {os.cpu_count()} cores")
  plain(folder, again=True)
  reused, new = (best(lambda: plain(folder, again)) for again in (True, False))
  print(f"plain reading, warm: {reused:.2f} GB/s into one buffer, {new:.2f} GB/s into new memory")
  for size in (1, clips):
    _, core = best(lambda: pipeline(folder, steps // size, size, 1), 3)
    report(f"pipeline, warm, {size} per batch, per core", core, new)
  for threads in sorted({1, os.cpu_count()}):
    wall, _ = best(lambda: pipeline(folder, steps, 1, threads), 3)
    report(f"pipeline, warm, {threads} threads, by the clock", wall, new)
  forget(folder)
  cold = plain(folder, again=True)
  print(f"plain reading, cold: {cold:.2f} GB/s")
  for threads in sorted({1, 8}):
    forget(folder)
    wall, _ = pipeline(folder, min(steps, 100), 1, threads)
    report(f"pipeline, cold, {threads} threads, by the clock", wall, cold)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--folder", help="on the disk to measure; default: a temporary one")
  parser.add_argument("--gigabytes", type=float, default=1.0)
  parser.add_argument("--steps", type=int, default=300, help="matrices to read for each figure")
  parser.add_argument("--clips", type=int, default=4, help="matrices per batch, where there is more than one")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
    main(Path(temporary) / "latents", args.gigabytes, args.steps, args.clips)
