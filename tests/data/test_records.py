"""Clips on disk: what goes in comes out, whole datasets or none."""

import errno
import json
import multiprocessing
import os
import pickle

import grain
import numpy as np
import pytest

from panda_jax.data import records
from panda_jax.data.records import Clip, RecordWriter, dataset_info, decode_frame, open_records, write_records
from panda_jax.errors import InputError

SIZE = (16, 32)


def make_frames(count: int, seed: int = 0) -> list[np.ndarray]:
  """Smooth pictures, as photographs are, so that lossy encodings come near."""
  phase = np.random.default_rng(seed).uniform(0, 6, (count, 3))
  y, x = np.mgrid[:SIZE[0], :SIZE[1]][:, None, ..., None] / 10
  return list((127 + 120 * np.sin(x + y + phase[:, None, None])).astype(np.uint8))


def make_clip(name: str, count: int = 3, seed: int = 0) -> Clip:
  return Clip(name, f"the clip {name}", 29.97, iter(make_frames(count, seed)))


@pytest.fixture
def dataset(tmp_path):
  path = tmp_path / "clips"
  write_records(path, {"train": (make_clip(f"clip_{k}", 2 + k, k) for k in range(3)), "validation": [make_clip("v")]},
                "png", metadata={"made": "here"})
  return path


def test_what_is_written_is_read_back(dataset):
  """Ids, captions, rates, order and (with png) every pixel."""
  source = open_records(dataset, "train")
  assert [record["id"] for record in source] == ["clip_0", "clip_1", "clip_2"]
  for k, record in enumerate(source):
    assert record["caption"] == f"the clip clip_{k}" and record["fps"] == pytest.approx(29.97)
    np.testing.assert_array_equal([decode_frame(data) for data in record["frames"]], make_frames(2 + k, k))
  assert dataset_info(dataset) == {
    "kind": "panorama", "store": "pixels", "size": SIZE, "splits": {"train": 3, "validation": 1}, "encoding": "png",
    "quality": 95, "about": {}, "shortest": {"train": (2, "clip_0"), "validation": (3, "v")}, "metadata": {"made": "here"}}


def test_a_dataset_knows_whether_it_holds_panoramas_or_squares_of_films(tmp_path):
  """One from before there were kinds holds panoramas; frames of films must be square."""
  square = [frame[:, :16] for frame in make_frames(2)]
  write_records(tmp_path / "flat", {"train": [Clip("a", "a", 25, square)]}, kind="flat")
  assert dataset_info(tmp_path / "flat")["kind"] == "flat"
  about = json.loads((tmp_path / "flat" / "metadata.json").read_text())
  del about["kind"]
  (tmp_path / "flat" / "metadata.json").write_text(json.dumps(about))
  assert dataset_info(tmp_path / "flat")["kind"] == "panorama"
  with pytest.raises(InputError, match="clip 'b' is 32x16: frames of a flat dataset are square"):
    write_records(tmp_path / "wide", {"train": [make_clip("b")]}, kind="flat")
  with pytest.raises(ValueError, match="kind must be one of panorama, flat, got 'round'"):
    write_records(tmp_path / "round", {"train": [make_clip("c")]}, kind="round")


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_lossy_encodings_keep_colours(tmp_path, encoding):
  """Quality 95 stays within two levels on average; red stays red (the channels keep their order)."""
  write_records(tmp_path / "clips", {"train": [make_clip("a")]}, encoding, 95)
  read = [decode_frame(data) for data in open_records(tmp_path / "clips", "train")[0]["frames"]]
  assert np.abs(np.float32(read) - make_frames(3)).mean() < 2


def test_captions_may_hold_any_letters(tmp_path):
  caption = "Strand, 海滩, plage d'été 🏖\n\"two lines\""
  write_records(tmp_path / "clips", {"train": [Clip("é", caption, 25, make_frames(1))]})
  record = open_records(tmp_path / "clips", "train")[0]
  assert (record["id"], record["caption"]) == ("é", caption)


def test_a_source_survives_pickling_and_feeds_grain(dataset):
  """Worker processes and grain's threads read the same records; indices are checked."""
  source = pickle.loads(pickle.dumps(open_records(dataset, "train")))
  stream = grain.MapDataset.source(source).map(lambda record: record["id"]).to_iter_dataset()
  assert list(stream) == ["clip_0", "clip_1", "clip_2"]
  assert source[-1]["id"] == "clip_2"
  with pytest.raises(IndexError):
    source[3]


def test_tfds_reads_the_folder_without_our_code(dataset):
  import tensorflow_datasets as tfds
  builder = tfds.builder_from_directory(dataset)
  assert builder.info.splits["train"].num_examples == 3
  assert builder.as_data_source("validation")[0]["id"] == b"v"


def test_large_splits_are_cut_in_shards_and_read_in_order(tmp_path, monkeypatch):
  monkeypatch.setattr(records.ShardWriter.__init__, "__defaults__", (800,))
  write_records(tmp_path / "clips", {"train": (make_clip(f"{k:02d}", 2, k) for k in range(12))}, "png")
  assert len(list((tmp_path / "clips").glob("*array_record*"))) > 2
  assert [record["id"] for record in open_records(tmp_path / "clips", "train")] == [f"{k:02d}" for k in range(12)]


def failing_clips(error: BaseException):
  yield make_clip("good")
  raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug"), InputError("a bad clip")])
def test_an_interrupted_run_leaves_nothing(tmp_path, error):
  with pytest.raises(type(error)):
    write_records(tmp_path / "clips", {"train": failing_clips(error)})
  assert os.listdir(tmp_path) == []


def test_leftovers_of_a_killed_run_do_not_matter(tmp_path):
  left = tmp_path / "clips.incomplete"
  left.mkdir()
  (left / "train.00000.part").write_bytes(b"half a shard")
  write_records(tmp_path / "clips", {"train": [make_clip("a")]})
  assert os.listdir(tmp_path) == ["clips"] and len(open_records(tmp_path / "clips", "train")) == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
                                   RuntimeError("write() failed: No space left on device; writing x")])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, error):
  def write(self, record):
    raise error
  monkeypatch.setattr(records.ShardWriter, "write", write)
  with pytest.raises(InputError, match="no space left on the disk while writing .*clips"):
    write_records(tmp_path / "clips", {"train": [make_clip("a")]})
  assert os.listdir(tmp_path) == []


def _hold(path, holding, done):
  with RecordWriter(path) as writer:
    writer.add("train", make_clip("a"))
    holding.set()
    done.wait(30)


def test_two_runs_do_not_write_one_folder_at_once(tmp_path):
  context = multiprocessing.get_context("spawn")
  holding, done = context.Event(), context.Event()
  other = context.Process(target=_hold, args=(tmp_path / "clips", holding, done))
  other.start()
  assert holding.wait(30)
  with pytest.raises(InputError, match="another run is writing"):
    write_records(tmp_path / "clips", {"train": [make_clip("b")]})
  done.set()
  other.join(30)
  assert open_records(tmp_path / "clips", "train")[0]["id"] == "a"


def test_an_existing_folder_is_never_overwritten(dataset):
  with pytest.raises(InputError, match="already exists"):
    write_records(dataset, {"train": [make_clip("new")]})
  assert len(open_records(dataset, "train")) == 3


@pytest.mark.parametrize("clips, message", [
  ([make_clip("a"), make_clip("a")], "ids must differ"),
  ([Clip("a", "", 30, [])], "has no frames"),
  ([Clip("a", "", 30, [np.zeros((16, 32, 3), np.uint8), np.zeros((16, 30, 3), np.uint8)])], "is 30x16, those .* 32x16"),
  ([], "no clips were given"),
])
def test_bad_clips_are_refused_with_a_reason(tmp_path, clips, message):
  with pytest.raises(InputError, match=message):
    write_records(tmp_path / "clips", {"train": clips})
  assert os.listdir(tmp_path) == []


def test_wrong_paths_and_splits_are_told(dataset, tmp_path):
  with pytest.raises(InputError, match="no dataset folder"):
    open_records(tmp_path / "nowhere", "train")
  with pytest.raises(InputError, match="is not a dataset of clips"):
    open_records(tmp_path, "train")
  with pytest.raises(InputError, match="has no split 'test': it has train, validation"):
    open_records(dataset, "test")


def test_a_damaged_file_is_noticed_not_read(dataset):
  """Flipped bytes never become a training frame."""
  shard, = dataset.glob("clips-train*")
  data = bytearray(shard.read_bytes())
  at = data.find(b"\x89PNG") + 100
  data[at:at + 50] = bytes(50)
  shard.write_bytes(data)
  with pytest.raises(InputError, match="the dataset is damaged"):
    list(open_records(dataset, "train"))
