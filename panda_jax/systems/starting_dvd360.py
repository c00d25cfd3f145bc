"""Stable Diffusion with motion modules as the 360DVD that training or sampling begins with."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
import zlib

from ml_collections import ConfigDict
import numpy as np

from panda_jax import systems
from panda_jax.diffusion.enhancement import PRESETS
from panda_jax.systems.starting_point import check_together, tokenizer_folder, wanted
from panda_jax.systems.networks import open_tokenizer
from panda_jax.tree import flatten
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.resolve import Network
from panda_jax.weights.tensors import LazyTensor

# The positions of frames are a table of sinusoids, which is as long as is wished.
MOST_FRAMES = 32

_OF_TRAINING = ("loss_weight_power", "flip_fixes_flow")


def method(preset: str = "official") -> dict:
  """What config.model says beside the networks and their sizes.

  Args:
    preset: of `panda_jax.diffusion.enhancement.PRESETS`.

  Returns:
    A new dict of plain values: the switches of training beside the others, those of sampling in "sampling".
  """
  switches = dataclasses.asdict(PRESETS[preset])
  return {name: switches.pop(name) for name in _OF_TRAINING} | dict(
      train="adapter", motion=True, conditioning=dict(drop_text=0.1, drop_motion=0.2),
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
  unet, vae, text = (wanted(networks, kind, "360DVD") for kind in ("unet", "vae", "text_encoder"))
  check_together(unet, vae, text)
  if not unet.config.temporal:
    raise WeightsError(f"{unet.source} has no motion modules, without which there is no video: give AnimateDiff's with "
                       "motion= (panda convert: --motion)")
  _, empty = open_tokenizer(tokenizer, text.config)
  sizes = dataclasses.asdict(unet.config) | dict(
      max_frames=max(unet.config.max_frames, 0 if unet.config.learned_positions else MOST_FRAMES),
      motion_norm_groups=unet.config.motion_norm_groups or unet.config.norm_groups)
  options = method(preset)
  options["sampling"]["panorama_height"] = panorama_size[0]
  config = ConfigDict(dict(system="dvd360", data=dict(fps=float(fps)), model=options | dict(
      panorama_size=tuple(panorama_size), unet=sizes,
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
