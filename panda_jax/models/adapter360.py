"""The 360-Adapter: turns a motion condition, such as optical flow in colours, into features for a UNet's encoder.

A light stack of pseudo-3D residual blocks: a convolution within each frame, then one across frames. Unlike the UNet it
pads with zeros everywhere, as the published weights were trained; "no condition" is an input of zeros, whose features
are not zero. Source: 360DVD §3.2 and its code.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from panda_jax.models.functional import compiled
from panda_jax.models.layers import Conv
from panda_jax.models.products import convolve
from panda_jax.parallel import exchange

# Uniform within 1 / sqrt(inputs of one output), with which the published adapter began.
_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class Adapter360Config:
  """Sizes of the adapter; the defaults are those of the published one, for Stable Diffusion 1.5.

  Attributes:
    channels: width of the features of each level, equal to the UNet's.
    condition_channels: of the motion condition.
    downscale: pixels per latent in h and in w, folded into channels at the entrance.
  """

  channels: tuple[int, ...] = (320, 640, 1280, 1280)
  condition_channels: int = 3
  downscale: int = 8

  @property
  def factor(self) -> int:
    """What h and w of the condition must be multiples of: the pixels per pixel of the coarsest features."""
    return self.downscale * 2 ** (len(self.channels) - 1)


class _FrameConv(nnx.Module):
  """A convolution over (f, h, w), padded with zeros to keep the size: within frames, or across them at each pixel."""

  def __init__(self, channels: int, size: tuple[int, int, int], *, rngs: nnx.Rngs):
    """`size`: (1, n, n) or (n, 1, 1)."""
    self.shape = (*size, channels, channels)
    self.kernel = nnx.Param(_INIT(rngs.params(), self.shape))
    self.bias = nnx.Param(jnp.zeros((channels,)))

  def __call__(self, x):                                                  # x: [b f h w c]
    b, f, h, w, c = x.shape
    kernel = exchange.whole(self.kernel[...], self.shape)
    pad = kernel.shape[0] // 2, kernel.shape[1] // 2
    # Either is a convolution over two axes, which compilers do better than one over three (on a CPU 1.6 times).
    if kernel.shape[0] == 1:
      images, kernel, rows = x.reshape(b * f, h, w, c), kernel[0], pad[1]
    else:
      images, kernel, rows = exchange.with_neighbours(x.reshape(b, f, h * w, c), pad[0]), kernel[:, 0], 0
    y = convolve(images.astype(kernel.dtype), kernel, 1, (rows, rows), (pad[1], pad[1]))
    return y.reshape(x.shape) + self.bias[...]


class _ResidualBlock(nnx.Module):
  """Perhaps halves h and w and changes the width; then adds a convolution within frames and one across them."""

  def __init__(self, inputs: int, outputs: int, halve: bool, *, rngs: nnx.Rngs):
    self.halve = halve
    if inputs != outputs:
      self.in_conv = Conv(inputs, outputs, size=1, kernel_init=_INIT, rngs=rngs)
    self.block1 = _FrameConv(outputs, (1, 3, 3), rngs=rngs)
    self.block2 = _FrameConv(outputs, (3, 1, 1), rngs=rngs)

  def __call__(self, x):                                                  # x: [b f h w c]
    if self.halve:
      x = reduce(x, "b f (h p) (w q) c -> b f h w c", "mean", p=2, q=2)
    if hasattr(self, "in_conv"):
      x = self.in_conv(x)
    return x + self.block2(jax.nn.relu(self.block1(x)))


class Adapter360(nnx.Module):
  """The motion condition of a panoramic clip to one feature for each level of the UNet."""

  def __init__(self, config: Adapter360Config, *, rngs: nnx.Rngs):
    self.config = config
    widths = config.channels
    inputs = (widths[0], *widths[:-1])
    self.conv_in = Conv(config.condition_channels * config.downscale**2, widths[0], kernel_init=_INIT, rngs=rngs)
    # The last level of a UNet does not halve, nor does the adapter's.
    self.body = nnx.List([_ResidualBlock(above, width, level < len(widths) - 1, rngs=rngs)
                          for level, (above, width) in enumerate(zip(inputs, widths))])

  @compiled
  def __call__(self, motion: jax.Array) -> list[jax.Array]:
    """Features, in the type of the condition; computed in that of the parameters, once for a clip.

    Args:
      motion: [b f h w c] in [-1, 1], in pixels of the panorama and with any number of frames; h and w are multiples of
        `config.factor`, 64 in the published adapter.

    Returns:
      One [b 1 f h' w' c'] per level, with h' = h/16, h/32, h/64, h/64 in the published adapter: `adapter_features` of
      the UNet, the same for every view.

    Raises:
      ValueError: if the shape or the type does not fit.
    """
    channels, factor, p = self.config.condition_channels, self.config.factor, self.config.downscale
    if motion.ndim != 5 or motion.shape[-1] != channels:
      raise ValueError(f"motion must be [b f h w {channels}], got {motion.shape}")
    if not jnp.issubdtype(motion.dtype, jnp.floating):
      raise ValueError(f"motion must be floating-point, got {motion.dtype}: pixels are scaled to [-1, 1] first")
    h, w = motion.shape[2:4]
    if h % factor or w % factor:
      raise ValueError(f"h and w of the motion must be multiples of {factor}, got {h} x {w}")
    x = self.conv_in(rearrange(motion, "b f (h p) (w q) c -> b f h w (c p q)", p=p, q=p))
    features = []
    for block in self.body:
      x = block(x)
      features.append(x[:, None].astype(motion.dtype))
    return features
