"""`weights.load`: networks that can be called, in the precision that is asked for, in little memory."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax import weights
from panda_jax.models.adapter360 import Adapter360
from panda_jax.models.clip_text import CLIPText
from panda_jax.models.unet import UNet
from panda_jax.models.vae import StableDiffusionVAE
from panda_jax.weights.layout import torch_shapes
from panda_jax.weights.resolve import functional
from tests.weights.archives import Archive, Call, Global, StateDict
from tests.weights.networks import (
    CONFIGS, UNET, assert_close, assert_equal, folder_of, leaves, motion_folder, pipeline_of, run, tensors, write,
    write_json)

ALL = ("unet", "vae", "text_encoder")
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TYPES = {"unet": UNet, "vae": StableDiffusionVAE, "text_encoder": CLIPText, "adapter360": Adapter360}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("networks")
  for kind in ALL:
    folder_of(root / kind, kind)
  write(root / "adapter360", tensors("adapter360"))
  pipeline_of(root / "pipeline", *ALL)
  motion_folder(root / "motion")
  return root


def unet_inputs(frames=1, dtype=np.float32):
  rng = np.random.default_rng(0)
  latents, text = rng.normal(size=(2, 1, frames, 4, 6, 4)), rng.normal(size=(2, 5, 12))
  return latents.astype(dtype), np.array([981, 21]), text.astype(np.float32)


def refusal(path, **options):
  with pytest.raises(weights.WeightsError) as error:
    weights.load(path, **options)
  message = str(error.value)
  assert "\n" not in message and len(message) < 500
  return message


# --- what comes


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_path_becomes_the_network_behind_it(root, kind):
  for path in (root / kind, str(root / kind)):
    net = weights.load(path)
    assert type(net) is TYPES[kind] and net.config == CONFIGS[kind]


def test_several_networks_come_by_kind(root):
  networks = weights.load(root / "pipeline")
  assert {kind: type(net) for kind, net in networks.items()} == {kind: TYPES[kind] for kind in ALL}
  assert_equal(weights.load(root / "pipeline", wanted="vae"), networks["vae"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_tensor_has_its_place(root, kind):
  """Kernels transposed as our layers want them, all else as in the file."""
  ours = leaves(weights.load(root / kind))
  axes = {2: (1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}
  for name, value in tensors(kind).items():
    path = name.replace(".", "/").removesuffix("weight")
    last = next(last for last in ("kernel", "scale", "embedding", "") if path + last in ours)
    found = ours.pop(path + last)
    np.testing.assert_array_equal(found, value.transpose(axes[value.ndim]) if last == "kernel" else value, name)
  assert not ours


def test_it_can_be_called_by_hand_and_under_jit(root):
  """By hand it compiles itself; the numbers are the same."""
  unet, inputs = weights.load(root / "unet"), unet_inputs()
  assert_close(unet(*inputs), run(unet, *inputs), 1e-5)


def test_motion_modules_and_loras_are_part_of_what_is_computed(root, tmp_path):
  inputs = unet_inputs(frames=3)
  plain, moving = weights.load(root / "unet"), weights.load(root / "unet", motion=root / "motion")
  assert np.abs(run(moving, *inputs) - run(plain, *inputs)).max() > 1e-2
  lora = write(tmp_path / "lora.safetensors", lora_for())
  outputs = [run(weights.load(root / "unet", motion=root / "motion", lora=[(lora, strength)]), *inputs)
             for strength in (0, 0.5, 1)]
  np.testing.assert_array_equal(outputs[0], run(moving, *inputs))
  assert np.abs(outputs[1] - outputs[0]).max() > 1e-3 and np.abs(outputs[2] - outputs[1]).max() > 1e-3


def lora_for(layer=LAYER):
  rng = np.random.default_rng(0)
  stem = f"lora_unet_{layer.replace('.', '_')}"
  return {f"{stem}.lora_down.weight": rng.normal(size=(2, 8)).astype(np.float32),
          f"{stem}.lora_up.weight": rng.normal(size=(8, 2)).astype(np.float32), f"{stem}.alpha": np.float32([4])}


@pytest.mark.parametrize("strength", [-0.5, 0.25, 1.0])
@pytest.mark.parametrize("use_alpha", [False, True])
def test_the_strength_and_alpha_of_a_lora_multiply(root, tmp_path, strength, use_alpha):
  """Alpha 4 and rank 2 double it, unless alpha is to be ignored."""
  lora = write(tmp_path / "lora.safetensors", lora_for())
  net = weights.load(root / "unet", lora=[(lora, strength)], use_lora_alpha=use_alpha)
  down, up, _ = lora_for().values()
  expected = tensors("unet")[f"{LAYER}.weight"] + strength * (2 if use_alpha else 1) * (up @ down)
  np.testing.assert_allclose(leaves(net)[f"{LAYER.replace('.', '/')}/kernel"], expected.T, atol=1e-6)


# --- precision


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, "bfloat16"])
def test_parameters_have_the_type_that_is_asked_for(root, dtype):
  """Rounded to the nearest, and all of them; the answer comes in the type of the latents."""
  net, full = weights.load(root / "unet", dtype=dtype), leaves(weights.load(root / "unet"))
  for path, value in leaves(net).items():
    assert value.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(value, full[path].astype(np.dtype(dtype)), path)
  for kind in (np.float32, jnp.bfloat16):
    assert jax.eval_shape(net, *unet_inputs(dtype=kind)).dtype == kind


def test_half_precision_becomes_what_is_asked_for(root, tmp_path):
  """Full precision, unless told otherwise."""
  folder_of(tmp_path, "unet", arrays={name: value.astype(np.float16) for name, value in tensors("unet").items()})
  assert_equal(weights.load(tmp_path), weights.load(root / "unet"))
  assert_equal(weights.load(tmp_path, dtype=jnp.bfloat16), weights.load(root / "unet", dtype=jnp.bfloat16))


def test_a_number_too_large_for_the_type_is_named(tmp_path):
  arrays = tensors("vae") | {"quant_conv.bias": np.full(8, 1e6, np.float32)}
  folder_of(tmp_path, "vae", arrays=arrays)
  assert "quant_conv.bias has values beyond the range of float16: ask for another dtype" in refusal(
      tmp_path, dtype=np.float16)
  weights.load(tmp_path, dtype=jnp.bfloat16)


# --- files that cannot be used


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_numbers_that_are_none_are_named(tmp_path, value, dtype):
  arrays = tensors("unet")
  arrays["mid_block.resnets.1.conv2.weight"][3, 2, 1, 0] = value
  folder_of(tmp_path, "unet", arrays=arrays)
  message = refusal(tmp_path, dtype=dtype)
  assert "mid_block.resnets.1.conv2.weight holds NaN or infinity (1 of 2,304 values)" in message


@pytest.mark.parametrize("size", [4, 100, 30_000, -1])
def test_a_truncated_file_is_refused(root, tmp_path, size):
  folder = folder_of(tmp_path, "unet")
  file = folder / "diffusion_pytorch_model.safetensors"
  file.write_bytes(file.read_bytes()[:size])
  message = refusal(folder)
  assert file.name in message and "cut short" in message and "download it again" in message


def test_a_pickle_that_wants_to_run_something_does_not(tmp_path, monkeypatch):
  """It is refused by what it wants, before anything of it is used."""
  monkeypatch.chdir(tmp_path)
  archive = Archive()
  content = {name: archive.tensor(value) for name, value in tensors("vae").items()}
  evil = Call(Global("builtins", "open"), ("PWNED", "w"))
  archive.zip(tmp_path / "vae.ckpt", StateDict(content | {"extra": evil}))
  assert "builtins.open" in refusal(tmp_path / "vae.ckpt")
  assert [path.name for path in tmp_path.iterdir()] == ["vae.ckpt"]


@pytest.mark.parametrize("path, wanted, words", [
    ("text_encoder", "unet", "text_encoder is a CLIP text encoder (transformers), and a UNet is wanted"),
    ("motion", None, "motion is a diffusers MotionAdapter, which is no network by itself: give it as motion="),
    ("nothing", None, "nothing does not exist: give a file of weights or a folder that is on this machine")])
def test_the_wrong_path_is_called_what_it_is(root, path, wanted, words):
  assert words in refusal(root / path, wanted=wanted)


def test_the_file_may_be_overwritten_afterwards(tmp_path):
  """What was loaded does not lie in it any more."""
  folder_of(tmp_path, "vae")
  net = weights.load(tmp_path)
  before = {path: value.copy() for path, value in leaves(net).items()}
  file = tmp_path / "diffusion_pytorch_model.safetensors"
  with open(file, "r+b") as stream:
    stream.seek(file.stat().st_size // 2)
    stream.write(b"\xff" * (file.stat().st_size // 2))
  np.testing.assert_equal(leaves(net), before)


# --- memory


WIDE = dataclasses.replace(UNET, block_out_channels=(80, 160, 320, 320), attention=(True, True, True, False),
                           layers_per_block=2, text_channels=768, norm_groups=16)
PEAK = """
import json, re, sys
from panda_jax import weights
from panda_jax.weights.resolve import resolve
from panda_jax.weights.saving import save
task, source, small, target = sys.argv[1:]

def memory(field):                                 # ru_maxrss would begin with that of the parent
  return 1024 * int(re.search(field + r":\\s*(\\d+)", open("/proc/self/status").read())[1])

def work(source, target):
  if task == "convert":
    save(target, resolve(source))
  else:
    return weights.load(source, dtype="bfloat16")

work(small, target + "-small")                      # what is imported and compiled once is not counted
resolve(source)["unet"].params()
base = memory("VmRSS")
kept = work(source, target)
print(json.dumps([base, memory("VmHWM")]))
print(sorted({"torch", "diffusers", "transformers", "tensorflow"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
  """A UNet of 200 MB whose values are holes in the file."""
  folder = tmp_path_factory.mktemp("wide")
  entries, end = {}, 0
  for name, shape in torch_shapes(functional("unet", WIDE).abstract).items():
    size = 4 * int(np.prod(shape))
    entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
    end += size
  header = json.dumps(entries).encode()
  with open(folder / "diffusion_pytorch_model.safetensors", "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header)
    file.truncate(file.tell() + end)
  write_json(folder / "config.json", {
      "_class_name": "UNet2DConditionModel", "block_out_channels": WIDE.block_out_channels, "cross_attention_dim": 768,
      "norm_num_groups": 16})
  return folder, end


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read as Linux tells it")
@pytest.mark.parametrize("task, most", [("convert", 1.3), ("load", 0.8)])
def test_tensors_stream_from_file_to_file_and_into_memory(root, wide, tmp_path, task, most):
  """Converting takes at most 1.3 times the size of the file, loading in bfloat16 0.8 times; and no torch."""
  folder, size = wide
  assert size > 200e6
  command = [sys.executable, "-c", PEAK, task, folder, root / "unet", tmp_path / "out"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  base, peak = json.loads(done.stdout)
  print(f"{task}: base {base / 1e6:.0f} MB, peak {(peak - base) / size:.2f} of {most} times the file")
  assert peak - base <= most * size
  assert done.stderr.strip().splitlines()[-1] == "[]"
