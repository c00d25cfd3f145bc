"""The two things that are done to every file, as pure functions: judge it, and write its clips.

Worker processes, Beam and the run in one process all call these.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath
import numpy as np

from panda_jax.data import checks, records, repairs, video
from panda_jax.data.checks import Finding, Verdict
from panda_jax.data.flow import FlowError, films
from panda_jax.data.prepare import motion
from panda_jax.data.prepare.manifest import stamp
from panda_jax.data.prepare.options import Options
from panda_jax.data.prepare.plan import STILL_FRAMES, ClipPlan, Unit
from panda_jax.data.shards import ShardWriter, said_plainly, serialise
from panda_jax.data.sources import Source
from panda_jax.data.stores import Store
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.paths import as_path, is_remote, local_file, size_of, upload, write_text

STILL_DEGREES_PER_SECOND = 6.0
IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where the frames of clips come from: a file that was judged, or a record of a dataset.

  Attributes:
    name: to show.
    caption: of the clips.
    verdict: of a file.
    stamp: (bytes, modified_ns) of the file when the run began; it must still be so.
    record: (dataset, split, index) of a record.
    flow: of a file, the film of its optical flow if there is one.
    flow_stamp: as `stamp`, of that.
  """

  name: str
  caption: str
  verdict: Verdict | None = None
  stamp: tuple[int, int] | None = None
  record: tuple[str, str, int] | None = None
  flow: Path | None = None
  flow_stamp: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Job:
  """A unit with all that is needed to write it; `origins` by the number of the source."""

  unit: Unit
  origins: dict[int, Origin]


def check_source(source: Source, options: Options) -> Verdict:
  """Judges one source; whatever is wrong with it is in the verdict."""
  if source.problem:
    return unusable(source, source.rule, source.problem)
  with local_file(source.path) as path:
    found = checks.check(path, options.checks, allow_flat=options.allow_flat, flat=options.flat, start=source.start,
                         end=source.end)
  if found.ok and source.flow is not None and (problem := motion.check_flow(source.flow, found)):
    found = dataclasses.replace(found, ok=False, verdict="no flow", why=problem.why, findings=[*found.findings, problem],
                                repairs=[], shots=[])
  return dataclasses.replace(found, path=str(source.path))


def unusable(source: Source, rule: str, why: str) -> Verdict:
  """The verdict of a source that cannot be looked at."""
  kind = "still" if source.path.suffix.lower() in checks.STILL_SUFFIXES else "video"
  return Verdict(path=str(source.path), kind=kind, why=why, findings=[Finding(rule, "rejected", why)])


def write_unit(job: Job, options: Options, folder: epath.Path, store: Store | None = None) -> dict[str, Any]:
  """Writes the shards of one unit and then its receipt, `<folder>/<unit>.json`.

  Args:
    job: what to write.
    options: of the run.
    folder: that exists, here or in a bucket; what an interrupted attempt left of this unit in it is replaced.
    store: None for pixels.

  Returns:
    The receipt: {"unit": index, "shards": {kind: {"files", "lengths", "sizes", "bytes"}}}, where kind is a split for clip
    records and "images-<split>" for images, and sizes are those of the files.

  Raises:
    InputError: if a file changed or vanished since it was judged, or the disk is full; no half-written shard is left.
  """
  if is_remote(folder):                               # shards first: the receipt vouches for them
    with tempfile.TemporaryDirectory() as place:
      receipt = write_unit(job, options, Path(place), store)
      os.remove(Path(place) / receipt_name(job.unit))
      upload(Path(place), folder)
    write_text(folder / receipt_name(job.unit), json.dumps(receipt))
    return receipt
  with said_plainly(folder, "finished shards are kept"):
    with _Writers(Path(folder), job.unit) as writers:
      for clip, frames in _clips(job, options):
        caption = job.origins[clip.source].caption
        if store is None:
          record = _pixels(clip, caption, frames, options)
        else:
          record = _write_images(clip, caption, frames, store, writers.of(f"{IMAGES}-{clip.split}"))
        writers.of(clip.split).write(record)
    receipt = {"unit": job.unit.index, "shards": {
      kind: {"files": [path.name for path in writer.paths], "lengths": writer.lengths,
             "sizes": [path.stat().st_size for path in writer.paths], "bytes": writer.bytes}
      for kind, writer in writers.by_kind.items()}}
    write_text(as_path(folder) / receipt_name(job.unit), json.dumps(receipt))
  return receipt


def read_receipt(unit: Unit, folder: epath.Path) -> dict[str, Any] | None:
  """The receipt of a unit that was written whole; None if it has to be written (again)."""
  try:
    receipt = json.loads((folder / receipt_name(unit)).read_text())
    whole = all(size_of(folder / file) == size for shards in receipt["shards"].values()
                for file, size in zip(shards["files"], shards["sizes"], strict=True))
  except (FileNotFoundError, ValueError, KeyError):
    return None
  return receipt if whole else None


def receipt_name(unit: Unit) -> str:
  return f"{_prefix(unit)}.json"


def still_frames(image: np.ndarray, height: int, fps: float) -> Iterator[np.ndarray]:
  """A photograph as a slow turn of the camera to the right, by whole pixels, so that no frame is resampled.

  Args:
    image: uint8 [H W 3] equirectangular.
    height: rows of the frames; they have twice as many columns.
    fps: frames per second of the clip.

  Yields:
    STILL_FRAMES frames, uint8 [height 2*height 3], about STILL_DEGREES_PER_SECOND apart.
  """
  frame = video.resize(image, (height, 2 * height))
  for index in range(STILL_FRAMES):
    yield np.roll(frame, -_still_step(height, fps) * index, axis=1)


def _still_step(height: int, fps: float) -> int:
  """Pixels per frame."""
  return max(1, round(2 * height * STILL_DEGREES_PER_SECOND / fps / 360))


def _clips(job: Job, options: Options) -> Iterator[tuple[ClipPlan, Iterator]]:
  """Every clip of a unit with its frames, see `_frames`; each source is read once."""
  open_records = functools.cache(records.open_records)      # once for a unit: it takes longer than reading a clip
  for number, clips in itertools.groupby(job.unit.clips, lambda clip: clip.source):
    clips, origin = list(clips), job.origins[number]
    frames = _frames(origin, clips, options, open_records)
    for clip in clips:
      yield clip, _exactly(frames, clip, origin)


def _frames(origin: Origin, clips: list[ClipPlan], options: Options,
            open_records: Callable[[str, str], records.Records]) -> Iterator[np.ndarray] | films.Pairs:
  """The frames of a source's clips, one clip after the other: uint8 [H W 3], or with motion a pair of those."""
  if origin.record is not None:
    path, split, index = origin.record
    encoded = open_records(path, split)[index]["frames"]
    for place in (place for clip in clips for place in clip.indices()):
      yield video.resize(records.decode_frame(encoded[place]), options.size)
    return
  _check_unchanged(origin.name, origin.verdict.path, origin.stamp)
  with local_file(origin.verdict.path) as path:
    verdict = dataclasses.replace(origin.verdict, path=str(path))
    wanted = [place for clip in clips for place in clip.indices()]
    if verdict.kind == "still":
      image = next(repairs.frames(verdict, options.size, [0]))
      turn = list(still_frames(image, options.height, clips[0].fps))
      if options.has_motion:
        known = motion.of_turn(_still_step(options.height, clips[0].fps), options.size)
        turn = [(frame, known) for frame in turn]
      yield from (turn[place] for place in wanted)
      return
    try:
      if options.has_motion:
        yield from _with_motion(origin, verdict, clips, wanted, options)
      else:
        yield from repairs.frames(verdict, options.size, wanted, flat=options.flat)
    except FlowError:
      raise
    except InputError as error:
      raise InputError(f"{origin.name} was whole when it was checked and is not now ({error}): put it back, or remove "
                       "it, and run the same command again") from error


def _with_motion(origin: Origin, verdict: Verdict, clips: list[ClipPlan], wanted: list[int],
                 options: Options) -> films.Pairs:
  """The frames of a film and their motion."""
  shots = dict(verdict.shots)
  starts = [start for clip in clips for start in films.flow_starts(clip.indices(), (clip.start, shots[clip.start]))]
  read = functools.partial(repairs.frames, verdict, options.size)
  if origin.flow is None:
    yield from films.estimated(read, wanted, starts, options.flow)
    return
  _check_unchanged(printable(origin.flow), origin.flow, origin.flow_stamp)
  with local_file(origin.flow) as flow:
    yield from zip(read(wanted), motion.filmed(flow, verdict, options.size, starts), strict=True)


def _check_unchanged(name: str, path: str | Path, then: tuple[int, int] | None) -> None:
  try:
    now = stamp(path)
  except OSError as error:
    why = (error.strerror or "it is gone").lower()
    raise InputError(f"{name} cannot be read any more ({why}): bring it back and run the same command again; "
                     "finished shards are kept") from error
  if then is not None and now != then:
    raise InputError(f"{name} changed while the dataset was being made: run the command again with another "
                     "--output")


def _exactly(frames: Iterator[np.ndarray], clip: ClipPlan, origin: Origin) -> Iterator[np.ndarray]:
  """The next frames, as many as the clip has."""
  count = 0
  for frame in itertools.islice(frames, clip.frames):
    yield frame
    count += 1
  if count < clip.frames:
    raise InputError(f"{origin.name} gave {count} of the {clip.frames} frames of clip {clip.id} that were there when it "
                     "was checked: it changed meanwhile; run the command again with another --output")


def _pixels(clip: ClipPlan, caption: str, frames: Iterator[np.ndarray] | films.Pairs, options: Options) -> bytes:
  """A clip's record. Motion is encoded as frames are: JPEG 95 costs it 0.4 of 255 levels, far less than a flow video."""
  names = ("frames", "motion") if options.has_motion else ("frames",)
  encoded: dict[str, list[bytes]] = {name: [] for name in names}
  for frame in frames:
    for name, image in zip(names, frame if options.has_motion else (frame,), strict=True):
      encoded[name].append(records.encode_frame(image, options.encoding, options.quality))
  return serialise({"id": clip.id, "caption": caption, "fps": clip.fps, **encoded})


def _write_images(clip: ClipPlan, caption: str, frames: Iterator[np.ndarray], store: Store,
                  images: ShardWriter) -> bytes:
  """Writes a clip's images and returns its record."""
  variants = store.variants(clip.id, caption)
  count = 0
  for image in store.images(frames, variants):
    images.write(image)
    count += 1
  expected = clip.frames * len(variants) * store.views
  if count != expected:
    raise RuntimeError(f"the store {store.name} made {count} images of clip {clip.id}, {expected} were planned")
  return serialise({
    "id": clip.id, "caption": caption, "fps": clip.fps, "length": clip.frames, "first": clip.first,
    "yaw_deg": [variant.yaw_deg for variant in variants], "flip": [int(variant.flip) for variant in variants],
    "text": store.text(caption)}, store.name)


class _Writers(contextlib.ExitStack):
  """The shards of a unit by kind; leaving by an exception drops them all."""

  def __init__(self, folder: Path, unit: Unit):
    super().__init__()
    self.folder, self.prefix = folder, _prefix(unit)
    self.by_kind: dict[str, ShardWriter] = {}

  def of(self, kind: str) -> ShardWriter:
    if kind not in self.by_kind:
      self.by_kind[kind] = self.enter_context(ShardWriter(self.folder, f"{self.prefix}.{kind}"))
    return self.by_kind[kind]


def _prefix(unit: Unit) -> str:
  return f"unit-{unit.index:06d}"
