import json

import numpy as np
import pytest

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.names import motion_details, split_formats
from tests.paths import PARITY, SHARED, needs_parity
from tests.weights.unread import file_of, only_part

KEYS = SHARED / "specs" / "keys"
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of names are not beside this checkout")

SPATIAL = "down_blocks.0.resnets.0.conv1.weight"


@pytest.mark.parametrize("shapes, words", [
    ([SPATIAL, "add_embedding.linear_1.weight"], "an SDXL UNet (diffusers)"),
    (["model.diffusion_model.input_blocks.1.0.in_layers.0.weight", "model.diffusion_model.label_emb.0.0.weight"],
     "an SDXL UNet (LDM)"),
    (["input_blocks.1.0.in_layers.0.weight", "label_emb.0.0.weight"], "an SDXL UNet (LDM)"),
    (["model.diffusion_model.input_blocks.1.0.in_layers.0.weight", "conditioner.embedders.0.model.ln_final.bias"],
     "an SDXL single file"),
    ({"text_model.embeddings.token_embedding.weight": (49408, 1280), "text_model.final_layer_norm.bias": (1280,)},
     "the second text encoder of SDXL"),
    ({"text_model.encoder.layers.0.mlp.fc1.weight": (5120, 1280), "text_projection.weight": (1280, 1280)},
     "the second text encoder of SDXL"),
    (["transformer_blocks.0.attn.add_k_proj.weight", "pos_embed.pos_embed", "context_embedder.weight"],
     "a Stable Diffusion 3 transformer"),
    (["model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"], "a Stable Diffusion 3 transformer"),
    (["single_transformer_blocks.0.proj_mlp.weight", "x_embedder.weight"], "a Flux transformer"),
    (["double_blocks.0.img_attn.qkv.weight"], "a Flux transformer"),
    (["transformer_blocks.0.attn1.to_q.weight", "pos_embed.proj.weight"], "a diffusion transformer"),
    ([SPATIAL, "controlnet_cond_embedding.conv_in.weight"], "a ControlNet"),
    (["control_model.input_blocks.1.0.in_layers.0.weight"], "a ControlNet"),
    (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "an IP-Adapter"),
    ({"body.0.block1.weight": (8, 8, 3, 3), "conv_in.weight": (8, 192, 3, 3)}, "a T2I-Adapter"),
    ({"<cat>": (1, 768)}, "a textual inversion embedding"),
    ({"emb_params": (4, 768)}, "a textual inversion embedding"),
    (["vision_model.embeddings.patch_embedding.weight", "vision_model.encoder.layers.0.mlp.fc1.weight",
      "visual_projection.weight"], "a CLIP vision tower"),
    (["embeddings.class_embedding", "encoder.layers.0.mlp.fc1.weight"], "a CLIP vision tower"),
    (["transformer.resblocks.0.attn.in_proj_weight", "visual.conv1.weight", "ln_final.weight"],
     "a CLIP model in the names of its authors"),
    (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], "a T5 text encoder"),
    (["Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch1x1.bn.bias"], "an InceptionV3"),
    (["unet/down_blocks/0/resnets/0/conv1/kernel"], "a panda_jax model"),
    (["state.0.exp_avg", "state.0.exp_avg_sq"], "the state of an optimizer"),
    (["quantize.embedding.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"], "a VQ autoencoder"),
    (["down_blocks.0.resnets.0.spatial_res_block.conv1.weight"], "a Stable Video Diffusion network"),
    (["mid_block.attentions.0.proj_in.base_layer.weight", "mid_block.attentions.0.proj_in.lora_A.default.weight"],
     "a network with a LoRA beside its weights"),
    (["module.fnet.conv1.weight", "module.update_block.mask.0.bias"], "an optical-flow network")])
def test_strangers_are_refused_by_name(shapes, words):
  """One sentence: the file, what it is, a tensor that tells so, and what to give instead."""
  with pytest.raises(WeightsError) as refusal:
    split_formats(file_of(shapes, "strange.safetensors"))
  message = str(refusal.value)
  assert message.startswith(f"strange.safetensors is {words}") and "\n" not in message
  assert any(name in message for name in shapes) and ("give " in message or "merge " in message)


def test_a_file_of_no_format_is_refused_with_what_it_holds():
  with pytest.raises(WeightsError, match="a.bin is a file of 5 tensors .rnn.0, rnn.1, rnn.2 and others. in no format"):
    split_formats(file_of([f"rnn.{index}" for index in range(5)], "a.bin"))
  with pytest.raises(WeightsError, match="a.bin is a file of 0 tensors in no format"):
    split_formats(file_of([], "a.bin"))


@pytest.mark.parametrize("name, section", [
    ("model.diffusion_model.extra.bias", 0), ("model.diffusion_model.input_blocks.1.2.gate", 0), ("surprise", 0),
    ("first_stage_model.extra.bias", 1), ("cond_stage_model.transformer.extra.bias", 2)])
def test_unknown_tensors_are_never_dropped(name, section):
  """They stay in the part that they lie in, under their own names, for the strict comparison to report."""
  names = ["model.diffusion_model.input_blocks.1.0.in_layers.0.bias", "model.diffusion_model.out.2.bias",
           "first_stage_model.decoder.up.0.block.0.conv1.bias", "first_stage_model.quant_conv.bias",
           "cond_stage_model.transformer.text_model.final_layer_norm.bias",
           "cond_stage_model.transformer.text_model.embeddings.position_ids"]
  names += ["betas", "sqrt_recipm1_alphas_cumprod", "model_ema.diffusion_modelout2bias", "model_ema.decay", name]
  parts = split_formats(file_of(names))
  assert [part.kind for part in parts] == ["unet", "vae", "text_encoder"]
  assert [index for index, part in enumerate(parts) if name in part.tensors] == [section]
  everything = [item for part in parts for item in (*part.origins.values(), *part.positions, *part.ignored)]
  assert sorted(everything) == sorted(names)


@pytest.mark.parametrize("names", [
    ["conv_in.weight", "module.conv_in.weight", SPATIAL],
    ["text_model.final_layer_norm.bias", "final_layer_norm.bias"],
    ["decoder.mid_block.attentions.0.query.bias", "decoder.mid_block.attentions.0.to_q.bias"]])
def test_two_tensors_for_one_place_are_refused(names):
  with pytest.raises(WeightsError, match=f"holds both {names[0]} and {names[1]}"):
    split_formats(file_of(names))


def test_two_networks_of_a_kind_are_refused():
  with pytest.raises(WeightsError, match="not clear which is meant"):
    split_formats(file_of(["model.diffusion_model.input_blocks.0.0.weight", SPATIAL]))


def key_list(name, entry="keys"):
  content = json.loads((KEYS / f"{name}.json").read_text())
  return {key: tuple(shape) for key, shape in (content if entry is None else content[entry]).items()}


@needs_keys
@pytest.mark.parametrize("name, kind, form, entry", [
    ("diffusers_unet2d_sd15", "unet", "unet_diffusers", "keys"),
    ("diffusers_unetmotion_v1", "unet", "unet_motion_diffusers", "keys"),
    ("diffusers_unetmotion_v2", "unet", "unet_motion_diffusers", "keys"),
    ("diffusers_motion_adapter_v1", "motion", "motion_diffusers", "keys"),
    ("diffusers_motion_adapter_v2", "motion", "motion_diffusers", "keys"),
    ("diffusers_motion_adapter_v3", "motion", "motion_diffusers", "keys"),
    ("diffusers_vae_sd", "vae", "vae_diffusers", "keys"),
    ("diffusers_clip_text_l14", "text_encoder", "text_transformers", "keys"),
    ("dvd360_adapter", "adapter360", "adapter360", "full")])
def test_names_that_are_canonical_stay(name, kind, form, entry):
  shapes = key_list(name, entry)
  part = only_part(shapes)
  assert (part.kind, part.format.name, part.ignored) == (kind, form, [])
  assert {**part.shapes, **{name: tensor.shape for name, tensor in part.positions.items()}} == shapes
  if kind == "motion":
    assert motion_details(part).version == name[-2:]


@needs_keys
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_unet_of_360dvd_has_the_names_and_shapes_of_diffusers(version):
  """All 1246 tensors (1274 with the mid block of v2), and its motion modules alone."""
  shapes = key_list("dvd360_unet", "full_v1")
  if version == "v2":
    shapes |= key_list("dvd360_unet", "v2_extra_keys")
  for kind, mine, theirs in (("unet", shapes, f"diffusers_unetmotion_{version}"),
                             ("motion", {name: shape for name, shape in shapes.items() if "motion_modules" in name},
                              f"diffusers_motion_adapter_{version}")):
    part = only_part(mine)
    expected = {name: shape for name, shape in key_list(theirs).items() if not name.endswith("pos_embed.pe")}
    assert part.kind == kind and part.shapes == expected
    assert len(part.tensors) + len(part.positions) == len(mine)


@needs_keys
def test_the_old_vae_has_the_names_and_shapes_of_the_new_one():
  part = only_part(key_list("vae_diffusers0111", None))
  assert part.format.name == "vae_diffusers_old" and part.shapes == key_list("diffusers_vae_sd")


@needs_parity
def test_a_single_file_is_the_three_folders_bit_for_bit():
  from panda_jax.weights.files import open_tensors
  parts = split_formats(open_tensors(PARITY / "sd15_single_file" / "model.safetensors"))
  folders = ("unet2d_sd15/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "clip_text/text_encoder_sd15/model")
  assert [part.kind for part in parts] == ["unet", "vae", "text_encoder"]
  assert sum(len(part.tensors) + len(part.ignored) for part in parts) == 1001
  for part, folder in zip(parts, folders, strict=True):
    expected, = split_formats(open_tensors(PARITY / f"{folder}.safetensors"))
    assert part.shapes == expected.shapes
    for name, tensor in expected.tensors.items():
      np.testing.assert_array_equal(part.tensors[name].read(), tensor.read(), err_msg=name)


@needs_parity
def test_animatediff_v1_is_the_motion_adapter_bit_for_bit():
  from panda_jax.weights.files import open_tensors
  part, = split_formats(open_tensors(PARITY / "motion" / "mm_v1.ckpt"))
  folder = PARITY / "motion" / "diffusers_adapter_v1"
  expected, = split_formats(open_tensors(folder / "diffusion_pytorch_model.safetensors"))
  assert part.shapes == expected.shapes
  for name, tensor in expected.tensors.items():
    np.testing.assert_array_equal(part.tensors[name].read(), tensor.read(), err_msg=name)
  lengths = {"mm_v1.ckpt": ("v1", 24, False), "mm_v2.ckpt": ("v2", 32, True), "mm_v3.ckpt": ("v3", 32, False)}
  for name, (version, frames, mid) in lengths.items():
    part, = split_formats(open_tensors(PARITY / "motion" / name))
    details = motion_details(part)
    assert (details.version, details.frames, details.mid_block) == (version, frames, mid)
    assert {name for name in part.tensors if "mid_block" not in name} == set(expected.tensors)
