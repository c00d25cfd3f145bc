"""Small datasets whose pixels say where they come from, and the pipeline over them at toy size."""

import functools

import cv2
import numpy as np

from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import train_iterator, validation_batches
from panda_jax.data.records import Clip, write_records
from panda_jax.geometry import VIDEOPANDA_RIG, Camera, Rig, RigViews, project

SHAPES = ((2, 6), (3, 4), (8, 1))
CLIPS, FRAMES, FPS = 12, 40, 20.0
# As the paper's rig, but no two views are alike, so that rays tell them apart.
ODD_RIG = Rig((*(Camera(60 * k, 0, 60 + 5 * k) for k in range(6)), Camera(0, 90, 100), Camera(0, -90, 105)), "odd")


def tokenize(caption: str) -> np.ndarray:
  return np.array([1, int(caption.split()[-1]), 2])


def plain_clip(number: int, frames: int = FRAMES) -> Clip:
  """Every pixel says which clip and which frame it belongs to."""
  images = (np.full((8, 16, 3), (10 * number, 4 * frame, 99), np.uint8) for frame in range(frames))
  return Clip(f"clip{number}", f"number {number}", FPS, images)


def busy_panorama(height: int, seed: int) -> np.ndarray:
  coarse = np.random.default_rng(seed).integers(0, 256, (6, 12, 3), np.uint8)
  return cv2.resize(coarse, (2 * height, height), interpolation=cv2.INTER_LINEAR)


def write_plain(path):
  clips = {"train": map(plain_clip, range(CLIPS)), "validation": map(plain_clip, range(5))}
  write_records(path, clips, encoding="png")
  return path


def write_busy(path):
  """One clip of one panorama, standing still."""
  write_records(path, {"train": [Clip("still", "number 7", FPS, [busy_panorama(16, 0)] * 3)]}, encoding="png")
  return path


def settings(**changes) -> dict:
  return dict(rig=VIDEOPANDA_RIG, view_size=(4, 4), rays_size=(2, 2), batch_size=2, tokenize=tokenize, fps=4) | changes


def train(path, **changes):
  schedule = MatrixSchedule(changes.pop("shapes", SHAPES), seed=1)
  return train_iterator(path, "train", schedule=schedule, **_shown(settings(seed=0) | changes))


def validation(path, split="validation", **changes):
  return validation_batches(path, split, **_shown(settings(shape=(3, 4), count=2) | changes))


def _shown(arguments: dict) -> dict:
  """What is said of the views, as the pipeline takes it."""
  names = [name for name in ("rig", "view_size", "rays_size", "given") if name in arguments]
  views = RigViews(**{name: arguments.pop(name) for name in names})
  return {"shows": views} | arguments


def take(iterator, count: int) -> list[dict]:
  return [next(iterator) for _ in range(count)]


def clip_numbers(batch) -> list[int]:
  return (batch["images"][:, 0, 0, 0, 0, 0] // 10).tolist()


def frame_numbers(batch) -> np.ndarray:
  """[b f] of clips made by `plain_clip`."""
  return batch["images"][:, 0, :, 0, 0, 1].astype(int) // 4


def assert_same(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


def joined(parts: list[dict]) -> dict:
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@functools.cache
def _odd_rays(size: tuple[int, int]) -> list[np.ndarray]:
  return [ODD_RIG.rays(size, reference=first) for first in range(len(ODD_RIG))]


def order_by_rays(rays: np.ndarray) -> list[int]:
  """The cameras of ODD_RIG that a matrix's rays [v h w 3] belong to, to the last bit."""
  relative = _odd_rays(rays.shape[1:3])
  first = next(view for view in range(len(ODD_RIG)) if np.array_equal(relative[view][view], rays[0]))
  return [next(view for view in range(len(ODD_RIG)) if np.array_equal(relative[first][view], wanted))
          for wanted in rays]


def find_roll(images: np.ndarray, cameras: list[Camera], tolerance: float = 0.51) -> int:
  """By how many pixels `write_busy`'s panorama was turned before these cameras took images [v f h w 3]."""
  panorama = busy_panorama(16, 0)
  fits = []
  for roll in range(panorama.shape[1]):
    turned = np.roll(panorama, roll, axis=1)
    views = np.stack([project(turned, camera, images.shape[2:4]) for camera in cameras]).clip(0, 255)
    if np.abs(views - images[:, 0]).max() <= tolerance:
      fits.append(roll)
  assert len(fits) == 1, fits
  return fits[0]
