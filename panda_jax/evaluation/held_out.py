"""How well a model fills in what a given view does not show, against two guesses that need no model.

  python -m panda_jax.evaluation.held_out --workdir runs/mine --records records --output scores.json

For each held-out clip the view straight ahead is given; PSNR and SSIM are taken over the rest of the sphere, by solid
angle. The guesses are the mean colour of the given view, and the mean panorama of the training split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Callable, Iterable, Iterator

import numpy as np

from panda_jax.data.records import Records, dataset_info, decode_frame, open_records
from panda_jax.data.video import resize
from panda_jax.errors import InputError
from panda_jax.evaluation.metrics import mean_panorama, psnr, unseen_mask, ws_psnr, ws_ssim
from panda_jax.evaluation.seams import seam_ratio
from panda_jax.generate.windows import Generator, Request
from panda_jax.geometry import Camera, project, to_uint8

METHODS = ("model", "mean colour", "mean panorama")


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """A clip that the model has not seen: its caption and its panorama uint8 [f H W 3] at the model's rate."""

  name: str
  caption: str
  panorama: np.ndarray


def read_clips(path: str | Path, split: str, frames: int, fps: float, height: int) -> Iterator[HeldOut]:
  """The first `frames` frames of every clip of a split, at about `fps` and `height` rows.

  Raises:
    InputError: if the dataset is unusable, or a clip is too short.
  """
  for record in _open(path, split):
    stride = max(1, round(record["fps"] / fps))
    stride = min(stride, max(1, (len(record["frames"]) - 1) // max(frames - 1, 1)))
    chosen = record["frames"][::stride][:frames]
    if len(chosen) < frames:
      raise InputError(f"clip {record['id']!r} of {path} ({split}) has {len(record['frames'])} frames, {frames} are "
                       "needed: prepare longer clips or hold out a larger share")
    panorama = np.stack([_to_height(decode_frame(data), height) for data in chosen])
    yield HeldOut(record["id"], record["caption"], panorama)


def training_mean(path: str | Path, split: str, height: int, per_clip: int = 4) -> np.ndarray:
  """The mean panorama float64 [H W 3] of a split, from `per_clip` frames of every clip."""
  def frames():
    for record in _open(path, split):
      stride = max(1, len(record["frames"]) // per_clip)
      for data in record["frames"][::stride][:per_clip]:
        yield _to_height(decode_frame(data), height)
  return mean_panorama(frames())


def evaluate(generate: Generator, clips: Iterable[HeldOut], mean: np.ndarray,
             on_clip: Callable[[], None] = lambda: None) -> list[dict]:
  """Generates each clip from its front view and caption, and scores it beside the two guesses.

  Args:
    generate: the model; its first camera is the given view.
    clips: held-out clips, all of one size.
    mean: [H W 3], the mean panorama of the training set at the clips' yaw and size.
    on_clip: called after each clip.

  Returns:
    A row per clip: "clip", for each of METHODS "psnr/…" and "ssim/…" over the unseen part, "seam" and "seam truth"
    (seam ratios), and "given view" (dB of the middle third of the given view, seen again in the result).
  """
  camera = generate.system.rig[0]
  rows = []
  for number, clip in enumerate(clips):
    given = to_uint8(project(clip.panorama, camera, generate.system.view_size))
    request = Request(clip.caption, len(clip.panorama), given, seed=number, camera=camera)
    result = np.stack(list(generate(request)))
    rows.append({"clip": clip.name, **score(clip.panorama, result, given, camera, mean)})
    on_clip()
  return rows


def score(truth: np.ndarray, result: np.ndarray, given: np.ndarray, camera: Camera, mean: np.ndarray) -> dict:
  """The numbers of one clip; see `evaluate`. truth [f H W 3], result [f H' W' 3], given [f h w 3], all uint8."""
  size = truth.shape[1:3]
  unseen = unseen_mask(camera, size)
  guesses = {"model": np.stack([resize(frame, size) for frame in result]),
             "mean colour": np.broadcast_to(given.mean((1, 2), keepdims=True), truth.shape),
             "mean panorama": np.broadcast_to(mean, truth.shape)}
  row = {}
  for method, guess in guesses.items():
    row[f"psnr/{method}"] = ws_psnr(truth, guess, mask=unseen)
    row[f"ssim/{method}"] = ws_ssim(truth, guess, mask=unseen)
  third = np.s_[:, given.shape[1] // 3: -(given.shape[1] // 3), given.shape[2] // 3: -(given.shape[2] // 3)]
  again = to_uint8(project(result, camera, given.shape[1:3]))
  return row | {"seam": seam_ratio(result), "seam truth": seam_ratio(truth),
                "given view": psnr(given[third], again[third])}


def summary(rows: list[dict]) -> list[list]:
  """The table that a person reads: a row per method with its mean PSNR, SSIM and seam ratio over the clips."""
  mean = lambda key: float(np.mean([row[key] for row in rows if math.isfinite(row[key])]))
  seams = {"model": mean("seam")}
  return [[method, mean(f"psnr/{method}"), mean(f"ssim/{method}"), seams.get(method, "")] for method in METHODS]


COLUMNS = ("unseen part of the sphere", "PSNR dB", "SSIM", "seam ratio")


def _open(path: str | Path, split: str) -> Records:
  info = dataset_info(path)
  if info["kind"] != "panorama":
    raise InputError(f"{path} is a dataset of ordinary films: give one of 360° videos to compare with")
  if info["store"] != "pixels":
    raise InputError(f"{path} stores {info['store']}, no panoramas: give the dataset that they were made of")
  return open_records(path, split)


def _to_height(panorama: np.ndarray, height: int) -> np.ndarray:
  return panorama if panorama.shape[0] == height else resize(panorama, (height, 2 * height))


def main() -> None:
  """The command at the top of this file."""
  from panda_jax.cli import console
  from panda_jax.generate.load import open_system, settings_of

  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--records", required=True, help="a dataset that `panda prepare --holdout` made")
  parser.add_argument("--workdir", help="a training run (default: the shipped tiny model)")
  parser.add_argument("--checkpoint", help="a model folder")
  parser.add_argument("--output", help="JSON file for the scores of every clip")
  args = parser.parse_args()
  console.quiet_libraries()
  try:
    system, params, config = open_system(args.workdir, args.checkpoint)
    settings, height = settings_of(config), config.data.panorama_height
    clips = list(read_clips(args.records, "validation", settings.frames, config.data.fps, height))
    mean = training_mean(args.records, "train", height)
    with console.progress("clips", len(clips)) as advance:
      rows = evaluate(Generator(system, params, settings, say=console.note), clips, mean, advance)
  except InputError as error:
    parser.exit(2, f"held_out: {error}\n")
  console.table(f"{len(rows)} held-out clips", COLUMNS, summary(rows))
  print(f"middle third of the given view: {np.mean([row['given view'] for row in rows]):.1f} dB, "
        f"worst {min(row['given view'] for row in rows):.1f} dB; "
        f"seam ratio of the truth {np.mean([row['seam truth'] for row in rows]):.2f}")
  if args.output:
    Path(args.output).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
