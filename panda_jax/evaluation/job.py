"""An evaluation as a batch job: clip by clip, over processes and machines, and never the same work twice.

Everything that was measured of one video lies in a file of its own, with what it depends on: the protocol, the contents of
both videos, the prompt, and the weights of the networks. So a job that was interrupted goes on, one that was changed does
again what the change touches, and parts of it may run anywhere, as long as they write into one folder:

  OUTPUT/clips/METHOD/CLIP.json     numbers, or why there are none
  OUTPUT/clips/METHOD/CLIP.npz      features, from which distances between sets are made
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from panda_jax.data.clips import TRUTH, Clip, find_video, views_of
from panda_jax.data.prepare.pool import Died, Pool
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.evaluation.extractors import Extractor, Weights, load_extractors
from panda_jax.evaluation.measure import Measured, measure, read_key, said
from panda_jax.evaluation.protocol import Protocol
from panda_jax.evaluation.reading import Frames, Unusable, check_pair, read_frames
from panda_jax.paths import written_whole

VERSION = 1                                           # of what is measured; another one measures everything again


@dataclasses.dataclass(frozen=True)
class Job:
  """What is to be measured.

  Attributes:
    clips: of the benchmark, in its order.
    methods: folders of videos by name.
    output: where results go.
    protocol: how.
    metrics: names of what is taken.
    files: of the networks' weights, by network.
    weights: their names and hashes.
  """

  clips: tuple[Clip, ...]
  methods: Mapping[str, Path]
  output: Path
  protocol: Protocol
  metrics: tuple[str, ...]
  files: Mapping[str, tuple[str, ...]]
  weights: Mapping[str, Weights]

  @functools.cached_property
  def common(self) -> dict[str, Any]:
    """What the numbers of every video depend on."""
    return {"version": VERSION, "protocol": self.protocol.measuring(), "metrics": sorted(self.metrics),
            "weights": {kind: weights.sha256 or weights.file for kind, weights in sorted(self.weights.items())}}

  def video_of(self, method: str, clip: Clip) -> Path | None:
    """A method's video of a clip, or the true one; None if there is none."""
    return clip.video if method == TRUTH else find_video(self.methods[method], clip.id)

  @functools.cached_property
  def named(self) -> tuple[str, ...]:
    """The methods, and the truth in front of them where there is one."""
    return ((TRUTH,) if any(clip.video for clip in self.clips) else ()) + tuple(self.methods)


@dataclasses.dataclass(frozen=True)
class Problem:
  """A clip of a method that could not be measured, or with which something is odd."""

  method: str
  clip: str
  kind: str
  sentence: str


@dataclasses.dataclass(frozen=True)
class Result:
  """What is kept of one video.

  Attributes:
    values, why, about: as `measure.Measured`; empty where there is a problem.
    problem: why it was not measured; None if it was.
    place: without the ending; features lie in place.npz.
  """

  values: dict[tuple[str, str], float | None]
  why: dict[tuple[str, str], str]
  about: dict
  problem: Problem | None
  place: Path

  def features(self, network: str, surface: str) -> np.ndarray:
    """[images d] float32."""
    with np.load(f"{self.place}.npz", allow_pickle=False) as file:
      return file[said((network, surface))]


def run(job: Job, extractors: Mapping[str, Extractor] = MappingProxyType({}), *, shard: tuple[int, int] = (0, 1),
        processes: int = 0, progress: Callable | None = None) -> int:
  """Measures what is not measured yet.

  Args:
    job: what.
    extractors: the networks that it names; processes load their own.
    shard: (number, of how many): which part of the clips is done here.
    processes: that share the clips; 0: this one does them all.
    progress: `console.progress`.

  Returns:
    How many clips were looked at here.

  Raises:
    InputError: if a process died twice over a clip, or a disk is full.
  """
  mine = job.clips[shard[0]::shard[1]]
  work = _by_processes(job, mine, processes) if processes else (measure_clip(job, clip, extractors) for clip in mine)
  with progress("clips", len(mine)) if progress else contextlib.nullcontext(lambda: None) as advance:
    for _ in work:
      advance()
  return len(mine)


def measure_clip(job: Job, clip: Clip, extractors: Mapping[str, Extractor]) -> None:
  """Measures one clip of every method, and the truth, where that is not done yet."""
  truth: Frames | Unusable | None = None
  for method in job.named:
    path = job.video_of(method, clip)
    if path is None:
      continue                                        # said in the summary: it may come later
    wanted = identity(job, method, clip)
    if _kept(job, method, clip, wanted):
      continue
    if truth is None and clip.video is not None:
      truth = _attempt(lambda: read_frames(clip.video, job.protocol))
    try:
      if isinstance(truth, Unusable):
        raise truth
      made = truth if method == TRUTH else read_frames(path, job.protocol)
      if method != TRUTH and truth is not None:
        check_pair(made, truth, path, job.protocol)
      measured = measure(path, made, None if method == TRUTH else truth, clip.prompt, job.metrics, job.protocol,
                         extractors)
      bad = [said(key) for key, features in measured.features.items() if not np.isfinite(features).all()]
      if bad:
        raise Unusable("features", f"{printable(path)} gives features that are no numbers ({bad[0]}): look at the video "
                       "and at the weights")
      _keep(job, method, clip, wanted, measured)
    except Unusable as error:
      about_truth = " (the true video)" if error is truth else ""
      _keep(job, method, clip, wanted, Problem(method, clip.id, error.kind, f"{error}{about_truth}"))


def results(job: Job, method: str) -> Iterator[tuple[Clip, Result]]:
  """Every clip of a method with what was measured of it, in the order of the clips.

  Raises:
    InputError: if one is not measured yet.
  """
  for clip in job.clips:
    place = _place(job, method, clip)
    if job.video_of(method, clip) is None:
      what = "the table has no true video of this clip" if method == TRUTH else (
          f"{printable(job.methods[method])} has no video of the clip {printable(clip.id)}")
      yield clip, Result({}, {}, {}, Problem(method, clip.id, "missing", what), place)
      continue
    content = _read(place)
    if content is None or content["identity"] != identity(job, method, clip):
      raise InputError(f"the clip {printable(clip.id)} of {printable(method)} is not measured yet: run the same command "
                       "again, without --shard once all shards are done")
    problem = content.get("problem")
    keyed = lambda part: {read_key(key): value for key, value in content.get(part, {}).items()}
    yield clip, Result(keyed("values"), keyed("why"), content.get("about", {}),
                       Problem(method, clip.id, **problem) if problem else None, place)


def complete(job: Job) -> bool:
  """Whether every clip of every method is measured."""
  return all(job.video_of(method, clip) is None or _kept(job, method, clip, identity(job, method, clip))
             for clip in job.clips for method in job.named)


def identity(job: Job, method: str, clip: Clip) -> str:
  """A digest of all that the numbers of one video depend on."""
  path = job.video_of(method, clip)
  about = {**job.common, "prompt": clip.prompt, "video": _digest_of(path), "truth": _digest_of(clip.video)}
  if "overlap_psnr" in job.metrics and path is not None:
    about["views"] = _digest_of(views_of(path))
  return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _digest_of(path: Path | None) -> str | None:
  """sha256 of a file's content; None if there is none. Asked again it answers at once, unless the file has changed."""
  if path is None or not path.is_file():
    return None
  stat = path.stat()
  return _digest(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _digest(path: str, size: int, modified_ns: int) -> str:
  del size, modified_ns
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _attempt(read: Callable[[], Frames]) -> Frames | Unusable:
  try:
    return read()
  except Unusable as error:
    return error


def _place(job: Job, method: str, clip: Clip) -> Path:
  return job.output / "clips" / method / clip.name


def _kept(job: Job, method: str, clip: Clip, wanted: str) -> bool:
  content = _read(_place(job, method, clip))
  return content is not None and content["identity"] == wanted


def _read(place: Path) -> dict | None:
  path = Path(f"{place}.json")
  if not path.is_file():
    return None
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read ({error}): remove it, and its clip is measured again") from error
  if not isinstance(content, dict) or "identity" not in content:
    raise InputError(f"{path} is no result of an evaluation: give another --output")
  return content


def _keep(job: Job, method: str, clip: Clip, wanted: str, result: Measured | Problem) -> None:
  """Features first: numbers without them would pass for all that there is."""
  place = _place(job, method, clip)
  if isinstance(result, Problem):
    content = {"identity": wanted, "problem": {"kind": result.kind, "sentence": result.sentence}}
  else:
    if result.features:
      with written_whole(f"{place}.npz") as path, open(path, "wb") as file:
        np.savez(file, **{said(key): features for key, features in result.features.items()})
    keyed = lambda part: {said(key): value for key, value in part.items()}
    content = {"identity": wanted, "values": keyed(result.values), "why": keyed(result.why), "about": result.about}
  with written_whole(f"{place}.json") as path:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _by_processes(job: Job, clips: Sequence[Clip], processes: int) -> Iterator[None]:
  for number, result in Pool(processes).map(_measure_in_process, [(job, clip) for clip in clips]):
    if isinstance(result, Died):
      raise InputError(f"the process that measured the clip {printable(clips[number].id)} ended twice without an answer, "
                       "perhaps for want of memory: give --processes 1, or look at its videos")
    yield


def _measure_in_process(job: Job, clip: Clip) -> None:
  measure_clip(job, clip, _extractors_of_process(tuple(job.files.items()), tuple(job.weights.items()), job.protocol))


@functools.lru_cache(maxsize=1)
def _extractors_of_process(files: tuple, weights: tuple, protocol: Protocol) -> dict[str, Extractor]:
  import cv2
  cv2.setNumThreads(1)                                # the processes share the cores
  return load_extractors(dict(files), dict(weights), protocol)

