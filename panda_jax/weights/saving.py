"""Networks to folders: ours, or those of diffusers and transformers. Tensors go from file to file one by one."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import os
from pathlib import Path

from flax import nnx
import numpy as np

from panda_jax import __version__
from panda_jax.models.embeddings import frame_positions
from panda_jax.models.functional import params_of
from panda_jax.tree import flatten, unflatten
from panda_jax.weights import configs
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.files import cast
from panda_jax.weights.folder import (
    CONFIG_FILE, PIPELINE_FILE, TOKENIZER, copy_tokenizer, replaced_folder, save_model)
from panda_jax.weights.layout import to_torch
from panda_jax.weights.resolve import MODULES, Network
from panda_jax.weights.safetensors_file import write_safetensors
from panda_jax.weights.tensors import LazyTensor

FORMATS = ("panda", "diffusers")
# kind -> (library, name of the weights, config.json)
_DIFFUSERS = {
    "unet": ("diffusers", "diffusion_pytorch_model.safetensors", configs.unet_settings),
    "vae": ("diffusers", "diffusion_pytorch_model.safetensors", configs.vae_settings),
    "text_encoder": ("transformers", "model.safetensors", configs.clip_settings)}

Saveable = Network | nnx.Module


def save(folder: str | os.PathLike, networks: Saveable | Mapping[str, Saveable], *, format: str = "panda",
         dtype: np.dtype | None = None, tokenizer: str | os.PathLike | None = None) -> None:
  """Writes networks to a folder; one that is already there is replaced only once the new one is complete.

  Args:
    folder: where to.
    networks: one network, or several by kind, as `weights.load` or `resolve` gives them.
    format: "panda" is a model folder of ours, which `weights.load` reads again; "diffusers" a folder that diffusers and
      transformers load: several networks become a pipeline folder.
    dtype: of the tensors; None keeps each as it is.
    tokenizer: folder of a tokenizer, copied into a pipeline folder.

  Raises:
    WeightsError: if diffusers has no such network.
    InputError: if the folder holds something else than a model.
  """
  if format not in FORMATS:
    raise ValueError(f"format is {format!r}; it may be {' or '.join(FORMATS)}")
  single = not isinstance(networks, Mapping)
  named = [networks] if single else list(networks.values())
  networks = {network.kind: network for network in map(as_network, named)}
  if not networks or len(networks) < len(named):
    raise ValueError(f"networks must be one of each kind, got {', '.join(type(network).__name__ for network in named)}")
  if format == "panda":
    params = {f"{kind}/{path}": cast(tensor, dtype) for kind, network in networks.items()
              for path, tensor in network.params().items()}
    sizes = {kind: dataclasses.asdict(network.config) for kind, network in networks.items()}
    save_model(folder, unflatten(params), {"networks": sizes, "panda_jax": __version__})
  elif single or len(networks) == 1:
    with replaced_folder(folder) as fresh:
      _write(fresh, *networks.values(), dtype)
  else:
    with replaced_folder(folder) as fresh:
      _write_pipeline(fresh, networks, dtype, tokenizer)


def as_network(network: Saveable) -> Network:
  """A loaded network as one whose values are read when asked for."""
  if isinstance(network, Network):
    return network
  kind = next((kind for kind, module in MODULES.items() if isinstance(network, module)), None)
  if kind is None:
    raise TypeError(f"only {', '.join(module.__name__ for module in MODULES.values())} can be saved, "
                    f"got {type(network).__name__}")
  leaves = {path: LazyTensor(leaf.shape, np.dtype(leaf.dtype), lambda leaf=leaf: np.asarray(leaf), path)
            for path, leaf in flatten(params_of(network)).items()}
  return Network(kind, network.config, to_torch(leaves), f"the {type(network).__name__} in memory")


def _write(folder: Path, network: Network, dtype: np.dtype | None) -> None:
  if network.kind not in _DIFFUSERS:
    raise WeightsError(f"{network.source} has no place in diffusers: keep our own format for it")
  _, file, settings_of = _DIFFUSERS[network.kind]
  settings = settings_of(network.config)
  # The hub's files have the prefix, and every version of transformers takes them.
  prefix = "text_model." if network.kind == "text_encoder" else ""
  tensors = {prefix + name: cast(tensor, dtype) for name, tensor in network.tensors.items()}
  if network.kind == "unet" and network.config.temporal:
    tensors |= _positions(network)
  write_safetensors(folder / file, tensors, metadata={"format": "pt"})
  (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _positions(unet: Network) -> dict[str, LazyTensor]:
  """diffusers keeps the table of frame positions of every motion module in the file."""
  tables = {}
  for name, tensor in unet.tensors.items():
    if "motion_modules" in name and name.endswith("transformer_blocks.0.norm1.weight"):
      table = frame_positions(unet.config.max_frames, tensor.shape[0])[None]
      place = name.replace("norm1.weight", "pos_embed.pe")
      tables[place] = LazyTensor.of(table, place)
  return tables


def _write_pipeline(folder: Path, networks: Mapping[str, Network], dtype: np.dtype | None,
                    tokenizer: str | os.PathLike | None) -> None:
  temporal = "unet" in networks and networks["unet"].config.temporal
  index = {"_class_name": "AnimateDiffPipeline" if temporal else "StableDiffusionPipeline"}
  for kind, network in networks.items():
    (folder / kind).mkdir()
    _write(folder / kind, network, dtype)
    settings = json.loads((folder / kind / CONFIG_FILE).read_text(encoding="utf-8"))
    index[kind] = [_DIFFUSERS[kind][0], settings.get("_class_name") or settings["architectures"][0]]
  if tokenizer is not None:
    copy_tokenizer(tokenizer, folder / TOKENIZER)
    index[TOKENIZER] = ["transformers", "CLIPTokenizer"]
  (folder / PIPELINE_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
