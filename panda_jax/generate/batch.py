"""A video for every clip of a table: one model, one compiled program, any number of processes, resumed clip by clip.

The clips and the names of their videos are those of `panda_jax.data.clips`, so that `panda evaluate` finds them.
A clip that cannot be made does not stop the others: it is named, with the reason.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from panda_jax.data.clips import VIEWS_MARK, Clip
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.generate import written_whole
from panda_jax.generate.fingerprint import of_request
from panda_jax.generate.given_video import GivenPanorama
from panda_jax.generate.results import Results
from panda_jax.generate.segments import CannotWrite, Fingerprint
from panda_jax.generate.windows import Generator, Request
from panda_jax.geometry import Camera


@dataclasses.dataclass(frozen=True)
class Given:
  """The view that each clip is given: cut out of its own video, the true panorama.

  Attributes:
    camera: where it looks.
    panorama_height: rows to which a taller panorama is reduced before that, as it was for training; None: not at all.
  """

  camera: Camera
  panorama_height: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
  """What is made of every clip.

  Attributes:
    folder: for the videos.
    model: the fingerprint of the model and of how it samples, from `of_model`.
    frames: of a video.
    fps: frames per second.
    seed: of all; see `clip_seed`.
    given: None: by the prompt alone.
    motion: clip -> uint8 [f H W 3], for systems that see whole panoramas; or None.
    negative: of all; see `Request`.
    views: whether the views that the panorama is stitched from are written, too.
    overwrite: whether to start over where a video of another request has a clip's name.
  """

  folder: Path
  model: Fingerprint
  frames: int
  fps: float
  seed: int = 0
  given: Given | None = None
  motion: Callable[[Clip], np.ndarray] | None = None
  negative: str = ""
  views: bool = False
  overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a clip.

  Attributes:
    clip: which.
    paths: its files; empty if it could not be made.
    kept: whether it was finished before.
    failure: why it could not be made, in a sentence; empty if it was.
  """

  clip: Clip
  paths: Sequence[Path] = ()
  kept: bool = False
  failure: str = ""


def clip_seed(seed: int, clip: Clip) -> int:
  """A clip's own seed: the first four bytes of the SHA-256 of "SEED NAME", the most significant first.

  So a clip has the same noise wherever it stands in the table and whichever others are made, and no two share theirs.
  """
  return int.from_bytes(hashlib.sha256(f"{seed} {clip.name}".encode()).digest()[:4], "big")


def check_clips(clips: Sequence[Clip], given: bool, source: str) -> None:
  """Refuses at once a table of which nothing can be made, or nothing that could be told apart.

  Args:
    clips: all of them.
    given: whether a view of each clip's video is given.
    source: of the clips, for the sentence.

  Raises:
    InputError: if no clip has what it is to be made from, or one clip's views would have another clip's name.
  """
  names = {clip.name for clip in clips}
  if clash := next((clip for clip in clips if clip.name + VIEWS_MARK in names), None):
    raise InputError(f"{source} has clips {printable(clash.name)} and {printable(clash.name)}{VIEWS_MARK}, and "
                     f"{printable(clash.name)}{VIEWS_MARK}.mp4 holds the views of the former: rename one of them")
  if given and not any(clip.video for clip in clips):
    raise InputError(f"no clip of {source} has a video to take --given view from: give the table a column video_path, "
                     "or leave out --given")
  if not given and not any(clip.prompt for clip in clips):
    rest = "give --given view, to start from a view of each clip's video" if any(clip.video for clip in clips) else (
        "give the table a column prompt")
    raise InputError(f"no clip of {source} has a prompt: {rest}")


def check_model(generate: Generator, job: Job) -> None:
  """Refuses at once what the model could not make of any clip.

  Raises:
    InputError: as `Generator.check`.
  """
  request = Request("", job.frames, negative=job.negative)
  if job.given is not None:
    video = np.zeros((1, *generate.system.view_size, 3), np.uint8)
    request = Request("", job.frames, video, camera=job.given.camera)
  generate.check(request)


def make_clips(generate: Generator, clips: Iterable[Clip], job: Job,
               say: Callable[[str], None] = lambda line: None) -> Iterator[Outcome]:
  """Makes the clips one after the other, each when it is asked for.

  Args:
    generate: the model. All clips share its one program: they have as many frames, and all or none are given a view.
    clips: of this process.
    job: what is made of them.
    say: told where an interrupted clip goes on.

  Yields:
    What became of each, in order.

  Raises:
    CannotWrite: if the disk is full or the folder cannot be written: no other clip could be written either.
  """
  for clip in clips:
    try:
      yield _make(generate, clip, job, say)
    except CannotWrite:
      raise
    except InputError as error:
      yield Outcome(clip, failure=str(error))


def write_failures(path: Path, outcomes: Iterable[Outcome]) -> None:
  """A table of the clips that could not be made and why, clip_id and failure; no file if there are none."""
  failed = [outcome for outcome in outcomes if outcome.failure]
  if not failed:
    path.unlink(missing_ok=True)
    return
  text = io.StringIO(newline="")
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(("clip_id", "failure"))
  writer.writerows((outcome.clip.id, outcome.failure) for outcome in failed)
  with written_whole(path) as unfinished:
    unfinished.write_text(text.getvalue(), encoding="utf-8", newline="")


def _make(generate: Generator, clip: Clip, job: Job, say: Callable[[str], None]) -> Outcome:
  request, made_from = _request(generate, clip, job)
  generate.check(request)
  with Results(generate, request, job.folder, clip.name, job.fps, made_from, views=job.views, overwrite=job.overwrite,
               in_batch=True) as results:
    if results.complete:
      return Outcome(clip, results.paths, kept=True)
    if results.finished:
      say(f"clip {printable(clip.id)}: {results.finished} of {results.windows} windows are there, going on")
    if request.video is not None and (there := request.video.count(job.frames)) < job.frames:
      raise InputError(f"{printable(clip.video)} gives {there} frames at {job.fps:g} per second, {job.frames} are to "
                       f"be made: give --frames {there} for all clips, or a longer video")
    for _ in results.make():
      pass
    return Outcome(clip, results.paths)


def _request(generate: Generator, clip: Clip, job: Job) -> tuple[Request, Fingerprint]:
  """What is asked of the model for a clip, and its fingerprint."""
  seed = clip_seed(job.seed, clip)
  if job.given is None:
    if not clip.prompt:
      raise InputError("it has no prompt: give it one in the table, or use --given view for all clips")
    motion = None if job.motion is None else job.motion(clip)
    request = Request(clip.prompt, job.frames, seed=seed, motion=motion, negative=job.negative)
    return request, {**of_request(request), **job.model}
  if clip.video is None:
    raise InputError("it has no video to take the given view from: give it a video_path in the table")
  camera, height = job.given.camera, job.given.panorama_height
  video = GivenPanorama(clip.video, camera, generate.system.view_size, job.fps, height)
  request = Request(clip.prompt, job.frames, video, seed, camera)
  cut = "cut out of the video" + (f", reduced to {height} rows" if height else "")
  return request, {**of_request(request, clip.video), "the given view": cut, **job.model}
