"""Which view-frame matrix a training step uses, and the keyed randomness behind every draw of the input pipeline.

Nothing here has a state: a draw is a function of (purpose, seed, index), so any host, thread or resumed run that asks
again gets the same answer.
"""

import dataclasses
import operator
from collections.abc import Sequence

import numpy as np

from panda_jax.errors import InputError

_PURPOSES = ("shape", "shuffle", "train", "validation")


def keyed_generator(purpose: str, seed: int, index: int) -> np.random.Generator:
  """A random generator that is a pure function of its arguments.

  Args:
    purpose: "shape", "shuffle", "train" or "validation"; equal seeds give independent streams for each.
    seed: the run's seed, 0 <= seed < 2**64.
    index: what is drawn for, e.g. the step or the position of a sample in the stream of all samples.

  Returns:
    A generator over the counter-based Philox: no warm-up, any index costs the same.

  Raises:
    InputError: if the seed is out of range.
  """
  if not 0 <= seed < 2**64:
    raise InputError(f"the seed must be a whole number from 0 to 2**64 - 1, got {seed}")
  key = np.array([seed, index], np.uint64)
  # Philox counts up from the lowest word of its counter; the highest one separates the purposes.
  counter = np.array([0, 0, 0, _PURPOSES.index(purpose)], np.uint64)
  return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclasses.dataclass(frozen=True)
class MatrixSchedule:
  """Draws the matrix shape of every training step, each shape equally often.

  A pure function of the seed and the step: hosts agree without talking, and resuming needs no state.

  Args:
    shapes: (views, frames) of each matrix; the default ones hold 48 images each.
    seed: 0 <= seed < 2**64.

  Raises:
    InputError: if there are no shapes, or one of them is not two positive whole numbers.

  Source: VideoPanda §3.2, "random matrices": views and frames vary at a fixed number of images.
  """

  shapes: Sequence[tuple[int, int]] = ((3, 16), (4, 12), (6, 8), (8, 6))
  seed: int = 0

  def __post_init__(self):
    object.__setattr__(self, "shapes", tuple(_checked(shape) for shape in self.shapes))
    if not self.shapes:
      raise InputError("matrix.shapes is empty: give at least one (views, frames), e.g. ((3, 16), (8, 6))")
    keyed_generator("shape", self.seed, 0)     # an impossible seed fails here, not at the first step

  @property
  def most_views(self) -> int:
    """The largest number of views of any shape."""
    return max(views for views, _ in self.shapes)

  @property
  def most_frames(self) -> int:
    """The largest number of frames of any shape."""
    return max(frames for _, frames in self.shapes)

  def shape(self, step: int) -> tuple[int, int]:
    """The (views, frames) of a step."""
    raw = keyed_generator("shape", self.seed, step).bit_generator.random_raw()
    return self.shapes[int(raw) % len(self.shapes)]


def _checked(shape: Sequence[int]) -> tuple[int, int]:
  """(views, frames) as plain ints, or an InputError that shows what was given."""
  try:
    views, frames = (operator.index(number) for number in shape)
  except (TypeError, ValueError):
    raise InputError(f"matrix.shapes: {shape!r} is not (views, frames), e.g. (3, 16)") from None
  if views < 1 or frames < 1:
    raise InputError(f"matrix.shapes: {shape!r} needs at least one view and one frame, e.g. (3, 16)")
  return views, frames
