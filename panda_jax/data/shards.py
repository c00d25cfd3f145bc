"""ArrayRecord shards and the tfds descriptions beside them: how a dataset folder is written.

A shard appears under its name only when it is whole. The folder is an ordinary tfds dataset:
`tfds.builder_from_directory(path).as_data_source("train")` reads it, and grain on top of that; TensorFlow is not needed.

The shards are written here and not by tfds' own writer: that one holds up to 1 GB of a split in memory and spills the
rest through TensorFlow (tfds 4.9.10, core/shuffle.py), so a large dataset would need both.
"""

import contextlib
import dataclasses
import errno
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath
import numpy as np

from panda_jax.errors import InputError

SHARD_BYTES = 256 << 20
STORES = ("pixels", "crops", "latents", "panorama_latents")
FORMAT = "panda_jax clips 1"
NAME = "clips"


class ShardWriter:
  """Appends records to ArrayRecord files, a new one every `shard_bytes`.

  Use it as a context manager; leaving it by an exception leaves no file.

  Args:
    folder: where the files are.
    prefix: their names are `<prefix>.00000`, `<prefix>.00001`, …

  Attributes:
    lengths: records of each shard so far.
    bytes: of all records.
  """

  def __init__(self, folder: Path, prefix: str, shard_bytes: int = SHARD_BYTES):
    self.folder, self.prefix, self.shard_bytes = folder, prefix, shard_bytes
    self.lengths: list[int] = []
    self.bytes = 0
    self._writer = None

  def __enter__(self) -> "ShardWriter":
    return self

  def __exit__(self, kind, error, traceback) -> None:
    whole = False
    try:
      if kind is None:
        self._close()
        whole = True
    finally:
      if not whole:
        self._drop()

  @property
  def paths(self) -> list[Path]:
    """The shards, in order."""
    return [self.folder / f"{self.prefix}.{index:05d}" for index in range(len(self.lengths))]

  def write(self, record: bytes) -> None:
    from array_record.python import array_record_module
    if self._writer is None:
      self.lengths.append(0)
      self._size = 0
      # grain wants group_size:1; images and latents do not compress
      self._writer = array_record_module.ArrayRecordWriter(str(self._part), "group_size:1,uncompressed")
    self._writer.write(record)
    self.lengths[-1] += 1
    self.bytes += len(record)
    self._size += len(record)
    if self._size >= self.shard_bytes:
      self._close()

  @property
  def _part(self) -> Path:
    return self.folder / f"{self.prefix}.part"

  def _close(self) -> None:
    if self._writer is not None:
      writer, self._writer = self._writer, None
      writer.close()
      os.replace(self._part, self.paths[-1])

  def _drop(self) -> None:
    if self._writer is not None:
      with contextlib.suppress(RuntimeError, OSError):      # a full disk refuses the last bytes once more
        self._writer.close()
    for path in (*self.paths, self._part):
      path.unlink(missing_ok=True)


@dataclasses.dataclass
class Split:
  """One split of a dataset, as its shards were written: their files, records and bytes, in order."""

  files: list[epath.Path] = dataclasses.field(default_factory=list)
  lengths: list[int] = dataclasses.field(default_factory=list)
  bytes: int = 0

  def add(self, files: Sequence[epath.Path], lengths: Sequence[int], size: int) -> None:
    """Appends shards."""
    self.files += files
    self.lengths += lengths
    self.bytes += size


def shard_name(name: str, split: str, index: int, count: int) -> str:
  """`clips-train.array_record-00003-of-00010`, as tfds names shards."""
  return f"{name}-{split}.array_record-{index:05d}-of-{count:05d}"


def put_in_place(folder: epath.Path, name: str, splits: Mapping[str, Split]) -> None:
  """Moves shards into a dataset folder, here or in a bucket, under the names that say how many there are.

  Interrupted between two of them, it can be called again.
  """
  for split, shards in splits.items():
    for index, file in enumerate(shards.files):
      target = folder / shard_name(name, split, index, len(shards.files))
      if not target.exists():
        file.rename(target)


def describe(folder: Path, splits: Mapping[str, Split], about: Mapping[str, Any], name: str = NAME,
             store: str = "pixels") -> None:
  """Writes what tfds and `records.dataset_info` read: dataset_info.json, features.json and metadata.json.

  Args:
    folder: that holds, or will hold, the shards.
    splits: of the clip records.
    about: kind, size, encoding, quality, shortest, about, metadata: see `records.dataset_info`.
    name: of the dataset, which its files begin with.
    store: one of `STORES`.
  """
  import tensorflow_datasets as tfds
  builder = _builder_class(name, store, "motion" in about.get("about", {}))(data_dir=folder, file_format="array_record")
  infos = []
  for split, shards in splits.items():
    template = tfds.core.ShardedFileTemplate(
      data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record")
    infos.append(tfds.core.SplitInfo(
      name=split, shard_lengths=shards.lengths, num_bytes=shards.bytes, filename_template=template))
  builder.info.set_splits(tfds.core.splits.SplitDict(infos))
  builder.info.metadata.update({"format": FORMAT, "store": store, **about})
  builder.info.write_to_directory(folder)


@functools.cache
def features(store: str = "pixels", motion: bool = False):
  """The tfds schema of a clip record. Apart from pixels, images are in files of their own, see `image_records`.

  `motion`: of clips in pixels that have an image of their motion beside each frame.
  """
  import tensorflow_datasets as tfds
  clip = {
    "id": tfds.features.Text(),
    "caption": tfds.features.Text(),
    "fps": tfds.features.Scalar(np.float32),
  }
  if store == "pixels":
    images = {name: tfds.features.Sequence(tfds.features.Scalar(np.object_))
              for name in (("frames", "motion") if motion else ("frames",))}
    return tfds.features.FeaturesDict(clip | images)
  return tfds.features.FeaturesDict(clip | {
    "length": tfds.features.Scalar(np.int64),                              # frames
    "first": tfds.features.Scalar(np.int64),                               # its first image among those of the split
    "yaw_deg": tfds.features.Sequence(tfds.features.Scalar(np.float32)),   # of each stored variant
    "flip": tfds.features.Sequence(tfds.features.Scalar(np.int64)),        # 1: mirrored
    "text": tfds.features.Scalar(np.object_),                              # states of a text encoder, or nothing
  })


def serialise(example: Mapping[str, Any], store: str = "pixels") -> bytes:
  """A clip record as bytes: the same ones in every process, which protobuf's maps do not promise by themselves."""
  motion = "motion" in example
  encoded = features(store, motion).encode_example(dict(example))
  return _serialiser(store, motion).get_tf_example(encoded).SerializeToString(deterministic=True)


@functools.cache
def _serialiser(store: str, motion: bool):
  from tensorflow_datasets.core.example_serializer import ExampleSerializer
  return ExampleSerializer(features(store, motion).get_serialized_info())


@functools.cache
def _builder_class(dataset: str, store: str, motion: bool):
  """A tfds builder that knows the schema and writes nothing."""
  import tensorflow_datasets as tfds

  class Clips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Video clips; written by panda_jax."""

    name = dataset
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=features(store, motion), disable_shuffling=True, metadata=tfds.core.MetadataDict())

    def _split_generators(self, dl_manager):
      raise NotImplementedError("panda_jax.data.shards writes the files itself")

    def _generate_examples(self):
      raise NotImplementedError("panda_jax.data.shards writes the files itself")

  return Clips


@contextlib.contextmanager
def said_plainly(output_dir: Path, kept: str = "nothing was kept"):
  """Turns what a disk can do to a writer into one InputError; `kept` says what is left of the work."""
  try:
    yield
  except (OSError, RuntimeError) as error:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # array_record raises RuntimeError with the system's words in it
    if full or isinstance(error, RuntimeError) and os.strerror(errno.ENOSPC) in str(error):
      raise InputError(f"no space left on the disk while writing {output_dir}, {kept}: free some space or "
                       "choose another folder, and run again") from error
    if isinstance(error, OSError):
      raise InputError(f"cannot write {output_dir} ({error.strerror}): choose another output folder") from error
    raise
