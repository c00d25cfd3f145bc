"""What `--motion` says: a motion condition out of a few words, of a 360° film, or of a film of flow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from panda_jax.data.clips import Clip, find_video
from panda_jax.data.flow import Forward, Turn, draw_motion, encode_flow, films, make_flow
from panda_jax.data.tables import printable
from panda_jax.data.video import decode, probe, read_frames, resize
from panda_jax.errors import InputError
from panda_jax.generate.given_video import RATIO_TOLERANCE, filmed_frame

NONE = "none"
LIKE = "like"

_DRAWN = {"rotate": lambda amount: Turn(yaw_deg=amount), "forward": Forward}
_MOST_ROWS = 512                                      # the adapter's flow was measured on so many


def make_motion(text: str, frames: int, size: tuple[int, int], fps: float, flow: str = "dis") -> np.ndarray | None:
  """The motion condition of one video.

  Args:
    text: "none"; "rotate:DEG", the camera turns to the right by so much per frame; "forward:STEP", it moves ahead by
      this share of the distance of things per frame; "like:FILM", the motion of a 360° film; or a film of flow in
      colours, such as 360DVD's.
    frames: how many.
    size: (H, W).
    fps: frames per second that the model makes.
    flow: the estimator for "like:FILM"; see `panda_jax.data.flow.make_flow`.

  Returns:
    uint8 [f H W 3], colours as `panda_jax.data.flow.encode_flow` makes them; None for "none".

  Raises:
    InputError: if a film is shorter or is none, or an amount is no number or too large.
  """
  kind, colon, rest = text.partition(":")
  if text == LIKE:
    raise InputError(f"--motion {LIKE}: say which 360° film's, {LIKE}:FILM; each clip's own is for --batch")
  if text == NONE:
    return None
  if colon and kind in _DRAWN:
    return _drawn(text, frames, size)
  if colon and kind == LIKE:
    return motion_of_film(rest, frames, size, fps, flow)
  return _read_flow(text, frames, size)


def motion_of_clips(text: str, frames: int, size: tuple[int, int], fps: float,
                    flow: str = "dis") -> Callable[[Clip], np.ndarray] | None:
  """The motion condition of every clip of a table, made when it is asked for.

  Args:
    text: as of `make_motion` what is the same for all: "none", "rotate:DEG", "forward:STEP", "like:FILM", a film; and
      what is not: "like", the motion of each clip's own video; a folder of films of flow, named as the clips.
    frames, size, fps, flow: as of `make_motion`.

  Returns:
    clip -> uint8 [f H W 3], which raises InputError where a clip has no video or no film of flow; None for "none".

  Raises:
    InputError: as `make_motion`, or if there is no such estimator.
  """
  if text == LIKE:
    make_flow(flow)                                     # a name that means nothing is refused at once
    return lambda clip: motion_of_film(_video_of(clip), frames, size, fps, flow)
  if Path(text).is_dir():
    return lambda clip: _read_flow(_flow_of(Path(text), clip), frames, size)
  same = make_motion(text, frames, size, fps, flow)
  return None if same is None else lambda clip: same


def motion_of_film(path: str | Path, frames: int, size: tuple[int, int], fps: float, flow: str = "dis") -> np.ndarray:
  """The motion of a 360° film where a model's frames fall: to its own next frame, as in training.

  Args:
    path: an equirectangular film.
    frames, size, fps, flow: as of `make_motion`.

  Returns:
    uint8 [f H W 3].

  Raises:
    InputError: if it cannot be read, is not 2:1, or is too short.
  """
  info = probe(path)
  if abs(info.width / info.height - 2) >= RATIO_TOLERANCE:
    raise InputError(f"{printable(path)} is {info.width}x{info.height}, not 2:1: --motion {LIKE} wants a whole "
                     "panorama")
  rows = min(info.height, _MOST_ROWS)
  places = [filmed_frame(frame, info.fps, fps) for frame in range(frames)]
  there = sum(1 for _ in itertools.islice(decode(path), places[-1] + 2))
  if there <= places[-1]:
    enough = sum(place < there for place in places)
    raise InputError(f"{printable(path)} gives {enough} frames at {fps:g} per second, {frames} are to be made: give a "
                     f"longer film, or --frames {enough}")

  def read(wanted: Sequence[int]) -> Iterator[np.ndarray]:
    needed = set(wanted)
    yield from (frame for place, frame in enumerate(read_frames(path, (rows, 2 * rows), count=wanted[-1] + 1))
                if place in needed)

  motion = films.estimated(read, places, films.flow_starts(places, (0, there)), flow)
  return np.stack([resize(colours, size) for _, colours in motion])


def _drawn(text: str, frames: int, size: tuple[int, int]) -> np.ndarray:
  kind, _, amount = text.partition(":")
  try:
    return encode_flow(draw_motion(frames, size, [_DRAWN[kind](float(amount))]), size[1])
  except ValueError as error:
    raise InputError(f"--motion {text}: {error}; give a number per frame, such as rotate:1.5 or "
                     "forward:0.02") from error


def _read_flow(path: str | Path, frames: int, size: tuple[int, int]) -> np.ndarray:
  colours = list(read_frames(path, size, count=frames))
  if len(colours) < frames:
    raise InputError(f"--motion {path} has {len(colours)} frames, and {frames} are made: give a longer film, or "
                     f"--frames {len(colours)}")
  return np.stack(colours)


def _video_of(clip: Clip) -> Path:
  if clip.video is None:
    raise InputError("it has no video to take its motion from: give it a video_path in the table, or leave out "
                     f"--motion {LIKE}")
  return clip.video


def _flow_of(folder: Path, clip: Clip) -> Path:
  found = find_video(folder, clip.id)
  if found is None:
    raise InputError(f"{printable(folder)} has no film of flow for it: add {printable(clip.name)}.mp4")
  return found
