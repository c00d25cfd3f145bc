"""Stable Diffusion's autoencoder: pixels to latents of an eighth of the size, and back.

Attribute paths equal those of diffusers' AutoencoderKL, so that importers are tables. With `circular` every convolution
takes the columns beyond one edge from the other, so that a panorama is coded alike wherever it was cut open.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from panda_jax.models.attention import Attention
from panda_jax.models.functional import compiled
from panda_jax.models.layers import Circular, Conv, Downsample, GroupNorm, ResnetBlock, Upsample

_EPSILON = 1e-6                                                           # of every norm; the UNet's resnets have 1e-5


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Sizes of the network; the defaults are those of Stable Diffusion 1 and 2.

  Attributes:
    image_channels, latent_channels: of what is coded and of what comes out.
    block_out_channels: width of each level, finest first; every level but the last halves h and w.
    layers_per_block: resnets per level of the encoder; the decoder has one more.
    norm_groups: groups of every GroupNorm.
    scaling_factor: what a diffusion model multiplies latents by; `encode` and `decode` leave that to their caller.
  """

  image_channels: int = 3
  latent_channels: int = 4
  block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_groups: int = 32
  scaling_factor: float = 0.18215

  @property
  def factor(self) -> int:
    """Pixels per latent in h and in w."""
    return 2 ** (len(self.block_out_channels) - 1)


def _resnet(inputs: int, outputs: int, groups: int, rngs: nnx.Rngs) -> ResnetBlock:
  return ResnetBlock(inputs, outputs, groups, epsilon=_EPSILON, rngs=rngs)


class PixelAttention(Attention):
  """Self-attention over the pixels of an image, with one head, behind a norm; residual."""

  def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
    super().__init__(channels, heads=1, bias=True, rngs=rngs)
    self.group_norm = GroupNorm(channels, groups, _EPSILON, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... h w c] -> the same."""
    *_, h, w, c = x.shape
    tokens = self.group_norm(x).reshape(-1, h * w, c)
    return x + super().__call__(tokens).reshape(x.shape)


class MidBlock(nnx.Module):
  """Resnet, attention, resnet at the coarsest level."""

  def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
    self.resnets = nnx.List([_resnet(channels, channels, groups, rngs) for _ in range(2)])
    self.attentions = nnx.List([PixelAttention(channels, groups, rngs=rngs)])

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    x = self.attentions[0](self.resnets[0](x, circular=circular))
    return self.resnets[1](x, circular=circular)


class DownBlock(nnx.Module):
  """One level of the encoder."""

  def __init__(self, inputs: int, outputs: int, layers: int, groups: int, halve: bool, *, rngs: nnx.Rngs):
    self.resnets = nnx.List([_resnet(n, outputs, groups, rngs) for n in [inputs] + [outputs] * (layers - 1)])
    if halve:
      # One row below and one column to the right, none above and left: the grid lies half a pixel off the UNet's.
      self.downsamplers = nnx.List([Downsample(outputs, padding=(0, 1), rngs=rngs)])

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    for resnet in self.resnets:
      x = resnet(x, circular=circular)
    return self.downsamplers[0](x, circular) if hasattr(self, "downsamplers") else x


class UpBlock(nnx.Module):
  """One level of the decoder."""

  def __init__(self, inputs: int, outputs: int, layers: int, groups: int, double: bool, *, rngs: nnx.Rngs):
    self.resnets = nnx.List([_resnet(n, outputs, groups, rngs) for n in [inputs] + [outputs] * (layers - 1)])
    if double:
      self.upsamplers = nnx.List([Upsample(outputs, rngs=rngs)])

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    for resnet in self.resnets:
      x = resnet(x, circular=circular)
    return self.upsamplers[0](x, circular) if hasattr(self, "upsamplers") else x


class Encoder(nnx.Module):
  """Images to mean and log-variance, before `quant_conv`."""

  def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
    widths, groups = config.block_out_channels, config.norm_groups
    inputs = (widths[0], *widths[:-1])
    self.conv_in = Conv(config.image_channels, widths[0], rngs=rngs)
    self.down_blocks = nnx.List([DownBlock(below, width, config.layers_per_block, groups, level < len(widths) - 1,
                                           rngs=rngs) for level, (below, width) in enumerate(zip(inputs, widths))])
    self.mid_block = MidBlock(widths[-1], groups, rngs=rngs)
    self.conv_norm_out = GroupNorm(widths[-1], groups, _EPSILON, rngs=rngs)
    self.conv_out = Conv(widths[-1], 2 * config.latent_channels, rngs=rngs)

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    x = self.conv_in(x, circular)
    for block in self.down_blocks:
      x = block(x, circular)
    x = self.mid_block(x, circular)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(x)), circular)


class Decoder(nnx.Module):
  """Latents, behind `post_quant_conv`, to images."""

  def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
    widths, groups = config.block_out_channels[::-1], config.norm_groups
    inputs = (widths[0], *widths[:-1])
    self.conv_in = Conv(config.latent_channels, widths[0], rngs=rngs)
    self.mid_block = MidBlock(widths[0], groups, rngs=rngs)
    self.up_blocks = nnx.List([UpBlock(above, width, config.layers_per_block + 1, groups, level < len(widths) - 1,
                                       rngs=rngs) for level, (above, width) in enumerate(zip(inputs, widths))])
    self.conv_norm_out = GroupNorm(widths[-1], groups, _EPSILON, rngs=rngs)
    self.conv_out = Conv(widths[-1], config.image_channels, rngs=rngs)

  def __call__(self, x: jax.Array, circular: Circular = False) -> jax.Array:
    x = self.mid_block(self.conv_in(x, circular), circular)
    for block in self.up_blocks:
      x = block(x, circular)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(x)), circular)


class StableDiffusionVAE(nnx.Module):
  """The autoencoder. Computes in the type of its parameters and answers in the type it is asked in."""

  def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.encoder = Encoder(config, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)
    self.quant_conv = Conv(2 * config.latent_channels, 2 * config.latent_channels, size=1, rngs=rngs)
    self.post_quant_conv = Conv(config.latent_channels, config.latent_channels, size=1, rngs=rngs)

  @compiled
  def encode(self, images: jax.Array, *, circular: Circular = False) -> tuple[jax.Array, jax.Array]:
    """The normal distribution of the latents of each image.

    Args:
      images: [... h w c] in [-1, 1], any leading axes or none; h and w are multiples of `config.factor`.
      circular: whether convolutions join the left and right edges; may be traced.

    Returns:
      Mean and log-variance, each [... h/factor w/factor latent_channels], not multiplied by the scaling factor. The
      log-variance lies in [-30, 20].

    Raises:
      ValueError: if the size, the channels or the type do not fit.
    """
    channels, factor = self.config.image_channels, self.config.factor
    _check("images", images, channels)
    h, w = images.shape[-3:-1]
    if h % factor or w % factor:
      raise ValueError(f"h and w of the images must be multiples of {factor}, got {h} x {w}")
    moments = self.quant_conv(self.encoder(images, circular)).astype(images.dtype)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, logvar.clip(-30, 20)

  @compiled
  def decode(self, latents: jax.Array, *, circular: Circular = False) -> jax.Array:
    """The images of latents, about in [-1, 1] and not clipped.

    Args:
      latents: [... h w c], any leading axes or none, already divided by the scaling factor.
      circular: whether convolutions join the left and right edges; may be traced.

    Returns:
      [... h*factor w*factor image_channels].

    Raises:
      ValueError: if the channels or the type do not fit.
    """
    _check("latents", latents, self.config.latent_channels)
    return self.decoder(self.post_quant_conv(latents), circular).astype(latents.dtype)


def _check(name: str, x: jax.Array, channels: int) -> None:
  if x.ndim < 3 or x.shape[-1] != channels:
    raise ValueError(f"{name} must be [... h w c] with c={channels}, got {x.shape}")
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"{name} must be floating-point, got {x.dtype}: pixels are scaled to [-1, 1] first")
