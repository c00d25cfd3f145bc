import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.recognise import config_kind, describe, find_weights
from tests.paths import PARITY, needs_parity

UNET = ("down_blocks.0.resnets.0.conv1.weight",)
UNET_CONFIG = {"_class_name": "UNet2DConditionModel", "norm_num_groups": 16}
TEXT = ("text_model.final_layer_norm.bias",)
TEXT_CONFIG = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}


def write(path, names=UNET):
  path.parent.mkdir(parents=True, exist_ok=True)
  save_file({name: np.zeros(2, np.float32) for name in names}, path)


def write_json(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content if isinstance(content, str) else json.dumps(content))


def touch(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).touch()


def pipeline(folder, listed=("unet", "vae", "text_encoder", "scheduler", "tokenizer"), name="StableDiffusionPipeline"):
  """A folder as diffusers writes it; `listed` are all that it lists."""
  write(folder / "unet" / "diffusion_pytorch_model.safetensors")
  write_json(folder / "unet" / "config.json", UNET_CONFIG)
  write(folder / "vae" / "diffusion_pytorch_model.safetensors", ("decoder.mid_block.resnets.0.conv1.bias",))
  write(folder / "text_encoder" / "model.safetensors", TEXT)
  write_json(folder / "scheduler" / "scheduler_config.json", {"beta_start": 0.00085})
  if listed is not None:
    index = {"_class_name": name, "_diffusers_version": "0.42.1", "image_encoder": [None, None]}
    write_json(folder / "model_index.json", index | {part: ["diffusers", "Some"] for part in listed})


ALL = [f"diffusion_pytorch_model{end}" for end in (
    ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".fp16.safetensors",
    ".safetensors.index.fp16.json", ".fp16.bin", ".non_ema.safetensors")]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_best_file_of_a_diffusers_folder(tmp_path, variant):
  """Full precision before fp16, unless that is asked for; safetensors before pickles; one file before many."""
  order = ALL[4:7] if variant else ALL[:7]
  for first in range(len(order)):
    folder = tmp_path / str(first)
    touch(folder, *order[first:], "diffusion_pytorch_model-00001-of-00002.safetensors",
          "diffusion_pytorch_model.fp16-00001-of-00002.safetensors", ALL[7])
    assert find_weights(folder, variant=variant).weights == folder / order[first]


def test_the_best_file_of_a_transformers_folder(tmp_path):
  order = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
           "model.fp16.safetensors", "model.fp16.safetensors.index.json", "pytorch_model.fp16.bin"]
  for first in range(len(order)):
    folder = tmp_path / str(first)
    touch(folder, *order[first:], "vocab.json", "merges.txt", "flax_model.msgpack", "tf_model.h5")
    assert find_weights(folder).weights == folder / order[first]


def test_a_variant_that_is_not_there_is_refused(tmp_path):
  touch(tmp_path, ALL[0])
  with pytest.raises(WeightsError, match=f"no weights of the variant fp16 .it has {ALL[0]}"):
    find_weights(tmp_path, variant="fp16")
  touch(tmp_path / "other", ALL[7])
  with pytest.raises(WeightsError, match="no weights without a variant .it has diffusion_pytorch_model.non_ema"):
    find_weights(tmp_path / "other")
  assert find_weights(tmp_path / "other", variant="non_ema").weights == tmp_path / "other" / ALL[7]


def test_the_config_of_a_folder_comes_with_it(tmp_path):
  """Also for a file inside the folder, if it is the config of a network; anything else there is left alone."""
  file = tmp_path / "diffusion_pytorch_model.safetensors"
  write(file)
  assert find_weights(tmp_path).config == {}
  write_json(tmp_path / "config.json", UNET_CONFIG)
  assert find_weights(tmp_path).config == find_weights(file).config == UNET_CONFIG
  write_json(tmp_path / "config.json", {"architectures": ["LlamaForCausalLM"]})
  assert find_weights(file).config == {}


@pytest.mark.parametrize("config, kind", [
    (UNET_CONFIG, "unet"), ({"_class_name": "UNetMotionModel"}, "unet"), ({"_class_name": "AutoencoderKL"}, "vae"),
    ({"_class_name": "MotionAdapter"}, "motion"), (TEXT_CONFIG, "text_encoder"),
    ({"model_type": "clip_text_model"}, "text_encoder"), ({"_class_name": "FluxTransformer2DModel"}, None),
    ({"_class_name": 3, "architectures": "x", "model_type": []}, None), ({}, None)])
def test_a_config_says_what_it_is_for(config, kind):
  assert config_kind(config) == kind


@pytest.mark.parametrize("content", ["{", "[1]", "\"text\"", "", "[" * 100_000, "\xff"])
def test_garbled_configs_are_refused(tmp_path, content):
  write(tmp_path / "diffusion_pytorch_model.safetensors")
  (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
  with pytest.raises(WeightsError, match="config.json .*: copy it again"):
    find_weights(tmp_path)


def test_a_pipeline_gives_its_networks(tmp_path):
  """With and without model_index.json; what has no network here, such as the scheduler, is passed over."""
  pipeline(tmp_path / "a", ("unet", "vae", "text_encoder", "scheduler", "tokenizer", "safety_checker"))
  pipeline(tmp_path / "b", None)
  for folder in (tmp_path / "a", tmp_path / "b"):
    found = find_weights(folder)
    assert found.weights is None and list(found.components) == ["unet", "vae", "text_encoder"]
    assert found.components["unet"].weights == folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert found.components["unet"].config == UNET_CONFIG
    assert list(found.components["vae"].open().tensors) == ["decoder.mid_block.resnets.0.conv1.bias"]
  assert describe(tmp_path / "a") == "a pipeline folder of StableDiffusionPipeline (unet, vae, text_encoder)"
  with pytest.raises(WeightsError, match="give one of its folders unet, vae, text_encoder"):
    find_weights(tmp_path / "a").open()


def test_a_pipeline_may_have_a_single_file_beside_its_folders(tmp_path):
  """As the repositories of Stable Diffusion do; without model_index.json it is not clear which is meant."""
  pipeline(tmp_path, ("unet",))
  touch(tmp_path, "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt")
  assert list(find_weights(tmp_path).components) == ["unet"]
  (tmp_path / "model_index.json").unlink()
  with pytest.raises(WeightsError, match="v1-5-pruned.safetensors.* and the folders unet and vae and text_encoder:"):
    find_weights(tmp_path)


@pytest.mark.parametrize("name, listed, words", [
    ("StableDiffusionXLPipeline", ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer_2"), "text_encoder_2"),
    ("FluxPipeline", ("transformer", "vae", "text_encoder"), "transformer"),
    ("StableDiffusionControlNetPipeline", ("unet", "vae", "text_encoder", "controlnet"), "controlnet")])
def test_foreign_pipelines_are_refused_by_name(tmp_path, name, listed, words):
  pipeline(tmp_path, listed, name)
  with pytest.raises(WeightsError, match=f"is a pipeline folder of {name} .*no network here for its {words}"):
    find_weights(tmp_path)
  assert describe(tmp_path).startswith(f"a pipeline folder of {name}")


def test_a_pipeline_that_is_not_all_there_is_refused(tmp_path):
  pipeline(tmp_path, ("unet", "vae", "motion_adapter"))
  with pytest.raises(WeightsError, match="has no folder motion_adapter"):
    find_weights(tmp_path)
  write_json(tmp_path / "model_index.json", "{")
  with pytest.raises(WeightsError, match="model_index.json is not readable JSON"):
    find_weights(tmp_path)


def test_a_folder_with_one_file_is_that_file(tmp_path):
  """Safetensors and a pickle of the same name are one; what a trainer leaves beside it is not weights."""
  touch(tmp_path, "anything.ckpt", "notes.txt", "training_args.bin", "optimizer.pt", ".hidden.ckpt")
  assert find_weights(tmp_path).weights == tmp_path / "anything.ckpt"
  touch(tmp_path, "anything.safetensors")
  assert find_weights(tmp_path).weights == tmp_path / "anything.safetensors"
  touch(tmp_path, "another.pt")
  with pytest.raises(WeightsError, match="holds 3 files of weights .another.pt, anything.ckpt, anything.safetensors.:"):
    find_weights(tmp_path)
  assert describe(tmp_path) == "a folder with 3 files of weights (another.pt, anything.ckpt, anything.safetensors)"


def test_shards_need_their_index(tmp_path):
  shards = {"part-00001-of-00002.safetensors": UNET, "part-00002-of-00002.safetensors": ("conv_in.bias",)}
  for name, names in shards.items():
    write(tmp_path / name, names)
  with pytest.raises(WeightsError, match="without their index"):
    find_weights(tmp_path)
  write_json(tmp_path / "part.safetensors.index.json",
             {"metadata": {}, "weight_map": {names[0]: name for name, names in shards.items()}})
  for path in (tmp_path, tmp_path / "part.safetensors.index.json"):
    assert set(find_weights(path).open().tensors) == {*UNET, "conv_in.bias"}


@pytest.mark.parametrize("names, words", [
    ((), "an empty folder"), ((".cache",), "an empty folder"),
    (("vocab.json", "merges.txt", "tokenizer_config.json"), "a tokenizer folder"),
    (("scheduler_config.json",), "a scheduler folder"), (("preprocessor_config.json",), "a feature extractor folder"),
    (("config.json",), "a folder with a config.json and without weights"),
    (("refs", "blobs", "snapshots"), "a folder of the Hugging Face cache"),
    (("optimizer.bin", "random_states_0.pkl"), "a folder with the state of a training run"),
    (("thesis.tex", "cat.png"), "a folder of other things (cat.png, thesis.tex)")])
def test_folders_without_weights_are_called_what_they_are(tmp_path, names, words):
  touch(tmp_path, *names)
  assert describe(tmp_path).startswith(words)
  with pytest.raises(WeightsError) as refusal:
    find_weights(tmp_path)
  assert f"{tmp_path} is {words}" in str(refusal.value) and "no weights" in str(refusal.value)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
  with pytest.raises(WeightsError, match="absent does not exist.*nothing is downloaded"):
    find_weights(tmp_path / "absent")
  with pytest.raises(WeightsError, match="cannot be read .File name too long"):
    find_weights("x" * 5000)
  write_json(tmp_path / "config.json", UNET_CONFIG)
  with pytest.raises(WeightsError, match="config.json describes a model and holds no weights: give its folder"):
    find_weights(tmp_path / "config.json")


def test_what_files_and_folders_are_called(tmp_path):
  """By what is in them, not by what they are named."""
  single = tmp_path / "single.safetensors"
  write(single, ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.up.0.block.0.conv1.bias",
                 "cond_stage_model.transformer.text_model.final_layer_norm.bias", "betas"))
  assert describe(single) == "an LDM single file (UNet, VAE, text encoder)"
  write(tmp_path / "lora" / "x.safetensors", ("lora_unet_conv_in.lora_down.weight",))
  assert describe(tmp_path / "lora" / "x.safetensors") == "a LoRA (kohya)"
  assert describe(tmp_path / "lora") == "a folder with a LoRA (kohya)"
  write(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
  write_json(tmp_path / "unet" / "config.json", UNET_CONFIG)
  assert describe(tmp_path / "unet") == "a diffusers UNet folder"
  write(tmp_path / "text" / "model.safetensors", TEXT)
  write_json(tmp_path / "text" / "config.json", TEXT_CONFIG)
  assert describe(tmp_path / "text") == "a transformers CLIPTextModel folder"
  write(tmp_path / "xl" / "diffusion_pytorch_model.safetensors", (*UNET, "add_embedding.linear_1.weight"))
  write_json(tmp_path / "xl" / "config.json", UNET_CONFIG)
  assert describe(tmp_path / "xl") == "a folder with an SDXL UNet (diffusers)"
  write(tmp_path / "ours" / "model.safetensors", ("unet/conv_in/kernel",))
  write_json(tmp_path / "ours" / "config.json", {"system": "videopanda"})
  assert describe(tmp_path / "ours") == "a folder with a panda_jax model"
  write(tmp_path / "other.safetensors", ("a", "b"))
  assert describe(tmp_path / "other.safetensors") == "a file of 2 tensors (a, b) in no format that is known here"


@needs_parity
@pytest.mark.parametrize("path, words", [
    ("sd15_single_file/model.safetensors", "an LDM single file (UNet, VAE, text encoder)"),
    ("unet2d_sd21", "a diffusers UNet folder"), ("vae", "a diffusers VAE folder"),
    ("clip_text/text_encoder_sd15", "a transformers CLIPTextModel folder"),
    ("clip_text/tokenizer", "a tokenizer folder"),
    ("motion/mm_v1.ckpt", "an AnimateDiff motion module (v1: 24 positions)"),
    ("motion/mm_v2.ckpt", "an AnimateDiff motion module (v2: 32 positions, mid block)"),
    ("motion/mm_v3.ckpt", "an AnimateDiff motion module (v3: 32 positions)"),
    ("motion/diffusers_adapter_v1", "a diffusers MotionAdapter folder"),
    ("motion/diffusers_adapter_v1/diffusion_pytorch_model.safetensors", "a diffusers MotionAdapter (v1: 24 positions)"),
    ("motion/diffusers_unet_motion", "a diffusers UNetMotionModel folder"),
    ("dvd360/360Adapter.ckpt", "a 360DVD adapter"),
    ("lora/kohya_lora.safetensors", "a LoRA (kohya)"), ("lora/pytorch_lora_weights.safetensors", "a LoRA (PEFT)")])
def test_the_fixtures_are_called_what_they_are(path, words):
  assert describe(PARITY / path) == words
