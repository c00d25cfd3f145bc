"""Clips as ArrayRecord files under a tensorflow-datasets schema, written as a stream and read at random.

One record is one clip: an id, a caption, the frame rate, and its frames as encoded images; where a dataset stores crops
or latents, the record says where its images are (`image_records`). `shards` has the files themselves.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import cv2
import numpy as np

from panda_jax.data.shards import (
  FORMAT, NAME, STORES, ShardWriter, Split, describe, put_in_place, said_plainly, serialise)
from panda_jax.errors import InputError

ENCODINGS = ("jpeg", "png", "webp")
KINDS = ("panorama", "flat")


@dataclasses.dataclass
class Clip:
  """One clip; `frames` is any iterable of uint8 [H W 3] RGB images and is read once.

  `motion`: the same for its motion condition, one image for each frame, such as `flow.encode_flow` makes; or None.
  """

  id: str
  caption: str
  fps: float
  frames: Iterable[np.ndarray]
  motion: Iterable[np.ndarray] | None = None


def encode_frame(frame: np.ndarray, encoding: str = "jpeg", quality: int = 95) -> bytes:
  """One RGB frame as the bytes of an image file.

  Args:
    frame: uint8 [H W 3].
    encoding: "jpeg" (colour kept at full resolution), "png" (lossless; `quality` has no meaning) or "webp".
    quality: 1-100.

  Returns:
    The encoded bytes; `decode_frame` is the way back.

  Raises:
    ValueError: if the frame is not uint8 [H W 3].
  """
  if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
    raise ValueError(f"a frame must be uint8 [H W 3], got {frame.dtype} {list(frame.shape)}")
  options = {
    "jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
             cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
    "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
  }[encoding]
  ok, data = cv2.imencode(f".{encoding}", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
  if not ok:
    raise RuntimeError(f"the {encoding} encoder refused a frame of shape {list(frame.shape)}")
  return data.tobytes()


def decode_frame(data: bytes) -> np.ndarray:
  """The RGB frame in the bytes of an image file, uint8 [H W 3].

  Raises:
    InputError: if the bytes are not an image.
  """
  image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
  if image is None:
    raise InputError("a stored frame cannot be decoded: the dataset is damaged, prepare it again into a new folder")
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_motion(record: Mapping[str, Any], frames: Sequence[int]) -> np.ndarray:
  """The motion condition of some frames of a clip, as it is stored beside them.

  Args:
    record: of `Records`.
    frames: which ones.

  Returns:
    uint8 [f H W 3]: of each frame, the colours of its motion to the next frame of the film it is from.

  Raises:
    InputError: if the dataset was made without motion, or is damaged.
  """
  if "motion" not in record:
    raise InputError(f"clip {record['id']!r} has no motion: prepare its dataset again with --flow")
  return np.stack([decode_frame(record["motion"][index]) for index in frames])


class RecordWriter:
  """Writes one dataset folder, clip by clip; the folder appears under its name only when everything is in it.

  Use it as a context manager: leaving it normally renames `<output>.incomplete` to `<output>`, leaving it by an
  exception removes it. What a killed run left behind is removed by the next one. Memory: one encoded clip.

    with RecordWriter("records", encoding="jpeg", quality=95, metadata={}) as writer:
      writer.add("train", Clip("beach_000", "a beach", 30.0, frames))

  Args:
    output_dir: the folder to make; it must not exist or be empty.
    encoding: how frames are stored, one of "jpeg", "png", "webp".
    quality: 1-100, for jpeg and webp.
    metadata: anything JSON can hold; `dataset_info` returns it. May be changed until the end.
    kind: what the frames show: "panorama", the whole sphere, or "flat", the square view of an ordinary camera.
    motion: JSON, what the clips' motion is made with; `dataset_info` returns it in "about". None: they have none.

  Raises:
    InputError: for a folder that is in use, a bad encoding or quality, a frame of another size, a flat frame that is
      not square, a full disk.
    ValueError: for an unknown kind, or clips with motion where there is none and the other way round.
  """

  def __init__(self, output_dir: str | Path, encoding: str = "jpeg", quality: int = 95,
               metadata: Mapping[str, Any] | None = None, kind: str = "panorama",
               motion: Mapping[str, Any] | None = None):
    if kind not in KINDS:
      raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if encoding not in ENCODINGS:
      raise InputError(f"unknown encoding {encoding!r}: choose one of {', '.join(ENCODINGS)}")
    if not 1 <= quality <= 100:
      raise InputError(f"quality must be between 1 and 100, got {quality}")
    self.output_dir = Path(output_dir)
    self.encoding, self.quality, self.kind = encoding, quality, kind
    self.metadata, self.motion = dict(metadata or {}), motion
    self.size: tuple[int, int] | None = None
    self._splits: dict[str, ShardWriter] = {}
    self._lengths: dict[str, dict[str, int]] = {}      # split -> clip id -> frames
    self._final = Path(os.path.abspath(output_dir))
    self._folder = self._final.with_name(self._final.name + ".incomplete")

  def __enter__(self) -> "RecordWriter":
    if self.output_dir.is_dir() and not any(self.output_dir.iterdir()):
      pass                                            # a rename replaces an empty folder
    elif self.output_dir.exists():
      raise InputError(f"{self.output_dir} already exists: choose another folder, or remove it first")
    with said_plainly(self.output_dir):
      self._lock = claim(self._folder)
      clear(self._folder)
    self._open = contextlib.ExitStack()
    return self

  def add(self, split: str, clip: Clip) -> int:
    """Appends a clip to a split and returns its number of frames."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", split):
      raise InputError(f"a split's name is made of a-z, 0-9 and _, got {split!r}")
    if clip.id in self._lengths.get(split, ()):
      raise InputError(f"two clips of the split {split} have the id {clip.id!r}: ids must differ")
    frames = [self._encode(clip.id, frame) for frame in clip.frames]
    if not frames:
      raise InputError(f"clip {clip.id!r} has no frames")
    example = {"id": clip.id, "caption": clip.caption, "fps": clip.fps, "frames": frames}
    if (clip.motion is None) != (self.motion is None):
      raise ValueError(f"clip {clip.id!r} has {'no motion' if clip.motion is None else 'motion'}, and the dataset "
                       f"{'none' if self.motion is None else 'has'}: all clips of a dataset have it or none has")
    if clip.motion is not None:
      example["motion"] = [self._encode(clip.id, frame) for frame in clip.motion]
      if len(example["motion"]) != len(frames):
        raise InputError(f"clip {clip.id!r} has {len(frames)} frames and motion for {len(example['motion'])}")
    with said_plainly(self.output_dir):
      if split not in self._splits:
        self._splits[split] = self._open.enter_context(ShardWriter(self._folder, split))
      self._splits[split].write(serialise(example))
    self._lengths.setdefault(split, {})[clip.id] = len(frames)
    return len(frames)

  def attach(self, name: str, text: str) -> None:
    """Puts a text file beside the records."""
    with said_plainly(self.output_dir):
      (self._folder / name).write_text(text, encoding="utf-8")

  def counts(self) -> dict[str, int]:
    """Clips written so far, by split."""
    return {split: sum(shards.lengths) for split, shards in self._splits.items()}

  def __exit__(self, kind, error, traceback) -> None:
    complete = False
    try:
      with said_plainly(self.output_dir):
        self._open.__exit__(kind, error, traceback)
        if kind is None:
          self._finish()
          os.rename(self._folder, self._final)
          complete = True
    finally:
      if not complete:
        shutil.rmtree(self._folder, ignore_errors=True)
      os.close(self._lock)

  def _encode(self, clip_id: str, frame: np.ndarray) -> bytes:
    self.size = self.size or frame.shape[:2]
    if frame.shape[:2] != self.size:
      (h, w), (height, width) = frame.shape[:2], self.size
      raise InputError(f"a frame of clip {clip_id!r} is {w}x{h}, those before it are {width}x{height}: all frames of a "
                       "dataset have one size")
    if self.kind == "flat" and self.size[0] != self.size[1]:
      raise InputError(f"a frame of clip {clip_id!r} is {self.size[1]}x{self.size[0]}: frames of a flat dataset are "
                       "square, cut them first")
    return encode_frame(frame, self.encoding, self.quality)

  def _finish(self) -> None:
    if not self._splits:
      raise InputError(f"no clips were given for {self.output_dir}")
    splits = {split: Split(shards.paths, shards.lengths, shards.bytes) for split, shards in self._splits.items()}
    put_in_place(self._folder, NAME, splits)
    describe(self._folder, splits, {
      "kind": self.kind, "size": list(self.size), "encoding": self.encoding, "quality": self.quality,
      "shortest": {split: min((frames, clip_id) for clip_id, frames in lengths.items())
                   for split, lengths in self._lengths.items()},
      "metadata": self.metadata,
      **({"about": {"motion": self.motion}} if self.motion is not None else {}),
    })


def write_records(output_dir: str | Path, splits: Mapping[str, Iterable[Clip]], encoding: str = "jpeg",
                  quality: int = 95, metadata: Mapping[str, Any] | None = None, kind: str = "panorama",
                  motion: Mapping[str, Any] | None = None) -> None:
  """Writes a whole dataset of clips, or nothing.

  Args:
    output_dir: the folder to make; it must not exist or be empty.
    splits: the clips of each split, e.g. {"train": …, "validation": …}; read once, in order. A split without clips
      is left out.
    encoding: "jpeg", "png" or "webp".
    quality: 1-100, for jpeg and webp.
    metadata: anything JSON can hold; `dataset_info` returns it.
    kind: "panorama" or "flat" (square frames of ordinary films).
    motion: JSON, what the clips' motion is made with; None: they have none.

  Raises:
    InputError, ValueError: as `RecordWriter`.
  """
  with RecordWriter(output_dir, encoding, quality, metadata, kind, motion) as writer:
    for split, clips in splits.items():
      for clip in clips:
        writer.add(split, clip)


class Records:
  """The clips of one split: `len`, random access, iteration, pickling; goes into `grain.MapDataset.source`.

  A record is {"id": str, "caption": str, "fps": float, "frames": list of bytes}, and "motion": list of bytes, an image
  for each frame, in datasets that were made with motion (`decode_motion` reads some). Where images are stored apart
  (`store` is not "pixels") it has, in place of "frames": "length": int, the number of frames; "first": int, the place of
  its first image among those of the split; "yaw_deg": list of float and "flip": list of bool, of the stored variants;
  "text": bytes, the states of a text encoder or nothing.
  """

  def __init__(self, path: str | Path, split: str):
    self.path, self.split = str(path), split
    info = dataset_info(path)
    if split not in info["splits"]:
      raise InputError(f"{path} has no split {split!r}: it has {', '.join(info['splits'])}")
    self.store = info["store"]
    self._open()

  def _open(self) -> None:
    import tensorflow_datasets as tfds
    try:
      self._source = tfds.builder_from_directory(self.path).as_data_source(self.split)
    except FileNotFoundError as error:
      raise InputError(f"a file of the dataset {self.path} is missing ({error}): prepare it again") from error

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    index = index.__index__()
    if not -len(self) <= index < len(self):
      raise IndexError(f"record {index} of {len(self)}")
    try:
      record = self._source[index % len(self)]
    except (RuntimeError, ValueError) as error:       # array_record checks hashes; of a cut file it reads nothing
      raise InputError(f"record {index} of the split {self.split} of {self.path} cannot be read ({error}): "
                       "the dataset is damaged, prepare it again into a new folder") from error
    clip = {"id": record["id"].decode(), "caption": record["caption"].decode(), "fps": float(record["fps"])}
    if self.store == "pixels":
      return clip | {name: list(record[name]) for name in ("frames", "motion") if name in record}
    return clip | {"length": int(record["length"]), "first": int(record["first"]),
                   "yaw_deg": [float(yaw) for yaw in record["yaw_deg"]], "flip": [bool(flip) for flip in record["flip"]],
                   "text": record["text"]}

  def __iter__(self):
    return (self[index] for index in range(len(self)))

  def __repr__(self) -> str:
    return f"Records({self.path!r}, {self.split!r})"

  def __getstate__(self) -> dict[str, str]:
    return {"path": self.path, "split": self.split, "store": self.store}

  def __setstate__(self, state: dict[str, str]) -> None:
    self.__dict__.update(state)
    self._open()


def open_records(path: str | Path, split: str) -> Records:
  """Opens one split of a dataset that `write_records` or `panda prepare` made.

  Raises:
    InputError: if there is no such dataset or split.
  """
  return Records(path, split)


def dataset_info(path: str | Path) -> dict[str, Any]:
  """What a dataset says of itself.

  Returns:
    {"kind": "panorama" or "flat", "store": one of `STORES`, "size": (H, W) of the panoramas or squares, "splits": {name:
    clips}, "shortest": {name: (frames, id) of its shortest clip}, "encoding": str, "quality": int, "about": dict, what
    the images of a store are made with, "metadata": dict}. "about" has "motion", what that is made with, where clips
    have some. A dataset from before there were kinds and stores holds panoramas, in pixels.

  Raises:
    InputError: if the folder is missing or is not such a dataset.
  """
  folder = Path(path)
  if folder.is_file():
    raise InputError(f"{path} is a file, not a dataset folder: make a dataset of it with `panda prepare --input {path} "
                     "--output DIR` and give that folder")
  if not folder.is_dir():
    raise InputError(f"there is no dataset folder {path}: make one with `panda prepare --input … --output {path}`")
  try:
    about = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
      raise KeyError(FORMAT)
    splits = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    if (store := about.get("store", "pixels")) not in STORES:
      raise KeyError(store)
    return {"kind": about.get("kind", "panorama"), "store": store, "size": tuple(about["size"]), "splits": splits,
            "shortest": {split: tuple(shortest) for split, shortest in about["shortest"].items()},
            "encoding": about["encoding"], "quality": about["quality"], "about": about.get("about", {}),
            "metadata": about["metadata"]}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"{path} is not a dataset of clips: give the folder that `panda prepare --output` made") from error


def claim(folder: Path) -> int:
  """Makes a working folder this process's alone and returns the open descriptor that holds its lock.

  What an earlier process left in it is still there.

  Raises:
    InputError: if another process has it.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  folder.mkdir(exist_ok=True)
  lock = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:                          # some network disks have no locks: there, two runs can collide
      if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
        raise
    if not folder.exists() or os.stat(folder).st_ino != os.fstat(lock).st_ino:
      raise BlockingIOError                           # its owner finished between our two steps
  except BlockingIOError:
    os.close(lock)
    raise InputError(f"another run is writing {folder}: wait for it, or choose another output folder") from None
  return lock


def clear(folder: Path) -> None:
  """Empties a folder."""
  for left in folder.iterdir():
    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
