"""Images by number, from several files, as they were written."""

import pickle
import threading

import numpy as np
import pytest

from panda_jax.data.image_records import ImageReader
from panda_jax.data.shards import ShardWriter, Split, put_in_place
from panda_jax.errors import InputError


def write(path, images, shard_bytes):
  path.mkdir()
  with ShardWriter(path, "part", shard_bytes) as shards:
    for image in images:
      shards.write(image)
  put_in_place(path, "images", {"train": Split(shards.paths, shards.lengths, shards.bytes)})
  return path


def make(sizes):
  rng = np.random.default_rng(0)
  return [rng.bytes(size) for size in sizes]


def test_images_of_any_sizes_are_read_in_the_order_that_is_asked_for(tmp_path):
  images = make(range(1, 60))
  reader = ImageReader(write(tmp_path / "set", images, 300), "train")
  assert len(reader) == 59 and len(list((tmp_path / "set").iterdir())) > 3
  numbers = np.random.default_rng(1).permutation(59)[:30].tolist() + [7, 7]
  assert reader.read(numbers) == [images[number] for number in numbers]
  assert pickle.loads(pickle.dumps(reader)).read([58, 0]) == [images[58], images[0]]


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, 65400, 65467, 65512, 65536, 131072, 262143])
def test_images_of_one_size_are_read_straight_into_an_array(tmp_path, size):
  """Wherever the file's own headers cut them."""
  images = make([size] * 41)
  reader = ImageReader(write(tmp_path / "set", images, 17 * size), "train")
  numbers = np.random.default_rng(1).permutation(41).tolist()
  out = np.zeros((41, size), np.uint8)
  reader.read_into(numbers, out)
  assert [row.tobytes() for row in out] == [images[number] for number in numbers]


def test_images_of_different_sizes_are_not_taken_for_equal_ones(tmp_path):
  for sizes, words in (([100, 90, 100, 99], "has 90 bytes and not 100"), ([100, 90, 110, 100], "not where it should")):
    reader = ImageReader(write(tmp_path / str(sizes), make(sizes), 10**6), "train")
    with pytest.raises(InputError, match=words):
      reader.read_into([1], np.zeros((1, 100), np.uint8))
  with pytest.raises(InputError, match="has 100 bytes and not 64"):
    reader.read_into([0], np.zeros((1, 64), np.uint8))


def test_threads_share_a_reader(tmp_path):
  images = make([5000] * 64)
  reader, wrong = ImageReader(write(tmp_path / "set", images, 50_000), "train"), []

  def read(seed):
    for numbers in np.random.default_rng(seed).integers(0, 64, (50, 8)).tolist():
      out = np.empty((8, 5000), np.uint8)
      reader.read_into(numbers, out)
      wrong.extend(number for number, row in zip(numbers, out) if row.tobytes() != images[number])

  threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
  [thread.start() for thread in threads], [thread.join() for thread in threads]
  assert not wrong


def test_what_is_not_there_is_named(tmp_path):
  path = write(tmp_path / "set", make([100] * 9), 300)
  reader = ImageReader(path, "train")
  for number in (9, -1):
    with pytest.raises(IndexError, match=f"image {number} of 9"):
      reader.read([number])
  with pytest.raises(InputError, match="not all the files of the images of its split 'test'"):
    ImageReader(path, "test")
  next(path.iterdir()).unlink()
  with pytest.raises(InputError, match="not all the files of the images of its split 'train'"):
    ImageReader(path, "train")


def test_damaged_files_are_named(tmp_path):
  path = write(tmp_path / "set", make([4000] * 9), 10**6)
  file, = path.iterdir()
  data = bytearray(file.read_bytes())
  data[9000] ^= 1
  file.write_bytes(data)
  with pytest.raises(InputError, match="images-train.* cannot be read .* damaged"):
    ImageReader(path, "train").read(range(9))
  file.write_bytes(data[:5000])
  with pytest.raises(InputError, match="images-train.* cannot be read .* damaged"):
    ImageReader(path, "train")
