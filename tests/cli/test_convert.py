"""`panda convert`: what users have, to what they want; mistakes in one sentence, and nothing left of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from panda_jax import systems, weights
from panda_jax.cli.main import main
from panda_jax.training.init import find_source, load_params
from panda_jax.tree import flatten
from panda_jax.weights.layout import torch_name
from panda_jax.weights.resolve import resolve
from tests.paths import GOLDEN
from tests.weights.networks import tensors, write

PIPELINE = str(GOLDEN / "pipeline")
LORA = GOLDEN / "lora" / "kohya.safetensors"


def same_values(one, other):
  """Whether two networks have the same tensors, bit for bit."""
  return one.tensors.keys() == other.tensors.keys() and all(
      np.array_equal(tensor.read(), other.tensors[name].read()) for name, tensor in one.tensors.items())


@pytest.mark.parametrize("form", ["panda", "diffusers"])
def test_a_pipeline_comes_back_as_it_was(tmp_path, capsys, form):
  assert main(["convert", "--input", PIPELINE, "--output", str(tmp_path / "out"), "--format", form]) == 0
  assert "unet: 0." in capsys.readouterr().out
  before, after = resolve(PIPELINE), resolve(tmp_path / "out")
  assert before.keys() == after.keys() == {"unet", "vae", "text_encoder"}
  for kind, network in before.items():
    assert network.config == after[kind].config and same_values(network, after[kind]), kind
  if form == "diffusers":
    assert (tmp_path / "out" / "tokenizer" / "vocab.json").is_file() or (
        tmp_path / "out" / "tokenizer" / "tokenizer.json").is_file()


def test_networks_and_what_belongs_to_them_may_come_in_any_order(tmp_path):
  inputs = [str(GOLDEN / "motion_adapter"), str(GOLDEN / "pipeline" / "vae"), str(GOLDEN / "pipeline" / "unet")]
  assert main(["convert", "--input", *inputs, "--output", str(tmp_path / "out")]) == 0
  networks = resolve(tmp_path / "out")
  assert networks.keys() == {"unet", "vae"} and networks["unet"].config.temporal


def test_a_lora_is_merged_with_its_strength(tmp_path):
  for name, option in (("whole", f"{LORA}:1"), ("half", f"{LORA}:0.5"), ("none", f"{LORA}:0")):
    assert main(["convert", "--input", PIPELINE, "--network", "unet", "--lora", option,
                 "--output", str(tmp_path / name)]) == 0
  name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
  whole, half, none = (resolve(tmp_path / name)["unet"].tensors[name_].read() for name, name_ in
                       (("whole", name), ("half", name), ("none", name)))
  assert np.abs(whole - none).max() > 1e-3
  np.testing.assert_allclose(half - none, (whole - none) / 2, atol=1e-6)


def test_another_type_halves_the_file(tmp_path):
  for dtype in ("float32", "bfloat16"):
    assert main(["convert", "--input", str(GOLDEN / "pipeline" / "vae"), "--output", str(tmp_path / dtype),
                 "--dtype", dtype]) == 0
  sizes = [(tmp_path / dtype / "model.safetensors").stat().st_size for dtype in ("float32", "bfloat16")]
  assert 0.5 < sizes[1] / sizes[0] < 0.65


def test_the_starting_point_of_a_training_computes_what_its_base_computes(tmp_path):
  """The folder has all that `panda train --config.init` and `panda generate --checkpoint` want."""
  assert main(["convert", "--init", "videopanda", "--base", PIPELINE, "--motion", str(GOLDEN / "motion_adapter"),
               "--output", str(tmp_path / "start")]) == 0
  config = json.loads((tmp_path / "start" / "config.json").read_text())
  assert config["system"] == "videopanda" and config["model"]["unet"]["multiview"]
  params, _ = weights.load_model(tmp_path / "start")
  base = resolve(PIPELINE, motion=GOLDEN / "motion_adapter")["unet"]
  for path, tensor in base.params().items():
    leaf = params["unet"]
    for part in path.split("/"):
      leaf = leaf[part]
    np.testing.assert_array_equal(leaf, tensor.read())
  out = params["unet"]["mid_block"]["attentions"]["0"]["transformer_blocks"]["0"]["attn_multiview"]
  assert not out["out"]["kernel"].any() and out["attention"]["to_q"]["kernel"].any()
  assert not params["unet"]["conv_in_conditions"]["kernel"].any()


def test_stage_two_begins_from_the_folder_of_stage_one_as_from_its_own(tmp_path):
  """What `--config.init` makes of the one is the other, but for one random layer; stage two is the default."""
  for name, stage in (("one", ["--stage", "1"]), ("two", ["--stage", "2"]), ("default", [])):
    assert main(["convert", "--init", "videopanda", *stage, "--base", PIPELINE,
                 "--motion", str(GOLDEN / "motion_adapter"), "--output", str(tmp_path / name)]) == 0
  assert (tmp_path / "two" / "model.safetensors").read_bytes() == (
      tmp_path / "default" / "model.safetensors").read_bytes()
  one = json.loads((tmp_path / "one" / "config.json").read_text())["model"]
  assert one["unet"]["temporal"] and not one["unet"]["multiview"] and not one["unet"]["view_conditions"]
  assert (tmp_path / "one" / "tokenizer").is_dir() and one["text"]["tokenizer"] == "tokenizer"

  params, config = weights.load_model(tmp_path / "two")
  system = systems.build(config)
  adopted = flatten(load_params(find_source(str(tmp_path / "one")), system,
                                jax.eval_shape(system.init, jax.random.key(0)), jax.random.key(1)))
  made = flatten(params)
  assert adopted.keys() == made.keys()
  different = {path for path, leaf in made.items() if not np.array_equal(adopted[path], leaf)}
  assert different == {"unet/sigma_embedding/linear_1/kernel"}


def test_stage_one_begins_without_motion_modules_and_says_so(tmp_path, capsys):
  assert main(["convert", "--init", "videopanda", "--stage", "1", "--base", PIPELINE,
               "--output", str(tmp_path / "base")]) == 0
  assert "has no motion modules: stage one begins with new ones" in capsys.readouterr().out
  params, config = weights.load_model(tmp_path / "base")
  assert not config.model.unet.temporal
  assert not any("motion_modules" in path for path in flatten(params))


@pytest.mark.parametrize("preset, power, sign", [(None, 1, 1), ("official", 1, 1), ("paper", 2, -1)])
def test_a_360dvd_has_the_switches_of_its_preset_and_a_new_adapter(tmp_path, capsys, preset, power, sign):
  assert main(["convert", "--init", "dvd360", *(["--preset", preset] if preset else []), "--base", PIPELINE,
               "--motion", str(GOLDEN / "motion_adapter"), "--output", str(tmp_path / "start")]) == 0
  assert "no 360-Adapter was given: this one is new" in capsys.readouterr().out
  params, config = weights.load_model(tmp_path / "start")
  assert set(params) == {"adapter", "text", "unet", "vae"} and config.system == "dvd360"
  assert (config.model.loss_weight_power, config.model.sampling.rotation_sign) == (power, sign)


# --- personalised 360DVD


@pytest.fixture(scope="module")
def dvd360(tmp_path_factory):
  """(convert, adapter, another pipeline); `convert(name, *arguments)` gives the parameters of a 360DVD by path."""
  folder = tmp_path_factory.mktemp("personalised")
  adapter = write(folder / "360Adapter.safetensors",
                  {f"module.{name}": value for name, value in tensors("adapter360").items()})
  shift = lambda tensor: tensor.map(lambda values: values + values.dtype.type(0.125))
  other = {kind: dataclasses.replace(network, tensors={name: shift(each) for name, each in network.tensors.items()})
           for kind, network in resolve(PIPELINE).items()}
  weights.save(folder / "other", other, format="diffusers", tokenizer=GOLDEN / "pipeline" / "tokenizer")

  def convert(name, *arguments):
    assert main(["convert", "--init", "dvd360", *map(str, arguments), "--motion", str(GOLDEN / "motion_adapter"),
                 "--output", str(folder / name)]) == 0
    return flatten(weights.load_model(folder / name)[0])

  return convert, adapter, folder / "other"


def changed(one, other):
  """The paths of different values; their types may differ."""
  assert one.keys() == other.keys()
  return {path for path, values in one.items() if not np.array_equal(values, other[path])}


def of_motion(path):
  return path.startswith("adapter/") or "motion_modules" in path


def test_a_personalised_base_leaves_adapter_and_motion_modules_as_they_are(dvd360):
  """Given whole it replaces UNet, text encoder and VAE; without its text encoder it does what 360DVD's script does."""
  convert, adapter, other = dvd360
  plain, whole = convert("plain", "--base", PIPELINE, adapter), convert("whole", "--base", other, adapter)
  assert changed(plain, whole) == {path for path in plain if not of_motion(path)}
  mixed = convert("mixed", "--base", other / "unet", other / "vae", f"{PIPELINE}/text_encoder", adapter,
                  "--tokenizer", f"{PIPELINE}/tokenizer")
  assert changed(plain, mixed) == {path for path in plain if not of_motion(path) and not path.startswith("text/")}
  assert {path.split("/")[0] for path in changed(whole, mixed)} == {"text"}
  for name, values in tensors("adapter360").items():              # the adapter's, out of its own file
    ours = values if values.ndim == 1 else values.transpose(*range(2, values.ndim), 1, 0)
    np.testing.assert_array_equal(plain["adapter/" + name.replace(".", "/").replace("weight", "kernel")], ours)


def test_a_trained_360dvd_goes_on_another_base_with_its_switches(dvd360):
  convert, adapter, other = dvd360
  trained, moved = other.parent / "trained", other.parent / "moved"
  before = convert(trained.name, "--base", PIPELINE, adapter, "--preset", "paper")
  after = convert(moved.name, "--base", other, trained)
  assert changed(before, after) == {path for path in before if not of_motion(path)}
  assert json.loads((moved / "config.json").read_text())["model"]["sampling"]["rotation_sign"] == -1


def kohya_layer(path):
  network, layer = torch_name(path).removesuffix(".weight").split(".", 1)
  stem = {"unet": "lora_unet_", "text": "lora_te_text_model_"}.get(network, "none_") + layer.replace(".", "_")
  return f"{stem}.lora_up.weight", f"{stem}.lora_down.weight"


def peft_layer(path):
  name = torch_name(path).removesuffix(".weight")
  return f"{name}.lora_B.weight", f"{name}.lora_A.weight"


@pytest.mark.parametrize("name, layer, factor, parts", [
  ("kohya", kohya_layer, 1 / 2, {"unet", "text"}), ("pytorch_lora_weights", peft_layer, 3 / 2, {"unet"})])
def test_a_lora_changes_what_it_names_by_its_strength_and_nothing_else(dvd360, name, layer, factor, parts):
  """W + strength · alpha / rank · up @ down, of UNet and text encoder alike; `factor` is alpha / rank."""
  convert, adapter, _ = dvd360
  file = GOLDEN / "lora" / f"{name}.safetensors"
  plain, half, twice = (convert(f"{name} {strength}", "--base", PIPELINE, adapter, "--lora", f"{file}:{strength}")
                        for strength in ("0", "0.5", "-2"))
  lora = load_file(file)
  named = {path: [np.float32(lora[part]).reshape(lora[part].shape[:2]) for part in layer(path)]
           for path in plain if layer(path)[0] in lora}
  assert len(named) == sum(part.endswith(("lora_up.weight", "lora_B.weight")) for part in lora)
  assert changed(plain, half) == changed(plain, twice) == named.keys() and not any(map(of_motion, named))
  assert {path.split("/")[0] for path in named} == parts
  for path, (up, down) in named.items():
    product = (factor * up @ down).T.reshape(plain[path].shape)
    for strength, values in ((0.5, half), (-2, twice)):
      np.testing.assert_allclose(values[path], plain[path] + strength * product, atol=1e-5, err_msg=path)


# --- mistakes


@pytest.mark.parametrize("arguments, words", [
  (["--input", str(GOLDEN / "nowhere")], "does not exist"),
  (["--input", str(LORA)], "is a LoRA (kohya), which is no network by itself"),
  (["--input", str(GOLDEN / "pipeline" / "text_encoder"), "--network", "unet"], "and a UNet is wanted"),
  (["--input", PIPELINE, "--lora", f"{LORA}:strong"], "'strong' is no number"),
  (["--input", PIPELINE, PIPELINE], "are both a"),
  (["--init", "videopanda", "--base", PIPELINE], "no motion modules"),
  (["--init", "videopanda", "--base", PIPELINE], "--stage 1"),
  (["--stage", "1", "--base", PIPELINE], "--stage is a stage of training a system: give --init videopanda"),
  (["--preset", "paper", "--base", PIPELINE], "--preset is of 360DVD: give --init dvd360"),
  (["--init", "dvd360", "--base", PIPELINE], "has no motion modules"),
  (["--init", "videopanda", "--base", str(GOLDEN / "unet_motion")], "tokenizer"),
  (["--init", "videopanda", "--base", PIPELINE, "--format", "diffusers"], "leave out --format"),
  (["--input", PIPELINE, "--sizes", str(GOLDEN / "nowhere.json")], "nowhere.json"),
])
def test_a_mistake_gets_one_sentence_and_leaves_nothing(tmp_path, capsys, arguments, words):
  assert main(["convert", *arguments, "--output", str(tmp_path / "out")]) == 2
  message = capsys.readouterr().err
  assert words in message and message.count("\n") == 1 and message.startswith("panda convert: ")
  assert not list(tmp_path.iterdir())
