"""The images of a split that are stored one by one: read by number, only those that are asked for.

They lie in ArrayRecord files `images-<split>.array_record-00000-of-00040`, one record each (group_size:1,
uncompressed); `shards.ShardWriter` writes them. Images of one size, as latents are, are not read by ArrayRecord's own
reader, which copies each several times and hashes it: `read_into` finds them by their number. It sees when an image is
not where it should be, but not when bits within one have changed; `read` does.
"""

import bisect
import functools
import itertools
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panda_jax.errors import InputError

# Riegeli, the format of ArrayRecord files: a header begins each block, and a chunk of one record has a header, too.
_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 1 << 16, 24, 40


class ImageReader:
  """The stored images of one split: `len`, reading by number, pickling. May be shared by threads.

  Raises:
    InputError: if files are missing or damaged.
  """

  def __init__(self, path: str | Path, split: str):
    self.path, self.split = str(path), split
    self._open()

  def _open(self) -> None:
    files = sorted(Path(self.path).glob(f"images-{self.split}.array_record-*-of-*"))
    counts = {int(re.fullmatch(r".*-of-(\d+)", file.name)[1]) for file in files}
    if counts != {len(files)}:
      raise InputError(f"{self.path} has not all the files of the images of its split {self.split!r}: copy it again, "
                       "or prepare it again into a new folder")
    self._files = [_ImageFile(file) for file in files]
    self._ends = list(itertools.accumulate(len(file) for file in self._files))

  def __len__(self) -> int:
    return self._ends[-1]

  def read(self, indices: Sequence[int]) -> list[bytes]:
    """The images of these numbers, in this order.

    Raises:
      IndexError: if there is no such image.
      InputError: if one cannot be read.
    """
    images: list[bytes] = [b""] * len(indices)
    for file, rows, places in self._by_file(indices):
      for place, image in zip(places, file.read(rows), strict=True):
        images[place] = image
    return images

  def read_into(self, indices: Sequence[int], out: np.ndarray) -> None:
    """As `read`, into an array.

    Args:
      indices: n numbers.
      out: uint8 [n size], contiguous; an image is `size` bytes.

    Raises:
      IndexError: if there is no such image.
      InputError: if one cannot be read, or has another size.
    """
    for file, rows, places in self._by_file(indices):
      file.read_into(rows, out, places)

  def _by_file(self, indices: Sequence[int]):
    """(file, numbers in it, places among `indices`), the numbers rising: disks like that."""
    groups: dict[int, tuple[list[int], list[int]]] = {}
    for index, place in sorted(zip(map(int, indices), itertools.count())):
      if not 0 <= index < len(self):
        raise IndexError(f"image {index} of {len(self)}")
      number = bisect.bisect_right(self._ends, index)
      rows, places = groups.setdefault(number, ([], []))
      rows.append(index - self._ends[number] + len(self._files[number]))
      places.append(place)
    for number, (rows, places) in groups.items():
      yield self._files[number], rows, places

  def __getstate__(self) -> dict[str, str]:
    return {"path": self.path, "split": self.split}

  def __setstate__(self, state: dict[str, str]) -> None:
    self.__dict__.update(state)
    self._open()

  def __repr__(self) -> str:
    return f"ImageReader({self.path!r}, {self.split!r})"


class _ImageFile:
  """One ArrayRecord file."""

  def __init__(self, path: Path):
    from array_record.python import array_record_module
    self._path, self._lock, self._layouts = path, threading.Lock(), {}
    try:
      # Images are asked for at random: what lies behind one is not read ahead.
      self._reader = array_record_module.ArrayRecordReader(
        str(path), "readahead_buffer_size:0,max_parallelism:0")
      self._count = self._reader.num_records()
    except RuntimeError as error:
      raise self._damaged(error) from error
    if not self._count:                                # so it says of a file that was cut off
      raise self._damaged("it holds no image")

  def __len__(self) -> int:
    return self._count

  def read(self, rows: list[int]) -> list[bytes]:
    try:
      return self._reader.read(rows)
    except RuntimeError as error:                      # array_record checks hashes
      raise self._damaged(error) from error

  def read_into(self, rows: list[int], out: np.ndarray, places: list[int]) -> None:
    size = out.shape[1]
    if not self._is_regular(size):
      for row, place, image in zip(rows, places, self.read(rows), strict=True):
        if len(image) != size:
          raise InputError(f"image {row} in {self._path} has {len(image)} bytes and not {size}: the dataset is "
                           "damaged, prepare it again into a new folder")
        out[place] = np.frombuffer(image, np.uint8)
      return
    for row, place in zip(rows, places, strict=True):
      if not self._read_at(row, out[place]):
        raise self._damaged(f"image {row} is not where it should be")

  def _read_at(self, row: int, target: np.ndarray) -> bool:
    """Reads a record by its place in a file of records of one size; whether it is there."""
    start, expected = _chunk_header(target.size)
    block, offset = divmod(_CHUNK_HEADER + row * (start + target.size), _BLOCK - _BLOCK_HEADER)
    header, between = bytearray(start), memoryview(bytearray(_BLOCK_HEADER))
    buffers, left = [], _BLOCK - _BLOCK_HEADER - offset        # bytes before the next block begins
    for buffer in (memoryview(header), memoryview(target)):
      while len(buffer) > left:
        buffers += [buffer[:left], between]
        buffer, left = buffer[left:], _BLOCK - _BLOCK_HEADER
      buffers.append(buffer)
      left -= len(buffer)
    done = os.preadv(self._descriptor, buffers, block * _BLOCK + _BLOCK_HEADER + offset)
    return done == sum(map(len, buffers)) and header[8:16] + header[24:] == expected

  def _is_regular(self, size: int) -> bool:
    """Whether all records are of this size, one after the other, as far as the first and the last one tell."""
    with self._lock:
      if size not in self._layouts:
        same = all(len(image) == size for image in self.read([0, self._count - 1]))
        self._layouts[size] = same and self._read_at(self._count - 1, np.empty(size, np.uint8))
      return self._layouts[size]

  @functools.cached_property
  def _descriptor(self) -> int:
    return os.open(self._path, os.O_RDONLY)

  def __del__(self):
    if "_descriptor" in self.__dict__:
      os.close(self._descriptor)

  def _damaged(self, error: object) -> InputError:
    return InputError(f"{self._path} cannot be read ({error}): the dataset is damaged, prepare it again into a new "
                      "folder")


@functools.cache
def _chunk_header(size: int) -> tuple[int, bytes]:
  """How long the header of a record of `size` bytes is, and what is in it, without two hashes of 8 bytes each.

  That is: the length of what follows, the type of the chunk, one record, its length; no compression, the length of the
  list of sizes, and the one size.
  """
  numbers = bytearray()
  rest = size
  while rest > 127:
    numbers.append(128 + rest % 128)
    rest //= 128
  numbers.append(rest)
  encoded = b"\0" + bytes([len(numbers)]) + numbers
  known = ((len(encoded) + size).to_bytes(8, "little") + b"r" + (1).to_bytes(7, "little") + size.to_bytes(8, "little")
           + encoded)
  return _CHUNK_HEADER + len(encoded), known
