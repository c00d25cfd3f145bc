"""The perspective views of a panorama that get a sentence each."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panda_jax.captioning.clips import Clip
from panda_jax.data import checks, records, video
from panda_jax.errors import InputError
from panda_jax.geometry import Camera, project, to_uint8

YAWS_DEG = (0, 90, -90, 180)
"""Of 360 Text Fusion, in the order of WEB360's caption.txt: ahead, right, left, behind. Source: 360DVD §3.3."""

_FOV_DEG = 90.0
_ONE_FRAME = 1.3                                      # `checks` takes the median of 16 frames, here there is one


def look(clip: Clip, yaws_deg: Sequence[int], size: int, allow_flat: bool = False) -> np.ndarray:
  """The views of a clip's frame.

  Args:
    clip: the clip.
    yaws_deg: where to look; the field of view is 90 degrees.
    size: side of the views in pixels.
    allow_flat: look also at what is no panorama by its shape or its seam.

  Returns:
    uint8 [v size size 3]. A flat clip has one view: its frame.

  Raises:
    InputError: if the frame cannot be read, shows one colour only, or is no panorama.
  """
  frame = clip.read()
  if frame.std() < 2:
    raise InputError(f"{clip.file} shows one colour only at this frame: try --frame middle (or first)")
  if clip.kind == "flat":
    return video.resize(video.centre_square(frame), (size, size))[None]
  if not allow_flat and clip.kind != "panorama":
    _refuse_flat(frame, clip.file)
  return project_views(frame, yaws_deg, size)


def project_views(frame: np.ndarray, yaws_deg: Sequence[int], size: int) -> np.ndarray:
  """Views of 90 degrees around the horizon: uint8 [H W 3] -> uint8 [v size size 3]; the panorama's edges are joined."""
  rows = min(frame.shape[0], 2 * size)                # `project` does not low-pass: shrink first
  panorama = video.resize(frame, (rows, 2 * rows))
  views = [project(panorama, Camera(yaw, 0, _FOV_DEG), (size, size)) for yaw in yaws_deg]
  return to_uint8(np.stack(views))


def view_path(folder: Path, clip: Clip, yaw_deg: int) -> Path:
  """Where a view is exported: FOLDER/<clip>/yaw_-90.jpg."""
  return folder / clip.id / f"yaw_{yaw_deg}.jpg"


def export(folder: Path, clip: Clip, yaws_deg: Sequence[int], views: np.ndarray) -> None:
  """Writes the views of a clip, uint8 [v h w 3], as jpg files; each whole or not at all."""
  for yaw, view in zip(yaws_deg, views):
    path = view_path(folder, clip, yaw)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(records.encode_frame(view, "jpeg", 95))
    os.replace(part, path)


def is_exported(folder: Path, clip: Clip, yaws_deg: Sequence[int]) -> bool:
  """Whether all views of a clip are there."""
  return all(view_path(folder, clip, yaw).is_file() for yaw in yaws_deg)


def _refuse_flat(frame: np.ndarray, name: str) -> None:
  """InputError for what is no 2:1 panorama, nor one stored as 16:9."""
  height, width = frame.shape[:2]
  advice = ("`panda prepare` repairs other layouts: prepare it and caption that dataset, or --allow-flat to caption it "
            "as it is")
  if min(abs(width / height - 2) / 2, abs(width / height - 16 / 9)) > 0.02:
    raise InputError(f"{name} is {width}x{height}, not 2:1: no equirectangular panorama. {advice}")
  seam = checks.seam(frame)
  if seam and seam.edge > _ONE_FRAME * seam.limit:
    raise InputError(f"{name} is no panorama by its looks, its left and right edges do not join (edge difference "
                     f"{seam.edge:.1f}, a panorama of this sharpness has < {_ONE_FRAME * seam.limit:.1f}). {advice}")
