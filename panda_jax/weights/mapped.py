"""Files mapped into memory: arrays are windows on them, and what a dropped window touched is given back."""

from __future__ import annotations

import math
import mmap
import os
import stat
from typing import Sequence
import weakref

import numpy as np

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.tensors import LazyTensor

MAX_DIMENSIONS = 64               # NumPy has no more
MAX_SIZE = 2**48                  # of a dimension, a stride, or an array in bytes: far beyond any, far below 2**63
BLOCK = max(2**16, mmap.ALLOCATIONGRANULARITY)         # touching a page makes its neighbours in a block resident too


class MappedFile:
  """A file mapped for reading as a whole; resident is only what the arrays that are alive have touched.

  One mapping per file, and not one per tensor, because each mapping holds a file descriptor, of which a process may
  have no more than about a thousand: fewer than a checkpoint has tensors.

  Attributes:
    path: as given, for messages.
    data: the bytes; slicing copies.
    size: in bytes.
  """

  def __init__(self, path: str | os.PathLike):
    """Maps `path`.

    Raises:
      WeightsError: if it is absent, empty, a folder, or cannot be read.
    """
    self.path = os.fspath(path)
    try:
      mode = os.stat(self.path).st_mode
      if stat.S_ISDIR(mode):
        raise WeightsError(f"{self.path} is a folder, but a file of tensors is wanted: give the file inside it")
      if not stat.S_ISREG(mode):           # opening a pipe would wait for its other end
        raise WeightsError(f"{self.path} is not a regular file: copy what it gives to a file first")
      with open(self.path, "rb") as file:
        self.size = os.fstat(file.fileno()).st_size
        if not self.size:
          raise WeightsError(f"{self.path} is empty: download it again")
        self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
      raise WeightsError(f"{self.path} does not exist: check the path") from error
    except OSError as error:
      raise WeightsError(f"{self.path} cannot be read ({error.strerror}): check its permissions and its "
                         "disk") from error

  def tensor(self, key: str, dtype: np.dtype, shape: Sequence[int], start: int, stop: int,
             strides: Sequence[int] | None = None) -> LazyTensor:
    """A tensor that lies in the file; everything that the file says of it is checked here, before it is read.

    Args:
      key: its name in the file.
      dtype: of its elements, little-endian.
      shape: as the file has it.
      start: position of its first byte in the file.
      stop: where the bytes end that it may use.
      strides: in elements; in C order if not given.

    Returns:
      the tensor; it reads as a read-only view of the file.

    Raises:
      WeightsError: if it has a shape that no array can have, or reaches beyond `stop` or the end of the file.
    """
    dtype = np.dtype(dtype)
    if len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
      raise WeightsError(f"{self.path} is damaged: {key} has a shape that no array can have; download it again")
    shape = tuple(shape)
    steps = _c_strides(shape) if strides is None else tuple(strides)
    if len(steps) != len(shape) or not all(map(_is_size, steps)):
      raise WeightsError(f"{self.path} is damaged: {key} has strides that no array can have; download it again")
    extent = 0 if 0 in shape else 1 + sum((length - 1) * step for length, step in zip(shape, steps))
    if not 0 <= start <= start + extent * dtype.itemsize <= min(stop, self.size):
      raise WeightsError(f"{self.path} is damaged: {key} with the shape {list(shape)} reaches beyond the bytes that "
                         "the file has for it; download it again")
    # A step of 0 repeats bytes, so that a tiny file could announce more than any memory holds.
    claimed = math.prod(max(length, 1) for length in shape) * dtype.itemsize
    if claimed > (self.size if extent else MAX_SIZE):
      raise WeightsError(f"{self.path} is damaged: {key} announces {claimed:,} bytes, the shape {list(shape)}, in a "
                         f"file of {self.size:,}; download it again")
    byte_strides = tuple(step * dtype.itemsize for step in steps)

    def read() -> np.ndarray:
      if not extent:
        return np.zeros(shape, dtype)
      view = np.ndarray(shape, dtype, self.data, start, byte_strides)
      weakref.finalize(view, self._give_back, start, start + extent * dtype.itemsize).atexit = False
      return view

    return LazyTensor(shape, dtype, read, f"{self.path}: {key}")

  def _give_back(self, start: int, stop: int) -> None:
    # Views of the same pages that are still alive stay right: they read them from the file again.
    start -= start % BLOCK
    if hasattr(self.data, "madvise"):      # not on Windows
      self.data.madvise(mmap.MADV_DONTNEED, start, stop + -stop % BLOCK - start)


def _c_strides(shape: Sequence[int]) -> tuple[int, ...]:
  steps, step = [], 1
  for length in reversed(shape):
    steps.append(step)
    step *= length
  return tuple(reversed(steps))


def _is_size(value: object) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_SIZE
