"""How fast stored latents are read: matrices per second through the pipeline of `panda train`, against plain reading.

  python benchmarks/latents.py                             # 1 GB of them, in a temporary folder
  python benchmarks/latents.py --folder /mnt/disk --gigabytes 8

A dataset is made here, as `panda prepare --store latents` lays it out: the mean and logarithm of the variance of 8
views of 512 pixels, bfloat16 [64 64 8], 64 KiB for each image, with CLIP's states of the caption. A matrix is 48 images
of random views, frames and a random yaw, 3.1 MB. Warm: the files are in the page cache. Cold: they are put out of it
before.
Plain reading takes the same files from front to back, in pieces of a matrix: into one buffer again and again, which
stays in the processor's cache, and into new memory, as a pipeline must; the fractions are of the latter where files are
warm. "Per second of a core" counts the processor time of all threads, also of the one that only waits for batches.
"""

from __future__ import annotations

import argparse
import collections
import os
from pathlib import Path
import tempfile
import time

import numpy as np

from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import train_iterator
from panda_jax.data.shards import NAME, ShardWriter, Split, describe, put_in_place, serialise
from panda_jax.data.stores import cameras_to_json
from panda_jax.geometry import VIDEOPANDA_RIG, RigViews

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
    "kind": "panorama", "size": [512, 1024], "encoding": "jpeg", "quality": 95,
    "shortest": {"train": (FRAMES, "clip0")},
    "about": {"store": "latents", "rig": cameras_to_json(VIDEOPANDA_RIG), "view_size": [512, 512], "yaws": YAWS,
              "flips": False, "shape": list(SHAPE), "text": {"kind": "clip"}, "text shape": list(WORDS)},
    "metadata": {}}, store="latents")


def files(folder: Path) -> list[Path]:
  return sorted(folder.glob("images-*"))


def plain(folder: Path, fresh: bool) -> float:
  """GB/s of reading all files in pieces of a matrix: into `fresh` memory, kept as long as a batch is, or one buffer."""
  buffer, kept, size, began = bytearray(MATRIX), collections.deque(maxlen=8), 0, time.perf_counter()
  for path in files(folder):
    with open(path, "rb", buffering=0) as file:
      while count := file.readinto(buffer):
        size += count
        if fresh:
          kept.append(buffer)
          buffer = np.empty(MATRIX, np.uint8)
  return size / (time.perf_counter() - began) / 1e9


def pipeline(folder: Path, steps: int, clips: int, threads: int) -> tuple[float, float]:
  """Matrices per second, and per second of a core's time."""
  batches = train_iterator(
    folder, "train", shows=RigViews(VIDEOPANDA_RIG, (512, 512), SHAPE[:2]), schedule=MatrixSchedule(SHAPES, 0),
    batch_size=clips, tokenize=lambda text: np.zeros(77, np.int32), seed=0, fps=8.0, threads=threads, prefetch=8)
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


def median(values) -> float:
  return float(np.median(list(values)))


def report(name: str, rates: list[float], references: list[float]) -> None:
  """Matrices per second, and the fraction of plain reading, which was measured before each of them."""
  fraction = median(rate * MATRIX / 1e9 / reference for rate, reference in zip(rates, references, strict=True))
  print(f"{name:46} {median(rates):6.0f} matrices/s {median(rates) * MATRIX / 1e9:6.2f} GB/s  {fraction:5.2f} of plain")


def main(folder: Path, gigabytes: float, steps: int, clips: int, repeats: int) -> None:
  write(folder, max(2, round(gigabytes * 1e9 / (FRAMES * YAWS * VIEWS * IMAGE))))
  size = sum(path.stat().st_size for path in files(folder)) / 1e9
  print(f"{size:.2f} GB of latents, {os.cpu_count()} cores; medians of {repeats}")
  plain(folder, fresh=False)                                   # from here on they are in the page cache
  for fresh, memory in ((False, "one buffer"), (True, "new memory")):
    print(f"plain reading, warm, into {memory}: {median(plain(folder, fresh) for _ in range(repeats)):.2f} GB/s")
  for size in (1, clips):
    references, rates = zip(*((plain(folder, fresh=True), pipeline(folder, steps // size, size, 1)[1])
                              for _ in range(repeats)))
    report(f"pipeline, warm, {size} per batch, per second of a core", rates, references)
  for threads in sorted({1, os.cpu_count()}):
    references, rates = zip(*((plain(folder, fresh=True), pipeline(folder, steps, 1, threads)[0])
                              for _ in range(repeats)))
    report(f"pipeline, warm, {threads} thread(s), by the clock", rates, references)
  for threads in (1, 8):
    references, rates = [], []
    for _ in range(repeats):
      forget(folder)
      references.append(plain(folder, fresh=False))
      forget(folder)
      rates.append(pipeline(folder, min(steps, 100), 1, threads)[0])
    print(f"plain reading, cold: {median(references):.2f} GB/s")
    report(f"pipeline, cold, {threads} thread(s), by the clock", rates, references)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--folder", help="on the disk to measure; default: a temporary one")
  parser.add_argument("--gigabytes", type=float, default=1.0)
  parser.add_argument("--steps", type=int, default=300, help="matrices to read for each figure")
  parser.add_argument("--repeats", type=int, default=5, help="each figure is the median of so many")
  parser.add_argument("--clips", type=int, default=4, help="matrices per batch, where there is more than one")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
    main(Path(temporary) / "latents", args.gigabytes, args.steps, args.clips, args.repeats)
