"""What `--motion` says: a motion condition out of a few words or a film."""

from __future__ import annotations

import numpy as np

from panda_jax.data.flow import Forward, Turn, draw_motion, encode_flow
from panda_jax.data.video import read_frames
from panda_jax.errors import InputError

NONE = "none"

_DRAWN = {"rotate": lambda amount: Turn(yaw_deg=amount), "forward": Forward}


def make_motion(text: str, frames: int, size: tuple[int, int]) -> np.ndarray | None:
  """The motion condition of a clip.

  Args:
    text: "none"; "rotate:DEG", the camera turns to the right by so much per frame; "forward:STEP", it moves ahead by this
      share of the distance of things per frame; or a film of flow in colours, such as 360DVD's.
    frames: how many.
    size: (H, W).

  Returns:
    uint8 [f H W 3], colours as `panda_jax.data.flow.encode_flow` makes them; None for "none".

  Raises:
    InputError: if the film is shorter or is none, or an amount is no number or too large.
  """
  if text == NONE:
    return None
  kind, colon, amount = text.partition(":")
  if colon and kind in _DRAWN:
    try:
      motion = _DRAWN[kind](float(amount))
      return encode_flow(draw_motion(frames, size, [motion]), size[1])
    except ValueError as error:
      raise InputError(f"--motion {text}: {error}; give a number per frame, such as rotate:1.5 or "
                       "forward:0.02") from error
  colours = list(read_frames(text, size, count=frames))
  if len(colours) < frames:
    raise InputError(f"--motion {text} has {len(colours)} frames, and {frames} are made: give a longer film, or --frames "
                     f"{len(colours)}")
  return np.stack(colours)
