"""How a panorama changes over time: flicker, and what is lost from window to window of a long video."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import cv2
import numpy as np

from panda_jax.geometry import solid_angle_weights


@dataclasses.dataclass(frozen=True)
class Drift:
  """A long video, window by window.

  Attributes:
    sharpness: `laplacian_energy` of each window.
    colour: [n 3], the mean colour of each over the sphere, in levels of 255.
    jump: mean change into the first frame of a new window, in units of the median change elsewhere; None where nothing
      moves.
  """

  sharpness: tuple[float, ...]
  colour: tuple[tuple[float, float, float], ...]
  jump: float | None

  @property
  def sharpness_kept(self) -> float | None:
    """The last window's sharpness in units of the first one's; None where the first has none."""
    return self.sharpness[-1] / self.sharpness[0] if self.sharpness[0] > 0 else None

  @property
  def colour_shift(self) -> float:
    """Mean absolute difference of the last and the first window's mean colours, in levels of 255."""
    return float(np.abs(np.subtract(self.colour[-1], self.colour[0])).mean())


def window_starts(frames: int, window: int, overlap: int = 1) -> list[int]:
  """The first new frame of every whole window: 0, then `window`, then steps of window - overlap (VideoPanda §3.3).

  >>> window_starts(61, 16)
  [0, 16, 31, 46]
  """
  if not 0 <= overlap < window:
    raise ValueError(f"windows of {window} frames cannot overlap by {overlap}")
  step = window - overlap
  return [0, *range(window, frames - step + 1, step)] if frames >= window else []


def drift(frames: Iterable[np.ndarray], window: int, overlap: int = 1) -> Drift | None:
  """What is lost over the windows of a video.

  Args:
    frames: uint8 [H W 3] each, read once, and only two of them held. Those behind the last whole window do not count.
    window: frames of a window.
    overlap: of two windows.

  Returns:
    None where there are fewer than two windows.
  """
  sharpness, colour, changes, before = [], [], [], None
  for frame in frames:
    if before is not None:
      changes.append(frame_changes(np.stack([before, frame]))[0])
    sharpness.append(laplacian_energy(frame[None]))
    colour.append(_mean_colour(frame))
    before = frame
  starts = window_starts(len(sharpness), window, overlap)
  if len(starts) < 2:
    return None
  ends = [*starts[1:], starts[-1] + window - overlap]
  mean = lambda values: [np.mean(values[start:end], axis=0) for start, end in zip(starts, ends)]
  borders = np.array(starts[1:]) - 1                  # change number n leads into frame n + 1
  changes = np.array(changes[:ends[-1] - 1])
  usual = float(np.median(np.delete(changes, borders)))
  jump = float(changes[borders].mean() / usual) if usual > 0 else None
  return Drift(tuple(map(float, mean(sharpness))), tuple(tuple(x.tolist()) for x in mean(colour)), jump)


def laplacian_energy(frames: np.ndarray, mask: np.ndarray | None = None) -> float:
  """Mean square of the 3x3 Laplacian over the sphere: how much fine detail there is.

  Args:
    frames: uint8 [f H W 3].
    mask: bool [H W]; pixels count whose four neighbours are in it, too, so that its border is no detail. None: all.
  """
  height, width = frames.shape[1:3]
  inner = None
  if mask is not None:
    inner = mask & np.roll(mask, 1, 1) & np.roll(mask, -1, 1) & np.roll(mask, 1, 0) & np.roll(mask, -1, 0)
  total = np.zeros((height, width) if mask is not None else height)
  for frame in frames:
    wrapped = np.concatenate([frame[:, -1:], frame, frame[:, :1]], axis=1)
    laplacian = cv2.Laplacian(wrapped, cv2.CV_16S, ksize=1)[:, 1:-1].astype(np.float32)
    total += np.einsum("hwc,hwc->h" if mask is None else "hwc,hwc->hw", laplacian, laplacian)
  weights = _weights(height, inner)
  weights[[0, -1]] = 0                                # beyond these rows the sphere goes on elsewhere
  return _mean(total / (len(frames) * frames.shape[-1] * (width if mask is None else 1)), weights)


def frame_changes(frames: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
  """Mean absolute difference of neighbouring frames over the sphere: uint8 [f H W 3] -> float64 [f - 1]."""
  weights = _weights(frames.shape[1], mask)
  of_rows = lambda change: change.reshape(len(change), -1).mean(1)
  changes = (cv2.absdiff(before, after) for before, after in itertools.pairwise(frames))
  return np.array([_mean(of_rows(change) if mask is None else change.mean(-1), weights) for change in changes])


def _mean_colour(frame: np.ndarray) -> np.ndarray:
  """uint8 [H W 3] -> float64 [3], by solid angle."""
  weights = solid_angle_weights(len(frame)).astype(np.float64)
  return weights @ cv2.reduce(frame, 1, cv2.REDUCE_AVG, dtype=cv2.CV_64F)[:, 0] / weights.sum()


def _weights(height: int, mask: np.ndarray | None) -> np.ndarray:
  """Solid angles of rows [H], or of the pixels in a mask [H W]."""
  rows = solid_angle_weights(height).astype(np.float64)
  return rows if mask is None else rows[:, None] * mask


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
  """0 where nothing has a weight."""
  total = weights.sum()
  return float((values * weights).sum() / total) if total else 0.0
