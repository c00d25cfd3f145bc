"""Do the left and right edges of a frame join, as a panorama's do?

A panorama's left and right edges are neighbours on the sphere, an ordinary film's are not. On a frame shrunk to
512x256 (never enlarged: that smooths the inside and not the seam), without the eighth of its rows nearest each pole,
three mean absolute differences of columns (levels of 255) decide:

  edge   the first column against the last
  inner  every column against the next: how sharp the picture is
  far    every column against the one a quarter turn away: how much it varies at all

The edges join if edge <= max(2, min(1.1 sqrt(inner far), 0.47 far)). The geometric mean tells more than edge / inner
(a blurred film has a tiny inner) and edge / far (a busy edge); 0.47 far refuses noise, where all three are equal.
edge / sqrt(inner far), as measured:

  18 camera-made 360° clips and photographs                                         0.26 … 0.87
  the same turned, with 0.5 % of the height of stitching error or 8 % of exposure   … 1.05
  540 crops to 16:9 of the same, 25-92 % of the width                               1.31 …
  719 perspective views of the same, 50-115° wide                                   1.16 …, and 1 blank sky below 2

What this does not see: a small panorama of 96 rows or fewer, or one that was enlarged fourfold (may be refused:
`allow_flat` keeps it), and a film whose sides are of one even colour other than black (taken).
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from panda_jax.data import video

LOOK = (256, 512)
"""Rows and columns that frames are shrunk to, at most, before they are judged."""


@dataclasses.dataclass(frozen=True)
class Seam:
  """How well the left and right edges join: they do where `edge` <= `limit` (levels of 255)."""

  edge: float
  limit: float

  @property
  def joins(self) -> bool:
    return self.edge <= self.limit


def seam(frame: np.ndarray, floor: float = 2.0, sharpness: float = 1.1, variety: float = 0.47) -> Seam | None:
  """Measures how the left and right edges of a frame join; None for a frame of one colour, which says nothing.

  Args:
    frame: uint8 [H W 3].
    floor, sharpness, variety: `Thresholds.seam_floor` and its neighbours.
  """
  h, w = look_size(*frame.shape[:2])
  image = video.resize(frame, (h, w)).astype(np.float32)
  if image.std() < 2:
    return None
  belt = image[h // 8:h - h // 8]
  edge = float(np.abs(belt[:, 0] - belt[:, -1]).mean())
  inner = float(np.abs(np.diff(belt, axis=1)).mean())
  far = float(np.abs(belt - np.roll(belt, w // 4, axis=1)).mean())
  return Seam(edge, max(floor, min(sharpness * math.sqrt(inner * far), variety * far)))


def median_seam(frames: Iterable[np.ndarray], floor: float = 2.0, sharpness: float = 1.1,
                variety: float = 0.47) -> Seam | None:
  """Of several frames of a film, without those of one colour; None if there are no others."""
  seams = [measured for measured in (seam(frame, floor, sharpness, variety) for frame in frames) if measured]
  return Seam(*np.median([(each.edge, each.limit) for each in seams], axis=0).tolist()) if seams else None


def look_size(h: int, w: int) -> tuple[int, int]:
  """(h, w) that a frame is shrunk to before it is judged."""
  return min(h, LOOK[0]), min(w, LOOK[1])
