"""Networks as diffusers and transformers write and compute them, without either library: see tests/golden."""

import functools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax import weights
from tests.weights.networks import assert_close, assert_equal, assert_half, last, run, run_unet

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PRECISIONS = pytest.mark.parametrize("dtype, check", [
    (jnp.float32, functools.partial(assert_close, tolerance=2e-5)), (jnp.bfloat16, assert_half)],
    ids=["float32", "bfloat16"])


@functools.cache
def arrays():
  with np.load(GOLDEN / "arrays.npz") as file:
    return {name: file[name] for name in file}


@functools.cache
def load(path, **options):
  options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
  return weights.load(GOLDEN / path, **options)


def unet_of(net, text="text", **kwargs):
  return run_unet(net, arrays()["latents"], arrays()["timestep"], arrays()[text], **kwargs)


def clip_of(net):
  return run_unet(net, arrays()["clip"], arrays()["timestep_of_clip"], arrays()["text"][:1])


@PRECISIONS
def test_a_pipeline_of_stable_diffusion(dtype, check):
  """UNet, VAE and text encoder out of the folder that StableDiffusionPipeline saves, in float16."""
  networks = load("pipeline", dtype=dtype)
  assert list(networks) == ["unet", "vae", "text_encoder"]
  check(unet_of(networks["unet"]), arrays()["unet"], name="unet")
  check(run(networks["text_encoder"], arrays()["input_ids"][:3]), arrays()["text_encoder"], name="text_encoder")
  mean, logvar = run(networks["vae"], last(arrays()["images"]), method="encode")
  check(mean, last(arrays()["vae_mean"]), name="mean")
  check(logvar, last(arrays()["vae_logvar"]), name="logvar")
  check(run(networks["vae"], last(arrays()["latents"]), method="decode"), last(arrays()["vae_decoded"]), name="decoded")


@PRECISIONS
def test_a_unet_of_stable_diffusion_2_in_several_files(dtype, check):
  """Linear projections, other heads on each level; what it predicts (v) makes no difference to the network."""
  check(unet_of(load("unet_sd2", dtype=dtype), "text_sd2"), arrays()["unet_sd2"], name="unet_sd2")


@PRECISIONS
def test_a_unet_with_motion_modules(dtype, check):
  check(clip_of(load("unet_motion", dtype=dtype)), arrays()["unet_motion"], name="unet_motion")


def test_motion_modules_join_an_image_network():
  """The MotionAdapter is stored in float16 under a variant's name, with rounded tables of positions."""
  joined = load("pipeline", wanted="unet", motion=GOLDEN / "motion_adapter")
  assert_equal(joined, load("unet_motion"))
  assert_close(clip_of(joined), arrays()["unet_motion"], 2e-5)


@PRECISIONS
def test_a_text_encoder_in_a_pickle_of_torch(dtype, check):
  """With the exact GELU, as in Stable Diffusion 2."""
  out = run(load("text_encoder_gelu", dtype=dtype), arrays()["input_ids"][:3])
  check(out, arrays()["text_encoder_gelu"], name="text_encoder_gelu")


def test_a_single_file_holds_the_same_networks_as_the_pipeline():
  """Without any config.json: sizes are read from the tensors, to the bit as from the folders."""
  single, pipeline = load("single_file.safetensors"), load("pipeline")
  assert single.keys() == pipeline.keys()
  for kind, net in single.items():
    assert_equal(net, pipeline[kind])


@pytest.mark.parametrize("name", ["kohya", "pytorch_lora_weights"])
def test_a_lora_changes_what_it_changes_in_diffusers(name):
  """Merged at full strength; alpha is in a tensor of each layer (kohya) or in the header (PEFT)."""
  networks = load("pipeline", lora=((GOLDEN / "lora" / f"{name}.safetensors", 1.0),))
  assert_close(unet_of(networks["unet"]), arrays()[f"unet_{name}"], 2e-5, "unet")
  text = "text_encoder_kohya" if name == "kohya" else "text_encoder"
  assert_close(run(networks["text_encoder"], arrays()["input_ids"][:3]), arrays()[text], 2e-5, text)


def test_the_tokenizer_gives_the_ids_of_transformers():
  tokenizer = weights.load_tokenizer(GOLDEN / "pipeline")
  prompts = json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8"))
  for prompt, ids in zip(prompts, arrays()["input_ids"], strict=True):
    np.testing.assert_array_equal(tokenizer(prompt), ids)


def test_the_files_stay_small():
  assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) <= 2 * 2**20
