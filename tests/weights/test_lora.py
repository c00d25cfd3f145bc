import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.lora import merge, read_lora
from panda_jax.weights.tensors import LazyTensor, TensorFile
from tests.paths import PARITY, SHARED, needs_parity

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
MOTION = "down_blocks.0.motion_modules.1.transformer_blocks.0"
LINEAR = f"{BLOCK}.attn1.to_q"
UNET = {
    "down_blocks.0.attentions.0.proj_in.weight": (6, 6, 1, 1),
    "down_blocks.0.attentions.0.proj_in.bias": (6,),
    "down_blocks.0.resnets.0.conv1.weight": (6, 4, 3, 3),
    f"{LINEAR}.weight": (6, 5),
    f"{BLOCK}.attn2.to_out.0.weight": (6, 6),
    f"{BLOCK}.attn2.to_out.0.bias": (6,),
    f"{BLOCK}.norm1.weight": (6,),
    f"{MOTION}.attn1.to_q.weight": (6, 6),
    f"{MOTION}.attn2.to_out.0.weight": (6, 6),
}
TEXT = {
    "encoder.layers.0.self_attn.q_proj.weight": (5, 5),
    "encoder.layers.0.self_attn.out_proj.weight": (5, 5),
    "encoder.layers.0.mlp.fc1.weight": (7, 5),
    "encoder.layers.0.mlp.fc1.bias": (7,),
}
TARGETS = {"unet": UNET, "text_encoder": TEXT}


def random(*shape, seed=0, dtype=np.float32):
  return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def file_of(arrays, metadata=None):
  return TensorFile("my.safetensors", {name: LazyTensor.of(np.asarray(array), f"my.safetensors: {name}")
                                       for name, array in arrays.items()}, metadata or {})


def network(kind="unet", dtype=np.float32):
  return {name: LazyTensor.of(random(*shape, seed=7, dtype=dtype), name) for name, shape in TARGETS[kind].items()}


def pair(down, up, seed=1):
  """down [2 i], up [o 2] under the two names given, for a linear layer of LINEAR's size."""
  return {down: random(2, 5, seed=seed), up: random(6, 2, seed=seed)}


KOHYA = pair("lora_unet_" + LINEAR.replace(".", "_") + ".lora_down.weight",
             "lora_unet_" + LINEAR.replace(".", "_") + ".lora_up.weight")


def merged(arrays, scale=1.0, metadata=None, kind="unet", use_alpha=True, tensors=None):
  deltas = read_lora(file_of(arrays, metadata), TARGETS, use_alpha)[kind]
  return {name: tensor.read() for name, tensor in merge(tensors or network(kind), deltas, scale).items()}


def assert_changed(after, changes, kind="unet"):
  """The named weights moved by what is given, all others not by a bit."""
  for name, tensor in network(kind).items():
    if name in changes:
      np.testing.assert_allclose(after[name], tensor.read() + changes[name], rtol=1e-5, atol=1e-6)
    else:
      np.testing.assert_array_equal(after[name], tensor.read())


def refusal(arrays, targets=TARGETS, metadata=None):
  with pytest.raises(WeightsError) as error:
    read_lora(file_of(arrays, metadata), targets)
  message = str(error.value)
  assert "my.safetensors" in message and "\n" not in message and len(message) < 600
  return message


@pytest.mark.parametrize("down, up", [
    ("lora_unet_{_}.lora_down.weight", "lora_unet_{_}.lora_up.weight"),
    ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight"),
    ("{}.lora_A.weight", "{}.lora_B.weight"),
    ("{}.lora_A.default.weight", "{}.lora_B.default.weight"),
    ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
    ("unet.{attn}.processor.{to}_lora.down.weight", "unet.{attn}.processor.{to}_lora.up.weight"),
    ("{attn}.processor.{to}_lora.down.weight", "{attn}.processor.{to}_lora.up.weight"),
    ("module.{attn}.processor.{to}_lora.down.weight", "module.{attn}.processor.{to}_lora.up.weight"),
    ("unet.{attn}.processor.{to}.lora.down.weight", "unet.{attn}.processor.{to}.lora.up.weight"),
])
@pytest.mark.parametrize("attn, to", [(f"{BLOCK}.attn1", "to_q"), (f"{BLOCK}.attn2", "to_out")])
def test_every_way_to_name_a_layer_of_the_unet_reaches_it(down, up, attn, to):
  """kohya, PEFT, diffusers old and new, AnimateDiff's domain adapter; without alpha the product is added as it is."""
  layer = f"{attn}.{to}" if to == "to_q" else f"{attn}.{to}.0"
  outputs, inputs = UNET[f"{layer}.weight"]
  a, b = random(2, inputs), random(outputs, 2)
  names = [name.format(layer, _=layer.replace(".", "_"), attn=attn, to=to) for name in (down, up)]
  assert_changed(merged(dict(zip(names, (a, b)))), {f"{layer}.weight": b @ a})


@pytest.mark.parametrize("down, up", [
    ("lora_te_text_model_{_}.lora_down.weight", "lora_te_text_model_{_}.lora_up.weight"),
    ("lora_te_{_}.lora_down.weight", "lora_te_{_}.lora_up.weight"),
    ("lora_te1_text_model_{_}.lora_down.weight", "lora_te1_text_model_{_}.lora_up.weight"),
    ("text_encoder.text_model.{}.lora_A.weight", "text_encoder.text_model.{}.lora_B.weight"),
    ("text_encoder.{}.lora_A.weight", "text_encoder.{}.lora_B.weight"),
    ("text_model.{}.lora_A.weight", "text_model.{}.lora_B.weight"),
    ("text_encoder.text_model.{}.lora_linear_layer.down.weight",
     "text_encoder.text_model.{}.lora_linear_layer.up.weight"),
])
@pytest.mark.parametrize("layer", [name.removesuffix(".weight") for name in TEXT if name.endswith(".weight")])
def test_every_way_to_name_a_layer_of_the_text_encoder_reaches_it(down, up, layer):
  outputs, inputs = TEXT[f"{layer}.weight"]
  a, b = random(2, inputs), random(outputs, 2)
  names = [name.format(layer, _=layer.replace(".", "_")) for name in (down, up)]
  assert_changed(merged(dict(zip(names, (a, b))), kind="text_encoder"), {f"{layer}.weight": b @ a}, "text_encoder")


@pytest.mark.parametrize("old, new", [("to_q", "q_proj"), ("to_out", "out_proj")])
def test_the_oldest_names_of_diffusers_text_encoder_are_known(old, new):
  a, b = random(2, 5), random(5, 2)
  stem = f"text_encoder.text_model.encoder.layers.0.self_attn.{old}_lora"
  assert_changed(merged({f"{stem}.down.weight": a, f"{stem}.up.weight": b}, kind="text_encoder"),
                 {f"encoder.layers.0.self_attn.{new}.weight": b @ a}, "text_encoder")


@pytest.mark.parametrize("form", [
    "{b}.motion_modules.1.temporal_transformer.{t}.attention_blocks.{old}.processor.{to}",
    "module.{b}.motion_modules.1.temporal_transformer.{t}.attention_blocks.{old}.processor.{to}",
    "unet.{b}.motion_modules.1.{t}.attn{new}.processor.{to}",
])
def test_a_motion_lora_reaches_the_motion_modules_in_either_layout(form):
  arrays, changes = {}, {}
  for index, (to, layer) in enumerate((("to_q", "attn1.to_q"), ("to_out", "attn2.to_out.0"))):
    stem = form.format(b="down_blocks.0", t="transformer_blocks.0", old=index, new=index + 1, to=f"{to}_lora")
    a, b = random(2, 6, seed=index), random(6, 2, seed=index)
    arrays |= {f"{stem}.down.weight": a, f"{stem}.up.weight": b}
    changes[f"{MOTION}.{layer}.weight"] = b @ a
  assert_changed(merged(arrays), changes)


@pytest.mark.parametrize("alpha", [np.float16(3), np.array([3], np.float32), np.int64(3),
                                   np.array(3, ml_dtypes.bfloat16)])
def test_alpha_divided_by_rank_scales_what_is_added_and_can_be_ignored(alpha):
  """Two halves of strength make one; `use_alpha=False` is what the scripts of AnimateDiff and 360DVD do."""
  a, b = KOHYA.values()
  name = next(iter(KOHYA)).replace("lora_down.weight", "alpha")
  arrays = KOHYA | {name: alpha}
  assert_changed(merged(arrays, 0.5), {f"{LINEAR}.weight": 0.5 * 3 / 2 * (b @ a)})
  assert_changed(merged(arrays, -2.0), {f"{LINEAR}.weight": -2 * 3 / 2 * (b @ a)})
  assert_changed(merged(arrays, 0.5, use_alpha=False), {f"{LINEAR}.weight": 0.5 * (b @ a)})


def test_a_convolution_gets_its_kernel_from_the_lower_factor():
  """LoCon: down is a 3x3 convolution to `rank` channels, up a 1x1 convolution from there."""
  name = "lora_unet_down_blocks_0_resnets_0_conv1"
  a, b = random(2, 4, 3, 3), random(6, 2, 1, 1)
  arrays = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": np.float32(1)}
  added = 0.5 * np.einsum("or,rikl->oikl", b[..., 0, 0], a)
  assert_changed(merged(arrays), {"down_blocks.0.resnets.0.conv1.weight": added})


@pytest.mark.parametrize("layer", ["down_blocks.0.attentions.0.proj_in", LINEAR])
@pytest.mark.parametrize("lower, upper", [(2, 2), (4, 4), (2, 4), (4, 2)])
def test_a_1x1_convolution_and_a_linear_layer_are_the_same(layer, lower, upper):
  """SD 1.5 projects with convolutions, SD 2.1 with linear layers, and LoRA files hold either."""
  shape = UNET[f"{layer}.weight"]
  a, b = random(2, shape[1]), random(shape[0], 2)
  arrays = {f"{layer}.lora_A.weight": a.reshape(a.shape + (1, 1) * (lower == 4)),
            f"{layer}.lora_B.weight": b.reshape(b.shape + (1, 1) * (upper == 4))}
  assert_changed(merged(arrays), {f"{layer}.weight": (b @ a).reshape(shape)})


def test_strength_zero_changes_nothing():
  after = merged(KOHYA, 0.0, tensors={name: LazyTensor.of(-np.zeros(shape, np.float32), name)
                                      for name, shape in UNET.items()})
  assert all(np.signbit(values).all() for values in after.values())


def test_two_loras_add_up_whatever_their_order():
  first, second = KOHYA, pair(f"{LINEAR}.lora_A.weight", f"{LINEAR}.lora_B.weight", seed=2)
  deltas = [read_lora(file_of(arrays), TARGETS)["unet"] for arrays in (first, second)]
  (a, b), (c, d) = first.values(), second.values()
  wanted = {f"{LINEAR}.weight": 0.5 * b @ a + 2 * d @ c}
  one = merge(merge(network(), deltas[0], 0.5), deltas[1], 2.0)
  other = merge(merge(network(), deltas[1], 2.0), deltas[0], 0.5)
  for tensors in (one, other):
    assert_changed({name: tensor.read() for name, tensor in tensors.items()}, wanted)


def test_nothing_of_the_network_is_read_before_it_is_asked_for():
  def read():
    raise AssertionError("read too early")
  tensors = {name: LazyTensor(shape, np.dtype(np.float16), read, name) for name, shape in UNET.items()}
  after = merge(tensors, read_lora(file_of(KOHYA), TARGETS)["unet"], 1.0)
  assert {name: (tensor.shape, tensor.dtype) for name, tensor in after.items()} \
      == {name: (shape, np.dtype(np.float16)) for name, shape in UNET.items()}
  with pytest.raises(AssertionError, match="read too early"):
    after[f"{LINEAR}.weight"].read()


@pytest.mark.parametrize("dtype, tolerance", [(np.float16, 1e-3), (ml_dtypes.bfloat16, 1e-2)])
def test_a_half_precision_network_is_merged_in_float32_and_keeps_its_type(dtype, tolerance):
  half = {name: (values * 0.1).astype(dtype) for name, values in KOHYA.items()}
  a, b = (values.astype(np.float32) for values in half.values())
  after = merged(half, tensors=network(dtype=dtype))[f"{LINEAR}.weight"]
  exact = network(dtype=dtype)[f"{LINEAR}.weight"].read().astype(np.float32) + b @ a
  assert after.dtype == dtype
  np.testing.assert_array_equal(after, exact.astype(dtype))
  np.testing.assert_allclose(after.astype(np.float32), exact, rtol=tolerance, atol=1e-4)


def test_a_sum_beyond_the_range_of_the_network_is_refused_by_name():
  with pytest.raises(WeightsError, match=r"attn1_to_q.lora_up.weight merged at strength 1e\+06 .* float16 cannot hold"):
    merged(KOHYA, 1e6, tensors=network(dtype=np.float16))
  with pytest.raises(WeightsError, match="float32 cannot hold"):
    merged(KOHYA, 1e300)
  with pytest.raises(WeightsError, match="must be a number such as 0.8, got nan"):
    merged(KOHYA, float("nan"))


def test_a_delta_never_meets_a_tensor_of_another_shape():
  deltas = read_lora(file_of(KOHYA), TARGETS)["unet"]
  with pytest.raises(ValueError, match="other tensors"):
    merge({f"{LINEAR}.weight": LazyTensor.of(random(5, 6), "transposed")}, deltas, 1.0)
  with pytest.raises(ValueError, match="other tensors"):
    merge({}, deltas, 1.0)


def settings(**values):
  return {"format": "pt", "lora_adapter_metadata": json.dumps(values)}


@pytest.mark.parametrize("metadata, factor", [
    ({}, 1),
    ({"format": "pt"}, 1),
    (settings(r=2, lora_alpha=3), 1.5),
    (settings(**{"unet.r": 2, "unet.lora_alpha": 3.0, "text_encoder.lora_alpha": 100}), 1.5),
    (settings(**{"text_encoder.lora_alpha": 100}), 1),
    (settings(r=2), 4),                                                                  # PEFT's default alpha is 8
    (settings(r=2, lora_alpha=2, use_rslora=True), 2 ** 0.5),
    (settings(r=8, rank_pattern={"to_q": 2}, lora_alpha=2, alpha_pattern={"to_k": 4, "attn1.to_q": 5}), 2.5),
    (settings(lora_alpha=2, alpha_pattern={f"^{LINEAR}": 5}), 2.5),
    (settings(lora_alpha=2, alpha_pattern={"q": 5, "attn1": 5}), 1),                     # whole parts of the path only
    (settings(lora_alpha=2, alpha_pattern={r"attn\d+\.to_[qk]": 5, "to_q": 9}), 2.5),      # the first that fits
])
def test_peft_settings_in_the_header_give_the_factor(metadata, factor):
  arrays = pair(f"unet.{LINEAR}.lora_A.weight", f"unet.{LINEAR}.lora_B.weight")
  a, b = arrays.values()
  assert_changed(merged(arrays, metadata=metadata), {f"{LINEAR}.weight": factor * (b @ a)})
  assert_changed(merged(arrays, metadata=metadata, use_alpha=False), {f"{LINEAR}.weight": b @ a})


def test_peft_settings_of_a_text_encoder_may_know_its_layers_by_the_longer_names():
  layer = "encoder.layers.0.mlp.fc1"
  a, b = random(2, 5), random(7, 2)
  arrays = {f"text_encoder.text_model.{layer}.lora_A.weight": a, f"text_encoder.text_model.{layer}.lora_B.weight": b}
  metadata = settings(**{"text_encoder.lora_alpha": 2, "text_encoder.alpha_pattern": {f"^text_model.{layer}": 6}})
  after = merged(arrays, metadata=metadata, kind="text_encoder")
  assert_changed(after, {f"{layer}.weight": 3 * (b @ a)}, "text_encoder")


def test_an_alpha_beside_the_pair_outranks_the_header():
  arrays = pair(f"{LINEAR}.lora_A.weight", f"{LINEAR}.lora_B.weight")
  a, b = arrays.values()
  after = merged(arrays | {f"{LINEAR}.alpha": np.float32(1)}, metadata=settings(lora_alpha=100))
  assert_changed(after, {f"{LINEAR}.weight": 0.5 * (b @ a)})


@pytest.mark.parametrize("text, message", [
    ("{", "not readable JSON"),
    ("[" * 100_000, "not readable JSON"),
    ("[1]", "one JSON object"),
    ('{"lora_alpha": "4"}', "an alpha in it is no number"),
    ('{"lora_alpha": true}', "an alpha in it is no number"),
    ('{"lora_alpha": NaN}', "an alpha in it is no number"),
    ('{"lora_alpha": 1' + "0" * 400 + "}", "an alpha in it is no number"),
    ('{"alpha_pattern": {"to_q": null}}', "an alpha in it is no number"),
    ('{"alpha_pattern": [4]}', "alpha_pattern should be a JSON object"),
    ('{"alpha_pattern": {"to_(q": 4}}', "no regular expression"),
    ('{"alpha_pattern": {"(?i)to_q": 4}}', "no regular expression"),
    ('{"use_dora": true}', "trained with DoRA"),
    ('{"init_lora_weights": "pissa_niter_4"}', "trained with pissa_niter_4"),
])
def test_settings_that_cannot_be_used_are_refused(text, message):
  assert message in refusal(pair(f"{LINEAR}.lora_A.weight", f"{LINEAR}.lora_B.weight"),
                            metadata={"lora_adapter_metadata": text})


def test_parts_for_networks_that_are_not_loaded_are_left_out():
  """Loading only a UNet takes only the UNet's half of a LoRA, even where the other half could not be read."""
  arrays = KOHYA | {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": random(2, 5),
                    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": random(7, 2),
                    "lora_te2_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": random(7, 2)}
  assert [list(deltas) for deltas in read_lora(file_of(arrays), TARGETS).values()] \
      == [[f"{LINEAR}.weight"], ["encoder.layers.0.mlp.fc1.weight"]]
  arrays["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = np.full((7, 2), np.nan)
  assert list(read_lora(file_of(arrays), {"unet": UNET})) == ["unet"]
  assert read_lora(file_of(KOHYA), TARGETS)["text_encoder"] == {}
  message = refusal(KOHYA, {"text_encoder": TEXT, "vae": {"conv_in.weight": (4, 3, 3, 3)}})
  assert "is a LoRA for unet, but loaded is text_encoder, vae" in message


def test_names_that_fit_no_layer_are_grouped_in_one_sentence():
  arrays = dict(KOHYA)
  for block in range(40):
    arrays |= pair(f"unet.blocks.{block}.to_q.lora_A.weight", f"unet.blocks.{block}.to_q.lora_B.weight")
  message = refusal(arrays)
  assert "80 of 82 names fit no layer of what is loaded (text_encoder, unet)" in message
  assert "unet.blocks.0.to_q.lora_A.weight (and 39 like it)" in message
  assert "trained on this kind of base model" in message


@pytest.mark.parametrize("name", [f"unet.{BLOCK}.norm1.lora_A.weight", f"unet.{LINEAR}.lora_C.weight",
                                  "lora_te_text_model_encoder_layers_9_mlp_fc1.lora_down.weight",
                                  "bundle_emb.cat.string_to_param.*", f"transformer.{LINEAR}.lora_A.weight"])
def test_a_name_that_fits_no_layer_is_refused(name):
  assert f"1 of 3 names fit no layer of what is loaded (text_encoder, unet): {name}; " in refusal(
      KOHYA | {name: random(2, 6)})


def test_the_refusal_of_a_foreign_lora_says_what_would_help():
  motion = pair("down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
                "to_q_lora.down.weight", "up")
  still = {"unet": {name: shape for name, shape in UNET.items() if "motion" not in name}}
  assert "load the motion module that it was trained on" in refusal(motion, still)
  assert "LoRAs for SDXL" in refusal(pair("lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
                                          "lora_unet_input_blocks_4_1_proj_in.lora_up.weight"))
  assert "save it with diffusers" in refusal(pair(f"base_model.model.{LINEAR}.lora_A.weight",
                                                  f"base_model.model.{LINEAR}.lora_B.weight"))


@pytest.mark.parametrize("arrays", [{}, {"conv_in.weight": random(6, 4)}, {"conv_in.alpha": np.float32(1)}])
def test_a_file_that_is_no_lora_is_refused_as_such(arrays):
  assert f"is no LoRA: none of its {len(arrays)} tensors is named like one" in refusal(arrays)


@pytest.mark.parametrize("ending, method", [
    ("dora_scale", "DoRA"), ("lora_magnitude_vector", "DoRA"), ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"),
    ("lora_mid.weight", "LoCon with a middle factor"), ("oft_blocks", "OFT"), ("diff", "whole differences"),
    ("diff_b", "whole differences"), ("w_norm", "whole differences"), ("lora_B.bias", "LoRA with biases"),
])
@pytest.mark.parametrize("form", ["lora_unet_{_}", "unet.{}"])
def test_other_methods_are_refused_by_name(ending, method, form):
  name = f"{form.format(LINEAR, _=LINEAR.replace('.', '_'))}.{ending}"
  message = refusal(KOHYA | {name: random(6, 2)})
  assert "is not plain LoRA" in message and method in message and name in message


@pytest.mark.parametrize("left_out, message", [("lora_down.weight", "(no down)"), ("lora_up.weight", "(no up)")])
def test_half_a_pair_is_refused(left_out, message):
  arrays = {name: values for name, values in KOHYA.items() if left_out not in name}
  assert f"1 incomplete pairs: {LINEAR} {message}" in refusal(arrays)


@pytest.mark.parametrize("layer, down, up", [
    (LINEAR, (2, 6), (6, 2)),                                                            # trained on another width
    (LINEAR, (2, 5), (6, 3)),                                                            # two ranks
    (LINEAR, (0, 5), (6, 0)),
    (LINEAR, (2,), (6, 2)),
    (LINEAR, (2, 5, 3, 3), (6, 2, 1, 1)),
    ("down_blocks.0.resnets.0.conv1", (2, 4), (6, 2)),
    ("down_blocks.0.resnets.0.conv1", (2, 4, 1, 1), (6, 2, 3, 3)),
    ("down_blocks.0.resnets.0.conv1", (2, 36), (6, 2)),
])
def test_a_pair_of_another_shape_is_refused(layer, down, up):
  message = refusal({f"{layer}.lora_A.weight": random(*down), f"{layer}.lora_B.weight": random(*up)})
  assert f"{layer} (down {list(down)}, up {list(up)}, the weight is {list(UNET[f'{layer}.weight'])})" in message


def test_an_alpha_of_many_numbers_is_refused():
  name = next(iter(KOHYA)).replace("lora_down.weight", "alpha")
  assert "alpha of " + LINEAR + " should be one number, and has shape [2]" in refusal(KOHYA | {name: random(2)})


def test_two_loras_in_one_file_are_refused():
  other = pair(f"unet.{LINEAR}.lora_A.weight", f"unet.{LINEAR}.lora_B.weight")
  assert f"two tensors for one part of {LINEAR}, the second is unet.{LINEAR}.lora_A.weight" in refusal(KOHYA | other)


@pytest.mark.parametrize("part", ["lora_down.weight", "lora_up.weight", "alpha"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_numbers_that_are_none_are_refused_by_name(part, dtype):
  stem = next(iter(KOHYA)).removesuffix(".lora_down.weight")
  arrays = {name: values.astype(dtype) for name, values in (KOHYA | {f"{stem}.alpha": np.ones(())}).items()}
  arrays[f"{stem}.{part}"] = np.full(arrays[f"{stem}.{part}"].shape, np.nan if part == "alpha" else np.inf, dtype)
  assert f"NaN or infinity in {stem}.{part}" in refusal(arrays)


def shapes_of(path):
  with safetensors.safe_open(path, "np") as file:
    return {name.removeprefix("text_model."): tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def opened(path):
  with safetensors.safe_open(path, "np") as file:
    metadata = file.metadata()
  return TensorFile(str(path), {name: LazyTensor.of(array, f"{path}: {name}") for name, array in
                                safetensors.numpy.load_file(path).items()}, metadata or {})


@needs_parity
@pytest.mark.parametrize("name, unet, text, factor", [("kohya_lora", 174, 24, 0.5),
                                                      ("pytorch_lora_weights", 128, 0, 1.0)])
def test_every_target_of_the_reference_files_is_found(name, unet, text, factor):
  targets = {"unet": shapes_of(PARITY / "unet2d_sd15" / "diffusion_pytorch_model.safetensors"),
             "text_encoder": shapes_of(PARITY / "clip_text" / "text_encoder_sd15" / "model.safetensors")}
  file = opened(PARITY / "lora" / f"{name}.safetensors")
  deltas = read_lora(file, targets)
  assert (len(deltas["unet"]), len(deltas["text_encoder"])) == (unet, text)
  assert {delta.factor for kind in deltas.values() for delta in kind.values()} == {factor}
  plain = read_lora(file, targets, use_alpha=False)
  assert {delta.factor for kind in plain.values() for delta in kind.values()} == {1.0}
  for kind, found in deltas.items():
    for name, delta in found.items():
      zero = np.zeros(targets[kind][name], np.float32)
      assert delta.apply(1.0)(zero).any()


@pytest.mark.skipif(not (SHARED / "specs" / "keys").is_dir(), reason="the key lists are not beside this checkout")
@pytest.mark.parametrize("name", ["diffusers_unetmotion_v2", "diffusers_clip_text_l14"])
def test_no_two_layers_of_a_real_network_share_a_kohya_name(name):
  keys = json.loads((SHARED / "specs" / "keys" / f"{name}.json").read_text())["keys"]
  layers = {key.removesuffix(".weight") for key in keys if key.endswith(".weight")}
  assert len({layer.replace(".", "_") for layer in layers}) == len(layers) > 90


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_diffusers_merges_the_same(tmp_path):
  """A tiny UNet: PEFT's names and diffusers' own, headers included, and kohya's with alpha.

  diffusers 0.42 itself loses kohya's alphas of attention layers where they differ from layer to layer, and attention
  layers named its own way beside others named PEFT's way; neither is tried here.
  """
  torch, diffusers, peft = (pytest.importorskip(name) for name in ("torch", "diffusers", "peft"))
  mixin = diffusers.loaders.StableDiffusionLoraLoaderMixin

  def build():
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                                          attention_head_dim=2, cross_attention_dim=12,
                                          down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                          up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))

  unet = build()
  base = {name: values.numpy() for name, values in unet.state_dict().items()}
  unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_out.0", "conv1", "proj_in"],
                                   alpha_pattern={"attn1.to_q": 7}, rank_pattern={"conv1": 3}, init_lora_weights=False))
  state = peft.get_peft_model_state_dict(unet)
  attention = diffusers.utils.convert_state_dict_to_diffusers({name: x for name, x in state.items() if "attn" in name})
  header = {"unet_lora_adapter_metadata": unet.peft_config["default"].to_dict()}
  unet.save_lora_adapter(tmp_path, weight_name="alone.safetensors")
  mixin.save_lora_weights(tmp_path, unet_lora_layers=state, weight_name="pipeline.safetensors", **header)
  mixin.save_lora_weights(tmp_path, unet_lora_layers=attention, weight_name="attention.safetensors", **header)
  kohya = {}
  for name, values in state.items():
    layer, part, _ = name.rsplit(".", 2)
    layer = f"lora_unet_{layer.replace('.', '_')}"
    kohya[f"{layer}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = values.numpy()
    if part == "lora_A":
      kohya[f"{layer}.alpha"] = np.array(3, np.float32)
  safetensors.numpy.save_file(kohya, tmp_path / "kohya.safetensors")

  for name, prefix, layers in (("alone", None, 28), ("pipeline", "unet", 28), ("attention", "unet", 16),
                               ("kohya", "unet", 28)):
    file, other = tmp_path / f"{name}.safetensors", build()
    state, alphas, metadata = mixin.lora_state_dict(file, return_lora_metadata=True)
    other.load_lora_adapter(state, prefix=prefix, network_alphas=alphas, metadata=metadata)
    other.fuse_lora(lora_scale=0.7)
    other.unload_lora()
    deltas = read_lora(opened(file), {"unet": {name: values.shape for name, values in base.items()}})["unet"]
    assert len(deltas) == layers and len({delta.factor for delta in deltas.values()}) > 1
    ours = merge({name: LazyTensor.of(values, name) for name, values in base.items()}, deltas, 0.7)
    for weight, values in other.state_dict().items():
      np.testing.assert_allclose(ours[weight].read(), values.numpy(), atol=1e-6, err_msg=f"{name}: {weight}")
