"""Linear layers, convolutions, norms and what is made of them alone: the layers that all networks share.

The type of the parameters is the type of computation: what enters a product is rounded to it. Everything between
products is float32, which costs little, since compilers fuse it, and takes a third off a deep network's error in bfloat16.

`circular` joins the left and right edges of a panorama in a convolution: a Python bool, or a traced one where a sampler
changes it on the way (360DVD, "circular padding").
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx

from panda_jax.models.products import convolve, dot
from panda_jax.parallel import exchange

Circular = bool | jax.Array


class Linear(nnx.Module):
  """A matrix and perhaps a bias."""

  def __init__(self, inputs: int, outputs: int, *, use_bias: bool = True,
               kernel_init: nnx.Initializer = nnx.initializers.lecun_normal(), rngs: nnx.Rngs):
    self.shape = (inputs, outputs)
    self.kernel = nnx.Param(kernel_init(rngs.params(), self.shape))
    if use_bias:
      self.bias = nnx.Param(jnp.zeros((outputs,)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... c] -> [... c'] float32."""
    kernel = exchange.whole(self.kernel[...], self.shape)
    y = dot(x.astype(kernel.dtype), kernel)
    return y + self.bias[...] if hasattr(self, "bias") else y


class LayerNorm(nnx.Module):
  """Layer normalisation."""

  def __init__(self, channels: int, epsilon: float = 1e-5, *, rngs: nnx.Rngs):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones((channels,)))
    self.bias = nnx.Param(jnp.zeros((channels,)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... c] -> the same shape, float32."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
    return normal * self.scale[...] + self.bias[...]


class GroupNorm(nnx.Module):
  """Group normalisation of each image by itself, or over all frames of a view."""

  def __init__(self, channels: int, groups: int, epsilon: float = 1e-5, *, across_frames: bool = False, rngs: nnx.Rngs):
    """Raises ValueError if the groups do not divide the channels."""
    if channels % groups:
      raise ValueError(f"{groups} groups do not divide {channels} channels")
    self.groups, self.epsilon, self.across_frames = groups, epsilon, across_frames
    self.scale = nnx.Param(jnp.ones((channels,)))
    self.bias = nnx.Param(jnp.zeros((channels,)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... h w c], with statistics across frames [... f h w c] -> the same shape, float32."""
    x = x.astype(jnp.float32)
    pooled = (-4, -3, -2) if self.across_frames else (-3, -2)
    centred = x - self._group_mean(x, pooled)
    normal = centred * jax.lax.rsqrt(self._group_mean(jnp.square(centred), pooled) + self.epsilon)
    return normal * self.scale[...] + self.bias[...]

  def _group_mean(self, x, pooled):
    # Channel by channel first: a reshape of the whole image into groups would keep XLA from fusing what comes after.
    mean = x.mean(pooled, keepdims=True)
    if self.across_frames:
      mean = exchange.mean_over_frames(mean)
    groups = rearrange(mean, "... (g c) -> ... g c", g=self.groups)
    mean = jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape)
    return rearrange(mean, "... g c -> ... (g c)")


class Conv(nnx.Module):
  """A 2-D convolution over h and w; by default padded like torch's `padding=size // 2`."""

  def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1,
               padding: tuple[int, int] | None = None, *, use_bias: bool = True,
               kernel_init: nnx.Initializer = nnx.initializers.lecun_normal(), rngs: nnx.Rngs):
    """`padding`: rows and columns added before and after the image."""
    self.stride = stride
    self.padding = (size // 2, size // 2) if padding is None else padding
    self.shape = (size, size, inputs, outputs)
    self.kernel = nnx.Param(kernel_init(rngs.params(), self.shape))
    if use_bias:
      self.bias = nnx.Param(jnp.zeros((outputs,)))

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    """[... h w c] -> [... h' w' c'] float32."""
    kernel = exchange.whole(self.kernel[...], self.shape)
    rows = columns = self.padding
    if circular is not False and any(columns):
      x, columns = wrap_columns(x, *columns, circular), (0, 0)
    images = x.reshape(-1, *x.shape[-3:]).astype(kernel.dtype)
    y = convolve(images, kernel, self.stride, rows, columns)
    y = y.reshape(*x.shape[:-3], *y.shape[-3:])
    return y + self.bias[...] if hasattr(self, "bias") else y


def wrap_columns(x: jax.Array, before: int, after: int, circular: Circular = True) -> jax.Array:
  """Pads w with columns from the other edge, or with zeros where `circular` is false: [... w c] -> [... w+ c]."""
  width = x.shape[-2]
  left, right = x[..., width - before:, :], x[..., :after, :]
  if circular is not True:
    left, right = (jnp.where(circular, columns, 0) for columns in (left, right))
  return jnp.concatenate([left, x, right], axis=-2)


class ResnetBlock(nnx.Module):
  """GroupNorm, SiLU, 3x3 convolution, twice, with the timestep embedding added between (diffusers' ResnetBlock2D)."""

  def __init__(self, inputs: int, outputs: int, groups: int, embedding_channels: int | None = None,
               epsilon: float = 1e-5, *, across_frames: bool = False, rngs: nnx.Rngs):
    """Without `embedding_channels` there is no timestep, as in the VAE."""
    norm = lambda channels: GroupNorm(channels, groups, epsilon, across_frames=across_frames, rngs=rngs)
    self.norm1 = norm(inputs)
    self.conv1 = Conv(inputs, outputs, rngs=rngs)
    if embedding_channels is not None:
      self.time_emb_proj = Linear(embedding_channels, outputs, rngs=rngs)
    self.norm2 = norm(outputs)
    self.conv2 = Conv(outputs, outputs, rngs=rngs)
    if inputs != outputs:
      self.conv_shortcut = Conv(inputs, outputs, size=1, rngs=rngs)

  def __call__(self, x: jax.Array, embedding: jax.Array | None = None, circular: Circular = False) -> jax.Array:
    """x: [... h w c], embedding: [... e] (its leading axes may be 1) -> [... h w c']."""
    h = self.conv1(jax.nn.silu(self.norm1(x)), circular)
    if embedding is not None:
      h = h + self.time_emb_proj(jax.nn.silu(embedding))[..., None, None, :]
    h = self.conv2(jax.nn.silu(self.norm2(h)), circular)
    return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Downsample(nnx.Module):
  """Halves h and w by a strided convolution."""

  def __init__(self, channels: int, padding: tuple[int, int] = (1, 1), *, rngs: nnx.Rngs):
    self.conv = Conv(channels, channels, stride=2, padding=padding, rngs=rngs)

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    return self.conv(x, circular)


class Upsample(nnx.Module):
  """Doubles h and w by repetition, then a convolution."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.conv = Conv(channels, channels, rngs=rngs)

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    return self.conv(repeat(x, "... h w c -> ... (h r) (w s) c", r=2, s=2), circular)
