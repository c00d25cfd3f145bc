"""The blocks of the UNet: resnets (per image), transformers (spatial, multi-view, text) and motion modules (temporal).

Activations keep all their axes, [b v f h w c]; each layer folds away those that it does not look along. Attribute
paths equal those of diffusers' checkpoints, so that importers are tables.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx

from panda_jax.models.attention import Attention
from panda_jax.models.embeddings import frame_positions

_zeros = nnx.initializers.zeros_init()


class GroupNorm(nnx.Module):
  """Group normalisation of each image by itself, with float32 statistics."""

  def __init__(self, channels: int, groups: int, epsilon: float = 1e-5, *, rngs: nnx.Rngs):
    if channels % groups:
      raise ValueError(f"{groups} groups do not divide {channels} channels")
    self.groups, self.epsilon = groups, epsilon
    self.scale = nnx.Param(jnp.ones((channels,)))
    self.bias = nnx.Param(jnp.zeros((channels,)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... h w c] -> the same shape and dtype."""
    grouped = rearrange(x.astype(jnp.float32), "... h w (g c) -> ... h w g c", g=self.groups)
    mean = grouped.mean((-4, -3, -1), keepdims=True)
    variance = jnp.square(grouped - mean).mean((-4, -3, -1), keepdims=True)
    normal = ((grouped - mean) * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
    return (normal * self.scale[...] + self.bias[...]).astype(x.dtype)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, *, rngs: nnx.Rngs, **kwargs) -> nnx.Conv:
  """A 2-D convolution over h and w with the same padding as torch's `padding=size // 2`."""
  pad = size // 2
  return nnx.Conv(inputs, outputs, (size, size), strides=stride, padding=((pad, pad), (pad, pad)), rngs=rngs, **kwargs)


class ResnetBlock(nnx.Module):
  """GroupNorm, SiLU, 3x3 convolution, twice, with the timestep embedding added between (diffusers' ResnetBlock2D)."""

  def __init__(self, inputs: int, outputs: int, embedding_channels: int, groups: int, *, rngs: nnx.Rngs):
    self.norm1 = GroupNorm(inputs, groups, rngs=rngs)
    self.conv1 = conv(inputs, outputs, rngs=rngs)
    self.time_emb_proj = nnx.Linear(embedding_channels, outputs, rngs=rngs)
    self.norm2 = GroupNorm(outputs, groups, rngs=rngs)
    self.conv2 = conv(outputs, outputs, rngs=rngs)
    if inputs != outputs:
      self.conv_shortcut = conv(inputs, outputs, size=1, rngs=rngs)

  def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
    """x: [b v f h w c], embedding: [b v f e] (v, f may be 1) -> [b v f h w c']."""
    h = self.conv1(jax.nn.silu(self.norm1(x)))
    h = h + self.time_emb_proj(jax.nn.silu(embedding))[..., None, None, :]
    h = self.conv2(jax.nn.silu(self.norm2(h)))
    return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Downsample(nnx.Module):
  """Halves h and w by a strided convolution."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.conv = conv(channels, channels, stride=2, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.conv(x)


class Upsample(nnx.Module):
  """Doubles h and w by repetition, then a convolution."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.conv = conv(channels, channels, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.conv(repeat(x, "b v f h w c -> b v f (h r) (w s) c", r=2, s=2))


class _GatedProjection(nnx.Module):
  """GEGLU: one linear layer gives values and gates."""

  def __init__(self, channels: int, inner: int, *, rngs: nnx.Rngs):
    self.proj = nnx.Linear(channels, 2 * inner, rngs=rngs)

  def __call__(self, x):
    values, gates = jnp.split(self.proj(x), 2, axis=-1)
    return values * jax.nn.gelu(gates, approximate=False)


class FeedForward(nnx.Module):
  """GEGLU feed-forward of four times the width; `net.1` is a dropout in the checkpoints and holds nothing."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.net = nnx.Dict({"0": _GatedProjection(channels, 4 * channels, rngs=rngs),
                         "2": nnx.Linear(4 * channels, channels, rngs=rngs)})

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.net["2"](self.net["0"](x))


class MultiViewAttention(nnx.Module):
  """Self-attention over all views of one frame, added beside the spatial self-attention through a zero projection.

  Source: VideoPanda §3.1 (3D self-attention as in MVDream, joined by zero-initialised convolutions as in ControlNet).
  """

  def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs):
    self.attention = Attention(channels, heads, rngs=rngs)
    self.out = nnx.Linear(channels, channels, kernel_init=_zeros, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """x: [b v f s c] -> [b v f s c]."""
    b, v, *_ = x.shape
    tokens = rearrange(x, "b v f s c -> (b f) (v s) c")                  # a frame sees every view
    tokens = self.out(self.attention(tokens))
    return rearrange(tokens, "(b f) (v s) c -> b v f s c", b=b, v=v)


class TransformerBlock(nnx.Module):
  """Spatial self-attention (with multi-view attention beside it), text cross-attention, feed-forward; each residual."""

  def __init__(self, channels: int, heads: int, text_channels: int, multiview: bool, *, rngs: nnx.Rngs):
    self.norm1 = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)
    self.attn1 = Attention(channels, heads, rngs=rngs)
    if multiview:
      self.attn_multiview = MultiViewAttention(channels, heads, rngs=rngs)
    self.norm2 = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)
    self.attn2 = Attention(channels, heads, text_channels, rngs=rngs)
    self.norm3 = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)
    self.ff = FeedForward(channels, rngs=rngs)

  def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
    """x: [b v f s c], text: [b l c'] for all views and frames -> [b v f s c]."""
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
  """Transformer blocks over the pixels of each image, between 1x1 convolutions (diffusers' Transformer2DModel)."""

  def __init__(self, channels: int, heads: int, text_channels: int, groups: int, multiview: bool, *, rngs: nnx.Rngs):
    self.norm = GroupNorm(channels, groups, epsilon=1e-6, rngs=rngs)
    self.proj_in = conv(channels, channels, size=1, rngs=rngs)
    self.transformer_blocks = nnx.List([TransformerBlock(channels, heads, text_channels, multiview, rngs=rngs)])
    self.proj_out = conv(channels, channels, size=1, rngs=rngs)

  def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
    """x: [b v f h w c] -> the same."""
    tokens = rearrange(self.proj_in(self.norm(x)), "b v f h w c -> b v f (h w) c")
    for block in self.transformer_blocks:
      tokens = block(tokens, text)
    return x + self.proj_out(tokens.reshape(x.shape))


class _TemporalBlock(nnx.Module):
  """Two self-attentions over frames and a feed-forward, as in AnimateDiff."""

  def __init__(self, channels: int, heads: int, max_frames: int, *, rngs: nnx.Rngs):
    self.positions = frame_positions(max_frames, channels)
    self.norm1 = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)
    self.attn1 = Attention(channels, heads, rngs=rngs)
    self.norm2 = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)
    self.attn2 = Attention(channels, heads, rngs=rngs)
    self.norm3 = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)
    self.ff = FeedForward(channels, rngs=rngs)

  def __call__(self, x):                                                  # x: [s f c]
    positions = self.positions[: x.shape[1]].astype(x.dtype)
    x = x + self.attn1(self.norm1(x) + positions)
    x = x + self.attn2(self.norm2(x) + positions)
    return x + self.ff(self.norm3(x))


class MotionModule(nnx.Module):
  """Temporal attention at each pixel of each view, added through a projection that starts at zero (AnimateDiff)."""

  def __init__(self, channels: int, heads: int, groups: int, max_frames: int, *, rngs: nnx.Rngs):
    self.max_frames = max_frames
    self.norm = GroupNorm(channels, groups, epsilon=1e-6, rngs=rngs)
    self.proj_in = nnx.Linear(channels, channels, rngs=rngs)
    self.transformer_blocks = nnx.List([_TemporalBlock(channels, heads, max_frames, rngs=rngs)])
    self.proj_out = nnx.Linear(channels, channels, kernel_init=_zeros, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """x: [b v f h w c] -> the same.

    Raises:
      ValueError: if there are more frames than positions.
    """
    b, v, f, h, w, _ = x.shape
    if f > self.max_frames:
      raise ValueError(f"the motion modules know {self.max_frames} frame positions, got {f} frames: raise max_frames in "
                       "the config, or generate in windows")
    tokens = rearrange(self.proj_in(self.norm(x)), "b v f h w c -> (b v h w) f c")
    for block in self.transformer_blocks:
      tokens = block(tokens)
    return x + rearrange(self.proj_out(tokens), "(b v h w) f c -> b v f h w c", b=b, v=v, h=h, w=w)
