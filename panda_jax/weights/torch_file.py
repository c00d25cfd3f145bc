"""Checkpoints of PyTorch, read without PyTorch and without running anything that they hold.

Two formats: zip archives (torch 1.6 and later) and the older files of five pickles followed by the raw values. In both
the values are read where they lie, from the mapped file; nothing is unpacked.
"""

from __future__ import annotations

import dataclasses
import io
import os
import struct
from typing import Any, BinaryIO, Callable
import zipfile

import ml_dtypes
import numpy as np

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.mapped import MAX_DIMENSIONS, MAX_SIZE, MappedFile
from panda_jax.weights.plain_pickle import Name, Object, printable, read_pickle
from panda_jax.weights.tensors import TensorFile

MAGIC_NUMBER = 0x1950a86a20f9469cfc6c         # the first pickle of the older format
MAX_PICKLE = 64 * 2**20           # bytes; a checkpoint of a thousand tensors has 300,000
MAX_LINE = 2**16                  # bytes of a name in a pickle
# Where training programs put the state dict, in the order in which they are tried; then the top level is.
WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module")

DTYPES = {name: np.dtype(kind) for name, kind in {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu, "int64": np.int64, "int32": np.int32, "int16": np.int16,
    "int8": np.int8, "uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8,
    "bool": np.bool_, "complex64": np.complex64, "complex128": np.complex128}.items()}
# The classes of storages, without their module: on a GPU they were torch.cuda.FloatStorage and so on.
STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
            "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
            "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
            "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8"}

Extents = dict[str, tuple[int, int]]          # key of a storage -> where its bytes begin and end in the file


@dataclasses.dataclass(frozen=True)
class _Storage:
  """Values in a row, or a window on them: `first` elements are left out at its beginning."""
  key: str
  dtype: np.dtype
  count: int
  first: int = 0


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A view of a storage, as the pickle says; offset and strides are in elements of `dtype`."""
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  dtype: np.dtype
  flags: tuple[str, ...]          # "conj" or "neg": torch would still change the values


def read_torch_file(path: str | os.PathLike, programs: bool = False) -> TensorFile:
  """Opens a checkpoint that torch.save wrote; its tensors are read one by one, when asked for.

  Args:
    path: the file, whatever it is called. It holds a state dict, or a dict with one under "state_dict" or another of
      `WRAPPERS`. What lies beside the tensors (step counts, options) is left out, and so are the states of optimizers.
    programs: whether a TorchScript program is read too, instead of refused: the tensors that its modules hold, by the
      paths of their attributes. Its code, and the constants in it, are not looked at.

  Returns:
    the tensors by the names in the state dict, prefixes such as "module." included, as read-only views of the mapped
    file, with the strides that they were saved with.

  Raises:
    WeightsError: if the file wants to run anything, is cut short, damaged, compressed, no checkpoint of torch, or holds
      no state dict. A tensor of the state dict that does not fit the file is named.

  Source: torch/serialization.py and torch/_utils.py of torch 2.13.
  """
  file = MappedFile(path)
  content, extents = _read_zip(file, programs) if file.data[:2] == b"PK" else _read_legacy(file)
  tensors = {}
  for key, tensor in _state_dict(content, file.path).items():
    if tensor.flags:
      raise WeightsError(f"{file.path} holds {key} as a view that is still to be changed "
                         f"({printable(', '.join(tensor.flags))}): save it again after torch.resolve_conj and "
                         "torch.resolve_neg")
    if tensor.storage.key not in extents:
      raise WeightsError(f"{file.path} is damaged: it has no values for {key}; download it again")
    begin, end = extents[tensor.storage.key]
    begin += tensor.storage.first * tensor.storage.dtype.itemsize
    end = min(end, begin + tensor.storage.count * tensor.storage.dtype.itemsize)
    tensors[key] = file.tensor(key, tensor.dtype, tensor.shape, begin + tensor.offset * tensor.dtype.itemsize, end,
                               tensor.strides)
  return TensorFile(file.path, tensors, {})


def _state_dict(content: Any, path: str) -> dict[str, _Tensor]:
  if isinstance(content, Object):
    tensors = _attributes(content, path)
    if tensors:
      return tensors
  if isinstance(content, dict):
    for part in (*(content.get(name) for name in WRAPPERS), content):
      if isinstance(part, dict):
        tensors = {key: value for key, value in part.items() if isinstance(value, _Tensor)}
        if tensors:
          return tensors
    shown = [f"{printable(key)} ({type(value).__name__.strip('_')})" for key, value in list(content.items())[:8]]
    inside = f"a dict with {', '.join(shown) or 'no names'}" + (" and more" if len(content) > 8 else "")
  elif isinstance(content, Object):
    inside = "a program whose modules have no tensors"
  else:
    inside = f"a {type(content).__name__.strip('_')}"
  raise WeightsError(f"{path} holds {inside}, but no state dict: save a dict of tensors, flat or under \"state_dict\"")


def _attributes(program: Object, path: str) -> dict[str, _Tensor]:
  tensors, waiting, met = {}, [("", program)], {id(program)}
  while waiting:
    prefix, module = waiting.pop()
    if len(prefix) > MAX_LINE:
      raise WeightsError(f"{path} has modules inside modules without an end: it is damaged, or made to harm; do not "
                         "use it")
    for name, value in module.attributes.items():
      if isinstance(value, _Tensor):
        tensors[prefix + name] = value
      elif isinstance(value, Object) and id(value) not in met:
        met.add(id(value))
        waiting.append((f"{prefix}{name}.", value))
  return tensors


# The zip format. What says where the values lie is read from the file, not from its mapping: a look at a mapped page
# makes its neighbours resident.


def _read_zip(file: MappedFile, programs: bool) -> tuple[Any, Extents]:
  try:
    with open(file.path, "rb") as stream, zipfile.ZipFile(stream) as archive:
      return _read_archive(file, stream, archive.infolist(), programs)
  except WeightsError:
    raise
  except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, OverflowError, struct.error) as error:
    raise WeightsError(f"{file.path} is cut short or damaged ({printable(str(error))}): download it again") from error


def _read_archive(file: MappedFile, stream: BinaryIO, entries: list[zipfile.ZipInfo],
                  programs: bool) -> tuple[Any, Extents]:
  by_name = {entry.filename: entry for entry in entries}
  roots = [name[:-len("data.pkl")] for name in by_name if name.count("/") == 1 and name.endswith("/data.pkl")]
  if len(roots) != 1 or len(by_name) != len(entries):
    raise WeightsError(f"{file.path} is a zip archive, but none that torch.save wrote: give a checkpoint (.ckpt, .pt, "
                       ".pth, .bin or .safetensors)")
  root, = roots
  if root + "constants.pkl" in by_name and not programs:
    raise WeightsError(f"{file.path} is a TorchScript program, not a checkpoint: ask for its state dict, or for a "
                       "safetensors file")
  if root + "byteorder" in by_name:
    begin, end = _stored(file, stream, by_name[root + "byteorder"])
    stream.seek(begin)
    if stream.read(min(end - begin, 8)) != b"little":
      raise WeightsError(f"{file.path} was written on a big-endian machine: load it with torch and save it as "
                         "safetensors")
  begin, end = _stored(file, stream, by_name[root + "data.pkl"])
  if end - begin > MAX_PICKLE:
    raise WeightsError(f"{file.path} has a table of contents of {end - begin:,} bytes, more than any checkpoint needs: "
                       "it is damaged, or made to harm; do not use it")
  stream.seek(begin)
  content = _read_content(io.BytesIO(stream.read(end - begin)), file.path, classes="__torch__" if programs else None)
  data = root + "data/"
  return content, {name.removeprefix(data): _stored(file, stream, entry) for name, entry in by_name.items()
                   if name.startswith(data)}


def _stored(file: MappedFile, stream: BinaryIO, entry: zipfile.ZipInfo) -> tuple[int, int]:
  """Where the bytes of an entry lie; its own header, of 30 bytes and two texts, says how far behind it."""
  if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
    raise WeightsError(f"{file.path} is compressed or encrypted ({printable(entry.filename)}): only archives as "
                       "torch.save writes them can be read without unpacking; load it with torch and save it again")
  stream.seek(max(entry.header_offset, 0))
  header = stream.read(30)
  if len(header) == 30 and header.startswith(b"PK\3\4"):
    begin = stream.tell() + sum(struct.unpack("<HH", header[26:]))
    if begin + entry.file_size <= file.size:
      return begin, begin + entry.file_size
  raise WeightsError(f"{file.path} is damaged: {printable(entry.filename)} is not where the archive says; download it "
                     "again")


# The older format.


class _Beginning:
  """The first bytes of a file, to read pickles from; no pickle and no line of one can ask for all of a large file."""

  def __init__(self, stream: BinaryIO):
    self._stream = stream
    self._position = 0

  def tell(self) -> int:
    return self._position

  def read(self, count: int) -> bytes:
    return self._taken(self._stream.read(min(count, MAX_PICKLE - self._position)))

  def readline(self) -> bytes:
    return self._taken(self._stream.readline(min(MAX_LINE, MAX_PICKLE - self._position)))

  def _taken(self, data: bytes) -> bytes:
    self._position += len(data)
    return data


def _read_legacy(file: MappedFile) -> tuple[Any, Extents]:
  with open(file.path, "rb") as stream:
    beginning = _Beginning(stream)
    try:
      magic = read_pickle(beginning, file.path, {}, _no_storage)
    except WeightsError:
      raise
    except ValueError as error:
      raise WeightsError(f"{file.path} is no checkpoint of torch ({printable(str(error))}): give a .ckpt, .pt, "
                         ".pth, .bin or .safetensors file") from error
    if magic != MAGIC_NUMBER:
      raise WeightsError(f"{file.path} is a pickle, but none that torch.save wrote: give a checkpoint (.ckpt, .pt, "
                         ".pth, .bin or .safetensors)")
    for _ in range(2):              # the version, and sizes of C types
      _read_content(beginning, file.path)
    storages: dict[str, _Storage] = {}
    content = _read_content(beginning, file.path, storages)
    keys = _read_content(beginning, file.path)

    extents = {}
    position = beginning.tell()
    for key in keys if isinstance(keys, list) else []:
      if not isinstance(key, str) or key not in storages:
        raise WeightsError(f"{file.path} is damaged: it has values of tensors that it does not have; download it again")
      begin = position + 8          # behind the number of elements
      end = begin + storages[key].count * storages[key].dtype.itemsize
      if end > file.size:
        raise WeightsError(f"{file.path} is cut short ({file.size:,} of at least {end:,} bytes): download it again")
      stream.seek(position)
      if int.from_bytes(stream.read(8), "little") != storages[key].count:
        raise WeightsError(f"{file.path} is damaged: it counts the values of its tensors in two ways; download it "
                           "again")
      extents[key] = begin, end
      position = end
  return content, extents


# What a pickle may build.


class _Special(ValueError):
  """A tensor that is more than a view of values in a row: what it is."""


def _read_content(stream: io.BytesIO | _Beginning, path: str, storages: dict[str, _Storage] | None = None,
                  classes: str | None = None) -> Any:
  """Reads one pickle; `storages` collects each storage as it was first met, `classes`: see `read_pickle`."""

  def load(saved: Any) -> Any:
    storage = _storage(saved)
    if storages is not None and isinstance(storage, _Storage):
      storages.setdefault(storage.key, dataclasses.replace(storage, count=saved[4], first=0))
    return storage

  try:
    return read_pickle(stream, path, BUILDERS, load, classes)
  except _Special as error:
    raise WeightsError(f"{path} holds a {error}, which is not read here: save it again with plain tensors") from error
  except WeightsError:
    raise
  except ValueError as error:
    raise WeightsError(f"{path} is cut short or damaged ({printable(str(error))}): download it again") from error


def _storage(saved: Any) -> _Storage | Name:
  """What ("storage", class, key, place, count) stands for; ("module", class, …) is a class and no more."""
  if not isinstance(saved, tuple) or len(saved) < 2:
    raise ValueError("a storage without a description")
  if saved[0] == "module" and isinstance(saved[1], Name):
    return saved[1]
  described = saved[0] == "storage" and len(saved) in (5, 6)
  if not described or not isinstance(saved[1], Name) or not isinstance(saved[2], str):
    raise ValueError("a storage with a strange description")
  kind, key, count = saved[1].text, saved[2], saved[4]
  module, _, name = kind.rpartition(".")
  if name.startswith(("QInt", "QUInt")):
    raise _Special("quantised tensor")
  if name not in STORAGES or module.partition(".")[0] != "torch":
    raise ValueError(f"a storage of the unknown type {printable(kind)}")
  first = 0
  if len(saved) == 6 and saved[5] is not None:          # torch before 0.4 had storages that are windows on others
    if not isinstance(saved[5], tuple) or len(saved[5]) != 3:
      raise ValueError("a storage with a strange window")
    _, first, count = saved[5]
  first, count = _sizes((first, count))
  _sizes(saved[4:5])
  return _Storage(key, DTYPES[STORAGES[name]], count, first)


def _sizes(values: Any) -> tuple[int, ...]:
  if isinstance(values, tuple) and len(values) <= MAX_DIMENSIONS and all(
      type(value) is int and 0 <= value < MAX_SIZE for value in values):
    return values
  raise ValueError("a size that no tensor can have")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
  # rest: whether it needs a gradient, hooks, and flags such as {"conj": True}.
  return _typed_tensor(storage, offset, shape, strides, None, None, None, *rest[2:])


def _typed_tensor(storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: Any,
                  flags: Any = None) -> _Tensor:
  if not isinstance(storage, _Storage):
    raise ValueError("a tensor without a storage")
  if dtype is not None:
    name = dtype.text.removeprefix("torch.") if isinstance(dtype, Name) else ""
    if name not in DTYPES:
      raise ValueError(f"a tensor of the unknown type {printable(name)}")
  flags = tuple(flag for flag, is_set in flags.items() if is_set is not False) if isinstance(flags, dict) else ()
  return _Tensor(storage, _sizes((offset,))[0], _sizes(shape), _sizes(strides),
                 storage.dtype if dtype is None else DTYPES[name], flags)


def _parameter(tensor: Any, *rest: Any) -> _Tensor:
  if not isinstance(tensor, _Tensor):
    raise ValueError("a parameter without a tensor")
  return tensor


def _subclass(rebuild: Any, kind: Any, arguments: Any, state: Any) -> _Tensor:
  """A tensor with attributes of its own, which are left out."""
  if not isinstance(rebuild, Name) or rebuild.text not in TENSORS or not isinstance(arguments, tuple):
    raise ValueError("a tensor that is built in an unknown way")
  return _parameter(TENSORS[rebuild.text](*arguments))


def _size(*shape: Any) -> tuple[int, ...]:
  return _sizes(*shape) if shape else ()


def _special(kind: str) -> Callable[..., None]:
  def refuse(*arguments: Any) -> None:
    raise _Special(kind)
  return refuse


def _no_storage(saved: Any) -> None:
  raise ValueError("values where there can be none")


TENSORS: dict[str, Callable[..., _Tensor]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
BUILDERS: dict[str, Callable[..., Any]] = {**TENSORS, "torch._tensor._rebuild_from_type_v2": _subclass,
                                           "torch.Size": _size}
BUILDERS.update({f"torch.{name}": _special(kind) for name, kind in {
    "_utils._rebuild_qtensor": "quantised tensor", "_utils._rebuild_sparse_tensor": "sparse tensor",
    "serialization._get_layout": "sparse tensor", "_utils._rebuild_nested_tensor": "nested tensor",
    "_utils._rebuild_meta_tensor_no_storage": "tensor without values",
    "_utils._rebuild_wrapper_subclass": "tensor of a special class"}.items()})
