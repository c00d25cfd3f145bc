"""CLIP's text encoder, as Stable Diffusion 1.5 and 2.1 read their prompts through it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from panda_jax.models.attention import attend
from panda_jax.models.functional import compiled
from panda_jax.models.layers import LayerNorm, Linear
from panda_jax.parallel import exchange

_ACTIVATIONS = {"quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
                "gelu": functools.partial(jax.nn.gelu, approximate=False)}


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
  """Sizes of the encoder; the defaults are CLIP ViT-L/14, the encoder of Stable Diffusion 1.5.

  Attributes:
    vocabulary: number of token ids.
    channels: width, of the output too.
    layers: number of layers.
    heads: attention heads of each layer.
    mlp_channels: width inside each feed-forward.
    length: number of positions; a text has at most so many tokens.
    activation: "quick_gelu" (OpenAI's CLIP) or "gelu", the exact one (OpenCLIP).
  """

  vocabulary: int = 49408
  channels: int = 768
  layers: int = 12
  heads: int = 12
  mlp_channels: int = 3072
  length: int = 77
  activation: Literal["quick_gelu", "gelu"] = "quick_gelu"

  def __post_init__(self):
    check_tower(self)

  @classmethod
  def sd21(cls) -> CLIPTextConfig:
    """The encoder of Stable Diffusion 2.1: OpenCLIP ViT-H/14 without its last layer.

    Stable Diffusion 2 reads the features before the 24th layer, so diffusers' files leave that layer out: the output of
    these 23 is what the UNet wants, and nothing more is to be skipped.
    """
    return cls(channels=1024, layers=23, heads=16, mlp_channels=4096, activation="gelu")


def check_tower(config: CLIPTextConfig) -> None:
  """Raises ValueError for sizes that no tower of CLIP can have; `config` may be an image tower's."""
  for field in dataclasses.fields(config):
    if field.name != "activation" and getattr(config, field.name) < 1:
      raise ValueError(f"{field.name} must be 1 or more, got {getattr(config, field.name)}")
  if config.channels % config.heads:
    raise ValueError(f"{config.heads} heads do not divide {config.channels} channels")
  if config.activation not in _ACTIVATIONS:
    raise ValueError(f"activation must be {' or '.join(_ACTIVATIONS)}, got {config.activation!r}")


class _Embeddings(nnx.Module):
  """The sum of what a token is and where it stands, in float32."""

  def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
    self.shapes = (config.vocabulary, config.channels), (config.length, config.channels)
    self.token_embedding = nnx.Embed(config.vocabulary, config.channels, rngs=rngs)
    self.position_embedding = nnx.Embed(config.length, config.channels, rngs=rngs)

  def __call__(self, input_ids):                                          # [b l] -> [b l c]
    # nnx.Embed's own call would answer in the type that it was built with, and take -1 for the last token.
    table = jnp.asarray(exchange.whole(self.token_embedding.embedding[...], self.shapes[0]))
    tokens = table.at[input_ids].get(mode="fill", wrap_negative_indices=False)
    positions = exchange.whole(self.position_embedding.embedding[...], self.shapes[1])[: input_ids.shape[1]]
    return tokens.astype(jnp.float32) + positions.astype(jnp.float32)


class _Attention(nnx.Module):
  """Multi-head self-attention; every projection has a bias."""

  def __init__(self, channels: int, heads: int, causal: bool, *, rngs: nnx.Rngs):
    """`causal`: whether a token sees only itself and those before it."""
    self.heads, self.causal = heads, causal
    self.q_proj = Linear(channels, channels, rngs=rngs)
    self.k_proj = Linear(channels, channels, rngs=rngs)
    self.v_proj = Linear(channels, channels, rngs=rngs)
    self.out_proj = Linear(channels, channels, rngs=rngs)

  def __call__(self, x):                                                  # [b l c] -> [b l c]
    dtype = self.q_proj.kernel.dtype
    query, key, value = (rearrange(project(x).astype(dtype), "b l (n d) -> b l n d", n=self.heads)
                         for project in (self.q_proj, self.k_proj, self.v_proj))
    out = attend(query, key, value, causal=self.causal)
    return self.out_proj(rearrange(out, "b l n d -> b l (n d)"))


class CLIPLayer(nnx.Module):
  """Self-attention and a feed-forward, each behind a layer norm and added to what came in: of either tower of CLIP."""

  def __init__(self, config: CLIPTextConfig, *, causal: bool = True, rngs: nnx.Rngs):
    """`config`: of a text or of an image tower."""
    self.activation = config.activation
    self.layer_norm1 = LayerNorm(config.channels, rngs=rngs)
    self.self_attn = _Attention(config.channels, config.heads, causal, rngs=rngs)
    self.layer_norm2 = LayerNorm(config.channels, rngs=rngs)
    self.mlp = nnx.Dict({"fc1": Linear(config.channels, config.mlp_channels, rngs=rngs),
                         "fc2": Linear(config.mlp_channels, config.channels, rngs=rngs)})

  def __call__(self, x):                                                  # [b l c] -> [b l c]
    x = x + self.self_attn(self.layer_norm1(x))
    return x + self.mlp.fc2(_ACTIVATIONS[self.activation](self.mlp.fc1(self.layer_norm2(x))))


class CLIPText(nnx.Module):
  """Token ids to features, one per token; attribute paths are those of transformers' `CLIPTextModel`.

  Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, §2.4.
  """

  def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.embeddings = _Embeddings(config, rngs=rngs)
    self.encoder = nnx.Dict({"layers": nnx.List([CLIPLayer(config, rngs=rngs) for _ in range(config.layers)])})
    self.final_layer_norm = LayerNorm(config.channels, rngs=rngs)

  @compiled
  def __call__(self, input_ids: jax.Array, *, skip: int = 0, normalise: bool = True) -> jax.Array:
    """The last hidden state.

    Padding is not masked: Stable Diffusion was trained with what the padding tokens give.

    Args:
      input_ids: integers [b l], l at most `config.length`. An id that the vocabulary lacks makes its clip NaN.
      skip: layers to leave out at the end; 1 is what many programs call "clip skip 2".
      normalise: whether the final layer norm follows, as it does after skipped layers too.

    Returns:
      [b l c] float32.

    Raises:
      ValueError: if the ids are not integers [b l], are too many, or there are fewer layers than to be skipped.
    """
    input_ids = jnp.asarray(input_ids)
    if input_ids.ndim != 2:
      raise ValueError(f"input_ids must be [b l], got shape {input_ids.shape}")
    if not jnp.issubdtype(input_ids.dtype, jnp.integer):
      raise ValueError(f"input_ids must be integers [b l], got {input_ids.dtype}")
    if not 1 <= input_ids.shape[1] <= self.config.length:
      raise ValueError(f"input_ids [b l] must have l between 1 and {self.config.length} tokens, got l = "
                       f"{input_ids.shape[1]}")
    if not 0 <= skip <= self.config.layers:
      raise ValueError(f"skip must be between 0 and {self.config.layers} layers, got {skip}")
    x = self.embeddings(input_ids)
    for layer in self.encoder.layers[: self.config.layers - skip]:
      x = layer(x)
    return self.final_layer_norm(x) if normalise else x
