"""Small files of weights in the formats that networks of metrics are published in."""

from collections.abc import Mapping
from pathlib import Path
import zipfile

import flax.serialization
import numpy as np
from safetensors.numpy import save_file

from panda_jax.tree import unflatten
from tests.weights.archives import Archive, Call, Global, StateDict


def save(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
  """Writes tensors in the format that the ending says: .pth, .safetensors, .npz, or .flax, whose names have "/"."""
  if path.suffix == ".npz":
    np.savez(path, **tensors)
  elif path.suffix == ".safetensors":
    save_file(dict(tensors), path)
  elif path.suffix == ".flax":
    path.write_bytes(flax.serialization.to_bytes(unflatten(dict(tensors))))
  else:
    archive = Archive()
    archive.zip(path, StateDict({name: archive.tensor(values) for name, values in tensors.items()}))
  return path


def save_program(path: Path, tensors: Mapping[str, np.ndarray], **attributes) -> Path:
  """Writes a TorchScript program whose modules hold tensors under "module.module.name"; its code says nothing."""
  archive = Archive()
  state = unflatten({name.replace(".", "/"): archive.tensor(values) for name, values in tensors.items()})
  archive.zip(path, _module({**state, **attributes}))
  with zipfile.ZipFile(path, "a") as program:
    program.writestr("archive/constants.pkl", b"\x80\x02).")
    program.writestr("archive/code/__torch__.py", b"op_version_set = 1", zipfile.ZIP_DEFLATED)
  return path


def _module(attributes: dict) -> Call:
  state = {name: _module(value) if isinstance(value, dict) else value for name, value in attributes.items()}
  return Call(Global("__torch__", "Module"), (), {"training": False, **state}, opcode=b"\x81")
