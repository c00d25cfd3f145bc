"""Every reference checkpoint through `weights.load`: the tensors to the bit, the outputs to the stated tolerance."""

import dataclasses
import functools
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from panda_jax import weights
from panda_jax.weights.loading import fill
from panda_jax.weights.resolve import resolve
from tests.paths import PARITY, needs_parity
from tests.weights.networks import assert_close, assert_equal, assert_half, last, leaves, run, run_by_steps, run_unet

pytestmark = needs_parity
BASE = PARITY / "unet2d_sd15"
TEXT = PARITY / "clip_text" / "text_encoder_sd15"
HALF = pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])


@functools.cache
def arrays(fixture):
  with np.load(PARITY / fixture / "io.npz") as file:
    return {name: file[name] for name in file}


def check(ours, theirs, half, tolerance, name):
  if half:
    assert_half(ours, theirs, name)
  else:
    assert_close(ours, theirs, tolerance, name)


def dtype_of(half):
  return jnp.bfloat16 if half else jnp.float32


def on_images(unet, fixture):
  inputs = arrays(fixture)
  return run_unet(unet, inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"])


def on_clips(unet):
  inputs = [arrays("motion")[name] for name in ("sample", "timestep", "encoder_hidden_states")]
  return run_unet(unet, *inputs, runner=run_by_steps)


def by_hand(unet, *args):
  return np.asarray(unet(*args))


# --- networks


@HALF
@pytest.mark.parametrize("fixture", ["unet2d_sd15", "unet2d_sd21"])
def test_image_unets(fixture, half):
  unet = weights.load(PARITY / fixture, dtype=dtype_of(half))
  check(on_images(unet, fixture), arrays(fixture)["out"], half, 2e-5, fixture)


@HALF
def test_the_vae(half):
  vae, expected = weights.load(PARITY / "vae", dtype=dtype_of(half)), arrays("vae")
  mean, logvar = run(vae, last(expected["image"]), method="encode")
  for name, ours in dict(mean=mean, logvar=logvar,
                         decoded=run(vae, last(expected["latent"]), method="decode")).items():
    check(ours, last(expected[name]), half, 3e-5, name)


def test_the_vae_of_a_panorama():
  expected = arrays("dvd360")
  decoded = run(weights.load(PARITY / "vae"), last(expected["vae_latent"]), method="decode", circular=True)
  assert_close(decoded, last(expected["vae_decoded_circular"]), 3e-5, "circular")


@HALF
@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_text_encoders(name, half):
  expected = arrays("clip_text")
  clip = weights.load(PARITY / "clip_text" / f"text_encoder_{name}", dtype=dtype_of(half))
  check(run(clip, expected[f"input_ids_{name}"]), expected[f"last_hidden_state_{name}"], half, 2e-5, name)


@pytest.mark.parametrize("folder", ["unet2d_sd15", "unet2d_sd21", "vae", "clip_text/text_encoder_sd15",
                                    "clip_text/text_encoder_sd21"])
def test_every_tensor_arrives_to_the_bit(folder):
  """Also the biases of keys, which no output shows."""
  ours, (file,) = leaves(weights.load(PARITY / folder)), (PARITY / folder).glob("*.safetensors")
  for name, theirs in load_file(file).items():
    path = name.removeprefix("text_model.").replace(".", "/")
    known = [path.removesuffix("weight") + end for end in ("kernel", "scale", "embedding")] + [path]
    values = ours.pop(next(candidate for candidate in known if candidate in ours))
    if theirs.ndim > 1 and not re.search("(token|position)_embedding", name):
      theirs = theirs.T if theirs.ndim == 2 else theirs.transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(values, theirs.astype(np.float32), err_msg=name)
  assert not ours


def test_a_single_file_is_the_three_folders():
  """So it computes what they compute."""
  single = weights.load(PARITY / "sd15_single_file")
  assert_equal(single["unet"], weights.load(BASE))
  assert_equal(single["vae"], weights.load(PARITY / "vae"))
  assert_equal(single["text_encoder"], weights.load(TEXT))
  assert_close(on_images(single["unet"], "unet2d_sd15"), arrays("unet2d_sd15")["out"], 2e-5)


# --- motion modules


def with_motion(name, half=False, **norms):
  return weights.load(BASE, motion=PARITY / "motion" / name, dtype=dtype_of(half), **norms)


@pytest.mark.parametrize("file, norms, out, half", [
    ("mm_v1", {}, "out_v1", False), ("mm_v1", {}, "out_v1", True), ("mm_v2", {}, "out_v2", False),
    ("mm_v2", {}, "out_v2", True), ("mm_v3", {}, "out_v3", False),
    ("mm_v1", {"resnet_norm": "per_frame"}, "out_v1_per_frame_norm", False)])
def test_animatediff(file, norms, out, half):
  """In bfloat16 1.6 %; the others, which do not take the time here, 1.5 to 1.7 %."""
  check(on_clips(with_motion(f"{file}.ckpt", half, **norms)), arrays("motion")[out], half, 3e-5, out)


@pytest.mark.parametrize("file, half", [("diffusers_adapter_v1", False), ("diffusers_adapter_v1", True),
                                        ("mm_v2.ckpt", False), ("mm_v3.ckpt", False)])
def test_animatediff_as_diffusers_computes_it(file, half):
  """From a MotionAdapter as it is; from AnimateDiff's own file by the switches of norms.

  For the norm of a motion module diffusers takes the groups of the UNet, here 16; published networks have 32 in both.
  """
  norms = dict(resnet_norm="per_frame", motion_norm="cross_frame") if file.endswith(".ckpt") else {}
  network = resolve(BASE, motion=PARITY / "motion" / file, **norms)["unet"]
  assert (network.config.motion_norm, network.config.resnet_norm) == ("cross_frame", "per_frame")
  config = dataclasses.replace(network.config, motion_norm_groups=None)
  out = "out_diffusers_" + re.search("v[123]", file)[0]
  unet = fill(dataclasses.replace(network, config=config), dtype_of(half))
  check(on_clips(unet), arrays("motion")[out], half, 3e-5, out)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_motion_module_alone(version):
  module = with_motion(f"mm_{version}.ckpt").down_blocks[1].motion_modules[0]
  given, expected = (arrays("motion")[f"mm_{way}_{version}"] for way in ("in", "out"))
  assert_close(run_by_steps(module, last(given)[:, None])[:, 0], last(expected), 3e-5, version)


@HALF
def test_a_unet_motion_model_of_diffusers(half):
  """In bfloat16 1.92 % away, with XLA's optimisations, as users have them; torch itself is 2.57 % away."""
  unet = weights.load(PARITY / "motion" / "diffusers_unet_motion", dtype=dtype_of(half))
  inputs = [arrays("motion")[f"um_{name}"] for name in ("sample", "timestep", "encoder_hidden_states")]
  out = run_unet(unet, *inputs, runner=by_hand if half else run)
  check(out, arrays("motion")["um_out"], half, 3e-5, "um_out")


# --- what is merged or added


@pytest.mark.parametrize("file, strength, use_alpha, out", [
    ("kohya_lora", 1.0, True, "out_kohya"), ("kohya_lora", 0.5, True, "out_kohya_strength_half"),
    ("kohya_lora", 1.0, False, "out_kohya_alpha_ignored"), ("pytorch_lora_weights", 1.0, True, "out_peft"),
    ("kohya_lora", 0.0, True, "out_no_lora")])
def test_loras_for_the_unet(file, strength, use_alpha, out):
  lora = [(PARITY / "lora" / f"{file}.safetensors", strength)]
  unet = weights.load(BASE, lora=lora, use_lora_alpha=use_alpha)
  assert_close(on_images(unet, "unet2d_sd15"), arrays("lora")[out], 1e-4, out)


def test_a_lora_for_the_text_encoder():
  clip = weights.load(TEXT, lora=[(PARITY / "lora" / "kohya_lora.safetensors", 1.0)])
  assert_close(run(clip, arrays("lora")["input_ids"]), arrays("lora")["text_kohya"], 1e-4)


@HALF
def test_the_adapter_of_360dvd(half):
  adapter, expected = weights.load(PARITY / "dvd360" / "360Adapter.ckpt", dtype=dtype_of(half)), arrays("dvd360")
  flow = np.moveaxis(expected["flow"], 2, -1)
  for level, feature in enumerate(run(adapter, flow), 1):
    check(feature[0, 0], last(expected[f"feature{level}"]), half, 2e-5, f"feature{level}")
  for level, feature in enumerate(run(adapter, np.zeros_like(flow)), 1):
    check(feature[0, 0, :1], last(expected[f"zero_input_feature{level}"]), half, 2e-5, f"zero_input_feature{level}")


def test_the_unet_of_360dvd_with_and_without_its_adapter_and_circular_padding():
  expected = arrays("dvd360")
  features = run(weights.load(PARITY / "dvd360" / "360Adapter.ckpt"), np.moveaxis(expected["flow"], 2, -1))
  for name, options in {"out_no_adapter": {}, "out_adapter": {"adapter_features": features},
                        "out_adapter_circular": {"adapter_features": features, "circular": True}}.items():
    out = run_unet(with_motion("mm_v1.ckpt"), expected["sample"], np.full(2, expected["timestep"]),
                   expected["encoder_hidden_states"], runner=run_by_steps, **options)
    assert_close(out, expected[name], 3e-5, name)


# --- what must be refused


@pytest.mark.parametrize("file", sorted(path.name for path in (PARITY / "hostile").glob("*.*")
                                        if path.suffix not in (".json", ".md")))
def test_hostile_files_are_refused_and_do_nothing(file, tmp_path, monkeypatch):
  """In one sentence that names what is wrong; nothing in them runs, and nothing is written anywhere."""
  inside = tmp_path / "a" / "b"
  inside.mkdir(parents=True)
  monkeypatch.chdir(inside)
  with pytest.raises(weights.WeightsError) as refusal:
    weights.load(PARITY / "hostile" / file)
  message = str(refusal.value)
  assert file in message and "\n" not in message and len(message) < 500
  named = json.loads((PARITY / "hostile" / "expected.json").read_text()).get(file.removesuffix(".safetensors"), "")
  assert named.removeprefix("text_model.") in message
  assert list(tmp_path.rglob("*")) == [tmp_path / "a", inside]
