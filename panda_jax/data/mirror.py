"""Mirroring left and right: pictures, the rays that belong to them, and captions that forbid it."""

import re

import numpy as np

_SIDES = re.compile(
  r"(?<![a-z])(?:(?:left|right)(?:s|wards?|most|hand|handed)?|(?:counter|anti)?[ -]?clockwise)(?![a-z])", re.IGNORECASE)


def names_sides(caption: str) -> bool:
  """Whether a caption says left or right, leftward, right-hand, clockwise …, and would be wrong in a mirror.

  "Right now" counts, too: a clip too few is mirrored then, and none wrongly.
  """
  return _SIDES.search(caption) is not None


def mirrored(images: np.ndarray) -> np.ndarray:
  """Images [... h w c], left and right exchanged; a view of the same memory."""
  return images[..., ::-1, :]


def mirrored_rays(rays: np.ndarray) -> np.ndarray:
  """The rays of mirrored views: [... h w 3], x to the right.

  What a camera sees in a mirrored world, through a pixel, is what its mirror image sees in the world, through the
  mirrored pixel. Rays relative to the first view stay relative to it.
  """
  return rays[..., ::-1, :] * np.array([-1, 1, 1], rays.dtype)
