"""Datasets whose images are stored apart from their clips, written as `panda prepare` does, and their clips."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from panda_jax.data.records import Clip
from panda_jax.data.shards import NAME, ShardWriter, Split, describe, put_in_place, serialise


def write_store(path: Path, clips: Mapping[str, Sequence[Clip]], store, size: tuple[int, int],
                shard_bytes: int = 20_000) -> Path:
  """Clips by split, whose frames are sequences, in a few files of each kind."""
  path.mkdir(parents=True)
  records, images, shortest = {}, {}, {}
  for split, members in clips.items():
    first, lengths = 0, []
    with (ShardWriter(path, f"c.{split}", 500) as clip_shards,
          ShardWriter(path, f"i.{split}", shard_bytes) as image_shards):
      for clip in members:
        frames = list(clip.frames)
        variants = store.variants(clip.id, clip.caption)
        for image in store.images(iter(frames), variants):
          image_shards.write(image)
        clip_shards.write(serialise({
          "id": clip.id, "caption": clip.caption, "fps": clip.fps, "length": len(frames), "first": first,
          "yaw_deg": [variant.yaw_deg for variant in variants], "flip": [int(variant.flip) for variant in variants],
          "text": store.text(clip.caption)}, store.name))
        lengths.append((len(frames), clip.id))
        first += len(frames) * len(variants) * store.views
    records[split] = Split(clip_shards.paths, clip_shards.lengths, clip_shards.bytes)
    images[split] = Split(image_shards.paths, image_shards.lengths, image_shards.bytes)
    shortest[split] = min(lengths)
  put_in_place(path, NAME, records)
  put_in_place(path, "images", images)
  describe(path, records, {
    "kind": "panorama", "size": list(size), "encoding": "png", "quality": 100, "shortest": shortest,
    "about": store.about(), "metadata": {}}, store=store.name)
  return path


def panorama(seed: int, size: tuple[int, int] = (16, 32)) -> np.ndarray:
  """Smooth colours in which no two directions are alike."""
  coarse = np.random.default_rng(seed).integers(0, 256, (6, 12, 3), np.uint8)
  return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)


def clips(count: int, frames: int = 6, caption: str = "number {}", size: tuple[int, int] = (16, 32)) -> list[Clip]:
  """Clips of which every frame differs."""
  return [Clip(f"clip{number}", caption.format(number), 8.0,
               [panorama(100 * number + frame, size) for frame in range(frames)]) for number in range(count)]
