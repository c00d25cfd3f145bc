"""tfds builders of the data sets that people have: `web360`, `youtube360` and `folder360`.

  from panda_jax.data import builders                       # registers them
  import tensorflow_datasets as tfds
  config = tfds.download.DownloadConfig(manual_dir="…/WEB360")
  builders.Web360(data_dir="data").download_and_prepare(download_config=config)
  source = tfds.data_source("web360", data_dir="data", split="train")      # goes straight into grain

Once prepared, the last line needs nothing of ours. The work is that of `panda prepare`; nothing is downloaded, and
TensorFlow is not needed.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from panda_jax.data import prepare, shards


class _Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set that `panda prepare` makes out of what lies in `manual_dir`.

  Args:
    options: of `panda_jax.data.prepare.prepare`, in pixels; its `dataset` is this one's name.
    pool: of processes that share the work.
    captions: a table of captions, for folders.
    the others: as of every tfds builder.
  """

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the data set, or links to its files, into manual_dir; nothing is downloaded."

  def __init__(self, *, options: prepare.Options = prepare.Options(), pool: prepare.Pool = prepare.Pool(0),
               captions: str | Path | None = None, **arguments):
    self._options, self._pool, self._captions = options, pool, captions
    super().__init__(**{"file_format": "array_record"} | arguments)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=shards.features("pixels", self._options.has_motion), disable_shuffling=True,
      metadata=tfds.core.MetadataDict())

  @property
  def url_infos(self) -> None:
    """Nothing is downloaded; to find that out, tfds 4.9.10 would want a package that it does not install."""

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    # tfds writes into a folder of a random name; ours has one that the next attempt finds again.
    temporary = Path(self.data_dir)
    prepared = Path(self._data_dir_root) / self.name / f"{self.VERSION}.prepared"
    options = dataclasses.replace(self._options, dataset=self.name)
    prepare.prepare([Path(dl_manager.manual_dir)], prepared, options, self._captions, pool=self._pool)
    for file in prepared.iterdir():
      os.replace(file, temporary / file.name)
    shutil.rmtree(prepared)
    self.info.read_from_directory(temporary)

  def _split_generators(self, dl_manager):
    raise NotImplementedError("panda_jax.data.prepare writes the shards itself")

  def _generate_examples(self):
    raise NotImplementedError("panda_jax.data.prepare writes the shards itself")


class Web360(_Prepared):
  """WEB360 (360DVD), as it is distributed: captions for clips of 100 frames."""

  name = "web360"


class YouTube360(_Prepared):
  """YouTube360 (Imagine360): a list of spans of films, which have to be there already."""

  name = "youtube360"


class Folder360(_Prepared):
  """Any folder of 360° videos and photographs."""

  name = "folder360"
