"""From paths to networks: what belongs together is put together, and anything else is refused in one sentence."""

import dataclasses
import json
import math

import ml_dtypes
import numpy as np
import pytest

from panda_jax.tree import flatten
from panda_jax.weights import configs
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.resolve import resolve
from tests.weights.networks import (
    ADAPTER, CLIP, CONFIGS, MOTION, UNET, VAE, folder_of, motion_folder, motion_of, original_motion_names, pipeline_of,
    tensors, write, write_json)

ALL = ("unet", "vae", "text_encoder")
WIDE = dataclasses.replace(UNET, block_out_channels=(32, 64), norm_groups=16)
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """One folder of each kind, a pipeline, motion modules, an adapter and a LoRA."""
  root = tmp_path_factory.mktemp("folders")
  for kind in ALL:
    folder_of(root / kind, kind)
  pipeline_of(root / "pipeline", *ALL)
  motion_folder(root / "motion")
  folder_of(root / "unet_motion", "unet", MOTION)
  folder_of(root / "wide", "unet", WIDE)
  write(root / "mm.ckpt", original_motion_names(motion_of(dataclasses.replace(MOTION, block_out_channels=(32, 64)))))
  write(root / "adapter.safetensors", {f"module.{name}": value for name, value in tensors("adapter360").items()})
  for name, layer in {"lora": LAYER, "lora2": LAYER.replace("to_q", "to_k")}.items():
    write(root / f"{name}.safetensors", lora_for(layer, 8, 8))
  return root


def lora_for(layer, outputs, inputs, prefix="lora_unet_", seed=1):
  rng, stem = np.random.default_rng(seed), prefix + layer.replace(".", "_")
  return {f"{stem}.lora_down.weight": rng.normal(size=(2, inputs)).astype(np.float32),
          f"{stem}.lora_up.weight": rng.normal(size=(outputs, 2)).astype(np.float32),
          f"{stem}.alpha": np.ones((), np.float32)}


def refusal(*paths, **options):
  """The sentence that a refusal consists of."""
  with pytest.raises(WeightsError) as error:
    resolve(*paths, **options)
  message = str(error.value)
  assert "\n" not in message and 40 < len(message) < 800, message
  return message


def values(network):
  return {name: tensor.read() for name, tensor in network.tensors.items()}


# --- what is there


@pytest.mark.parametrize("kind", ALL)
def test_a_folder_is_the_network_in_it(folders, kind):
  networks = resolve(folders / kind)
  assert list(networks) == [kind] and networks[kind].config == CONFIGS[kind]
  for name, value in tensors(kind).items():
    np.testing.assert_array_equal(networks[kind].tensors[name].read(), value)


@pytest.mark.parametrize("kind", ALL)
def test_a_file_alone_is_the_network_too(folders, tmp_path, kind):
  """Without a config.json, as far as the published networks go: sizes are read from the tensors."""
  network = resolve(write(tmp_path / "x.safetensors", tensors(kind)))[kind]
  assert network.config == CONFIGS[kind]


def test_the_adapter_of_360dvd(folders):
  network = resolve(folders / "adapter.safetensors")["adapter360"]
  assert network.config == ADAPTER and network.tensors.keys() == tensors("adapter360").keys()


def test_parameters_have_our_paths_and_layouts(folders):
  """As the network itself has them, in its order."""
  network = resolve(folders / "unet")["unet"]
  params = network.params()
  assert {path: leaf.shape for path, leaf in params.items()} == {
      path: leaf.shape for path, leaf in flatten(network.functional.abstract).items()}
  kernel, theirs = params["conv_in/kernel"], tensors("unet")["conv_in.weight"]
  np.testing.assert_array_equal(kernel.read(), theirs.transpose(2, 3, 1, 0))


def test_a_pipeline_is_all_its_networks_or_the_wanted_one(folders):
  assert list(resolve(folders / "pipeline")) == list(ALL)
  for kind in ALL:
    assert list(resolve(folders / "pipeline", wanted=kind)) == [kind]


def test_what_is_given_together_is_put_together(folders):
  networks = resolve(folders / "vae", folders / "unet", folders / "motion", folders / "adapter.safetensors",
                     folders / "lora.safetensors")
  assert networks.keys() == {"unet", "vae", "adapter360"}
  assert networks["unet"].config == MOTION and "with" in networks["unet"].source


def test_half_precision_is_what_the_variant_says(folders, tmp_path):
  """And fp16 files are read without being asked for, where there is nothing else."""
  folder = folder_of(tmp_path, "vae")
  half = {name: value.astype(np.float16) for name, value in tensors("vae").items()}
  write(folder / "diffusion_pytorch_model.fp16.safetensors", half)
  kinds = lambda **options: {tensor.dtype for tensor in resolve(folder, **options)["vae"].tensors.values()}
  assert kinds() == {np.dtype(np.float32)} and kinds(variant="fp16") == {np.dtype(np.float16)}
  (folder / "diffusion_pytorch_model.safetensors").unlink()
  assert kinds() == {np.dtype(np.float16)}
  assert "no weights of the variant bf16" in refusal(folder, variant="bf16")


def test_nothing_is_read_but_names_and_shapes(folders, monkeypatch):
  """So that a plan of a conversion costs no time; what is checked are the tables of positions."""
  read = []
  monkeypatch.setattr("panda_jax.weights.mapped.MappedFile._give_back", lambda *args: read.append(args))
  networks = resolve(folders / "pipeline")
  assert list(networks) == list(ALL) and not read
  networks["vae"].tensors["quant_conv.bias"].read()
  assert len(read) == 1


# --- sizes


def test_sizes_come_from_config_json_and_may_be_given(folders, tmp_path):
  """Heads cannot be told from the tensors: 8 are assumed, other numbers must be said."""
  config = dataclasses.replace(UNET, heads=4, norm_groups=2)
  file = write(tmp_path / "x.safetensors", tensors("unet", config))
  settings = configs.unet_settings(config)
  path = write_json(tmp_path / "sizes" / "config.json", settings)
  assert resolve(file)["unet"].config == UNET
  for given in (settings, path, str(path), path.parent, {"unet": settings}, {"unet": path.parent}):
    assert resolve(file, config=given)["unet"].config == config
  write_json(tmp_path / "config.json", settings)
  assert resolve(file)["unet"].config == config
  assert resolve(file, config=configs.unet_settings(UNET))["unet"].config == UNET     # what is given counts


def test_sizes_may_be_given_for_some_networks_of_several(folders):
  """The others keep their own config.json."""
  heads = configs.unet_settings(dataclasses.replace(UNET, heads=2))
  for given in (heads, {"unet": heads}, {"unet": heads, "vae": configs.vae_settings(VAE)}):
    networks = resolve(folders / "pipeline", config=given)
    assert networks["unet"].config.heads == 2
    assert networks["vae"].config == VAE and networks["text_encoder"].config == CLIP


def test_folders_beside_a_single_file_tell_its_sizes(tmp_path):
  """As the repositories on the hub have them."""
  single = {f"model.diffusion_model.{name}": value for name, value in ldm_names(tensors("unet")).items()}
  text = "cond_stage_model.transformer.text_model."
  single |= {f"{text}{name}": value for name, value in tensors("text_encoder").items()}
  file = write(tmp_path / "model.safetensors", single | {"betas": np.ones(3, np.float32)})
  assert resolve(file)["unet"].config == UNET
  write_json(tmp_path / "unet" / "config.json", configs.unet_settings(dataclasses.replace(UNET, heads=4)))
  assert resolve(file)["unet"].config.heads == 4 and resolve(file)["text_encoder"].config == CLIP


def ldm_names(arrays):
  """The tensors of UNET as LDM names them."""
  table = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
           "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
           "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
           "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
           "mid_block.resnets.1": "middle_block.2", "up_blocks.0.resnets.0": "output_blocks.0.0",
           "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
           "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
           "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1"}
  layers = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
            "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
  renamed = {}
  for name, value in arrays.items():
    block = next(block for block in table if name.startswith(f"{block}."))
    rest = name.removeprefix(f"{block}.")
    if "resnets" in block:
      first, _, last = rest.partition(".")
      rest = f"{layers[first]}.{last}"
    renamed[f"{table[block]}.{rest}"] = value
  return renamed


@pytest.mark.parametrize("key, value", [
    ("block_out_channels", []), ("block_out_channels", [8, 0]), ("block_out_channels", "8"),
    ("layers_per_block", 10**30), ("norm_num_groups", 0), ("norm_num_groups", 3), ("attention_head_dim", 3),
    ("attention_head_dim", [8]),
    ("down_block_types", [1, 2]), ("down_block_types", None), ("cross_attention_dim", -4), ("resnet_norm", "none")])
def test_a_garbled_config_is_refused_in_one_sentence(folders, key, value):
  settings = configs.unet_settings(UNET) | {key: value}
  assert str(folders / "unet") in refusal(folders / "unet", config=settings)


@pytest.mark.parametrize("given, words", [
    ({"vae": configs.unet_settings(UNET)}, "config= gives for the VAE the sizes of a UNet"),
    ({"unet": None, "decoder": {}}, "config= is given for decoder, unet; the networks are unet, vae"),
    (configs.clip_settings(CLIP), "config= gives the sizes of a text encoder, and .*unet has none"),
    ("nowhere/config.json", "nowhere/config.json is not readable JSON")])
def test_sizes_of_something_else_are_refused(folders, given, words):
  with pytest.raises(WeightsError, match=words):
    resolve(folders / "unet", config=given)


def test_sizes_that_could_be_for_any_network_are_refused(folders):
  with pytest.raises(WeightsError, match="does not say for which network .*give it by kind, {'unet': …}"):
    resolve(folders / "pipeline", config={"norm_num_groups": 4})


# --- motion modules


@pytest.mark.parametrize("given", ["argument", "path"])
def test_motion_modules_join_the_unet(folders, given):
  options = {"motion": folders / "motion"} if given == "argument" else {}
  network = resolve(folders / "unet", *[folders / "motion"] * (given == "path"), **options)["unet"]
  assert network.config == MOTION
  np.testing.assert_equal(values(network), tensors("unet") | {
      name: value for name, value in motion_of().items() if not name.endswith(".pe")})


def test_animatediffs_own_file_joins_it_too_and_norms_can_be_switched(folders):
  network = resolve(folders / "wide", motion=folders / "mm.ckpt")["unet"]
  assert (network.config.motion_norm, network.config.resnet_norm, network.config.motion_norm_groups) == (
      "per_frame", "per_frame", 32)
  switched = resolve(folders / "wide", motion=folders / "mm.ckpt", motion_norm="cross_frame", resnet_norm="cross_frame")
  assert (switched["unet"].config.motion_norm, switched["unet"].config.resnet_norm) == ("cross_frame", "cross_frame")
  assert "resnet_norm is 'none'; it may be per_frame" in refusal(folders / "unet", resnet_norm="none")


@pytest.mark.parametrize("original", [False, True])
def test_a_unet_with_its_motion_modules_needs_no_config(tmp_path, original):
  """In diffusers' names, and in those of AnimateDiff and 360DVD."""
  config = dataclasses.replace(MOTION, block_out_channels=(32, 64), norm_groups=16)
  image = {name: value for name, value in tensors("unet", config).items() if "motion_modules" not in name}
  modules = motion_of(config)
  file = write(tmp_path / "x.safetensors", image | (original_motion_names(modules) if original else modules))
  network = resolve(file)["unet"]
  norms = dict(motion_norm="per_frame", motion_norm_groups=32) if original else {}
  assert network.config == dataclasses.replace(config, **norms)
  np.testing.assert_equal(values(network), tensors("unet", config))


def test_a_pipeline_of_animatediff_holds_its_motion_modules_twice(folders, tmp_path):
  """Once in the UNet and once beside it; or beside an image network, which they join."""
  saved = pipeline_of(tmp_path / "saved", *ALL)
  motion_folder(saved / "motion_adapter")
  index = json.loads((saved / "model_index.json").read_text()) | {"motion_adapter": ["diffusers", "MotionAdapter"]}
  write_json(saved / "model_index.json", index)
  assert resolve(saved)["unet"].config == MOTION
  assert list(resolve(saved, wanted="vae")) == ["vae"]
  folder_of(saved / "unet", "unet", MOTION)
  assert resolve(saved)["unet"].config == MOTION
  assert resolve(saved, folders / "lora.safetensors")["unet"].config == MOTION
  assert "both bring motion modules" not in refusal(saved, motion=folders / "motion")


@pytest.mark.parametrize("base, options, words", [
    ("unet_motion", {"motion": "motion"}, "has motion modules already"),
    ("vae", {"motion": "motion"}, "has no UNet, and motion modules need one"),
    ("unet", {"motion": "vae"}, "is a diffusers VAE, and AnimateDiff motion modules are wanted"),
    ("unet", {"motion": "mm.ckpt"}, "make no UNet|32 groups do not divide"),
    ("wide", {"motion": "motion"}, "of another shape"),
    ("vae", {"resnet_norm": "per_frame"}, "has no UNet, and the switches of norms need one")])
def test_motion_modules_that_do_not_fit_are_refused(folders, base, options, words):
  options = {name: folders / value if name == "motion" else value for name, value in options.items()}
  with pytest.raises(WeightsError, match=words):
    resolve(folders / base, **options)


def test_two_sets_of_motion_modules_are_one_too_many(folders):
  assert "both bring motion modules: give one of them" in refusal(folders / "unet", folders / "motion",
                                                                  motion=folders / "motion")


@pytest.mark.parametrize("change, words", [
    (lambda table: table * 1.01, "is not AnimateDiff's sinusoidal table of frame positions"),
    (lambda table: np.roll(table, 1, axis=1), "is not AnimateDiff's sinusoidal table"),
    (lambda table: table[:, :4], "has 4 frame positions where 6 are expected"),
    (lambda table: table * np.nan, "is not AnimateDiff's sinusoidal table"),
    (lambda table: table[0, 0], "is no table of frame positions"), (lambda table: table[:, :0], "is no table"),
    (lambda table: np.stack([table] * 2), "is no table")])
def test_other_tables_of_positions_are_refused(folders, tmp_path, change, words):
  """The table is computed here, so a learned one would be lost without a word."""
  arrays = motion_of()
  name = next(name for name in arrays if name.endswith(".pe"))
  write(tmp_path / "diffusion_pytorch_model.safetensors", arrays | {name: change(arrays[name])})
  write_json(tmp_path / "config.json", {"_class_name": "MotionAdapter", "motion_max_seq_length": 6})
  with pytest.raises(WeightsError, match=words):
    resolve(folders / "unet", motion=tmp_path)


def test_rounded_tables_of_positions_are_fine(folders, tmp_path):
  """As fp16 variants have them."""
  write(tmp_path / "x.safetensors", {name: value.astype(np.float16) for name, value in motion_of().items()})
  assert resolve(folders / "unet", motion=tmp_path / "x.safetensors")["unet"].config.max_frames == 6


def test_the_number_of_frames_must_be_known(folders, tmp_path):
  arrays = {name: value for name, value in motion_of().items() if not name.endswith(".pe")}
  file = write(tmp_path / "diffusion_pytorch_model.safetensors", arrays)
  assert "how many frames it knows is unknown: give" in refusal(folders / "unet", motion=file)
  write_json(tmp_path / "config.json", {"_class_name": "MotionAdapter", "motion_max_seq_length": 6})
  assert resolve(folders / "unet", motion=tmp_path)["unet"].config.max_frames == 6


# --- LoRA


def test_loras_add_up(folders):
  """Given as paths at strength 1, or with a strength each."""
  base = tensors("unet")

  def delta(name):
    down, up, alpha = lora_for(name.removesuffix(".weight"), 8, 8).values()
    return alpha / 2 * (up @ down)

  files = [folders / "lora.safetensors", folders / "lora2.safetensors"]
  together = values(resolve(folders / "unet", *files)["unet"])
  apart = values(resolve(folders / "unet", lora=[(files[0], 1.0), (files[1], 0.25), (files[0], -0.5)])["unet"])
  query, key = LAYER + ".weight", LAYER.replace("to_q", "to_k") + ".weight"
  for merged, strengths in ((together, (1, 1)), (apart, (0.5, 0.25))):
    for name, strength in zip((query, key), strengths):
      np.testing.assert_allclose(merged[name], base[name] + strength * delta(name), atol=1e-6)
    assert all((merged[name] == base[name]).all() for name in base.keys() - {query, key})


def test_a_lora_is_merged_in_float32_and_rounded_once(folders, tmp_path):
  half = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors("unet").items()}
  network = resolve(write(tmp_path / "x.safetensors", half), folders / "lora.safetensors")["unet"]
  full = resolve(folders / "unet", folders / "lora.safetensors")["unet"].tensors[f"{LAYER}.weight"].read()
  assert network.tensors[f"{LAYER}.weight"].dtype == np.float32
  rounding = half[f"{LAYER}.weight"].astype(np.float32) - tensors("unet")[f"{LAYER}.weight"]
  np.testing.assert_allclose(network.tensors[f"{LAYER}.weight"].read() - rounding, full, atol=1e-6)
  assert network.tensors["conv_in.weight"].dtype == ml_dtypes.bfloat16


def test_a_lora_for_both_networks_reaches_both(folders, tmp_path):
  """And one of them alone, where only that is loaded."""
  text = "encoder.layers.0.self_attn.q_proj"
  both = write(tmp_path / "both.safetensors", lora_for(LAYER, 8, 8) | lora_for(text, 16, 16, "lora_te_text_model_"))
  networks = resolve(folders / "unet", folders / "text_encoder", both)
  for kind, layer in (("unet", LAYER), ("text_encoder", text)):
    assert (networks[kind].tensors[f"{layer}.weight"].read() != tensors(kind)[f"{layer}.weight"]).all()
    alone = resolve(folders / kind, both)[kind].tensors[f"{layer}.weight"].read()
    np.testing.assert_array_equal(networks[kind].tensors[f"{layer}.weight"].read(), alone)


@pytest.mark.parametrize("base, layer, shape, words", [
    ("unet", LAYER, (9, 8), "1 pairs of another shape than the network's"),
    ("unet", "down_blocks.3.attentions.0.proj_in", (8, 8), "fit no layer of what is loaded .unet."),
    ("text_encoder", LAYER, (8, 8), "is a LoRA for unet, but loaded is text_encoder"),
    ("vae", LAYER, (8, 8), "only a UNet or a text encoder takes a LoRA")])
def test_loras_for_other_networks_are_refused(folders, tmp_path, base, layer, shape, words):
  file = write(tmp_path / "other.safetensors", lora_for(layer, *shape))
  assert "other.safetensors" in refusal(folders / base, lora=[(file, 1.0)])
  with pytest.raises(WeightsError, match=words):
    resolve(folders / base, lora=[(file, 1.0)])


@pytest.mark.parametrize("strength", [math.nan, math.inf])
def test_a_strength_is_a_number(folders, strength):
  assert "must be a number such as 0.8" in refusal(folders / "unet", lora=[(folders / "lora.safetensors", strength)])


# --- what is refused


@pytest.mark.parametrize("path, wanted, what, instead", [
    ("text_encoder", "unet", "a CLIP text encoder", "a UNet is wanted"),
    ("unet", "text_encoder", "a diffusers UNet", "a text encoder is wanted"),
    ("vae", "adapter360", "a diffusers VAE", "a 360DVD adapter is wanted"),
    ("motion", "unet", "a diffusers MotionAdapter", "a UNet is wanted"),
    ("lora.safetensors", "unet", "a LoRA .kohya.", "a UNet is wanted"),
    ("pipeline", "adapter360", "a diffusers UNet with a diffusers VAE with a CLIP", "a 360DVD adapter is wanted")])
def test_another_network_than_the_wanted_one(folders, path, wanted, what, instead):
  with pytest.raises(WeightsError, match=f"{path} is {what}.*, and {instead}: give a file or folder of one"):
    resolve(folders / path, wanted=wanted)


@pytest.mark.parametrize("path, what, argument", [
    ("motion", "a diffusers MotionAdapter", "motion="), ("mm.ckpt", "an AnimateDiff motion module", "motion="),
    ("lora.safetensors", "a LoRA .kohya.", "lora=")])
def test_what_is_no_network_by_itself(folders, path, what, argument):
  with pytest.raises(WeightsError, match=f"{path} is {what}, which is no network by itself: give it as {argument}"):
    resolve(folders / path)


def test_two_networks_of_one_kind(folders):
  message = refusal(folders / "unet", folders / "wide")
  assert str(folders / "unet") in message and str(folders / "wide") in message and "are both a UNet" in message


def test_a_pipeline_with_the_same_network_in_two_folders(folders, tmp_path):
  """Somebody copied into the wrong folder: neither is taken without a word."""
  pipeline = pipeline_of(tmp_path, "unet", "vae")
  (pipeline / "vae" / "config.json").unlink()
  write(pipeline / "vae" / "diffusion_pytorch_model.safetensors", tensors("unet", seed=1))
  message = refusal(pipeline)
  assert f"{pipeline / 'unet'} and {pipeline / 'vae'} are both a UNet" in message


def test_the_config_of_another_network_beside_the_weights(tmp_path):
  folder_of(tmp_path, "vae")
  write_json(tmp_path / "config.json", configs.unet_settings(UNET))
  assert "holds the weights of a VAE, and its config.json is for a UNet" in refusal(tmp_path)


def test_a_network_of_other_sizes_than_its_config_says(tmp_path):
  folder_of(tmp_path, "unet", arrays=tensors("unet", dataclasses.replace(UNET, text_channels=10)))
  message = refusal(tmp_path)
  assert "8 of another shape" in message and "is [8, 10], the network has [8, 12]" in message


def test_an_sdxl_unet(tmp_path):
  """By its tensors, in either library's names, or by its config.json."""
  xl = {"_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time"}
  arrays = tensors("unet")
  diffusers = write(tmp_path / "a.safetensors", arrays | {"add_embedding.linear_1.weight": np.ones((2, 2), np.float32)})
  ldm = write(tmp_path / "b.safetensors", {f"model.diffusion_model.{name}": value for name, value in (
      ldm_names(arrays) | {"label_emb.0.0.weight": np.ones((2, 2), np.float32)}).items()})
  for path in (diffusers, ldm):
    message = refusal(path)
    assert "an SDXL UNet" in message and "give a UNet or single file of Stable Diffusion 1.x or 2.x" in message
  message = refusal(write(tmp_path / "c.safetensors", arrays), config=xl)
  assert "addition_embed_type 'text_time', as SDXL has" in message


def test_tensors_that_are_missing_left_over_or_misshapen_are_listed_by_group(tmp_path):
  arrays = tensors("unet")
  del arrays["conv_in.bias"], arrays["mid_block.resnets.0.norm1.weight"], arrays["mid_block.resnets.1.norm1.weight"]
  arrays |= {"conv_in.extra": np.ones(2, np.float32), "conv_out.bias": np.ones(5, np.float32)}
  message = refusal(folder_of(tmp_path, "unet", arrays=arrays))
  assert "3 missing: conv_in.bias, mid_block.resnets.0.norm1.weight, mid_block.resnets.1.norm1.weight" in message
  assert "1 unexpected: conv_in.extra" in message
  assert "1 of another shape: conv_out.bias (conv_out.bias is [5], the network has [4])" in message


@pytest.mark.parametrize("name", ["conv_in.weight", "mid_block.attentions.0.proj_in.weight"])
def test_a_file_without_the_tensors_that_tell_its_sizes(tmp_path, name):
  arrays = tensors("unet")
  del arrays[name]
  assert f"does not have {name}, without which its sizes are unknown" in refusal(
      write(tmp_path / "x.safetensors", arrays))


def test_a_file_that_ends_before_its_first_level(tmp_path):
  arrays = {name: value for name, value in tensors("unet").items() if not name.startswith("down_blocks")}
  assert "does not have down_blocks.0" in refusal(write(tmp_path / "x.safetensors", arrays))


def test_a_quantised_network(tmp_path):
  """Its integers are no weights, and cast to floating point they would be taken for such."""
  arrays = tensors("vae") | {"quant_conv.weight": np.ones((8, 8, 1, 1), np.int8)}
  assert "holds integers where weights are wanted (quant_conv.weight), as quantised networks do" in refusal(
      folder_of(tmp_path, "vae", arrays=arrays))


def test_nothing_at_all(tmp_path):
  assert "is an empty folder" in refusal(tmp_path)
  assert "does not exist" in refusal(tmp_path / "absent")


def test_a_network_that_is_not_known_by_name():
  with pytest.raises(ValueError, match="wanted is 'clip'; the networks are unet, vae, text_encoder, adapter360"):
    resolve("anything", wanted="clip")
