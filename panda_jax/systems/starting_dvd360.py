"""Stable Diffusion with motion modules as the 360DVD that training or sampling begins with."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
from pathlib import Path
import zlib

from ml_collections import ConfigDict
import numpy as np

from panda_jax import systems
from panda_jax.diffusion.enhancement import PRESETS
from panda_jax.systems.starting_point import check_together, tokenizer_folder, wanted
from panda_jax.systems.networks import open_tokenizer
from panda_jax.tree import flatten
from panda_jax.weights.configs import adapter360_config_from_shapes
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.folder import CONFIG_FILE, WEIGHTS_FILE
from panda_jax.weights.layout import require_fit, to_torch, torch_shapes
from panda_jax.weights.names import WORDS
from panda_jax.weights.recognise import read_json
from panda_jax.weights.resolve import Network
from panda_jax.weights.safetensors_file import read_safetensors
from panda_jax.weights.tensors import LazyTensor

# The positions of frames are a table of sinusoids, which is as long as is wished.
MOST_FRAMES = 32

_OF_TRAINING = ("loss_weight_power", "flip_fixes_flow")
_OF_NETWORKS = ("unet", "codec", "text", "panorama_size")


def method(preset: str = "official") -> dict:
  """What config.model says beside the networks and their sizes.

  Args:
    preset: of `panda_jax.diffusion.enhancement.PRESETS`.

  Returns:
    A new dict of plain values: the switches of training beside the others, those of sampling in "sampling".
  """
  switches = dataclasses.asdict(PRESETS[preset])
  return {name: switches.pop(name) for name in _OF_TRAINING} | dict(
      train="adapter", prediction="epsilon", motion=True, conditioning=dict(drop_text=0.1, drop_motion=0.2),
      sampling=dict(steps=25, text_guidance=7.5, frames=16, spacing="leading", rescale=0.0, noise_scale=1.0, **switches))


def dvd360(networks: Mapping[str, Network], tokenizer: str | os.PathLike, *, preset: str = "official",
           panorama_size: tuple[int, int] = (512, 1024), fps: float = 6.0,
           seed: int = 0) -> tuple[dict[str, LazyTensor], ConfigDict]:
  """A text-to-video model with the 360-Adapter, published or new. No values are read here.

  Personalised checkpoints and LoRA are swapped in by giving their networks.

  Args:
    networks: of `weights.resolve.resolve`: "unet" with motion modules, "vae", "text_encoder", and perhaps "adapter360".
      Without that the adapter is new, at random.
    tokenizer: its folder, or a pipeline folder that holds one.
    preset: see `method`.
    panorama_size: (H, W) in pixels.
    fps: frame rate of what is generated.
    seed: of a new adapter.

  Returns:
    tensors: {"unet/…", "adapter/…", "text/…" and "vae/…": tensor}, in the types of their files.
    config: what building and sampling need, as of `starting_point.videopanda`.

  Raises:
    WeightsError: if a network is absent or does not go with the others.
    InputError: if the size does not go with the networks.
  """
  return _together(networks, tokenizer, method(preset), tuple(panorama_size), fps, seed)


def on_another_base(trained: str | os.PathLike, networks: Mapping[str, Network],
                    tokenizer: str | os.PathLike) -> tuple[dict[str, LazyTensor], ConfigDict]:
  """A trained 360DVD on other networks: its adapter, size and settings stay, and nothing else of it.

  Args:
    trained: a model folder of 360DVD, such as WORKDIR/model of `panda train`.
    networks, tokenizer: as of `dvd360`; there can be no other adapter.

  Returns:
    As `dvd360`.

  Raises:
    WeightsError, InputError: as `dvd360`, and if the folder is no 360DVD.
  """
  file, config = Path(trained) / WEIGHTS_FILE, read_json(Path(trained) / CONFIG_FILE)
  if config.get("system") != "dvd360":
    raise WeightsError(f"{trained} is no model folder of 360DVD: give one that panda train or panda convert has made")
  if "adapter360" in networks:
    raise WeightsError(f"{trained} and {networks['adapter360'].source} both bring a 360-Adapter: give one of them")
  tensors = to_torch({path.removeprefix("adapter/"): tensor for path, tensor in read_safetensors(file).tensors.items()
                      if path.startswith("adapter/")})
  try:
    sizes = adapter360_config_from_shapes({name: tensor.shape for name, tensor in tensors.items()})
  except KeyError as error:
    raise WeightsError(f"{file} has no whole 360-Adapter ({error} is absent): copy the folder again") from error
  adapter = Network("adapter360", sizes, tensors, str(trained))
  require_fit(tensors, torch_shapes(adapter.functional.abstract), str(trained), WORDS[adapter.kind])
  model = config["model"]
  options = {name: value for name, value in model.items() if name not in _OF_NETWORKS}
  return _together({**networks, "adapter360": adapter}, tokenizer, options, tuple(model["panorama_size"]),
                   config["data"]["fps"], seed=0)


def _together(networks: Mapping[str, Network], tokenizer: str | os.PathLike, options: dict,
              panorama_size: tuple[int, int], fps: float, seed: int) -> tuple[dict[str, LazyTensor], ConfigDict]:
  unet, vae, text = (wanted(networks, kind, "360DVD") for kind in ("unet", "vae", "text_encoder"))
  check_together(unet, vae, text)
  if not unet.config.temporal:
    raise WeightsError(f"{unet.source} has no motion modules, without which there is no video: give AnimateDiff's with "
                       "motion= (panda convert: --motion)")
  _, empty = open_tokenizer(tokenizer, text.config)
  sizes = dataclasses.asdict(unet.config) | dict(
      max_frames=max(unet.config.max_frames, 0 if unet.config.learned_positions else MOST_FRAMES),
      motion_norm_groups=unet.config.motion_norm_groups or unet.config.norm_groups)
  options["sampling"]["panorama_height"] = panorama_size[0]
  config = ConfigDict(dict(system="dvd360", data=dict(fps=float(fps)), model=options | dict(
      panorama_size=panorama_size, unet=sizes,
      codec=dict(kind="stable_diffusion", images_per_batch=4, **dataclasses.asdict(vae.config)),
      text=dict(kind="clip", tokenizer=tokenizer_folder(tokenizer), empty=empty, **dataclasses.asdict(text.config)))))
  system = systems.build(config)

  tensors = {f"{name}/{path}": tensor for name, network in (("unet", unet), ("text", text), ("vae", vae))
             for path, tensor in network.params().items()}
  adapter = networks.get("adapter360")
  if adapter is not None and adapter.config != system.adapter_config:
    raise WeightsError(f"{adapter.source} has features of {adapter.config.channels} channels for "
                       f"{adapter.config.downscale} pixels per latent, and the UNet wants {system.adapter_config.channels} for "
                       f"{system.adapter_config.downscale}: give the adapter that was trained on this base")
  parts = {path: _new(path, tuple(leaf.shape), seed) for path, leaf in flatten(system.adapter.abstract).items()}
  parts = parts if adapter is None else adapter.params()
  return tensors | {f"adapter/{path}": tensor for path, tensor in parts.items()}, config


def _new(path: str, shape: tuple[int, ...], seed: int) -> LazyTensor:
  """As the published adapter began: uniform within 1 / sqrt(inputs of an output); biases are zeros."""
  def read() -> np.ndarray:
    if len(shape) == 1:
      return np.zeros(shape, np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
    limit = 1 / math.sqrt(math.prod(shape[:-1]))
    return rng.uniform(-limit, limit, shape).astype(np.float32)

  return LazyTensor(shape, np.dtype(np.float32), read, f"adapter/{path}, which is new")
