"""The given perspective video: read at the model's rate, cropped to a square, brought to the size of a view."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Iterator

import numpy as np

from panda_jax.data.checks import seam
from panda_jax.data.video import probe, read_frames, resize
from panda_jax.errors import InputError


def read_perspective(path: str | Path, size: tuple[int, int], fps: float, frames: int) -> np.ndarray:
  """The first frames of an ordinary video as the conditioning view.

  Args:
    path: any video. Its field of view is taken to be that of the first camera of the rig (90°), looking straight ahead.
    size: (h, w) of a view.
    fps: frames per second that the model makes; faster videos lose frames, slower ones repeat them.
    frames: how many are wanted at most.

  Returns:
    uint8 [f h w 3] with 1 <= f <= frames.

  Raises:
    InputError: if the file cannot be read or is a 360° video itself.
  """
  info = probe(path)
  views = []
  for frame in itertools.islice(_at_rate(read_frames(path), info.fps, fps), frames):
    if not views and info.width == 2 * info.height and (edges := seam(frame)) and edges.joins:
      raise InputError(f"{path} is twice as wide as high and its left and right edges join, as a 360° video's do: "
                       "`panda generate` wants an ordinary perspective clip, and `panda prepare` takes 360° videos")
    views.append(resize(_centre_square(frame), size))
  if not views:
    raise InputError(f"{path} holds no frames: give a video with a picture")
  return np.stack(views)


def _at_rate(frames: Iterator[np.ndarray], source_fps: float, fps: float) -> Iterator[np.ndarray]:
  """The frame that is on the screen at each tick of `fps`."""
  due = 0
  for index, frame in enumerate(frames):
    while due * source_fps < (index + 1) * fps - 1e-6:
      yield frame
      due += 1


def _centre_square(frame: np.ndarray) -> np.ndarray:
  height, width = frame.shape[:2]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return frame[top:top + side, left:left + side]
