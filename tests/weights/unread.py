"""Files of tensors that are never read: names and shapes must do."""

import numpy as np

from panda_jax.weights.names import Part, split_formats
from panda_jax.weights.tensors import LazyTensor, TensorFile


def _unread():
  raise AssertionError("a value was read, where names and shapes must do")


def file_of(shapes: dict | list, path: str = "some.safetensors") -> TensorFile:
  """A file with these names and shapes; names alone stand for vectors of 8."""
  shapes = shapes if isinstance(shapes, dict) else dict.fromkeys(shapes, (8,))
  return TensorFile(path, {name: LazyTensor(tuple(shape), np.dtype(np.float32), _unread, f"{path}: {name}")
                           for name, shape in shapes.items()}, {})


def only_part(shapes: dict | list) -> Part:
  """The only part of such a file."""
  part, = split_formats(file_of(shapes))
  return part
