"""Tensors in files: what they are is known at once, their values are read one by one, when asked for."""

from __future__ import annotations

import dataclasses
import math
from typing import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class LazyTensor:
  """A tensor whose values still lie in a file.

  Attributes:
    shape: as the file has it, or as `map` said.
    dtype: of the values that `read` gives; ml_dtypes has the types that NumPy lacks, such as bfloat16.
    read: gives the values; they may be a read-only view of a mapped file, which is unmapped when the view is dropped.
    name: where it lies, for messages: "model.safetensors: conv_in.weight".
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]
  name: str

  @property
  def size(self) -> int:
    """Number of values."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Size of the values in bytes."""
    return self.size * self.dtype.itemsize

  def map(self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...] | None = None,
          dtype: np.dtype | None = None) -> LazyTensor:
    """The tensor that `function` makes of this one when it is read; give what it changes of shape and type."""
    return LazyTensor(self.shape if shape is None else tuple(shape), self.dtype if dtype is None else np.dtype(dtype),
                      lambda: function(self.read()), self.name)

  @classmethod
  def of(cls, array: np.ndarray, name: str) -> LazyTensor:
    """Wraps values that are in memory."""
    return cls(array.shape, array.dtype, lambda: array, name)


@dataclasses.dataclass(frozen=True)
class TensorFile:
  """An opened file of tensors.

  Attributes:
    path: as given, for messages.
    tensors: by the names in the file.
    metadata: what a safetensors header says beside them; empty for torch's files.
  """

  path: str
  tensors: dict[str, LazyTensor]
  metadata: dict[str, str]
