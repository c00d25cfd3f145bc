"""Every name and shape of the published networks, from their config.json to ours, without any of their weights."""

import dataclasses
import functools
import json
import math

import pytest

from panda_jax.models.clip_text import CLIPTextConfig
from panda_jax.weights import configs
from panda_jax.weights.layout import torch_shapes
from panda_jax.weights.names import motion_details
from panda_jax.weights.resolve import functional
from tests.paths import SHARED
from tests.weights.unread import only_part

KEYS = SHARED / "specs" / "keys"
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of keys are not beside this checkout")
# What a config.json of the hub says that is not diffusers' default.
SD21 = {"_class_name": "UNet2DConditionModel", "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024,
        "use_linear_projection": True, "upcast_attention": True, "sample_size": 96, "dual_cross_attention": False}
OPENCLIP_H = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_size": 1024,
              "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16, "hidden_act": "gelu",
              "projection_dim": 512, "vocab_size": 49408, "max_position_embeddings": 77}


@functools.cache
def keys_of(name):
  """Shapes by name, config.json, and the stated number of parameters."""
  content = json.loads((KEYS / f"{name}.json").read_text())
  return {key: tuple(shape) for key, shape in content["keys"].items()}, content["config"], content["n_params"]


def shapes_of(kind, config):
  return torch_shapes(functional(kind, config).abstract)


def count(shapes):
  return sum(map(math.prod, shapes.values()))


def without_positions(shapes):
  return {name: shape for name, shape in shapes.items() if not name.endswith("pos_embed.pe")}


@needs_keys
def test_the_unet_of_stable_diffusion_15():
  keys, settings, stated = keys_of("diffusers_unet2d_sd15")
  assert shapes_of("unet", configs.unet_config(settings, "sd15")) == keys
  assert count(keys) == stated == 859_520_964


def test_the_unet_of_stable_diffusion_21():
  config = configs.unet_config(SD21, "sd21")
  assert (config.heads, config.linear_projection, config.text_channels) == ((5, 10, 20, 20), True, 1024)
  assert count(shapes_of("unet", config)) == 865_910_724


@needs_keys
@pytest.mark.parametrize("version, frames, parameters", [("v1", 24, 1_276_658_564), ("v2", 32, 1_312_730_244)])
def test_the_unet_with_motion_modules(version, frames, parameters):
  keys, settings, stated = keys_of(f"diffusers_unetmotion_{version}")
  config = configs.unet_config({"_class_name": "UNetMotionModel"} | settings, version)
  assert shapes_of("unet", config) == without_positions(keys)
  assert count(without_positions(keys)) == stated == parameters
  tables = keys.keys() - without_positions(keys).keys()
  assert {keys[name][:2] for name in tables} == {(1, frames)} == {(1, config.max_frames)}


@needs_keys
@pytest.mark.parametrize("version, frames", [("v1", 24), ("v2", 32), ("v3", 32)])
def test_motion_adapters_fill_what_the_image_network_lacks(version, frames):
  keys, settings, stated = keys_of(f"diffusers_motion_adapter_{version}")
  base = configs.unet_config(keys_of("diffusers_unet2d_sd15")[1], "sd15")
  changes = configs.motion_changes(keys, frames, settings, version)
  whole = shapes_of("unet", dataclasses.replace(base, **changes))
  assert {name: shape for name, shape in whole.items() if "motion_modules" in name} == without_positions(keys)
  assert count(without_positions(keys)) == stated


@needs_keys
def test_the_unet_of_360dvd():
  """Its own names, with motion modules of AnimateDiff's first version in them."""
  content = json.loads((KEYS / "dvd360_unet.json").read_text())
  part = only_part({f"module.{name}": shape for name, shape in content["full_v1"].items()})
  base = configs.unet_config(keys_of("diffusers_unet2d_sd15")[1], "sd15")
  changes = configs.motion_changes(part.shapes, motion_details(part).frames, None, "360DVD")
  assert shapes_of("unet", dataclasses.replace(base, **changes)) == part.shapes
  assert count(part.shapes) == content["n_params_full"] == 1_276_658_564


@needs_keys
def test_the_vae():
  keys, settings, stated = keys_of("diffusers_vae_sd")
  assert shapes_of("vae", configs.vae_config(settings, "vae")) == keys
  assert count(keys) == stated == 83_653_863


@needs_keys
def test_the_text_encoder_of_stable_diffusion_15():
  keys, _, stated = keys_of("diffusers_clip_text_l14")
  settings = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
  config = configs.clip_config(settings, "clip")
  assert config == CLIPTextConfig() and shapes_of("text_encoder", config) == keys
  assert count(keys) == stated == 123_060_480


def test_the_text_encoder_of_stable_diffusion_21():
  config = configs.clip_config(OPENCLIP_H, "openclip")
  assert config == CLIPTextConfig.sd21()
  assert count(shapes_of("text_encoder", config)) == 340_387_840


@needs_keys
@pytest.mark.parametrize("size", ["full", "small"])
def test_the_adapter_of_360dvd(size):
  content = json.loads((KEYS / "dvd360_adapter.json").read_text())
  keys = {name: tuple(shape) for name, shape in content[size].items()}
  assert shapes_of("adapter360", configs.adapter360_config_from_shapes(keys)) == keys
  assert size == "small" or count(keys) == content["n_params_full"] == 47_051_840


@pytest.mark.parametrize("kind, settings", [("unet", SD21), ("text_encoder", OPENCLIP_H)])
def test_names_and_shapes_of_stable_diffusion_21_are_those_of_the_libraries(kind, settings):
  """For which there is no list; the libraries build them on no memory."""
  torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
  transformers = pytest.importorskip("transformers")
  with torch.device("meta"):
    if kind == "unet":
      module = diffusers.UNet2DConditionModel.from_config(settings)
    else:
      module = transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))
  config = (configs.unet_config if kind == "unet" else configs.clip_config)(settings, "sd21")
  theirs = {name.removeprefix("text_model."): tuple(value.shape) for name, value in module.named_parameters()}
  assert shapes_of(kind, config) == theirs
