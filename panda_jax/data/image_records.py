"""The images of a split that are stored one by one: read by number, only those that are asked for.

They lie in ArrayRecord files `images-<split>.array_record-00000-of-00040`, one record each (group_size:1,
uncompressed); `shards.ShardWriter` writes them. Images of one size, as latents are, are not read by ArrayRecord's own
reader, which copies each several times and hashes it: `read_into` finds them by their number. It sees when an image is
not where it should be, but not when bits within one have changed; `read` does.
"""

import errno
import functools
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panda_jax.errors import InputError

# Riegeli, the format of ArrayRecord files: a header begins each block, and a chunk of one record has a header, too.
_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 1 << 16, 24, 40
_NOWAIT = getattr(os, "RWF_NOWAIT", None)              # reads what is in memory; not every system knows it


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
    self._ends = np.cumsum([0, *map(len, self._files)])        # of the file before each, and of the last

  def __len__(self) -> int:
    return int(self._ends[-1])

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
    indices = np.asarray(indices, np.int64)
    if indices.size and not (0 <= indices.min() and indices.max() < len(self)):
      raise IndexError(f"image {indices.min() if indices.min() < 0 else indices.max()} of {len(self)}")
    order = np.argsort(indices, kind="stable")
    indices = indices[order]
    bounds = np.searchsorted(indices, self._ends).tolist()
    for number in range(len(bounds) - 1):
      begin, end = bounds[number:number + 2]
      if begin < end:
        rows = indices[begin:end] - self._ends[number]
        yield self._files[number], rows.tolist(), order[begin:end].tolist()

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
    layout = _Layout(size)
    header, between = memoryview(bytearray(layout.start)), memoryview(bytearray(_BLOCK_HEADER))
    later = []
    for row, place in zip(rows, places, strict=True):
      buffers, wanted, position = layout.find(row, header, memoryview(out[place]), between)
      if _NOWAIT is None or not self._read_at(buffers, wanted, position, _NOWAIT):
        later.append((row, buffers, wanted, position))
      elif not layout.fits(header):
        raise self._misplaced(row)
    self._announce([(position, position + wanted) for _, _, wanted, position in later])
    for row, buffers, wanted, position in later:
      if not self._read_at(buffers, wanted, position) or not layout.fits(header):
        raise self._misplaced(row)

  def _announce(self, spans: list[tuple[int, int]]) -> None:
    """Tells the disk of all spans that will be read, rising, before the first of them is waited for."""
    if not spans or not hasattr(os, "posix_fadvise"):
      return
    begin, end = spans[0]
    for start, stop in [*spans[1:], (1 << 62, 0)]:
      if start - end > _BLOCK_HEADER:                          # neighbours are one span
        os.posix_fadvise(self._descriptor, begin, end - begin, os.POSIX_FADV_WILLNEED)
        begin = start
      end = stop

  def _read_at(self, buffers: list[memoryview], wanted: int, position: int, flags: int = 0) -> bool:
    """Whether all of it was there; with `_NOWAIT`, at once."""
    try:
      return os.preadv(self._descriptor, buffers, position, flags) == wanted
    except OSError as error:
      if flags and error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
        return False
      raise self._damaged(error) from error

  def _is_regular(self, size: int) -> bool:
    """Whether all records are of this size, one after the other, as far as the first and the last one tell."""
    with self._lock:
      if size not in self._layouts:
        layout, last = _Layout(size), self._count - 1
        header, image = (memoryview(bytearray(length)) for length in (layout.start, size))
        self._layouts[size] = (
          all(len(data) == size for data in self.read([0, last]))
          and self._read_at(*layout.find(last, header, image, memoryview(bytearray(_BLOCK_HEADER))))
          and layout.fits(header))
      return self._layouts[size]

  @functools.cached_property
  def _descriptor(self) -> int:
    return os.open(self._path, os.O_RDONLY)

  def __del__(self):
    if "_descriptor" in self.__dict__:
      os.close(self._descriptor)

  def _misplaced(self, row: int) -> InputError:
    return self._damaged(f"image {row} is not where it should be")

  def _damaged(self, error: object) -> InputError:
    return InputError(f"{self._path} cannot be read ({error}): the dataset is damaged, prepare it again into a new "
                      "folder")


class _Layout:
  """Where records lie in a file of records of one size.

  Attributes:
    start: how long the header of each is.
  """

  def __init__(self, size: int):
    numbers = bytearray()
    rest = size
    while rest > 127:
      numbers.append(128 + rest % 128)
      rest //= 128
    numbers.append(rest)
    encoded = b"\0" + bytes([len(numbers)]) + numbers          # no compression, the list of sizes and its length
    self.start, self._size = _CHUNK_HEADER + len(encoded), size
    # Without two hashes: the length of what follows; the type of the chunk, one record, its length; what is above.
    self._length = (len(encoded) + size).to_bytes(8, "little")
    self._rest = b"r" + (1).to_bytes(7, "little") + size.to_bytes(8, "little") + encoded

  def fits(self, header: memoryview) -> bool:
    """Whether this is the header of such a record."""
    return header[8:16] == self._length and header[24:] == self._rest

  def find(self, row: int, header: memoryview, image: memoryview,
           between: memoryview) -> tuple[list[memoryview], int, int]:
    """Where record `row` is.

    Args:
      row: its number.
      header, image: where to put it.
      between: where to put the headers of blocks inside it.

    Returns:
      buffers to fill, how many bytes they take, and their position in the file.
    """
    inside = _BLOCK - _BLOCK_HEADER
    block, offset = divmod(_CHUNK_HEADER + row * (self.start + self._size), inside)       # the file has a chunk first
    buffers, left, wanted = [], inside - offset, self.start + self._size
    for buffer in (header, image):
      while len(buffer) > left:                                # the next block begins inside
        buffers += (buffer[:left], between)
        wanted += _BLOCK_HEADER
        buffer, left = buffer[left:], inside
      buffers.append(buffer)
      left -= len(buffer)
    return buffers, wanted, block * _BLOCK + _BLOCK_HEADER + offset
