"""The UNet: one config-driven network for image, video and multi-view video diffusion.

With `temporal`, `multiview` and `view_conditions` off it is Stable Diffusion's UNet; `temporal` adds AnimateDiff motion
modules, `multiview` attention across the views of a frame, `view_conditions` the rays, mask and sigma inputs of
VideoPanda §3.1. Every addition starts at zero: at initialisation each image comes out as the image network gives it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from panda_jax.models.blocks import (Downsample, GroupNorm, MotionModule, ResnetBlock, SpatialTransformer, Upsample,
                                     conv)
from panda_jax.models.embeddings import TimestepEmbedding, sinusoid


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Sizes of the network; the defaults of each level follow diffusers' `UNet2DConditionModel`.

  Attributes:
    in_channels: channels of the latents, in and out.
    block_out_channels: width of each level, finest first.
    attention: for each level, whether it has transformers (a "CrossAttn" block).
    layers_per_block: resnets per level on the way down; one more on the way up.
    heads: attention heads, one number for all levels or one for each.
    text_channels: width of the text embedding.
    norm_groups: groups of every GroupNorm.
    temporal: AnimateDiff motion modules after every level's layers.
    multiview: multi-view attention beside every spatial self-attention.
    view_conditions: rays, mask and sigma inputs.
    max_frames: frame positions that the motion modules know.
  """

  in_channels: int = 4
  block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  attention: tuple[bool, ...] = (True, True, True, False)
  layers_per_block: int = 2
  heads: int | tuple[int, ...] = 8
  text_channels: int = 768
  norm_groups: int = 32
  temporal: bool = True
  multiview: bool = True
  view_conditions: bool = True
  max_frames: int = 32

  def __post_init__(self):
    levels = len(self.block_out_channels)
    if len(self.attention) != levels or (isinstance(self.heads, tuple) and len(self.heads) != levels):
      raise ValueError(f"block_out_channels has {levels} levels, attention is {self.attention} and heads {self.heads}")

  def heads_at(self, level: int) -> int:
    """Attention heads of one level; -1 is the coarsest."""
    return self.heads[level] if isinstance(self.heads, tuple) else self.heads


class _Level(nnx.Module):
  """Layers of one resolution: resnets, each with its transformer and motion module where the config has them."""

  def _add_layers(self, config: UNetConfig, level: int, inputs: list[int], rngs: nnx.Rngs):
    outputs, embedding = config.block_out_channels[level], 4 * config.block_out_channels[0]
    self.resnets = nnx.List([ResnetBlock(n, outputs, embedding, config.norm_groups, rngs=rngs) for n in inputs])
    if config.attention[level]:
      self.attentions = nnx.List([_transformer(config, level, rngs) for _ in inputs])
    if config.temporal:
      self.motion_modules = nnx.List([_motion(config, level, rngs) for _ in inputs])

  def _layer(self, index: int, x, embedding, text):
    x = self.resnets[index](x, embedding)
    if hasattr(self, "attentions"):
      x = self.attentions[index](x, text)
    if hasattr(self, "motion_modules"):
      x = self.motion_modules[index](x)
    return x


def _transformer(config: UNetConfig, level: int, rngs: nnx.Rngs) -> SpatialTransformer:
  return SpatialTransformer(config.block_out_channels[level], config.heads_at(level), config.text_channels,
                            config.norm_groups, config.multiview, rngs=rngs)


def _motion(config: UNetConfig, level: int, rngs: nnx.Rngs) -> MotionModule:
  return MotionModule(config.block_out_channels[level], config.heads_at(level), config.norm_groups, config.max_frames,
                      rngs=rngs)


class DownBlock(_Level):
  """One level on the way down; returns the skips of every layer."""

  def __init__(self, config: UNetConfig, level: int, *, rngs: nnx.Rngs):
    widths = config.block_out_channels
    inputs, outputs = widths[max(level - 1, 0)], widths[level]
    layers = config.layers_per_block
    self._add_layers(config, level, [inputs] + [outputs] * (layers - 1), rngs)
    if level < len(widths) - 1:
      self.downsamplers = nnx.List([Downsample(outputs, rngs=rngs)])

  def __call__(self, x, embedding, text):
    skips = []
    for index in range(len(self.resnets)):
      x = self._layer(index, x, embedding, text)
      skips.append(x)
    if hasattr(self, "downsamplers"):
      x = self.downsamplers[0](x)
      skips.append(x)
    return x, skips


class MidBlock(nnx.Module):
  """Resnet, transformer, resnet at the coarsest level."""

  def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
    width, embedding = config.block_out_channels[-1], 4 * config.block_out_channels[0]
    self.resnets = nnx.List([ResnetBlock(width, width, embedding, config.norm_groups, rngs=rngs) for _ in range(2)])
    self.attentions = nnx.List([_transformer(config, -1, rngs)])

  def __call__(self, x, embedding, text):
    x = self.resnets[0](x, embedding)
    x = self.attentions[0](x, text)
    return self.resnets[1](x, embedding)


class UpBlock(_Level):
  """One level on the way up; each layer takes one skip."""

  def __init__(self, config: UNetConfig, level: int, *, rngs: nnx.Rngs):
    widths = config.block_out_channels
    below, outputs, above = widths[min(level + 1, len(widths) - 1)], widths[level], widths[max(level - 1, 0)]
    layers = config.layers_per_block + 1
    skips = [outputs] * (layers - 1) + [above]
    inputs = [below] + [outputs] * (layers - 1)
    self._add_layers(config, level, [a + b for a, b in zip(inputs, skips)], rngs)
    if level > 0:
      self.upsamplers = nnx.List([Upsample(outputs, rngs=rngs)])

  def __call__(self, x, skips, embedding, text):
    for index in range(len(self.resnets)):
      x = self._layer(index, jnp.concatenate([x, skips.pop()], axis=-1), embedding, text)
    if hasattr(self, "upsamplers"):
      x = self.upsamplers[0](x)
    return x


class UNet(nnx.Module):
  """Denoises a view-frame matrix of latents."""

  def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
    self.config = config
    widths = config.block_out_channels
    self.conv_in = conv(config.in_channels, widths[0], rngs=rngs)
    self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0], rngs=rngs)
    if config.view_conditions:
      zeros = nnx.initializers.zeros_init()
      self.conv_in_conditions = conv(4, widths[0], kernel_init=zeros, use_bias=False, rngs=rngs)
      self.sigma_embedding = TimestepEmbedding(widths[0], 4 * widths[0], zero=True, rngs=rngs)
    levels = range(len(widths))
    self.down_blocks = nnx.List([DownBlock(config, level, rngs=rngs) for level in levels])
    self.mid_block = MidBlock(config, rngs=rngs)
    self.up_blocks = nnx.List([UpBlock(config, level, rngs=rngs) for level in reversed(levels)])
    self.conv_norm_out = GroupNorm(widths[0], config.norm_groups, rngs=rngs)
    self.conv_out = conv(widths[0], config.in_channels, rngs=rngs)

  def __call__(self, latents: jax.Array, timestep: jax.Array, text: jax.Array, *, rays: jax.Array | None = None,
               mask: jax.Array | None = None, sigma: jax.Array | None = None) -> jax.Array:
    """Predicts ε or v for every image.

    Args:
      latents: [b v f h w c]; given images hold their (noise-augmented) latents, the others the noised ones.
      timestep: [b], 0 … 999.
      text: [b l c], one text for the whole panorama.
      rays: [b v h w 3] unit directions relative to the first view. With `view_conditions` only, like the next two.
      mask: [b v f], 1 where an image is given.
      sigma: [b v f], noise-augmentation level of given images, 0 elsewhere.

    Returns:
      [b v f h w c].

    Raises:
      ValueError: if a shape does not fit or the conditions do not match the config.
    """
    self._check(latents, timestep, text, rays, mask, sigma)
    b, v, f, h, w, _ = latents.shape
    width = self.config.block_out_channels[0]
    x = self.conv_in(latents)
    embedding = self.time_embedding(sinusoid(timestep, width).astype(latents.dtype))[:, None, None]    # [b 1 1 e]
    if self.config.view_conditions:
      planes = jnp.concatenate([jnp.broadcast_to(mask[..., None, None, None], (b, v, f, h, w, 1)),
                                jnp.broadcast_to(rays[:, :, None], (b, v, f, h, w, 3))], axis=-1)
      x = x + self.conv_in_conditions(planes.astype(latents.dtype))
      # Sigma lies in [0, 1]: stretched to the range that the sinusoids were made for.
      embedding = embedding + self.sigma_embedding(sinusoid(1000 * sigma, width).astype(latents.dtype))

    skips = [x]
    for block in self.down_blocks:
      x, new = block(x, embedding, text)
      skips += new
    x = self.mid_block(x, embedding, text)
    for block in self.up_blocks:
      x = block(x, skips, embedding, text)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))

  def _check(self, latents, timestep, text, rays, mask, sigma):
    if latents.ndim != 6 or latents.shape[-1] != self.config.in_channels:
      raise ValueError(f"latents must be [b v f h w {self.config.in_channels}], got {latents.shape}")
    b, v, f, h, w, _ = latents.shape
    factor = 2 ** (len(self.config.block_out_channels) - 1)
    if h % factor or w % factor:
      raise ValueError(f"h and w of the latents must be multiples of {factor}, got {h} x {w}")
    if timestep.shape != (b,) or text.ndim != 3 or text.shape[0] != b or text.shape[2] != self.config.text_channels:
      raise ValueError(f"with b={b}, timestep must be [b] and text [b l {self.config.text_channels}], "
                       f"got {timestep.shape} and {text.shape}")
    wanted = {"rays": (b, v, h, w, 3), "mask": (b, v, f), "sigma": (b, v, f)} if self.config.view_conditions else {}
    for name, value in {"rays": rays, "mask": mask, "sigma": sigma}.items():
      if (value is None) != (name not in wanted) or (value is not None and value.shape != wanted[name]):
        raise ValueError(f"{name} must be {wanted.get(name, 'absent')} here, "
                         f"got {'none' if value is None else value.shape}")
