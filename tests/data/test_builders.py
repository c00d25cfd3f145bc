"""tfds builders: prepared once, a data set is read by its name, by tfds alone and straight into grain."""

import csv
import subprocess
import sys

import grain
import pytest
import tensorflow_datasets as tfds

from panda_jax.data import builders, prepare
from panda_jax.data.records import dataset_info, decode_frame, open_records
from tests.data.prepare.killing import digests
from tests.data.test_prepare import make_still, make_video


@pytest.fixture
def web360(tmp_path):
  """Two clips as WEB360 is distributed."""
  folder = tmp_path / "WEB360"
  (folder / "videos_512x1024x100").mkdir(parents=True)
  rows = [("videoid", "name"), ("0", "a beach, at noon"), ("1", 'a "quiet" wood')]
  with open(folder / "WEB360_360TF_train.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
  for seed, (name, _) in enumerate(rows[1:]):
    make_video(folder / "videos_512x1024x100" / f"{name}.mp4", 24, seed)
  return folder


def build(builder_class, manual, data_dir, **settings):
  builder = builder_class(data_dir=data_dir, options=prepare.Options(height=16, holdout=0), **settings)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
  return builder


def test_web360_is_read_by_its_name(web360, tmp_path):
  build(builders.Web360, web360, tmp_path / "data")
  source = tfds.data_source("web360", data_dir=tmp_path / "data", split="train")
  assert [record["caption"].decode() for record in source] == ["a beach, at noon", 'a "quiet" wood']
  stream = grain.MapDataset.source(source).map(lambda record: decode_frame(record["frames"][0]).shape)
  assert list(stream) == [(16, 32, 3)] * 2
  place = tmp_path / "data" / "web360" / "1.0.0"
  assert dataset_info(place)["store"] == "pixels" and len(open_records(place, "train")) == 2
  assert sorted(path.name for path in (tmp_path / "data" / "web360").iterdir()) == ["1.0.0"]


def test_a_builder_makes_what_panda_prepare_makes(web360, tmp_path):
  build(builders.Web360, web360, tmp_path / "data")
  prepare.prepare([web360], tmp_path / "records", prepare.Options(height=16, holdout=0, dataset="web360"))
  assert {name: digest for name, digest in digests(tmp_path / "data" / "web360" / "1.0.0").items()
          if "array_record" in name} == {
    name: digest for name, digest in digests(tmp_path / "records").items() if "array_record" in name}


def test_a_prepared_data_set_needs_neither_our_code_nor_tensorflow(tmp_path):
  """Any folder of videos and stills will do."""
  (tmp_path / "in").mkdir()
  make_video(tmp_path / "in" / "beach.mp4", 24)
  make_still(tmp_path / "in" / "hall.jpg")
  build(builders.Folder360, tmp_path / "in", tmp_path / "data")
  program = f"""
import sys, tensorflow_datasets as tfds
source = tfds.data_source("folder360", data_dir={str(tmp_path / "data")!r}, split="train")
print([(record["id"].decode(), len(record["frames"])) for record in source])
assert not {{"tensorflow", "panda_jax", "apache_beam"}} & set(sys.modules)
"""
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
  assert done.stdout == "[('beach_000', 24), ('hall_000', 64)]\n"
