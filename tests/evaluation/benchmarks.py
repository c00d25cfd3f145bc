"""A small benchmark in the layout of PanoWorld's: true clips, a table, and methods that are wrong in one way each."""

import csv
from pathlib import Path

import numpy as np

from panda_jax.data.video import write_video
from tests.evaluation.panoramas import smooth_world

FRAMES, FPS, HEIGHT = 4, 8.0, 32


def world(number: int, frames: int = FRAMES, height: int = HEIGHT) -> np.ndarray:
  """A clip that turns, uint8 [f H 2H 3]; each number another."""
  rng = np.random.default_rng(number)
  tint = rng.uniform(0.5, 1, 3)
  clip = [tint * smooth_world(number + 0.15 * frame, height) for frame in range(frames)]
  return np.clip(clip, 0, 255).astype(np.uint8)


def darker(clip: np.ndarray) -> np.ndarray:
  return (clip * 0.7).astype(np.uint8)


def broken_at_the_seam(clip: np.ndarray) -> np.ndarray:
  return np.clip(clip * np.linspace(0.75, 1.25, clip.shape[2])[:, None], 0, 255).astype(np.uint8)


def write_clip(path: Path, clip: np.ndarray, fps: float = FPS) -> None:
  write_video(path, clip, fps, crf=4)


def write_benchmark(folder: Path, clips: int = 4) -> tuple[Path, Path]:
  """The table of clips, and the folder of the methods "darker", "seam" and "same"."""
  rows = []
  for number in range(clips):
    name, clip = f"{'even' if number % 2 == 0 else 'odd'}::{number:02d}", world(number)
    file = name.replace("::", "__")
    write_clip(folder / "clips" / "videos" / f"{file}.mp4", clip)
    write_clip(folder / "made" / "darker" / f"{file}.mp4", darker(clip))
    write_clip(folder / "made" / "seam" / f"{file}_360.mp4", broken_at_the_seam(clip))
    write_clip(folder / "made" / "same" / file / "video.mp4", clip)
    rows.append({"clip_id": name, "split": name.partition("::")[0], "video_path": f"videos/{file}.mp4",
                 "prompt": f"world number {number}"})
  write_table(folder / "clips" / "master.csv", rows)
  return folder / "clips" / "master.csv", folder / "made"


def write_table(path: Path, rows: list[dict]) -> None:
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
