"""The tables, against lists that were made by hand and not with them."""

import numpy as np
import pytest

from panda_jax.weights.names import motion_details, split_formats
from panda_jax.weights.tensors import LazyTensor, TensorFile
from tests.weights.unread import only_part

# Independent of the tables: what lies where in Stable Diffusion 1.x and 2.x, counted by hand.
TWO_LAYERS = {
    "downs": {1: (0, 0), 2: (0, 1), 4: (1, 0), 5: (1, 1), 7: (2, 0), 8: (2, 1), 10: (3, 0), 11: (3, 1)},
    "downsamplers": {3: 0, 6: 1, 9: 2},
    "ups": {0: (0, 0), 1: (0, 1), 2: (0, 2), 3: (1, 0), 4: (1, 1), 5: (1, 2), 6: (2, 0), 7: (2, 1), 8: (2, 2),
            9: (3, 0), 10: (3, 1), 11: (3, 2)},
    "upsamplers": {2: (0, 1), 5: (1, 2), 8: (2, 2)}}
ONE_LAYER = {
    "downs": {1: (0, 0), 3: (1, 0), 5: (2, 0), 7: (3, 0)},
    "downsamplers": {2: 0, 4: 1, 6: 2},
    "ups": {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1), 4: (2, 0), 5: (2, 1), 6: (3, 0), 7: (3, 1)},
    "upsamplers": {1: (0, 1), 3: (1, 2), 5: (2, 2)}}
RESNET = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
          "out_layers.3": "conv2"}
ATTENTION = ["norm.weight", "proj_in.bias", "transformer_blocks.0.attn1.to_q.weight",
             "transformer_blocks.0.attn2.to_out.0.bias", "transformer_blocks.0.ff.net.0.proj.weight", "proj_out.weight"]


def ldm_unet_names(layout):
  """LDM name -> diffusers name."""
  pairs = {"time_embed.0.weight": "time_embedding.linear_1.weight", "time_embed.2.bias": "time_embedding.linear_2.bias",
           "input_blocks.0.0.weight": "conv_in.weight", "out.0.bias": "conv_norm_out.bias",
           "out.2.weight": "conv_out.weight"}
  places = {f"input_blocks.{number}": f"down_blocks.{block}.%s.{layer}"
            for number, (block, layer) in layout["downs"].items()}
  places |= {f"output_blocks.{number}": f"up_blocks.{block}.%s.{layer}"
             for number, (block, layer) in layout["ups"].items()}
  for ldm, ours in places.items():
    for leaf, new in RESNET.items():
      pairs[f"{ldm}.0.{leaf}.weight"] = f"{ours % 'resnets'}.{new}.weight"
    pairs[f"{ldm}.0.skip_connection.bias"] = f"{ours % 'resnets'}.conv_shortcut.bias"
    if "down_blocks.3" not in ours and "up_blocks.0" not in ours:
      pairs |= {f"{ldm}.1.{leaf}": f"{ours % 'attentions'}.{leaf}" for leaf in ATTENTION}
  for number, block in layout["downsamplers"].items():
    pairs[f"input_blocks.{number}.0.op.weight"] = f"down_blocks.{block}.downsamplers.0.conv.weight"
  for number, (block, slot) in layout["upsamplers"].items():
    pairs[f"output_blocks.{number}.{slot}.conv.bias"] = f"up_blocks.{block}.upsamplers.0.conv.bias"
  for leaf, new in RESNET.items():
    pairs[f"middle_block.0.{leaf}.bias"] = f"mid_block.resnets.0.{new}.bias"
    pairs[f"middle_block.2.{leaf}.bias"] = f"mid_block.resnets.1.{new}.bias"
  pairs |= {f"middle_block.1.{leaf}": f"mid_block.attentions.0.{leaf}" for leaf in ATTENTION}
  return pairs


VAE_PAIRS = {
    "encoder.conv_in.weight": "encoder.conv_in.weight",
    "encoder.down.0.block.1.norm1.bias": "encoder.down_blocks.0.resnets.1.norm1.bias",
    "encoder.down.2.block.0.nin_shortcut.weight": "encoder.down_blocks.2.resnets.0.conv_shortcut.weight",
    "encoder.down.3.block.1.conv2.weight": "encoder.down_blocks.3.resnets.1.conv2.weight",
    "encoder.down.1.downsample.conv.bias": "encoder.down_blocks.1.downsamplers.0.conv.bias",
    "encoder.mid.block_1.conv1.weight": "encoder.mid_block.resnets.0.conv1.weight",
    "encoder.mid.block_2.norm2.weight": "encoder.mid_block.resnets.1.norm2.weight",
    "encoder.mid.attn_1.norm.weight": "encoder.mid_block.attentions.0.group_norm.weight",
    "encoder.norm_out.bias": "encoder.conv_norm_out.bias",
    "encoder.conv_out.bias": "encoder.conv_out.bias",
    "decoder.conv_in.bias": "decoder.conv_in.bias",
    "decoder.mid.attn_1.q.bias": "decoder.mid_block.attentions.0.to_q.bias",
    "decoder.mid.attn_1.k.bias": "decoder.mid_block.attentions.0.to_k.bias",
    "decoder.mid.attn_1.v.bias": "decoder.mid_block.attentions.0.to_v.bias",
    "decoder.mid.attn_1.proj_out.bias": "decoder.mid_block.attentions.0.to_out.0.bias",
    "decoder.up.3.block.2.conv1.weight": "decoder.up_blocks.0.resnets.2.conv1.weight",
    "decoder.up.3.upsample.conv.weight": "decoder.up_blocks.0.upsamplers.0.conv.weight",
    "decoder.up.0.block.0.nin_shortcut.bias": "decoder.up_blocks.3.resnets.0.conv_shortcut.bias",
    "decoder.norm_out.weight": "decoder.conv_norm_out.weight",
    "decoder.conv_out.weight": "decoder.conv_out.weight",
    "quant_conv.weight": "quant_conv.weight", "post_quant_conv.bias": "post_quant_conv.bias"}
TEXT_NAMES = ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight",
              "encoder.layers.0.self_attn.k_proj.weight", "encoder.layers.11.mlp.fc2.bias", "final_layer_norm.weight"]
MODULE = "up_blocks.1.motion_modules.2"
TABLE = "temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
MOTION_PAIRS = {f"{MODULE}.temporal_transformer.{ours}": f"{MODULE}.{canonical}" for ours, canonical in {
    "norm.weight": "norm.weight", "proj_in.bias": "proj_in.bias", "proj_out.weight": "proj_out.weight",
    "transformer_blocks.0.attention_blocks.0.to_q.weight": "transformer_blocks.0.attn1.to_q.weight",
    "transformer_blocks.0.attention_blocks.1.to_out.0.bias": "transformer_blocks.0.attn2.to_out.0.bias",
    "transformer_blocks.0.norms.0.weight": "transformer_blocks.0.norm1.weight",
    "transformer_blocks.0.norms.1.bias": "transformer_blocks.0.norm2.bias",
    "transformer_blocks.0.ff_norm.bias": "transformer_blocks.0.norm3.bias",
    "transformer_blocks.0.ff.net.0.proj.weight": "transformer_blocks.0.ff.net.0.proj.weight"}.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("layout", [TWO_LAYERS, ONE_LAYER], ids=["two layers", "one layer"])
def test_every_block_of_an_ldm_unet_finds_its_place(layout, prefix):
  """With one or two layers per block, with and without the prefix of a single file."""
  pairs = ldm_unet_names(layout)
  part = only_part([prefix + name for name in pairs])
  assert (part.kind, part.format.name, part.prefix) == ("unet", "unet_ldm", prefix)
  assert part.origins == {ours: prefix + ldm for ldm, ours in pairs.items()}


def test_an_absent_downsampler_does_not_move_other_blocks():
  """So that the refusal of a damaged file names the tensors that are absent, and no others."""
  pairs = ldm_unet_names(TWO_LAYERS)
  del pairs["input_blocks.3.0.op.weight"]
  assert set(only_part(pairs).tensors) == set(pairs.values())


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_ldm_vae_becomes_a_diffusers_vae(prefix):
  """Levels of the decoder are counted the other way round; losses and moving averages are left."""
  part = only_part([prefix + name for name in VAE_PAIRS] + [f"{prefix}loss.logvar", "model_ema.decay"])
  assert (part.kind, part.format.name) == ("vae", "vae_ldm")
  assert part.origins == {ours: prefix + ldm for ldm, ours in VAE_PAIRS.items()}
  assert sorted(part.ignored) == sorted([f"{prefix}loss.logvar", "model_ema.decay"])


def test_attention_in_a_vae_is_linear_whatever_the_file_has():
  """1x1 convolutions become matrices, value for value; other convolutions stay."""
  kernel = np.arange(16, dtype=np.float32).reshape(4, 4, 1, 1)
  names = ("encoder.mid.attn_1.q.weight", "encoder.mid.attn_1.proj_out.weight", "quant_conv.weight")
  part, = split_formats(TensorFile("vae.ckpt", {name: LazyTensor.of(kernel, name) for name in names}, {}))
  for name in ("to_q", "to_out.0"):
    tensor = part.tensors[f"encoder.mid_block.attentions.0.{name}.weight"]
    assert tensor.shape == (4, 4)
    np.testing.assert_array_equal(tensor.read(), kernel[:, :, 0, 0])
  assert part.tensors["quant_conv.weight"].shape == (4, 4, 1, 1)


def test_old_attention_names_of_diffusers_become_new_ones():
  old = {f"decoder.mid_block.attentions.0.{name}.weight": (4, 4) for name in ("query", "key", "value", "proj_attn")}
  part = only_part(old | {"decoder.mid_block.resnets.0.conv1.weight": (4, 4, 3, 3)})
  assert part.format.name == "vae_diffusers_old"
  assert set(part.tensors) == {f"decoder.mid_block.{name}.weight" for name in (
      "attentions.0.to_q", "attentions.0.to_k", "attentions.0.to_v", "attentions.0.to_out.0", "resnets.0.conv1")}


@pytest.mark.parametrize("prefix, form", [
    ("", "text_transformers"), ("text_model.", "text_transformers"), ("module.text_model.", "text_transformers"),
    ("cond_stage_model.transformer.text_model.", "text_ldm"), ("cond_stage_model.transformer.", "text_ldm")])
def test_clip_is_known_by_any_prefix(prefix, form):
  """And what a whole CLIP model holds beside its text encoder is left."""
  beside = [f"{prefix}embeddings.position_ids"]
  if prefix == "text_model.":
    beside += ["logit_scale", "text_projection.weight", "vision_model.post_layernorm.bias"]
  part = only_part([prefix + name for name in TEXT_NAMES] + beside)
  assert (part.kind, part.format.name) == ("text_encoder", form)
  assert part.origins == {name: prefix + name for name in TEXT_NAMES}
  assert part.ignored == beside
  assert part.format.settings == ({"activation": "quick_gelu"} if form == "text_ldm" else {})


def in_memory(values):
  return TensorFile("sd2.ckpt", {name: LazyTensor.of(array, name) for name, array in values.items()}, {})


def openclip(blocks, width=4):
  """The text encoder of a Stable Diffusion 2.x single file, with values."""
  rng = np.random.default_rng(0)
  shapes = {"positional_embedding": (77, width), "text_projection": (width, width), "logit_scale": (),
            "token_embedding.weight": (50, width), "ln_final.weight": (width,), "ln_final.bias": (width,)}
  for block in range(blocks):
    for name, shape in {"ln_1": (width,), "ln_2": (width,), "attn.out_proj": (width, width),
                        "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}.items():
      shapes |= {f"transformer.resblocks.{block}.{name}.weight": shape,
                 f"transformer.resblocks.{block}.{name}.bias": shape[:1]}
    shapes |= {f"transformer.resblocks.{block}.attn.in_proj_weight": (3 * width, width),
               f"transformer.resblocks.{block}.attn.in_proj_bias": (3 * width,)}
  return {f"cond_stage_model.model.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("blocks", [24, 23], ids=["as released", "without the unused block"])
def test_openclip_becomes_a_transformers_encoder_of_23_layers(blocks):
  """Fused projections are cut into query, key and value; block 24, which Stable Diffusion 2.x never runs, is left."""
  values = openclip(blocks)
  part, = split_formats(in_memory(values))
  assert part.format.name == "text_openclip" and part.format.settings == {"activation": "gelu"}
  assert len(part.tensors) == 4 + 23 * 16
  assert len(part.ignored) == 2 + (12 if blocks == 24 else 0)
  block = "cond_stage_model.model.transformer.resblocks.22"
  for index, letter in enumerate("qkv"):
    for end in ("weight", "bias"):
      tensor = part.tensors[f"encoder.layers.22.self_attn.{letter}_proj.{end}"]
      expected = values[f"{block}.attn.in_proj_{end}"][4 * index:4 * (index + 1)]
      assert tensor.shape == expected.shape
      np.testing.assert_array_equal(tensor.read(), expected)
  for canonical, name in {"layer_norm1": "ln_1", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                          "self_attn.out_proj": "attn.out_proj"}.items():
    assert part.origins[f"encoder.layers.22.{canonical}.weight"] == f"{block}.{name}.weight"
  assert part.origins["embeddings.position_embedding.weight"] == "cond_stage_model.model.positional_embedding"
  assert part.origins["final_layer_norm.bias"] == "cond_stage_model.model.ln_final.bias"


def test_openclip_agrees_with_diffusers():
  torch = pytest.importorskip("torch")
  utils = pytest.importorskip("diffusers.loaders.single_file_utils")
  values = openclip(24)
  config = type("Config", (), {"hidden_size": 4})
  expected = utils.convert_open_clip_checkpoint(type("Text", (), {"config": config}),
                                                {name: torch.from_numpy(array) for name, array in values.items()})
  expected = {name.removeprefix("text_model."): tensor.numpy() for name, tensor in expected.items()
              if not name.startswith("text_projection")}
  part, = split_formats(in_memory(values))
  assert set(part.tensors) == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(part.tensors[name].read(), array)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_animatediff_becomes_a_motion_adapter(wrapper):
  """Whatever a training script wrapped around it; tables of positions come apart, by their names in the file."""
  tables = {f"{wrapper}{MODULE}.{TABLE}": (1, 24, 8),
            f"{wrapper}{MODULE}.{TABLE.replace('blocks.0.pos', 'blocks.1.pos')}": (1, 24, 8)}
  part = only_part({wrapper + name: (8,) for name in MOTION_PAIRS} | tables)
  assert (part.kind, part.format.name) == ("motion", "motion_animatediff")
  assert part.origins == {canonical: wrapper + name for name, canonical in MOTION_PAIRS.items()}
  assert {name: tensor.shape for name, tensor in part.positions.items()} == tables


def test_a_whole_animatediff_unet_is_a_unet():
  spatial = ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.attentions.0.norm.bias"]
  part = only_part(["module." + name for name in [*spatial, *MOTION_PAIRS]])
  assert (part.kind, part.format.name) == ("unet", "unet_animatediff")
  assert set(part.tensors) == {*spatial, *MOTION_PAIRS.values()}
  part = only_part([*spatial, *MOTION_PAIRS.values()])
  assert (part.kind, part.format.name) == ("unet", "unet_motion_diffusers")


@pytest.mark.parametrize("frames, mid, version", [
    (24, False, "v1"), (32, True, "v2"), (32, False, "v3"), (16, False, None)])
@pytest.mark.parametrize("original", [True, False], ids=["animatediff", "diffusers"])
def test_versions_of_motion_modules(frames, mid, version, original):
  """diffusers' rule: a module in the mid block is v2, otherwise the number of positions decides."""
  module = f"{'mid_block' if mid else 'down_blocks.0'}.motion_modules.0"
  table, norm = ((TABLE, "temporal_transformer.norm.weight") if original else
                 ("transformer_blocks.0.pos_embed.pe", "norm.weight"))
  details = motion_details(only_part({f"{module}.{table}": (1, frames, 8), f"{module}.{norm}": (8,)}))
  assert (details.version, details.frames, details.mid_block) == (version, frames, mid)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_360dvd_adapter_with_and_without_its_wrapper(prefix):
  shapes = {"conv_in.weight": (8, 192, 3, 3), "body.0.block1.weight": (8, 8, 1, 3, 3), "body.1.in_conv.bias": (8,)}
  part = only_part({prefix + name: shape for name, shape in shapes.items()})
  assert part.kind == "adapter360" and part.shapes == shapes


@pytest.mark.parametrize("names, form", [
    (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "lora_te_x.alpha"], "lora_kohya"),
    (["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"], "lora_lycoris"),
    (["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight"], "lora_peft"),
    (["base_model.model.mid_block.attentions.0.proj_in.lora_B.default.weight"], "lora_peft"),
    (["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k.lora.down.weight"], "lora_diffusers"),
    (["down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight"], "lora_diffusers"),
    (["module.down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
      "to_q_lora.down.weight"], "lora_motion")])
def test_a_lora_is_no_network(names, form):
  """Layers of UNets and motion modules are in its names; it is known for what it is all the same."""
  part = only_part(names)
  assert (part.kind, part.format.name) == ("lora", form)
  assert sorted(part.origins.values()) == sorted(names)
