"""From a file of weights to a network of a metric: every tensor is there, fits and is finite, and none is left over.

A metric is only comparable with its published weights, so nothing is filled in, resized or skipped unless the network's
file says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
from fnmatch import fnmatchcase
import math
import os
import zipfile
import zlib

from flax import nnx
import flax.serialization
import jax
import numpy as np

from panda_jax.models.functional import Functional
from panda_jax.tree import flatten, unflatten
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.files import cast, open_tensors
from panda_jax.weights.layout import from_torch, require_fit, torch_shapes
from panda_jax.weights.mapped import MappedFile
from panda_jax.weights.plain_pickle import printable
from panda_jax.weights.tensors import LazyTensor, TensorFile
from panda_jax.weights.torch_file import read_torch_file


def open_weights(path: str | os.PathLike) -> TensorFile:
  """Opens a safetensors file, a checkpoint or a TorchScript program of torch, an .npz, or a msgpack file of Flax.

  Args:
    path: a file; its name does not matter. Of a TorchScript program only the tensors are read, by the paths of the
      attributes that hold them; its code is left alone. Names in a file of Flax are paths ("params/Dense_0/kernel").

  Returns:
    its tensors, which are read one by one, when asked for.

  Raises:
    WeightsError: if it is absent, something else, damaged, or wants to run a program.
  """
  file = MappedFile(path)
  names = _members(file)
  if names and all(name.endswith(".npy") for name in names):
    return _read_npz(file)
  if any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in names):
    return read_torch_file(path, programs=True)
  # A safetensors file has its header's length there, which is below 2**27.
  if (0x81 <= file.data[0] <= 0x8f or file.data[0] in (0xde, 0xdf)) and any(file.data[4:8]):
    return _read_flax(file)
  return open_tensors(path)


def renamed(file: TensorFile, rename: Callable[[str], str]) -> tuple[dict[str, LazyTensor], dict[str, str]]:
  """The tensors of a file by other names, and {new name: name in the file}.

  Raises:
    WeightsError: if two of them would have one name.
  """
  origins: dict[str, str] = {}
  for name in file.tensors:
    other = origins.setdefault(rename(name), name)
    if other != name:
      raise WeightsError(f"{file.path} holds {other} and {name}, which are one tensor of the network: give a file "
                         "that one program wrote")
  return {name: file.tensors[origin] for name, origin in origins.items()}, origins


def with_factors(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
  """Adds ones as the factors ("bn.weight") of a network whose normalisations have none, as TensorFlow trained it.

  A file that has some is left as it is: the others are missing.
  """
  if any(name.endswith(".bn.weight") for name in tensors):
    return dict(tensors)
  statistics = {name.rpartition(".")[0]: tensor for name, tensor in tensors.items()
                if name.endswith((".bn.bias", ".bn.running_mean"))}
  return {**tensors, **{f"{module}.weight": LazyTensor.of(np.ones(tensor.shape, np.float32), f"factor of {module}")
                        for module, tensor in statistics.items()}}


def fill(functional: Functional, tensors: Mapping[str, LazyTensor], source: str, network: str,
         origins: Mapping[str, str] | None = None, unused: Collection[str] = ()) -> nnx.Module:
  """The network with its weights in memory, in float32.

  Args:
    functional: the network.
    tensors: by canonical name, in torch's layout (panda_jax.weights.layout).
    source: what was read, such as "weights.pth".
    network: what it was read for, such as "InceptionV3 of FID".
    origins: {canonical name: name in the file}, where they differ.
    unused: patterns ("fc.*") of canonical names that such files have, all or none, and the network has no use for.

  Returns:
    the module.

  Raises:
    WeightsError: one sentence that names what is missing, unexpected, of another shape, or not finite.
  """
  wanted = torch_shapes(functional.abstract)
  kept = {name: tensor for name, tensor in tensors.items()
          if name in wanted or not any(fnmatchcase(name, pattern) for pattern in unused)}
  require_fit(kept, wanted, source, network, origins)
  params = from_torch(kept, functional.abstract)
  return functional.bind(unflatten({path: jax.device_put(cast(tensor, np.float32).read())
                                    for path, tensor in params.items()}))


def _members(file: MappedFile) -> list[str]:
  if file.data[:2] != b"PK":
    return []
  try:
    with zipfile.ZipFile(file.path) as archive:
      return archive.namelist()
  except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
    return []                     # `open_tensors` says what is wrong with it


def _read_npz(file: MappedFile) -> TensorFile:
  tensors = {}
  arrays = np.load(file.path, allow_pickle=False)
  for entry in arrays.zip.infolist():
    name = entry.filename.removesuffix(".npy")
    with _reading(file.path, name), arrays.zip.open(entry) as stream:
      version = np.lib.format.read_magic(stream)
      header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
      shape, _, dtype = header(stream)
      size = stream.tell() + dtype.itemsize * math.prod(shape)
    if dtype.kind not in "fiub":
      raise WeightsError(f"{file.path}: {name} is an array of the type {dtype}, which is not read here: save it as "
                         "float32")
    if size != entry.file_size:
      raise WeightsError(f"{file.path} is damaged ({name} has {entry.file_size:,} bytes, its header asks for "
                         f"{size:,}): download it again")
    tensors[name] = LazyTensor(shape, dtype, lambda name=name: _array(arrays, file.path, name), f"{file.path}: {name}")
  return TensorFile(file.path, tensors, {})


def _array(arrays: np.lib.npyio.NpzFile, path: str, name: str) -> np.ndarray:
  with _reading(path, name):
    return arrays[name]


@contextlib.contextmanager
def _reading(path: str, name: str) -> Iterator[None]:
  """What NumPy and zipfile raise for an .npz that is damaged, said in one way; RuntimeError: it is encrypted."""
  try:
    yield
  except (ValueError, KeyError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise WeightsError(f"{path} is damaged ({name}: {printable(str(error))}): download it again") from error


def _read_flax(file: MappedFile) -> TensorFile:
  try:
    leaves = flatten(flax.serialization.msgpack_restore(file.data[:]))
  except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
    raise WeightsError(f"{file.path} looks like a msgpack file of Flax, but is cut short or damaged "
                       f"({printable(str(error))}): download it again") from error
  strange = [path for path, leaf in leaves.items() if not isinstance(leaf, np.ndarray)]
  if strange:
    raise WeightsError(f"{file.path} holds more than arrays ({strange[0]}): save the parameters alone")
  return TensorFile(file.path, {path: LazyTensor.of(leaf, f"{file.path}: {path}") for path, leaf in leaves.items()}, {})
