"""Opening files of tensors, whatever they are called: what they are is seen from their first bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath

import numpy as np

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.mapped import MappedFile
from panda_jax.weights.safetensors_file import MAX_HEADER, read_safetensors
from panda_jax.weights.tensors import LazyTensor, TensorFile
from panda_jax.weights.torch_file import read_torch_file

MAX_INDEX = 64 * 2**20            # bytes of an index file; a checkpoint of a thousand tensors has 100,000
# How files begin that are often given by mistake, and what to say of them.
STRANGERS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder",
    b"<": "is a web page, not a checkpoint (the download was refused or needs a login): download it again",
    b"{": "is a JSON text, not a file of tensors: give the folder that it lies in",
    b"GGUF": "is a GGUF file, which is not read here: take the safetensors file of the same model",
    b"\x89HDF": "is an HDF5 file, which is not read here: take the safetensors file of the same model",
    b"\x93NUMPY": "is a single NumPy array without a name: save a dict of tensors as safetensors",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
    b"Rar!": "is a RAR archive: unpack it first",
}


def open_tensors(path: str | os.PathLike) -> TensorFile:
  """Opens a safetensors file or a checkpoint of torch (.ckpt, .pt, .pth, .bin); the name of the file does not matter.

  Args:
    path: a file; a folder of weights is not opened here.

  Returns:
    its tensors, which are read one by one, when asked for.

  Raises:
    WeightsError: if it is absent, something else, damaged, or wants to run a program.
  """
  file = MappedFile(path)
  beginning = file.data[:512]
  length = int.from_bytes(beginning[:8], "little")
  if beginning[8:9] == b"{" and length <= MAX_HEADER:
    return read_safetensors(path)
  if beginning.startswith((b"PK\3\4", b"PK\5\6")) or (beginning[0] == 0x80 and beginning[1:2] <= b"\5"):
    return read_torch_file(path)
  text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
  for start, sentence in STRANGERS.items():
    if text.startswith(start):
      raise WeightsError(f"{file.path} {sentence}")
  if beginning[8:9] not in (b"{", b""):
    raise WeightsError(f"{file.path} is neither a safetensors file nor a checkpoint of torch: give a .safetensors, "
                       ".ckpt, .pt, .pth or .bin file")
  return read_safetensors(path)


def open_sharded(path: str | os.PathLike) -> TensorFile:
  """Opens the files that an index names (`*.index.json`) as if they were one.

  Args:
    path: the index, {"weight_map": {name of a tensor: file beside the index}}, as transformers and diffusers write it
      for safetensors and for .bin files.

  Returns:
    the tensors that the index names; the metadata are the index's, as texts.

  Raises:
    WeightsError: if the index cannot be read, a file is absent or lies outside the folder, or a tensor is not in its
      file.
  """
  path = Path(path)
  index = _read_index(path)
  places = index["weight_map"]
  for name, place in places.items():
    # Parts are compared, links are followed: caches keep the files elsewhere and link to them.
    if PurePath(place).is_absolute() or ".." in place.replace("\\", "/").split("/"):
      raise WeightsError(f"{path} says that {name} lies in {place!r}, outside its folder: do not use it")
  files = sorted(set(places.values()))
  absent = [place for place in files if not os.path.isfile(path.parent / place)]
  if absent:
    raise WeightsError(f"{path} needs {len(files)} files, and {len(absent)} of them are absent: {_some(absent)}; "
                       "download them into the same folder")
  shards = {place: open_tensors(path.parent / place) for place in files}
  lost = [f"{name} ({place})" for name, place in places.items() if name not in shards[place].tensors]
  if lost:
    raise WeightsError(f"{path} does not fit its files: {len(lost)} tensors are not where it says: {_some(lost)}; "
                       "download all of them again")
  metadata = index.get("metadata")
  return TensorFile(str(path), {name: shards[place].tensors[name] for name, place in places.items()},
                    {key: str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {})


def read_finite(tensor: LazyTensor) -> np.ndarray:
  """Reads a tensor and refuses values that are no numbers.

  Args:
    tensor: of any type; integers and truth values pass.

  Returns:
    its values.

  Raises:
    WeightsError: if one of them is NaN or infinite.
  """
  values = tensor.read()
  if values.dtype.kind not in "iub":          # ml_dtypes' types are no subtypes of np.floating
    with np.errstate(invalid="ignore"):       # ml_dtypes warns of the NaN that it is asked for
      bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
      raise WeightsError(f"{tensor.name} holds NaN or infinity ({bad:,} of {values.size:,} values): use an earlier or "
                         "another copy of the checkpoint")
  return values


def cast(tensor: LazyTensor, dtype: np.dtype | None = None) -> LazyTensor:
  """The tensor in another floating-point type, or as it is, checked for NaN and infinity; reading it makes a copy.

  Raises (when read):
    WeightsError: if a value is not finite, or not any more in the new type.
  """
  target = np.dtype(dtype or tensor.dtype)

  def read() -> np.ndarray:
    with np.errstate(over="ignore"):                            # is said below, with the tensor's name
      values = np.array(read_finite(tensor), target, order="C")
    if target.itemsize < tensor.dtype.itemsize and not np.isfinite(values).all():
      raise WeightsError(f"{tensor.name} has values beyond the range of {target}: ask for another dtype")
    return values

  return LazyTensor(tensor.shape, target, read, tensor.name)


def _read_index(path: Path) -> dict:
  file = MappedFile(path)
  index = None
  if file.size <= MAX_INDEX:
    try:
      index = json.loads(file.data[:])
    except (ValueError, RecursionError) as error:
      raise WeightsError(f"{path} is not readable JSON ({error}): download it again") from error
  places = index.get("weight_map") if isinstance(index, dict) else None
  if not isinstance(places, dict) or not places or not all(isinstance(item, str) and item for item in places.values()):
    raise WeightsError(f"{path} is no index of weights: it must hold a \"weight_map\" from names of tensors to files")
  return index


def _some(names: list[str], limit: int = 4) -> str:
  hidden = len(names) - limit
  return ", ".join(names[:limit]) + (f" and {hidden} more" if hidden > 0 else "")
