"""Checkpoints as torch.save writes them, spelt by hand: also those that no honest program would write."""

import dataclasses
import struct
import zipfile
from typing import Any

import numpy as np

MAGIC_NUMBER = 0x1950a86a20f9469cfc6c
CLASSES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage",
           "bfloat16": "BFloat16Storage", "bool": "BoolStorage", "uint8": "ByteStorage"}


@dataclasses.dataclass(frozen=True)
class Global:
  """A class or function, by name."""
  module: str
  name: str


@dataclasses.dataclass
class Call:
  """What `function` gives for `arguments`; with `state`, attributes are set on it afterwards."""
  function: Any
  arguments: tuple
  state: Any = None
  opcode: bytes = b"R"


@dataclasses.dataclass
class StateDict:
  """A dict as modules give it: ordered, filled after it was made, with an attribute."""
  values: dict


@dataclasses.dataclass
class Stored:
  """What the persistent id `description` stands for."""
  description: tuple


def spell(value: Any) -> bytes:
  """A value in the language of pickles, protocol 2, without its beginning and end."""
  if value is None or isinstance(value, bool):
    return {None: b"N", True: b"\x88", False: b"\x89"}[value]
  if isinstance(value, int):
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
  if isinstance(value, float):
    return b"G" + struct.pack(">d", value)
  if isinstance(value, str):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
  if isinstance(value, (tuple, list)):
    items = b"".join(map(spell, value))
    return b"(" + items + b"t" if isinstance(value, tuple) else b"](" + items + b"e"
  if isinstance(value, dict):
    return b"}(" + b"".join(spell(key) + spell(item) for key, item in value.items()) + b"u"
  if isinstance(value, Global):
    return b"c" + f"{value.module}\n{value.name}\n".encode()
  if isinstance(value, StateDict):
    made = Global("collections", "OrderedDict")
    items = b"".join(spell(key) + spell(item) for key, item in value.values.items())
    return spell(made) + b")R(" + items + b"u" + spell({"_metadata": Call(made, ())}) + b"b"
  if isinstance(value, Call):
    called = spell(value.function) + spell(value.arguments) + value.opcode
    return called if value.state is None else called + spell(value.state) + b"b"
  if isinstance(value, Stored):
    return spell(value.description) + b"Q"
  raise TypeError(type(value))


def pickled(value: Any) -> bytes:
  return b"\x80\x02" + spell(value) + b"."


class Archive:
  """Collects tensors and the storages behind them; then writes either format."""

  def __init__(self):
    self.storages: dict[str, np.ndarray] = {}

  def storage(self, values: np.ndarray, key: str | None = None, location: str = "cpu") -> Stored:
    """Registers 1-D values, or names those that are registered."""
    key = str(len(self.storages)) if key is None else key
    self.storages[key] = values
    return Stored(("storage", Global("torch", CLASSES[values.dtype.name]), key, location, values.size))

  def tensor(self, values: np.ndarray) -> Call:
    """A tensor with a storage of its own; strides are kept, offsets are not."""
    return view(self.storage(np.array(values).reshape(-1)), 0, values.shape)

  def zip(self, path, content: Any, root: str = "archive", byteorder: bytes | None = b"little", **options: Any) -> None:
    with zipfile.ZipFile(path, "w", **options) as archive:
      archive.writestr(f"{root}/data.pkl", content if isinstance(content, bytes) else pickled(content))
      if byteorder is not None:
        archive.writestr(f"{root}/byteorder", byteorder)
      for key, values in self.storages.items():
        archive.writestr(f"{root}/data/{key}", values.tobytes())
      archive.writestr(f"{root}/version", "3\n")

  def legacy(self, path, content: Any) -> None:
    parts = [pickled(MAGIC_NUMBER), pickled(1001), pickled({"little_endian": True}),
             content if isinstance(content, bytes) else pickled(content), pickled(list(self.storages))]
    for values in self.storages.values():
      parts += [values.size.to_bytes(8, "little"), values.tobytes()]
    path.write_bytes(b"".join(parts))


def view(storage: Any, offset: Any, shape: Any, strides: Any = None, *, typed: str | None = None) -> Call:
  """A tensor that is a window on a storage, in C order unless strides are given."""
  if strides is None:
    strides = tuple(int(np.prod(shape[axis + 1:])) for axis in range(len(shape)))
  rest = (storage, offset, shape, strides, False, Call(Global("collections", "OrderedDict"), ()))
  if typed is not None:
    return Call(Global("torch._utils", "_rebuild_tensor_v3"), (*rest, Global("torch", typed)))
  return Call(Global("torch._utils", "_rebuild_tensor_v2"), rest)
