"""Motion beside the frames of a clip: estimated, read from a film of flow, or known because a still turns.

Of every stored frame it is the flow to the NEXT frame of its source, whatever --fps leaves out between stored frames:
360DVD trains on every fourth frame with flow of one step. No flow goes over a cut; the last frame of a shot repeats the
one before, and a shot of one frame stands still.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panda_jax.data import video
from panda_jax.data.checks import VIDEO_SUFFIXES, Finding, Verdict
from panda_jax.data.flow import UNITS, describe_flow, encode_flow
from panda_jax.data.flow.films import estimator
from panda_jax.data.prepare.options import Options
from panda_jax.data.sources import Source
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.paths import as_path, local_file

RULES = {"no_flow": "its flow video is missing, damaged, of another length or shape, or in other colours"}
"""The rule of --flow-videos, which only its manifests have."""

_LOOK_AT = 16                                         # every so many-th frame of a flow video is looked at
_BRIGHT = 128                                         # the darkest channel of the adapter's colours is 64 at most


def about(options: Options) -> dict[str, Any]:
  """JSON: what motion is made with, as {"motion": …}; nothing where there is none.

  Raises:
    InputError: if there is no such estimator.
  """
  if not options.has_motion:
    return {}
  made = {"estimator": "flow videos"} if options.flow_videos else describe_flow(options.flow, estimator(options.flow))
  return {"motion": made | UNITS}


# Flow videos


def find_flows(sources: Sequence[Source], folder: str | None) -> list[Source]:
  """The sources with `flow`, the video in a folder that is named as they are; stills need none.

  Raises:
    InputError: if there is no such folder, it has none of the videos that are needed, or it is part of the input.
  """
  if folder is None:
    return list(sources)
  if not as_path(folder).is_dir():
    raise InputError(f"there is no folder {printable(folder)} of flow videos")
  flows = {file.stem: file for suffix in reversed(VIDEO_SUFFIXES) for file in sorted(as_path(folder).iterdir())
           if file.suffix.lower() == suffix}
  inside = next((source for source in sources if flows.get(source.path.stem) == as_path(source.path)), None)
  if inside is not None:
    raise InputError(f"{printable(inside.path)} is a flow video and part of the input, too: give the folder of the "
                     "films as --input, or move the flow videos out of it")
  found, needed = [], [source for source in sources if not source.problem and not _is_still(source)]
  if needed and not any(source.path.stem in flows for source in needed):
    raise InputError(f"{printable(folder)} has no flow video of any film: looked for "
                     f"{printable(needed[0].path.stem)}.mp4 and so on")
  for source in sources:
    if source.problem or _is_still(source):
      found.append(source)
    elif source.path.stem in flows:
      found.append(dataclasses.replace(source, flow=flows[source.path.stem]))
    else:
      found.append(dataclasses.replace(source, rule="no_flow", problem=(
        f"has no flow video: {printable(source.path.stem)}.mp4 is not in {printable(folder)}")))
  return found


def check_flow(path: Path, verdict: Verdict) -> Finding | None:
  """Decodes a flow video from end to end and says why it is not that of a film, if so.

  Args:
    path: of the flow video.
    verdict: of the film.
  """
  problem = None
  turned = [name for name in verdict.repairs if name != "resize"]
  if turned:
    problem = f"is repaired ({', '.join(turned)}), and its flow video is of what it was before: convert the film first"
  else:
    try:
      with local_file(path) as local:
        problem = _look(local, verdict)
    except InputError as error:
      problem = f"has a flow video that cannot be read: {error}"
  return problem and Finding("no_flow", "rejected", problem)


def _look(path: Path, verdict: Verdict) -> str | None:
  """What is wrong with a flow video that can be decoded: a clause that follows the film's name."""
  count, bright = 0, []
  for frame in video.decode(path, verdict.start, verdict.end):
    if count == 0 and not 1.9 <= frame.width / frame.height <= 2.1:
      return f"has a flow video of {frame.width}x{frame.height}, which is not twice as wide as high"
    if count % _LOOK_AT == 0:
      bright.append((video.to_rgb(frame).min(-1) > _BRIGHT).mean())
    count += 1
  if count not in (verdict.frames, verdict.frames - 1):
    return f"has {verdict.frames} frames, and its flow video {count}: it is of another film, or another cut of it"
  if np.mean(bright) > 0.5:
    return "has a flow video in other colours than 360DVD's, in which no motion is black"
  return None


def _is_still(source: Source) -> bool:
  return source.path.suffix.lower() not in VIDEO_SUFFIXES


# Motion of clips


def filmed(path: Path, verdict: Verdict, size: tuple[int, int], starts: Iterable[int | None]) -> Iterator[np.ndarray]:
  """The colours in a flow video that belong to frames, as they are decoded: uint8 [H W 3] of a size.

  Raises:
    InputError: if the video ends too early.
  """
  frames = enumerate(video.decode(path, verdict.start, verdict.end))
  at, colours = -1, np.zeros((*size, 3), np.uint8)
  for start in starts:
    if start is None:
      yield np.zeros_like(colours)
      continue
    if start > at:
      at, frame = next((found for found in frames if found[0] == start), (at, None))
      if frame is None:
        raise InputError(f"{path} ends before frame {start}")
      colours = video.to_rgb(frame, size)
    yield colours


def of_turn(step: int, size: tuple[int, int]) -> np.ndarray:
  """The colours of a still that turns by whole pixels to the right: uint8 [H W 3]."""
  flow = np.zeros((*size, 2), np.float32)
  flow[..., 0] = -step
  return encode_flow(flow, size[1])
