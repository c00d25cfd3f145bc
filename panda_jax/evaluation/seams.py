"""How well the left and the right edge of a panorama join: three measures of the seam, which no reference is needed for.

Pixels are uint8 or floats in [0, 255]; panoramas are [... H W c], and leading axes are pooled.
"""

import math

import numpy as np

from panda_jax.evaluation.pixels import PEAK, checked

# Of the discontinuity score, for pixels in [0, 1]: what keeps a flat surrounding from dividing by zero. The paper has a
# small constant c and no value; this one is the gradient of four of 255 levels.
SCORE_CONSTANT = 4 / 255


def discontinuity_score(frames: np.ndarray, constant: float = SCORE_CONSTANT) -> float:
  """Horizontal gradients on the two columns that meet at the seam, relative to those of the columns next to them.

  On grey pixels in [0, 1], with Scharr's kernel, normalised to the difference of two neighbours. About 1 in textured
  scenes without a seam, near 0 in flat ones, and large at a step that its surroundings do not have.

  Args:
    frames: [... H W c], W >= 6.
    constant: c of the paper.

  Returns:
    The mean over rows and frames of half the sum of both ratios; lower is better.

  Raises:
    ValueError: if the shape does not fit or a value is not in [0, 255].

  Source: Christensen et al. 2024, "Geometry Fidelity for Spherical Images" (arXiv 2407.18207), eq. of DS. Its strip has
  three columns on either side, of which the kernel leaves four; strips of any length give the same mean.
  """
  frames = checked(frames)
  if frames.shape[-2] < 6 or frames.shape[-3] < 3:
    raise ValueError(f"the discontinuity score needs 6 columns and 3 rows, got {frames.shape[-2]}x{frames.shape[-3]}")
  strip = np.concatenate([frames[..., -3:, :], frames[..., :3, :]], axis=-2)        # [... H 6 c], the seam in the middle
  grey = _grey(strip).reshape(-1, strip.shape[-3], 6) / PEAK
  across = (grey[..., 2:] - grey[..., :-2]) / 2                                     # [n H 4]
  gradient = np.abs(3 * across[:, :-2] + 10 * across[:, 1:-1] + 3 * across[:, 2:]) / 16
  outer_left, left, right, outer_right = np.moveaxis(gradient, -1, 0)
  return float((left / (outer_left + constant) + right / (outer_right + constant)).mean() / 2)


def end_continuity(frames: np.ndarray) -> float:
  """Mean absolute difference of the first and the last column, in levels of 255; lower is better.

  It grows with the texture of the scene, and a seamless panorama has more than 0. As PanoWan's end continuity, whose
  exact formula is not published.

  Raises:
    ValueError: if the shape is not [... H W c] or a value is not in [0, 255].
  """
  frames = checked(frames)
  return float(np.abs(frames[..., 0, :].astype(np.float64) - frames[..., -1, :]).mean())


def seam_ratio(frames: np.ndarray, columns: int = 4) -> float:
  """How much the left and right edge differ, in units of how much neighbouring columns near them do.

  1 says that the seam cannot be told from its surroundings; published systems have 1.05 to 1.9. Single images scatter
  with their texture, so judge it over many frames or clips.

  Args:
    frames: [... H W c], pooled.
    columns: how many pairs of neighbouring columns on either side of the seam make up the surroundings.

  Returns:
    mean |first - last column| / mean |neighbouring columns|; 1 if both are flat, inf if only the surroundings are.

  Raises:
    ValueError: if the shape is not [... H W c] with W > 2 * columns, or a value is not in [0, 255].
  """
  frames = checked(frames)
  if frames.shape[-2] <= 2 * columns:
    raise ValueError(f"seam_ratio compares {columns} column pairs on either side, too many for W={frames.shape[-2]}")
  strip = np.concatenate([frames[..., -columns - 1 :, :], frames[..., : columns + 1, :]], axis=-2).astype(np.float64)
  steps = np.abs(np.diff(strip, axis=-2))      # [... H 2*columns+1 c], the seam in the middle
  seam = float(steps[..., columns, :].mean())
  surroundings = float(np.delete(steps, columns, axis=-2).mean())
  if surroundings == 0:
    return math.inf if seam > 0 else 1.0
  return seam / surroundings


def _grey(frames: np.ndarray) -> np.ndarray:
  """[... c] -> [...] float64 by the weights of BT.601, or the only channel."""
  if frames.shape[-1] == 1:
    return frames[..., 0].astype(np.float64)
  return frames[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
