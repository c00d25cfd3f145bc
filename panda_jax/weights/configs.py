"""Sizes of networks: from and to the config.json of diffusers and transformers, or, without one, from the tensors.

What tensors cannot tell (heads, groups of norms) follows the published models; a config.json, or `config=` of
`weights.load`, says it where a network differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import re

from panda_jax.models.adapter360 import Adapter360Config
from panda_jax.models.clip_text import CLIPTextConfig
from panda_jax.models.unet import UNetConfig
from panda_jax.models.vae import VAEConfig
from panda_jax.weights.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
NetworkConfig = UNetConfig | VAEConfig | CLIPTextConfig | Adapter360Config

# config.json keys and the only values that our networks have; a key that is absent has the first.
_UNET_FIXED = {
    "act_fn": ("silu",), "addition_embed_type": (None,), "attention_type": ("default",),
    "center_input_sample": (False,), "class_embed_type": (None,), "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "cross_attention_norm": (None,), "downsample_padding": (1,), "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,), "flip_sin_to_cos": (True,), "freq_shift": (0,),
    "mid_block_scale_factor": (1,), "mid_block_type": ("UNetMidBlock2DCrossAttn",), "mid_block_layers": (1,),
    "norm_eps": (1e-5,), "num_class_embeds": (None,), "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,), "resnet_skip_time_act": (False,), "resnet_time_scale_shift": ("default",),
    "reverse_motion_num_attention_heads": (None,), "temporal_transformer_layers_per_block": (1,),
    "temporal_transformer_layers_per_mid_block": (1,), "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,), "time_embedding_dim": (None,), "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,), "transformer_layers_per_mid_block": (None, 1)}
_VAE_FIXED = {
    "act_fn": ("silu",), "latents_mean": (None,), "latents_std": (None,), "shift_factor": (None,),
    "mid_block_add_attention": (True,), "use_quant_conv": (True,), "use_post_quant_conv": (True,)}
_CLIP_FIXED = {"layer_norm_eps": (1e-5,), "hidden_act": ("quick_gelu", "gelu")}
_MOTION_FIXED = {
    "motion_transformer_layers_per_block": (1,), "motion_transformer_layers_per_mid_block": (1,),
    "motion_mid_block_layers_per_block": (1,), "conv_in_channels": (None,)}


# Beyond any network: larger numbers, of a garbled file, would be built for hours before something was found wrong.
_MAX_LAYERS, _MAX_SIZE = 256, 2**24

# What diffusers computes in one way alone, and passes over in a config.json: {field of UNetConfig: its way}.
_OUR_NORMS = {"resnet_norm": "per_frame", "motion_norm": "cross_frame", "motion_norm_groups": None}


# --- the UNet


def unet_config(settings: Mapping, source: str) -> UNetConfig:
  """The sizes that a config.json of UNet2DConditionModel or UNetMotionModel gives.

  Motion modules computed by diffusers pool their norm over frames and leave the resnets' per frame; so does this one.

  Raises:
    WeightsError: for a setting that our network does not have, such as those of SDXL.
  """
  _require(settings, _UNET_FIXED, source, "Stable Diffusion 1 or 2 UNet")
  down = settings.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
  up = settings.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
  known = re.compile("(CrossAttn)?(Down|Up)Block(2D|Motion)")
  attention = tuple(name.startswith("CrossAttn") for name in down)
  if not all(map(known.fullmatch, [*down, *up])) or attention != tuple(n.startswith("CrossAttn") for n in up)[::-1]:
    raise WeightsError(f"{source} has blocks of other kinds than Stable Diffusion's, or another order of them on the "
                       f"way up than down: {', '.join(map(str, down))}; {', '.join(map(str, up))}")
  heads = "num_attention_heads" if settings.get("num_attention_heads") else "attention_head_dim"
  number = _integers if isinstance(settings.get(heads), list | tuple) else _integer
  temporal = settings.get("_class_name") == "UNetMotionModel"
  motion = dict(motion_mid=bool(settings.get("use_motion_mid_block", True)), motion_norm="cross_frame",
                motion_heads=_integer(settings, "motion_num_attention_heads", 8, source),
                max_frames=_integer(settings, "motion_max_seq_length", 32, source)) if temporal else {}
  norms = {name: settings[name] for name in _OUR_NORMS if name in settings}
  in_channels = _integer(settings, "in_channels", 4, source)
  out_channels = _integer(settings, "out_channels", 4, source)
  return UNetConfig(
      in_channels=in_channels, out_channels=None if out_channels == in_channels else out_channels,
      block_out_channels=_integers(settings, "block_out_channels", (320, 640, 1280, 1280), source), attention=attention,
      layers_per_block=_integer(settings, "layers_per_block", 2, source, _MAX_LAYERS),
      heads=number(settings, heads, 8, source), linear_projection=bool(settings.get("use_linear_projection", False)),
      text_channels=_integer(settings, "cross_attention_dim", 1280, source),
      norm_groups=_integer(settings, "norm_num_groups", 32, source), temporal=temporal, multiview=False,
      view_conditions=False, **motion | norms)


def unet_config_from_shapes(shapes: Shapes) -> UNetConfig:
  """The sizes of a UNet of which only the tensors are known.

  Convolutions as projections mean Stable Diffusion 1 and its eight heads, linear ones 2 and heads of 64 channels.
  """
  levels = _count(shapes, "down_blocks.")
  last = _count(shapes, "down_blocks.0.resnets.")
  widths = tuple(shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels))
  attention = tuple(f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in range(levels))
  linear = len(shapes["mid_block.attentions.0.proj_in.weight"]) == 2
  in_channels, out_channels = shapes["conv_in.weight"][1], shapes["conv_out.weight"][0]
  return UNetConfig(
      in_channels=in_channels, out_channels=None if out_channels == in_channels else out_channels,
      block_out_channels=widths, attention=attention, layers_per_block=last,
      heads=tuple(max(width // 64, 1) for width in widths) if linear else 8, linear_projection=linear,
      text_channels=shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1],
      norm_groups=_usual_groups(widths), temporal=False, multiview=False, view_conditions=False)


def unet_settings(config: UNetConfig) -> dict:
  """config.json of the same network in diffusers: the inverse of `unet_config`.

  Norms that diffusers computes otherwise stand in it by our names, which diffusers passes over.

  Raises:
    WeightsError: if it has what diffusers' networks have not.
  """
  ours_alone = [name for name in ("multiview", "view_conditions", "learned_positions") if getattr(config, name)]
  if ours_alone:
    raise WeightsError(f"diffusers has no network with {' and '.join(ours_alone)}: keep our own format for it")
  temporal, heads = config.temporal, config.heads if isinstance(config.heads, int) else list(config.heads)
  kind = "Motion" if temporal else "2D"
  name = lambda direction, attends: f"{'CrossAttn' if attends else ''}{direction}Block{kind}"
  settings = {
      "_class_name": "UNetMotionModel" if temporal else "UNet2DConditionModel",
      "in_channels": config.in_channels, "out_channels": config.out_channels or config.in_channels,
      "block_out_channels": list(config.block_out_channels),
      "down_block_types": [name("Down", attends) for attends in config.attention],
      "up_block_types": [name("Up", attends) for attends in reversed(config.attention)],
      "layers_per_block": config.layers_per_block, "cross_attention_dim": config.text_channels,
      "norm_num_groups": config.norm_groups, "use_linear_projection": config.linear_projection}
  settings |= {name: value for name, theirs in _OUR_NORMS.items()
               if (value := getattr(config, name)) != theirs and (temporal or name == "resnet_norm")}
  if temporal:
    return settings | {"num_attention_heads": heads, "motion_num_attention_heads": config.motion_heads or config.heads,
                       "motion_max_seq_length": config.max_frames, "use_motion_mid_block": config.motion_mid}
  return settings | {"attention_head_dim": heads}


# --- motion modules


def motion_changes(shapes: Shapes, frames: int, settings: Mapping | None, source: str) -> dict:
  """What motion modules change in the UNetConfig that they join.

  AnimateDiff's own files keep the motion norms per frame, with 32 groups; its first version (24 positions) was trained
  with resnet norms that pool over frames, the later ones per frame. A diffusers MotionAdapter is computed as diffusers
  does.

  Args:
    shapes: canonical names and shapes of the motion modules.
    frames: rows of their position table.
    settings: config.json of a MotionAdapter, or None for AnimateDiff's own files.
    source: for messages.
  """
  changes = dict(temporal=True, max_frames=frames, motion_heads=8,
                 motion_mid=any(name.startswith("mid_block.motion_modules.") for name in shapes))
  if settings is None:
    return changes | dict(motion_norm="per_frame", motion_norm_groups=32,
                          resnet_norm="cross_frame" if frames == 24 else "per_frame")
  _require(settings, _MOTION_FIXED, source, "AnimateDiff motion adapter")
  return changes | dict(motion_norm="cross_frame", resnet_norm="per_frame",
                        motion_heads=_integer(settings, "motion_num_attention_heads", 8, source))


# --- the VAE


def vae_config(settings: Mapping, source: str) -> VAEConfig:
  """The sizes that a config.json of AutoencoderKL gives.

  Raises:
    WeightsError: for a setting that our network does not have, such as those of SD 3.
  """
  _require(settings, _VAE_FIXED, source, "Stable Diffusion VAE")
  return VAEConfig(
      image_channels=_integer(settings, "in_channels", 3, source),
      latent_channels=_integer(settings, "latent_channels", 4, source),
      block_out_channels=_integers(settings, "block_out_channels", (64,), source),
      layers_per_block=_integer(settings, "layers_per_block", 1, source, _MAX_LAYERS),
      norm_groups=_integer(settings, "norm_num_groups", 32, source),
      scaling_factor=float(settings.get("scaling_factor", 0.18215)))


def vae_config_from_shapes(shapes: Shapes) -> VAEConfig:
  """The sizes of a VAE of which only the tensors are known."""
  levels = _count(shapes, "encoder.down_blocks.")
  layers = _count(shapes, "encoder.down_blocks.0.resnets.")
  widths = tuple(shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels))
  return VAEConfig(image_channels=shapes["encoder.conv_in.weight"][1],
                   latent_channels=shapes["decoder.conv_in.weight"][1], block_out_channels=widths,
                   layers_per_block=layers, norm_groups=_usual_groups(widths))


def vae_settings(config: VAEConfig) -> dict:
  """config.json of the same network in diffusers."""
  levels = len(config.block_out_channels)
  return {"_class_name": "AutoencoderKL", "in_channels": config.image_channels, "out_channels": config.image_channels,
          "latent_channels": config.latent_channels, "block_out_channels": list(config.block_out_channels),
          "layers_per_block": config.layers_per_block, "norm_num_groups": config.norm_groups,
          "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
          "scaling_factor": config.scaling_factor, "sample_size": 512}


# --- the text encoder


def clip_config(settings: Mapping, source: str) -> CLIPTextConfig:
  """The sizes that a config.json of CLIPTextModel gives.

  Raises:
    WeightsError: for a setting that our network does not have.
  """
  settings = settings.get("text_config") or settings
  _require(settings, _CLIP_FIXED, source, "CLIP text encoder")
  number = lambda key, default, most=_MAX_SIZE: _integer(settings, key, default, source, most)
  return CLIPTextConfig(
      vocabulary=number("vocab_size", 49408), channels=number("hidden_size", 512),
      layers=number("num_hidden_layers", 12, _MAX_LAYERS), heads=number("num_attention_heads", 8),
      mlp_channels=number("intermediate_size", 2048), length=number("max_position_embeddings", 77),
      activation=settings.get("hidden_act", "quick_gelu"))


def clip_config_from_shapes(shapes: Shapes, activation: str = "quick_gelu") -> CLIPTextConfig:
  """The sizes of a text encoder of which only the tensors are known; heads have 64 channels, as in every CLIP."""
  vocabulary, channels = shapes["embeddings.token_embedding.weight"]
  layers = _count(shapes, "encoder.layers.")
  # Heads of 64 do not divide a network for tests; 8 channels are then as good a guess as any.
  heads = channels // 64 if channels % 64 == 0 else max(channels // 8, 1)
  return CLIPTextConfig(vocabulary=vocabulary, channels=channels, layers=layers, heads=heads,
                        mlp_channels=shapes["encoder.layers.0.mlp.fc1.weight"][0],
                        length=shapes["embeddings.position_embedding.weight"][0], activation=activation)


def clip_settings(config: CLIPTextConfig) -> dict:
  """config.json of the same network in transformers."""
  return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": config.vocabulary,
          "hidden_size": config.channels, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
          "intermediate_size": config.mlp_channels, "max_position_embeddings": config.length,
          "hidden_act": config.activation, "layer_norm_eps": 1e-5,
          # 2 makes transformers pool at the largest id, whatever the vocabulary: that is the end of the text.
          "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}


# --- the 360-Adapter


def adapter360_config_from_shapes(shapes: Shapes) -> Adapter360Config:
  """The sizes of a 360DVD adapter, which never has a config.json; it unshuffles RGB by 8 pixels."""
  levels = _count(shapes, "body.")
  downscale = math.isqrt(shapes["conv_in.weight"][1] // 3)
  return Adapter360Config(channels=tuple(shapes[f"body.{level}.block1.weight"][0] for level in range(levels)),
                          downscale=downscale)


# --- helpers


def _count(shapes: Shapes, prefix: str) -> int:
  """How many numbers, from 0 on, names have behind a prefix. Raises KeyError if there are none."""
  numbers = [int(name.removeprefix(prefix).split(".")[0]) for name in shapes if name.startswith(prefix)]
  if not numbers:
    raise KeyError(f"{prefix}0")
  return 1 + max(numbers)


def _usual_groups(widths: tuple[int, ...]) -> int:
  # 32 in every published model. A network too narrow for that has at least two channels in a group: with one, the
  # norm would take away what the timestep adds.
  return min(32, max(1, math.gcd(*widths) // 2))


def _require(settings: Mapping, fixed: Mapping[str, tuple], source: str, wanted: str) -> None:
  other = [f"{key} {settings[key]!r}" for key, values in fixed.items() if key in settings
           and settings[key] not in values
           and not (isinstance(settings[key], list) and all(item in values for item in settings[key]))]
  if other:
    sdxl = ", as SDXL has" if settings.get("addition_embed_type") == "text_time" else ""
    raise WeightsError(f"{source} is another network than a {wanted}: its config.json says {', '.join(other)}{sdxl}; "
                       "give one of the family that this project implements")


def _integer(settings: Mapping, key: str, default: int, source: str, most: int = _MAX_SIZE) -> int:
  value = settings.get(key, default)
  if isinstance(value, list | tuple):
    raise WeightsError(f"{source} has {key} {value!r} for its levels; this network has one number for all")
  if type(value) is not int or not 1 <= value <= most:
    raise WeightsError(f"{source} has {key} {value!r} in its config.json, where a number from 1 to {most} belongs")
  return value


def _integers(settings: Mapping, key: str, default: Sequence[int], source: str) -> tuple[int, ...]:
  values = settings.get(key, default)
  if not isinstance(values, list | tuple) or not 1 <= len(values) <= _MAX_LAYERS:
    raise WeightsError(f"{source} has {key} {values!r} in its config.json, where a list of numbers belongs")
  return tuple(_integer({key: value}, key, 0, source) for value in values)
