"""Safetensors files: read tensor by tensor from a mapped file, written tensor by tensor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Mapping

import ml_dtypes
import numpy as np
import safetensors

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.mapped import MappedFile
from panda_jax.weights.tensors import LazyTensor, TensorFile

# What the format calls the types that NumPy or ml_dtypes has, in the order in which the safetensors library ranks them.
TYPES = {name: np.dtype(kind) for name, kind in {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "I16": np.int16, "U16": np.uint16, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I32": np.int32, "U32": np.uint32,
    "F32": np.float32, "C64": np.complex64, "F64": np.float64, "I64": np.int64, "U64": np.uint64}.items()}
NAMES = {dtype: name for name, dtype in TYPES.items()}
METADATA = "__metadata__"
MAX_HEADER = 100_000_000          # the library's own limit
CHUNK = 4 * 2**20                 # bytes copied at once of a tensor that does not lie in C order


def read_safetensors(path: str | os.PathLike) -> TensorFile:
  """Opens a safetensors file; its tensors are read one by one, when asked for.

  Args:
    path: the file, whatever it is called.

  Returns:
    the tensors in the order of the header, as read-only views of the mapped file, and the header's metadata.

  Raises:
    WeightsError: if the file is absent, cut short, damaged, no safetensors file, or has a type that NumPy lacks.

  Source: the format, https://huggingface.co/docs/safetensors: 8 bytes length of the header, header in JSON, data.
  """
  file = MappedFile(path)
  length = int.from_bytes(file.data[:8], "little")
  start = 8 + length
  if file.size >= 8 and length > MAX_HEADER:
    raise WeightsError(f"{file.path} is no safetensors file, or a damaged one: it announces a header of {length:,} "
                       f"bytes, and has {file.size:,} itself")
  if file.size < 8 or start > file.size:
    raise WeightsError(f"{file.path} is cut short ({file.size:,} of more than {max(start, 8):,} bytes): download it "
                       "again")
  try:
    with safetensors.safe_open(file.path, framework="numpy") as checked:
      names, metadata = set(checked.keys()), dict(checked.metadata() or {})
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise WeightsError(_what_is_wrong(file, start) or
                       f"{file.path} is damaged, or no safetensors file ({error}): download it again") from error

  header = json.loads(file.data[8:start])
  header.pop(METADATA, None)
  if set(header) != names:
    raise WeightsError(f"{file.path} is damaged: its header can be read in two ways; download it again")
  _require_known_types(file, header)
  tensors = {}
  for name, entry in header.items():
    first, last = (start + offset for offset in entry["data_offsets"])
    tensor = file.tensor(name, TYPES[entry["dtype"]], entry["shape"], first, last)
    if tensor.nbytes != last - first:
      raise WeightsError(f"{file.path} is damaged: {name} has the shape {entry['shape']} and {last - first:,} bytes; "
                         "download it again")
    tensors[name] = tensor
  return TensorFile(file.path, tensors, metadata)


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, LazyTensor],
                      metadata: Mapping[str, str] | None = None) -> None:
  """Writes tensors to a safetensors file, reading them one at a time.

  The order in the file is the safetensors library's: the widest types first, then by name; no tensor is misaligned.

  Args:
    path: where to; its folder is made, a file that is there is replaced once the new one is complete.
    tensors: by the names that they get; never more than one of them is in memory.
    metadata: for the header. If not given it is {"format": "pt"}, without which transformers refuses to load a file
      (it means that the names and layouts are PyTorch's). Give {} for none.

  Raises:
    WeightsError: if a tensor is not what it announced, a type has no name in this format, or the file cannot be
      written (a full disk). What reading a tensor raises passes through. Nothing half-written is left behind.
  """
  path = Path(path)
  metadata = {"format": "pt"} if metadata is None else dict(metadata)
  order, header = _header(path, tensors, metadata)
  fresh = path.with_name(f".{path.name}.new")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(fresh, "wb") as file:
      file.write(len(header).to_bytes(8, "little") + header)
      for name in order:
        _write_values(file, path, name, tensors[name])
    os.replace(fresh, path)
  except OSError as error:
    raise WeightsError(f"{path} could not be written ({error.strerror or error}): make room, or choose another place"
                       ) from error
  finally:
    if os.path.isfile(fresh):
      fresh.unlink()


def _what_is_wrong(file: MappedFile, start: int) -> str | None:
  """The sentence for a header that the library refuses, if its own words would not help the user."""
  try:
    header = json.loads(file.data[8:start])
    header.pop(METADATA, None)
    _require_known_types(file, header)
    wanted = start + max(entry["data_offsets"][1] for entry in header.values())
  except WeightsError as error:
    return str(error)
  except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
    return None                   # not even a header: the library has said so
  if wanted > file.size:
    return f"{file.path} is cut short ({file.size:,} of {wanted:,} bytes): download it again"
  if wanted < file.size:
    return f"{file.path} is damaged ({file.size:,} bytes where its header announces {wanted:,}): download it again"
  return None


def _require_known_types(file: MappedFile, header: dict[str, Any]) -> None:
  for name, entry in header.items():
    if entry["dtype"] not in TYPES:
      raise WeightsError(f"{file.path} has a type that cannot be read here: {name} is {entry['dtype']}; convert it to "
                         f"one of {', '.join(TYPES)}")


def _header(path: Path, tensors: Mapping[str, LazyTensor], metadata: dict[str, str]) -> tuple[list[str], bytes]:
  """The names in the order of the file, and the header."""
  if not all(isinstance(text, str) for item in metadata.items() for text in item):
    raise TypeError(f"the metadata of a safetensors file are texts, got {metadata}")
  if METADATA in tensors:
    raise WeightsError(f"{path} cannot hold a tensor called {METADATA}: rename it")
  for name, tensor in tensors.items():
    if tensor.dtype not in NAMES:
      raise WeightsError(f"{path} cannot hold {tensor.name}: safetensors has no name for the type {tensor.dtype}")
  ranks = {dtype: rank for rank, dtype in enumerate(NAMES)}
  order = sorted(tensors, key=lambda name: (-ranks[tensors[name].dtype], name))
  entries: dict[str, Any] = {METADATA: metadata} if metadata else {}
  first = 0
  for name in order:
    last = first + tensors[name].nbytes
    entries[name] = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape),
                     "data_offsets": [first, last]}
    first = last
  header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
  return order, header + b" " * (-len(header) % 8)


def _write_values(file: BinaryIO, path: Path, name: str, tensor: LazyTensor) -> None:
  values = np.asarray(tensor.read())
  if values.shape != tuple(tensor.shape) or values.dtype != tensor.dtype:
    raise WeightsError(f"{path} was not written: {name} (from {tensor.name}) was announced as {tensor.dtype} "
                       f"{list(tensor.shape)} and turned out to be {values.dtype} {list(values.shape)}")
  if values.flags.c_contiguous:   # as is whatever has no element or one
    file.write(values.reshape(-1).view(np.uint8))
    return
  rows = max(1, CHUNK * len(values) // values.nbytes)
  for first in range(0, len(values), rows):
    file.write(np.ascontiguousarray(values[first:first + rows]).reshape(-1).view(np.uint8))
