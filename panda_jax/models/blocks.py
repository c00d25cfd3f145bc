"""The attention blocks of the UNet: transformers (spatial, multi-view, text) and motion modules (temporal).

Activations keep all their axes, [b v f h w c]; each layer folds away those that it does not look along. Attribute
paths equal those of diffusers' checkpoints, so that importers are tables.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from panda_jax.models.attention import Attention
from panda_jax.models.embeddings import frame_positions
from panda_jax.models.layers import Conv, GroupNorm, LayerNorm, Linear
from panda_jax.models.products import by_rows
from panda_jax.parallel import exchange

_zeros = nnx.initializers.zeros_init()


class _GatedProjection(nnx.Module):
  """GEGLU: one linear layer gives values and gates."""

  def __init__(self, channels: int, inner: int, *, rngs: nnx.Rngs):
    self.proj = Linear(channels, 2 * inner, rngs=rngs)

  def __call__(self, x):
    values, gates = jnp.split(self.proj(x), 2, axis=-1)
    # The exact GELU: its tanh approximation is 3e-4 off in a whole network.
    return values * gates * 0.5 * (1 + jax.lax.erf(gates * 0.5**0.5))


class FeedForward(nnx.Module):
  """GEGLU feed-forward of four times the width; `net.1` is a dropout in the checkpoints and holds nothing."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.net = nnx.Dict({"0": _GatedProjection(channels, 4 * channels, rngs=rngs),
                         "2": Linear(4 * channels, channels, rngs=rngs)})

  def __call__(self, x: jax.Array) -> jax.Array:
    return by_rows(lambda rows: self.net["2"](self.net["0"](rows)), x)


class MultiViewAttention(nnx.Module):
  """Self-attention over all views of one frame, added beside the spatial self-attention through a zero projection.

  Source: VideoPanda §3.1 (3D self-attention as in MVDream, joined by zero-initialised convolutions as in ControlNet).
  """

  def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs):
    self.attention = Attention(channels, heads, rngs=rngs)
    self.out = Linear(channels, channels, kernel_init=_zeros, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """x: [b v f s c] -> [b v f s c]."""
    b, v, *_ = x.shape
    tokens = rearrange(x, "b v f s c -> (b f) (v s) c")                  # a frame sees every view
    keys, values = (exchange.all_views(x, axis=1) for x in self.attention.read(tokens))
    tokens = self.out(self.attention(tokens, (keys, values)))
    return rearrange(tokens, "(b f) (v s) c -> b v f s c", b=b, v=v)


class TransformerBlock(nnx.Module):
  """Spatial self-attention (with multi-view attention beside it), text cross-attention, feed-forward; each residual."""

  def __init__(self, channels: int, heads: int, text_channels: int, multiview: bool, *, rngs: nnx.Rngs):
    self.norm1 = LayerNorm(channels, rngs=rngs)
    self.attn1 = Attention(channels, heads, rngs=rngs)
    if multiview:
      self.attn_multiview = MultiViewAttention(channels, heads, rngs=rngs)
    self.norm2 = LayerNorm(channels, rngs=rngs)
    self.attn2 = Attention(channels, heads, text_channels, rngs=rngs)
    self.norm3 = LayerNorm(channels, rngs=rngs)
    self.ff = FeedForward(channels, rngs=rngs)

  def __call__(self, x: jax.Array, text: jax.Array | tuple[jax.Array, jax.Array]) -> jax.Array:
    """x: [b v f s c], text: [b l c'] for all views and frames, or what `attn2.read` made of it -> [b v f s c]."""
    b, v, f, s, c = x.shape
    normal = self.norm1(x)
    attended = self.attn1(rearrange(normal, "b v f s c -> (b v f) s c"))
    x = x + attended.reshape(x.shape)
    if hasattr(self, "attn_multiview"):
      x = x + self.attn_multiview(normal)
    # The text is one for the whole panorama: every token of a clip reads the same keys, which are computed once.
    x = x + self.attn2(self.norm2(x).reshape(b, v * f * s, c), text).reshape(x.shape)
    return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
  """Transformer blocks over the pixels of each image, between 1x1 projections (diffusers' Transformer2DModel).

  The projections are convolutions in Stable Diffusion 1 and linear layers in 2: the same sums, in kernels of other shape.
  """

  def __init__(self, channels: int, heads: int, text_channels: int, groups: int, multiview: bool,
               linear_projection: bool = False, *, rngs: nnx.Rngs):
    def project():
      if linear_projection:
        return Linear(channels, channels, rngs=rngs)
      return Conv(channels, channels, size=1, rngs=rngs)

    self.norm = GroupNorm(channels, groups, epsilon=1e-6, rngs=rngs)
    self.proj_in = project()
    self.transformer_blocks = nnx.List([TransformerBlock(channels, heads, text_channels, multiview, rngs=rngs)])
    self.proj_out = project()

  def read(self, text: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Keys and values of a text [b l c'] for every block."""
    return [block.attn2.read(text) for block in self.transformer_blocks]

  def __call__(self, x: jax.Array, text: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """x: [b v f h w c], text: from `read` -> [b v f h w c]."""
    tokens = rearrange(self.proj_in(self.norm(x)), "b v f h w c -> b v f (h w) c")
    for block, words in zip(self.transformer_blocks, text, strict=True):
      tokens = block(tokens, words)
    return x + self.proj_out(tokens.reshape(x.shape))


class _TemporalBlock(nnx.Module):
  """Two self-attentions over frames and a feed-forward, as in AnimateDiff."""

  def __init__(self, channels: int, heads: int, learned_frames: int | None, *, rngs: nnx.Rngs):
    if learned_frames:
      self.shape = (learned_frames, channels)
      self.positions = nnx.Param(jnp.asarray(frame_positions(*self.shape)))
    self.norm1 = LayerNorm(channels, rngs=rngs)
    self.attn1 = Attention(channels, heads, rngs=rngs)
    self.norm2 = LayerNorm(channels, rngs=rngs)
    self.attn2 = Attention(channels, heads, rngs=rngs)
    self.norm3 = LayerNorm(channels, rngs=rngs)
    self.ff = FeedForward(channels, rngs=rngs)

  def __call__(self, x):                                                  # x: [s f c]
    f, c = x.shape[1:]
    if hasattr(self, "positions"):
      positions = exchange.whole(self.positions[...], self.shape)[:f]
    else:
      positions = frame_positions(f, c)
    x = x + self.attn1(self.norm1(x) + positions)
    x = x + self.attn2(self.norm2(x) + positions)
    return x + self.ff(self.norm3(x))


class MotionModule(nnx.Module):
  """Temporal attention at each pixel of each view, added through a projection that starts at zero (AnimateDiff)."""

  def __init__(self, channels: int, heads: int, groups: int, max_frames: int, *, across_frames: bool = False,
               learned_positions: bool = False, rngs: nnx.Rngs):
    """A motion module.

    Args:
      channels, heads, groups: of its attention and its norm.
      max_frames: positions that it knows.
      across_frames: whether the norm pools its statistics over frames, as diffusers does and AnimateDiff does not.
      learned_positions: whether the sinusoidal table of positions is only where training begins.
    """
    self.max_frames = max_frames
    self.norm = GroupNorm(channels, groups, epsilon=1e-6, across_frames=across_frames, rngs=rngs)
    self.proj_in = Linear(channels, channels, rngs=rngs)
    self.transformer_blocks = nnx.List([_TemporalBlock(channels, heads, max_frames if learned_positions else None, rngs=rngs)])
    self.proj_out = Linear(channels, channels, kernel_init=_zeros, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """x: [b v f h w c] -> the same.

    Raises:
      ValueError: if there are more frames than positions.
    """
    tokens = rearrange(self.proj_in(self.norm(x)), "b v f h w c -> b v f (h w) c")
    tokens = exchange.all_frames(tokens)
    b, v, f, s, _ = tokens.shape
    if f > self.max_frames:
      raise ValueError(f"the motion modules know {self.max_frames} frame positions, got {f} frames: raise max_frames in "
                       "the config, or generate in windows")
    tokens = rearrange(tokens, "b v f s c -> (b v s) f c")
    for block in self.transformer_blocks:
      tokens = block(tokens)
    tokens = exchange.own_frames(rearrange(tokens, "(b v s) f c -> b v f s c", b=b, v=v))
    return x + self.proj_out(tokens).reshape(x.shape)
