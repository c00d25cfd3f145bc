"""The UNet: one config-driven network for image, video and multi-view video diffusion.

With `temporal`, `multiview` and `view_conditions` off it is Stable Diffusion's UNet; `temporal` adds AnimateDiff motion
modules, `multiview` attention across the views of a frame, `view_conditions` the rays, mask and sigma inputs of
VideoPanda §3.1. Every addition starts at zero: at initialisation each image comes out as the image network gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from panda_jax.models.blocks import MotionModule, SpatialTransformer
from panda_jax.models.embeddings import TimestepEmbedding, sinusoid
from panda_jax.models.functional import compiled
from panda_jax.models import remat
from panda_jax.models.layers import Circular, Conv, Downsample, GroupNorm, ResnetBlock, Upsample

NORMS = ("per_frame", "cross_frame")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Sizes of the network; the defaults are those of Stable Diffusion 1.5.

  Attributes:
    in_channels, out_channels: of the latents that come in and of what is predicted; None: the same.
    block_out_channels: width of each level, finest first.
    attention: for each level, whether it has transformers (a "CrossAttn" block).
    layers_per_block: resnets per level on the way down; one more on the way up.
    heads: attention heads, one number for all levels or one for each.
    linear_projection: transformers begin and end with linear layers (SD 2) instead of 1x1 convolutions (SD 1).
    text_channels: width of the text embedding.
    norm_groups: groups of every GroupNorm.
    resnet_norm: whether the norms of resnets and of the output take their statistics "per_frame" or over all frames of a
      view, "cross_frame". The published motion modules differ in this, see the presets of `weights.motion`.
    temporal: AnimateDiff motion modules after every level's layers.
    motion_mid: a motion module in the middle, too (AnimateDiff v2).
    motion_heads: heads of the motion modules; None: those of their level.
    motion_norm: as `resnet_norm`, for the norm that begins each motion module.
    motion_norm_groups: groups of that norm; None: `norm_groups`.
    max_frames: frame positions that the motion modules know.
    learned_positions: whether these are parameters, which begin as AnimateDiff's sinusoidal table.
    multiview: multi-view attention beside every spatial self-attention.
    view_conditions: rays, mask and sigma inputs.

  Raises:
    ValueError: if the levels do not agree or a norm is unknown.
  """

  in_channels: int = 4
  out_channels: int | None = None
  block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  attention: tuple[bool, ...] = (True, True, True, False)
  layers_per_block: int = 2
  heads: int | tuple[int, ...] = 8
  linear_projection: bool = False
  text_channels: int = 768
  norm_groups: int = 32
  resnet_norm: str = "per_frame"
  temporal: bool = True
  motion_mid: bool = False
  motion_heads: int | None = None
  motion_norm: str = "per_frame"
  motion_norm_groups: int | None = None
  max_frames: int = 32
  learned_positions: bool = False
  multiview: bool = True
  view_conditions: bool = True

  def __post_init__(self):
    levels = len(self.block_out_channels)
    if len(self.attention) != levels or (isinstance(self.heads, tuple) and len(self.heads) != levels):
      raise ValueError(f"block_out_channels has {levels} levels, attention is {self.attention} and heads {self.heads}")
    for name in ("resnet_norm", "motion_norm"):
      if getattr(self, name) not in NORMS:
        raise ValueError(f"{name} is {getattr(self, name)!r}; it may be {' or '.join(NORMS)}")

  def heads_at(self, level: int) -> int:
    """Attention heads of one level; -1 is the coarsest."""
    return self.heads[level] if isinstance(self.heads, tuple) else self.heads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditions:
  """What a network is told, in the form in which every denoising step needs it.

  Attributes:
    text: keys and values of every cross-attention, by block.
    rays: [b v 1 h w c], or [b v f h w c] where a camera moves: what the first layer adds for them. With
      `view_conditions` only, like the next three.
    mask, mask_features: [b v f 1 1 1] and [1 1 1 h w c], whose product the first layer adds.
    sigma: [b v f e], added to the embedding of the timestep.
  """

  text: dict
  rays: jax.Array | None = None
  mask: jax.Array | None = None
  mask_features: jax.Array | None = None
  sigma: jax.Array | None = None


class _Level(nnx.Module):
  """Layers of one resolution: resnets, each with its transformer and motion module where the config has them."""

  def _add_layers(self, config: UNetConfig, level: int, inputs: list[int], rngs: nnx.Rngs):
    self.resnets = nnx.List([_resnet(config, n, config.block_out_channels[level], rngs) for n in inputs])
    if config.attention[level]:
      self.attentions = nnx.List([_transformer(config, level, rngs) for _ in inputs])
    if config.temporal:
      self.motion_modules = nnx.List([_motion(config, level, rngs) for _ in inputs])

  def read(self, text):
    """Keys and values of the text for every layer; nothing where there are no transformers."""
    return [attention.read(text) for attention in getattr(self, "attentions", ())]

  def _layer(self, index: int, x, skip, embedding, text, circular):
    def layer(x, skip, embedding, words):
      if skip is not None:
        x = jnp.concatenate([x, skip], axis=-1)
      x = self.resnets[index](x, embedding, circular)
      if words is not None:
        x = self.attentions[index](x, words)
      if hasattr(self, "motion_modules"):
        x = self.motion_modules[index](x)
      return x
    words = text[index] if hasattr(self, "attentions") else None
    return remat.block(layer, x, skip, embedding, words)


def _resnet(config: UNetConfig, inputs: int, outputs: int, rngs: nnx.Rngs) -> ResnetBlock:
  return ResnetBlock(inputs, outputs, config.norm_groups, 4 * config.block_out_channels[0],
                     across_frames=config.resnet_norm == "cross_frame", rngs=rngs)


def _transformer(config: UNetConfig, level: int, rngs: nnx.Rngs) -> SpatialTransformer:
  return SpatialTransformer(config.block_out_channels[level], config.heads_at(level), config.text_channels,
                            config.norm_groups, config.multiview, config.linear_projection, rngs=rngs)


def _motion(config: UNetConfig, level: int, rngs: nnx.Rngs) -> MotionModule:
  return MotionModule(config.block_out_channels[level], config.motion_heads or config.heads_at(level),
                      config.motion_norm_groups or config.norm_groups, config.max_frames,
                      across_frames=config.motion_norm == "cross_frame", learned_positions=config.learned_positions,
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

  def __call__(self, x, embedding, text, circular):
    skips = []
    for index in range(len(self.resnets)):
      x = self._layer(index, x, None, embedding, text, circular)
      skips.append(x)
    if hasattr(self, "downsamplers"):
      x = remat.between(self.downsamplers[0](x, circular))
      skips.append(x)
    return x, skips


class MidBlock(nnx.Module):
  """Resnet, transformer, perhaps a motion module, resnet at the coarsest level."""

  def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
    width = config.block_out_channels[-1]
    self.resnets = nnx.List([_resnet(config, width, width, rngs) for _ in range(2)])
    self.attentions = nnx.List([_transformer(config, -1, rngs)])
    if config.temporal and config.motion_mid:
      self.motion_modules = nnx.List([_motion(config, -1, rngs)])

  def read(self, text):
    return [attention.read(text) for attention in self.attentions]

  def __call__(self, x, embedding, text, circular):
    def layers(x, embedding, words):
      x = self.resnets[0](x, embedding, circular)
      x = self.attentions[0](x, words)
      if hasattr(self, "motion_modules"):
        x = self.motion_modules[0](x)
      return self.resnets[1](x, embedding, circular)
    return remat.block(layers, x, embedding, text[0])


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

  def __call__(self, x, skips, embedding, text, circular):
    for index in range(len(self.resnets)):
      x = self._layer(index, x, skips.pop(), embedding, text, circular)
    if hasattr(self, "upsamplers"):
      x = remat.between(self.upsamplers[0](x, circular))
    return x


class UNet(nnx.Module):
  """Denoises a view-frame matrix of latents."""

  def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
    self.config = config
    widths = config.block_out_channels
    self.conv_in = Conv(config.in_channels, widths[0], rngs=rngs)
    self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0], rngs=rngs)
    if config.view_conditions:
      zeros = nnx.initializers.zeros_init()
      self.conv_in_conditions = Conv(4, widths[0], kernel_init=zeros, use_bias=False, rngs=rngs)
      self.sigma_embedding = TimestepEmbedding(widths[0], 4 * widths[0], zero=True, rngs=rngs)
    levels = range(len(widths))
    self.down_blocks = nnx.List([DownBlock(config, level, rngs=rngs) for level in levels])
    self.mid_block = MidBlock(config, rngs=rngs)
    self.up_blocks = nnx.List([UpBlock(config, level, rngs=rngs) for level in reversed(levels)])
    self.conv_norm_out = GroupNorm(widths[0], config.norm_groups, across_frames=config.resnet_norm == "cross_frame",
                                   rngs=rngs)
    self.conv_out = Conv(widths[0], config.out_channels or config.in_channels, rngs=rngs)

  @compiled
  def __call__(self, latents: jax.Array, timestep: jax.Array, text: jax.Array, *, rays: jax.Array | None = None,
               mask: jax.Array | None = None, sigma: jax.Array | None = None,
               adapter_features: Sequence[jax.Array] | None = None, circular: Circular = False) -> jax.Array:
    """Predicts ε or v for every image.

    Args:
      latents: [b v f h w c]; given images hold their (noise-augmented) latents, the others the noised ones.
      timestep: [b], 0 … 999.
      text: [b l c], one text for the whole panorama.
      rays: [b v h w 3] unit directions relative to the first view, or [b v f h w 3] where a camera moves. With
        `view_conditions` only, like the next two.
      mask: [b v f], 1 where an image is given.
      sigma: [b v f], noise-augmentation level of given images, 0 elsewhere.
      adapter_features: one [b v f h w c] per level (b and v may be 1), added behind each level on the way down and to
        the last skip of each (360DVD's adapter).
      circular: whether convolutions join the left and right edges; may be traced.

    Returns:
      [b v f h w c], in the dtype of the latents.

    Raises:
      ValueError: if a shape does not fit or the conditions do not match the config.
    """
    self._check(latents, timestep, text, rays, mask, sigma)
    conditions = self.read(text, rays=rays, mask=mask, sigma=sigma, circular=circular)
    return self.denoise(latents, timestep, conditions, adapter_features=adapter_features, circular=circular)

  def read(self, text: jax.Array, *, rays: jax.Array | None = None, mask: jax.Array | None = None,
           sigma: jax.Array | None = None, circular: Circular = False) -> Conditions:
    """The part of the network that does not depend on the step: a sampler does it once. Arguments as of the call."""
    words = {"down": [block.read(text) for block in self.down_blocks], "mid": self.mid_block.read(text),
             "up": [block.read(text) for block in self.up_blocks]}
    if not self.config.view_conditions:
      return Conditions(words)
    rays = rays[:, :, None] if rays.ndim == 5 else rays
    h, w = rays.shape[3:5]
    # The convolution is linear: that of the rays is the same for all frames, and that of a mask, which is constant in
    # an image, is a multiple of one picture.
    features = lambda planes: self.conv_in_conditions(planes, circular)
    return Conditions(
        words,
        rays=features(jnp.pad(rays, [(0, 0)] * 5 + [(1, 0)])),
        mask=mask[..., None, None, None],
        mask_features=features(jnp.zeros((1, 1, 1, h, w, 4), rays.dtype).at[..., 0].set(1)),
        # Sigma lies in [0, 1]: stretched to the range that the sinusoids were made for.
        sigma=self.sigma_embedding(sinusoid(1000 * sigma, self.config.block_out_channels[0])))

  def denoise(self, latents: jax.Array, timestep: jax.Array, conditions: Conditions, *,
              adapter_features: Sequence[jax.Array] | None = None, circular: Circular = False) -> jax.Array:
    """As the call, with conditions from `read`.

    Raises:
      ValueError: if there is not one adapter feature for each level.
    """
    if adapter_features is not None and len(adapter_features) != len(self.down_blocks):
      raise ValueError(f"adapter_features must be {len(self.down_blocks)} arrays, one per level, "
                       f"got {len(adapter_features)}")
    denoise = lambda *arrays: self._denoise(*arrays, circular)
    return remat.network(denoise, latents, timestep, conditions, adapter_features)

  def _denoise(self, latents, timestep, conditions, adapter_features, circular):
    width = self.config.block_out_channels[0]
    x = self.conv_in(latents, circular)
    embedding = self.time_embedding(sinusoid(timestep, width))[:, None, None]                          # [b 1 1 e]
    if conditions.rays is not None:
      x = x + conditions.rays + conditions.mask * conditions.mask_features
      embedding = embedding + conditions.sigma
    text = conditions.text

    x = remat.between(x)
    skips = [x]
    for level, block in enumerate(self.down_blocks):
      x, new = block(x, embedding, text["down"][level], circular)
      if adapter_features is not None:
        x = x + adapter_features[level]
        new[-1] = x                               # 360DVD adds in place, and so to the skip that is the same tensor
      skips += new
    x = self.mid_block(x, embedding, text["mid"], circular)
    for block, words in zip(self.up_blocks, text["up"]):
      x = block(x, skips, embedding, words, circular)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(x)), circular).astype(latents.dtype)

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
      moving = name == "rays" and value is not None and value.shape == (b, v, f, h, w, 3)
      if (value is None) != (name not in wanted) or (value is not None and value.shape != wanted[name] and not moving):
        raise ValueError(f"{name} must be {wanted.get(name, 'absent')} here, "
                         f"got {'none' if value is None else value.shape}")
