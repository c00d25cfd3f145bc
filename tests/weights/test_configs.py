"""Sizes of networks, from and to config.json, and from tensors alone."""

import dataclasses
import json

import pytest

from panda_jax.models.adapter360 import Adapter360Config
from panda_jax.models.clip_text import CLIPTextConfig
from panda_jax.models.unet import UNetConfig
from panda_jax.models.vae import VAEConfig
from panda_jax.weights import configs
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.layout import torch_shapes
from panda_jax.weights.resolve import functional
from tests.weights.networks import CLIP, MOTION, UNET, VAE

SD15 = UNetConfig(temporal=False, multiview=False, view_conditions=False)
SD21 = dataclasses.replace(SD15, heads=(5, 10, 20, 20), linear_projection=True, text_channels=1024)
INPAINTING = dataclasses.replace(SD15, in_channels=9, out_channels=4)
ANIMATEDIFF = dataclasses.replace(SD15, temporal=True, motion_heads=8, motion_norm="cross_frame", max_frames=24)
UNETS = {"sd15": SD15, "sd21": SD21, "inpainting": INPAINTING, "small": UNET}


def shapes_of(kind, config):
  return torch_shapes(functional(kind, config).abstract)


def from_json(read, write, config):
  """What is left of a config when it has been written to config.json and read again."""
  return read(json.loads(json.dumps(write(config))), "config.json")


# --- there and back


@pytest.mark.parametrize("config", [
    *UNETS.values(), ANIMATEDIFF, MOTION, dataclasses.replace(ANIMATEDIFF, motion_mid=True, max_frames=32),
    dataclasses.replace(UNET, attention=(True, True), layers_per_block=3)])
def test_a_unet_survives_its_config(config):
  assert from_json(configs.unet_config, configs.unet_settings, config) == config


@pytest.mark.parametrize("norms", [
    dict(resnet_norm="cross_frame"), dict(motion_norm="per_frame"), dict(motion_norm_groups=2),
    dict(resnet_norm="cross_frame", motion_norm="per_frame", motion_norm_groups=32)])
def test_norms_that_diffusers_computes_otherwise_survive_too(norms):
  """diffusers passes over keys that it does not know, so those of AnimateDiff's norms can stand in its file."""
  config = dataclasses.replace(ANIMATEDIFF, **norms)
  assert from_json(configs.unet_config, configs.unet_settings, config) == config


@pytest.mark.parametrize("config", [
    VAE, VAEConfig(), VAEConfig(scaling_factor=0.13025, latent_channels=8, image_channels=1, layers_per_block=1)])
def test_a_vae_survives_its_config(config):
  assert from_json(configs.vae_config, configs.vae_settings, config) == config


@pytest.mark.parametrize("config", [CLIP, CLIPTextConfig(), CLIPTextConfig.sd21()])
def test_a_text_encoder_survives_its_config(config):
  assert from_json(configs.clip_config, configs.clip_settings, config) == config
  assert configs.clip_config({"text_config": configs.clip_settings(config)}, "CLIPModel") == config


# --- from tensors alone


@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
def test_the_sizes_of_published_unets_show_in_their_tensors(config):
  """Heads are no tensor; they follow Stable Diffusion, 8 of any width in 1 and any number 64 channels wide in 2."""
  assert configs.unet_config_from_shapes(shapes_of("unet", config)) == config


@pytest.mark.parametrize("config", [VAEConfig(), VAE, VAEConfig(latent_channels=16, layers_per_block=3)])
def test_the_sizes_of_published_vaes_show_in_their_tensors(config):
  assert configs.vae_config_from_shapes(shapes_of("vae", config)) == config


@pytest.mark.parametrize("config", [CLIPTextConfig(), CLIPTextConfig.sd21(), CLIP])
def test_the_sizes_of_published_text_encoders_show_in_their_tensors(config):
  """But for the activation, which the format of a single file tells."""
  assert configs.clip_config_from_shapes(shapes_of("text_encoder", config), activation=config.activation) == config


@pytest.mark.parametrize("config", [Adapter360Config(), Adapter360Config(channels=(8, 8, 16), downscale=4)])
def test_the_sizes_of_an_adapter_show_in_its_tensors(config):
  assert configs.adapter360_config_from_shapes(shapes_of("adapter360", config)) == config


# --- what a config.json may say


def test_defaults_are_those_of_diffusers_and_transformers():
  """What a config.json leaves out has the default of the class that reads it there."""
  assert configs.unet_config({}, "") == dataclasses.replace(SD15, text_channels=1280)
  motion = configs.unet_config({"_class_name": "UNetMotionModel"}, "")
  assert (motion.temporal, motion.motion_mid, motion.max_frames, motion.motion_heads) == (True, True, 32, 8)
  assert configs.vae_config({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}, "") == VAEConfig()
  assert configs.clip_config({}, "") == CLIPTextConfig(channels=512, heads=8, mlp_channels=2048)


def test_the_defaults_are_still_theirs():
  """Against the libraries themselves, on no memory."""
  torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
  transformers = pytest.importorskip("transformers")
  with torch.device("meta"):
    theirs = [
        ("unet", configs.unet_config({}, ""), diffusers.UNet2DConditionModel()),
        ("unet", configs.unet_config({"_class_name": "UNetMotionModel"}, ""), diffusers.UNetMotionModel()),
        ("vae", configs.vae_config({}, ""), diffusers.AutoencoderKL()),
        ("text_encoder", configs.clip_config({}, ""), transformers.CLIPTextModel(transformers.CLIPTextConfig()))]
  for kind, config, module in theirs:
    shapes = {name.removeprefix("text_model."): tuple(value.shape) for name, value in module.named_parameters()}
    assert shapes_of(kind, config) == shapes


def test_one_value_for_each_level_may_be_written_out():
  settings = dict(only_cross_attention=[False] * 4, transformer_layers_per_block=[1, 1, 1, 1])
  assert configs.unet_config({"cross_attention_dim": 768} | settings, "") == SD15


def test_heads_go_by_the_name_that_counts():
  """UNet2DConditionModel calls the number of heads attention_head_dim, unless num_attention_heads is there."""
  assert configs.unet_config({"attention_head_dim": [5, 10, 20, 20]}, "").heads == (5, 10, 20, 20)
  assert configs.unet_config({"attention_head_dim": 64, "num_attention_heads": 4}, "").heads == 4


@pytest.mark.parametrize("read, settings, words", [
    (configs.unet_config, {"addition_embed_type": "text_time", "transformer_layers_per_block": [1, 2, 10]},
     "addition_embed_type 'text_time', transformer_layers_per_block .1, 2, 10., as SDXL has"),
    (configs.unet_config, {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift 'scale_shift'"),
    (configs.unet_config, {"class_embed_type": "projection"}, "class_embed_type 'projection'"),
    (configs.unet_config, {"time_cond_proj_dim": 256}, "time_cond_proj_dim 256"),
    (configs.unet_config, {"flip_sin_to_cos": False}, "flip_sin_to_cos False"),
    (configs.unet_config, {"mid_block_type": None}, "mid_block_type None"),
    (configs.unet_config, {"act_fn": "gelu"}, "act_fn 'gelu'"),
    (configs.unet_config, {"time_embedding_act_fn": "silu"}, "time_embedding_act_fn 'silu'"),
    (configs.unet_config, {"down_block_types": ["DownBlock3D"], "up_block_types": ["UpBlock3D"]},
     "blocks of other kinds than Stable Diffusion's.*DownBlock3D; UpBlock3D"),
    (configs.unet_config, {"up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"]}, "another order of them"),
    (configs.unet_config, {"cross_attention_dim": [768, 1024, 768, 768]}, "one number for all"),
    (configs.unet_config, {"layers_per_block": [1, 2, 2, 2]}, "one number for all"),
    (configs.unet_config, {"_class_name": "UNetMotionModel", "motion_num_attention_heads": [4, 8, 8, 8]},
     "motion_num_attention_heads"),
    (configs.vae_config, {"shift_factor": 0.1159}, "shift_factor 0.1159"),
    (configs.vae_config, {"use_quant_conv": False}, "use_quant_conv False"),
    (configs.clip_config, {"hidden_act": "relu"}, "hidden_act 'relu'"),
    (configs.clip_config, {"layer_norm_eps": 1e-6}, "layer_norm_eps 1e-06")])
def test_what_no_network_here_has_is_refused_by_name(read, settings, words):
  """Loaded without a word it would compute something else."""
  with pytest.raises(WeightsError, match=words) as refusal:
    read(settings, "unet/config.json")
  assert str(refusal.value).startswith("unet/config.json ") and "\n" not in str(refusal.value)


@pytest.mark.parametrize("field", ["multiview", "view_conditions"])
def test_what_diffusers_has_no_network_for_is_refused(field):
  with pytest.raises(WeightsError, match=f"diffusers has no network with {field}"):
    configs.unet_settings(dataclasses.replace(SD15, **{field: True}))


# --- motion modules


@pytest.mark.parametrize("frames, resnet_norm", [(24, "cross_frame"), (32, "per_frame")])
def test_animatediffs_own_files_bring_their_norms(frames, resnet_norm):
  """Its first version, of 24 frames, was trained with resnet norms over all frames; see specs of the releases."""
  changes = configs.motion_changes({"down_blocks.0.motion_modules.0.norm.weight": (8,)}, frames, None, "mm.ckpt")
  assert changes == dict(temporal=True, motion_mid=False, max_frames=frames, motion_heads=8, motion_norm="per_frame",
                         motion_norm_groups=32, resnet_norm=resnet_norm)


def test_a_motion_adapter_is_computed_as_diffusers_does():
  shapes = {"mid_block.motion_modules.0.norm.weight": (8,)}
  changes = configs.motion_changes(shapes, 24, {"motion_num_attention_heads": 4}, "adapter")
  assert changes == dict(temporal=True, motion_mid=True, max_frames=24, motion_heads=4, motion_norm="cross_frame",
                         resnet_norm="per_frame")
  with pytest.raises(WeightsError, match="motion_transformer_layers_per_block 2"):
    configs.motion_changes(shapes, 24, {"motion_transformer_layers_per_block": 2}, "adapter")
