"""Stable Diffusion's kinds of networks, very small and with random weights, and a tokenizer that spells in letters."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from panda_jax.models.clip_text import CLIPTextConfig
from panda_jax.models.unet import UNetConfig
from panda_jax.models.vae import VAEConfig
from panda_jax.tree import flatten
from panda_jax.weights.layout import to_torch, torch_shapes
from panda_jax.weights.resolve import Network, functional
from panda_jax.weights.tensors import LazyTensor
from tests.fast import draw

START, END = "<|startoftext|>", "<|endoftext|>"
VIEW_SIZE, FACTOR = 8, 2

# Every byte as a letter that can be printed, in the middle and at the end of a word.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_LETTERS = [chr(byte) for byte in _PRINTED] + [chr(256 + index) for index in range(256 - len(_PRINTED))]
TOKENS = (*_LETTERS, *(letter + "</w>" for letter in _LETTERS), "se", "sea</w>", START, END)

UNET = UNetConfig(in_channels=4, block_out_channels=(8, 16), attention=(True, False), layers_per_block=1, heads=2,
                  text_channels=8, norm_groups=4, motion_heads=2, motion_norm_groups=4, max_frames=4, multiview=False,
                  view_conditions=False)
VAE = VAEConfig(latent_channels=4, block_out_channels=(8, 8), layers_per_block=1, norm_groups=4)
CLIP = CLIPTextConfig(vocabulary=len(TOKENS), channels=8, layers=1, heads=2, mlp_channels=8)


def write_tokenizer(folder: Path, padding: str = END) -> Path:
  """Writes the folder of a tokenizer."""
  folder.mkdir(parents=True)
  (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}), encoding="utf-8")
  (folder / "merges.txt").write_text("#version: 0.2\ns e\nse a</w>\n", encoding="utf-8")
  (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "pad_token": padding}))
  return folder


def network(kind: str, config, dtype=np.float32, seed: int = 0) -> Network:
  """A network with random values, in memory."""
  params = flatten(draw(functional(kind, config).abstract, seed))
  leaves = {path: LazyTensor.of(value.astype(dtype), path) for path, value in params.items()}
  return Network(kind, config, to_torch(leaves), f"toy/{kind}")


def unread_network(kind: str, config) -> Network:
  """A network of any size that takes no memory: its values cannot be read."""
  def read():
    raise AssertionError("a value was read, where names and shapes must do")
  shapes = torch_shapes(functional(kind, config).abstract)
  tensors = {name: LazyTensor(shape, np.dtype(np.float32), read, name) for name, shape in shapes.items()}
  return Network(kind, config, tensors, f"unread/{kind}")


def networks(dtype=np.float32, **unet_changes) -> dict[str, Network]:
  """A text-to-video model with everything that belongs to it."""
  return {"unet": network("unet", dataclasses.replace(UNET, **unet_changes), dtype),
          "vae": network("vae", VAE, dtype, seed=1), "text_encoder": network("text_encoder", CLIP, dtype, seed=2)}
