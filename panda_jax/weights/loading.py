"""`weights.load`: whatever users have on disk, as a network that can be called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import os

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.tree import unflatten
from panda_jax.weights.files import cast
from panda_jax.weights.resolve import Network, Settings, resolve


def load(path: str | os.PathLike, *, motion: str | os.PathLike | None = None,
         lora: Iterable[tuple[str | os.PathLike, float]] = (), dtype: np.dtype = jnp.float32, wanted: str | None = None,
         variant: str | None = None, config: Settings | Mapping[str, Settings] | None = None,
         resnet_norm: str | None = None, motion_norm: str | None = None,
         use_lora_alpha: bool = True) -> nnx.Module | dict[str, nnx.Module]:
  """Loads networks from diffusers and transformers folders, LDM single files and the 360DVD adapter.

  Every tensor must be there, have its shape and be finite, and none may be left over. Tensors stream from the mapped
  file one at a time; pickles are read without running anything in them.

  Args:
    path: a file or a folder.
    motion: AnimateDiff motion modules for the UNet: AnimateDiff's own file (v1, v2, v3) or a diffusers MotionAdapter.
    lora: files to be merged, with their strengths: W + strength * alpha / rank * up @ down.
    dtype: of the parameters, and so of the computation; norms and softmax are computed in float32 all the same.
    wanted: "unet", "vae", "text_encoder" or "adapter360": gives that one alone, also out of several.
    variant: "fp16" and the like: the files of a folder that carry this word in their names.
    config: sizes that a file without config.json leaves open: a config.json, its folder or its content, or a dict of
      these by kind.
    resnet_norm, motion_norm: "per_frame" or "cross_frame", instead of what the motion modules were made with
      (specs: `UNetConfig`).
    use_lora_alpha: False merges with a factor of 1 whatever alpha a LoRA states, as AnimateDiff's scripts do.

  Returns:
    UNet, StableDiffusionVAE, CLIPText or Adapter360; a dict of them by kind for a pipeline folder or a single file with
    several.

  Raises:
    WeightsError: one sentence that says what the file is, what is wrong with it, and what was wanted.
  """
  networks = resolve(path, motion=motion, lora=lora, wanted=wanted, variant=variant, config=config,
                     resnet_norm=resnet_norm, motion_norm=motion_norm, use_lora_alpha=use_lora_alpha)
  loaded = {kind: fill(network, dtype) for kind, network in networks.items()}
  return loaded if len(loaded) > 1 else next(iter(loaded.values()))


def fill(network: Network, dtype: np.dtype = jnp.float32) -> nnx.Module:
  """The network with its parameters in memory."""
  # A NumPy copy of its own for every tensor: a device array that aliased the mapped file would change with it.
  params = {path: jax.device_put(cast(tensor, dtype).read()) for path, tensor in network.params().items()}
  return network.functional.bind(unflatten(params))
