"""From records to batches of view-frame matrices: which clip, which frames; `views` says which yaw and what is seen.

Every draw is a pure function of the seed and the sample's position in the stream of all samples, and the clips of a
global batch are consecutive positions of that stream. So a run that is resumed, or continued on another number of
hosts, sees the batches it would have seen; the iterator's whole state is {"next_index": step}.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import numpy as np

from panda_jax.data.matrix import MatrixSchedule, keyed_generator
from panda_jax.data.records import KINDS, Records, dataset_info, open_records
from panda_jax.data.stored_views import StoredCrops, StoredLatents, StoredPanoramas, read_states, stack
from panda_jax.data.views import FlatViews, PanoramaClips, PanoramaViews
from panda_jax.errors import InputError
from panda_jax.geometry import RigViews, Shown, WholePanoramas

Batch = dict[str, np.ndarray]
Views = Callable[[np.random.Generator, dict[str, Any], np.ndarray, int], Batch]


def train_iterator(
  path: str | Path,
  split: str,
  *,
  shows: Shown,
  schedule: MatrixSchedule,
  batch_size: int,
  tokenize: Callable[[str], np.ndarray],
  seed: int,
  fps: float | None = None,
  stride: int | None = None,
  panorama_height: int | None = None,
  kind: str = "panorama",
  flip: float = 0.0,
  process_index: int = 0,
  process_count: int = 1,
  threads: int | None = None,
  prefetch: int = 8,
) -> grain.DatasetIterator:
  """An endless, resumable stream of training batches for one host.

  Each epoch is a new shuffle in which every clip comes once; hosts take disjoint parts of it. A clip's start frame is
  random. A panorama's yaw is, too; of a rig, its first view is a random horizontal one, or with `shows.given` a camera
  of its own, and the others follow without replacement. A flat clip is its own one view. Where crops or latents are
  stored, the yaw is one of those they are stored at; whole panoramas of latents are turned by whole latents.

  Args:
    path: a dataset folder made by `panda prepare`.
    split: e.g. "train".
    shows: what a system sees of a panorama: the cameras that views are drawn from, of which flat clips need the sizes
      alone, or the whole.
    schedule: the matrix shape of each step.
    batch_size: clips per step on THIS host.
    tokenize: caption -> int32 [l], the same l for every caption; called from several threads.
    seed: of the shuffle and of every draw within a clip.
    fps: frames per second to play at: every (clip fps / fps)-th frame is taken. Give this or `stride`.
    stride: take every stride-th frame. Clips too short for fps or stride are sampled as widely as they allow.
    panorama_height: taller panoramas are reduced to it by area averaging before projection; None keeps them. Whole ones
      have their own size.
    kind: of the dataset: "panorama", or "flat" for clips made by `panda prepare --flat`, which have one view with the
      rays of a 90 degree camera.
    flip: how likely it is that a sample is mirrored, pictures and rays; never where the caption names sides. Latents
      must be stored mirrored for that.
    process_index: this host, usually jax.process_index().
    process_count: number of hosts, usually jax.process_count().
    threads: batches made at the same time; default one per core, at most 8.
    prefetch: batches kept ready in memory.

  Returns:
    A grain iterator of {"images": uint8 [b v f h w 3], "rays": float32 [b v h w 3] relative to the first view,
    "text": int32 [b l]}; of whole panoramas "motion" uint8 [b f H W 3] in place of rays, if it is wanted. A dataset
    of latents gives "latents" bfloat16 [b v f h w c] in place of "images", and one of panoramas as latents has no
    "rays". Where states of a text encoder are stored, "text_states" bfloat16 [b l c] take the place of "text".
    `get_state` is a small JSON-able dict; after `set_state` the batches that follow are the same to the last bit.
    `set_state({"next_index": N})` starts at step N without a saved state, on any number of hosts.

  Raises:
    InputError: for a missing dataset or split or a dataset of another kind, a clip with fewer frames than the
      schedule's longest matrix, a rig with too few cameras or no horizontal one where it gives the first view, flat
      clips in matrices of many views, or settings that make no sense.
    ValueError: if there is no such process_index.
  """
  threads = threads or _default_threads()
  records, info = _open(path, split, kind, schedule.most_frames)
  views = _views(path, split, info, schedule, shows, panorama_height, in_order=False, flip=flip)
  global_batch_size = batch_size * process_count
  draw = _Draw(
    purpose="train", shape=lambda position: schedule.shape(position // global_batch_size), views=views,
    text=_text(info, tokenize), fps=fps, stride=stride, seed=seed)
  batches = _batched(grain.MapDataset.source(_Shuffled(records, seed)), draw, batch_size, process_index, process_count)
  return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))


def validation_batches(
  path: str | Path,
  split: str,
  *,
  shows: Shown,
  shape: tuple[int, int],
  count: int,
  batch_size: int,
  tokenize: Callable[[str], np.ndarray],
  seed: int = 0,
  fps: float | None = None,
  stride: int | None = None,
  panorama_height: int | None = None,
  kind: str = "panorama",
  process_index: int = 0,
  process_count: int = 1,
  threads: int | None = None,
) -> list[Batch]:
  """The same few batches every time: one matrix shape, the first clips of the split in order, with fixed draws.

  Args:
    shape: (views, frames). The views are the first ones of the rig, in its order; with `shows.given`, a camera drawn
      from these and then the rig's.
    count: number of batches. A split with fewer than count * batch_size * process_count clips is gone through again,
      with other starts, yaws and given cameras.
    seed: of starts, yaws and given cameras; keep it fixed to compare runs.

  The other arguments are those of `train_iterator`; nothing is mirrored.

  Returns:
    `count` batches as `train_iterator` gives them.

  Raises:
    InputError: as `train_iterator`.
  """
  threads = threads or _default_threads()
  schedule = MatrixSchedule((shape,))
  records, info = _open(path, split, kind, schedule.most_frames)
  views = _views(path, split, info, schedule, shows, panorama_height, in_order=True)
  draw = _Draw(
    purpose="validation", shape=lambda position: schedule.shapes[0], views=views,
    text=_text(info, tokenize), fps=fps, stride=stride, seed=seed)
  stream = grain.MapDataset.source(records).repeat(None, reseed_each_epoch=False)
  batches = _batched(stream, draw, batch_size, process_index, process_count)[:count]
  return list(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)))


def choose_frames(
  rng: np.random.Generator,
  available: int,
  frames: int,
  *,
  clip_fps: float,
  fps: float | None = None,
  stride: int | None = None,
) -> np.ndarray:
  """Evenly spaced frames from a random start.

  Args:
    rng: draws the start.
    available: frames of the clip, at least `frames`.
    frames: how many to take.
    clip_fps: the clip's own rate.
    fps: the rate to play at; the stride is clip_fps / fps, rounded and at least 1. Give this or `stride`.
    stride: the distance of neighbouring frames. Either way it is lowered for a clip too short for it.

  Returns:
    [frames] indices into the clip, increasing.
  """
  if stride is None:
    stride = max(1, round(clip_fps / fps))
  if frames > 1:
    stride = min(stride, (available - 1) // (frames - 1))
  start = rng.integers(available - (frames - 1) * stride)
  return start + stride * np.arange(frames)


@functools.lru_cache(maxsize=4)      # threads work on both sides of an epoch's end
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
  return keyed_generator("shuffle", seed, epoch).permutation(count)


class _Shuffled:
  """Records without end: epoch after epoch, each in an order of its own.

  grain's shuffle needs 5 ms per index for a dataset of ten clips, under Python's lock: it draws 16-bit numbers until
  one is small enough.
  """

  def __init__(self, records: Records, seed: int):
    self.records, self.seed = records, seed

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> dict[str, Any]:
    epoch, index = divmod(position, len(self.records))
    return self.records[_epoch_order(len(self.records), self.seed, epoch)[index]]


@dataclasses.dataclass(frozen=True)
class _Draw:
  """Turns the record at one position of the stream into one element of a batch."""

  purpose: str                                                  # names the random stream
  shape: Callable[[int], tuple[int, int]]                       # position -> (views, frames)
  views: Views
  text: Callable[[dict[str, Any]], Batch]                       # record -> its caption as the system reads it
  fps: float | None
  stride: int | None
  seed: int

  def __post_init__(self):
    if (self.fps is None) == (self.stride is None):
      raise InputError("give either fps or stride, so that it is clear how far apart the frames of a matrix are")
    if self.fps is not None and not self.fps > 0:
      raise InputError(f"fps must be above 0, got {self.fps}")
    if self.stride is not None and self.stride < 1:
      raise InputError(f"stride must be at least 1, got {self.stride}")
    keyed_generator(self.purpose, self.seed, 0)     # an impossible seed fails here, not in a worker thread

  def __call__(self, position: int, record: dict[str, Any]) -> Batch:
    views, frames = self.shape(position)
    rng = keyed_generator(self.purpose, self.seed, position)
    available = len(record["frames"]) if "frames" in record else record["length"]
    chosen = choose_frames(rng, available, frames, clip_fps=record["fps"], fps=self.fps, stride=self.stride)
    return {**self.views(rng, record, chosen, views), **self.text(record)}


def _views(path: str | Path, split: str, info: dict[str, Any], schedule: MatrixSchedule, shows: Shown,
           panorama_height: int | None, in_order: bool, flip: float = 0.0) -> Views:
  """What clips of such a dataset become, checked for every matrix of the schedule."""
  if not 0 <= flip <= 1:
    raise InputError(f"data.flip is a probability, from 0 to 1, got {flip}")
  if info["store"] == "panorama_latents" and info["kind"] == "panorama":
    return StoredPanoramas(path, split, info["about"], schedule.shapes, flip)
  if isinstance(shows, WholePanoramas):
    return _whole(path, info, schedule, shows, flip)
  return _of_a_rig(path, split, info, schedule, shows, panorama_height, in_order, flip)


def _whole(path: str | Path, info: dict[str, Any], schedule: MatrixSchedule, shows: WholePanoramas,
           flip: float) -> Views:
  if info["kind"] != "panorama" or info["store"] != "pixels":
    raise InputError(f"{path} stores {info['store']} of the kind {info['kind']}, and this system sees whole panoramas: "
                     "prepare a dataset of panoramas with pixels")
  return PanoramaClips(path, info["about"], shows.size, schedule.shapes, motion=shows.motion, flip=flip,
                       fix_flow=shows.fix_flow)


def _of_a_rig(path: str | Path, split: str, info: dict[str, Any], schedule: MatrixSchedule, shows: RigViews,
              panorama_height: int | None, in_order: bool, flip: float) -> Views:
  kind, store = info["kind"], info["store"]
  if store == "pixels" and kind == "flat":
    return FlatViews(shows.view_size, shows.rays_size, schedule.shapes, flip)
  if store == "pixels":
    return PanoramaViews(shows.rig, shows.view_size, shows.rays_size, _panorama_size(info, panorama_height),
                         schedule.most_views, given=shows.given, in_order=in_order, flip=flip)
  if kind != "panorama":
    raise InputError(f"{path} stores {store} of flat clips, which cannot be read: prepare it again with pixels")
  if shows.given is not None:
    raise InputError(f"{path} stores {store}, views of fixed cameras, and a given view of its own (model.own_view) is "
                     "a camera drawn at random: prepare the dataset with pixels, or set model.own_view=False")
  stored = StoredCrops if store == "crops" else StoredLatents
  return stored(path, split, info["about"], shows.rig, shows.view_size, shows.rays_size, schedule.most_views, in_order,
                flip)


def _text(info: dict[str, Any], tokenize: Callable[[str], np.ndarray]) -> Callable[[dict[str, Any]], Batch]:
  """How captions are read: as tokens, or as states of a text encoder where these are stored."""
  if info["about"].get("text") is None:
    return lambda record: {"text": np.asarray(tokenize(record["caption"]), np.int32)}
  shape = tuple(info["about"]["text shape"])
  return lambda record: {"text_states": read_states(record["text"], shape)}


def _panorama_size(info: dict[str, Any], panorama_height: int | None) -> tuple[int, int]:
  """(H, W) of a dataset's panoramas after reduction to `panorama_height`."""
  height, width = info["size"]
  if panorama_height is not None and panorama_height < 1:
    raise InputError(f"panorama_height must be at least 1 pixel, got {panorama_height}")
  if panorama_height is None or height <= panorama_height:
    return height, width
  return panorama_height, round(width * panorama_height / height)


def _open(path: str | Path, split: str, kind: str, frames: int) -> tuple[Records, dict[str, Any]]:
  """Opens a split of a dataset of this kind, whose every clip has at least `frames` frames; gives its info, too."""
  if kind not in KINDS:
    raise InputError(f"data.kind must be one of {', '.join(KINDS)}, got {kind!r}")
  records, info = open_records(path, split), dataset_info(path)
  if info["kind"] != kind:
    made = "ordinary films (panda prepare --flat)" if info["kind"] == "flat" else "panoramas"
    raise InputError(f"{path} is a dataset of {made}, but data.kind is {kind!r}: set data.kind={info['kind']!r}, or "
                     f"give a dataset of the kind {kind!r}")
  length, shortest = info["shortest"][split]
  if length < frames:
    raise InputError(
      f"clip {shortest!r} of the split {split} of {path} has {length} frames, but the longest matrix takes {frames}: "
      "prepare the dataset again with longer clips, or give matrix.shapes with fewer frames")
  return records, info


def _batched(stream: grain.MapDataset, draw: _Draw, batch_size: int, process_index: int,
             process_count: int) -> grain.MapDataset:
  """This host's batches; those of all hosts are consecutive, so the global batch does not depend on their number."""
  if batch_size < 1:
    raise InputError(f"batch_size must be at least 1 clip per host, got {batch_size}")
  if not 0 <= process_index < process_count:
    raise ValueError(f"process_index must be in [0, {process_count}), got {process_index}")
  batches = stream.map_with_index(draw).batch(batch_size, drop_remainder=True, batch_fn=stack)
  return batches[process_index::process_count]


def _default_threads() -> int:
  return min(8, os.cpu_count() or 1)
