"""Whether the same things move the same way: the optical flows of two panoramas side by side."""

from __future__ import annotations

import numpy as np

from panda_jax.data.flow import DISFlow
from panda_jax.data.video import resize
from panda_jax.geometry import solid_angle_weights

_FEWEST, _ROWS = 32, 256                              # flow of finer panoramas costs more and says the same
_STILL = 0.1                                          # pixels of panoramas of `_ROWS`: below is what a codec moves


def flow_of(panoramas: np.ndarray) -> np.ndarray:
  """Optical flow around the seam: uint8 [f H W 3] -> float32 [f-1 h w 2] in pixels of panoramas of at most 256 rows."""
  rows = max(_FEWEST, min(panoramas.shape[1], _ROWS))
  return DISFlow()(np.stack([resize(frame, (rows, 2 * rows)) for frame in panoramas]))[:-1]


def motion_agreement(truth: np.ndarray, made: np.ndarray) -> float | None:
  """Cosine between two flows as one long vector, by solid angle.

  1 where all moves alike, whatever the speed; about 0 for motions that have nothing to do with each other, and exactly
  0 for a video that stands still; -1 where all moves the other way.

  Args:
    truth, made: [f-1 h w 2], of `flow_of`.

  Returns:
    None where the true video stands still.
  """
  weights = solid_angle_weights(truth.shape[1]).astype(np.float64)[:, None, None]
  product = lambda a, b: float((weights * a * b).sum(dtype=np.float64))
  size = truth.shape[0] * truth.shape[2] * weights.sum()
  if not size or np.sqrt(product(truth, truth) / size) < _STILL * truth.shape[1] / _ROWS:
    return None
  norm = np.sqrt(product(truth, truth) * product(made, made))
  return product(truth, made) / norm if norm else 0.0
