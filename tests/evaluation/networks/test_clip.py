"""CLIP: the features of transformers' CLIPModel, from every layout of its files, and what its score must be."""

import copy
import dataclasses
import functools
import json
from pathlib import Path
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from panda_jax.errors import InputError
from panda_jax.evaluation.networks.clip import (
    Clip, ClipConfig, ClipVisionConfig, clip_score, prepare_images, read_clip)
from panda_jax.models.functional import Functional
from panda_jax.weights.configs import clip_config
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.layout import torch_shapes
from tests.evaluation.networks.clip_configs import CONFIGS, END, ids
from tests.evaluation.networks.random_weights import draw, pixels
from tests.paths import GOLDEN
from tests.weights.archives import Archive, StateDict
from tests.weights.networks import assert_equal

EXPECTED = Path(__file__).with_name("golden_clip.npz")
TOKENIZER = GOLDEN / "pipeline" / "tokenizer"
BOTH = pytest.mark.parametrize("name", list(CONFIGS))


def config(name):
  settings = CONFIGS[name]
  text, vision = settings["text_config"], settings["vision_config"]
  sizes = (vision[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                                   "image_size", "patch_size", "hidden_act"))
  return ClipConfig(clip_config(text, name), ClipVisionConfig(*sizes), settings["projection_dim"], text["eos_token_id"])


@functools.cache
def tensors(name="openai"):
  """By transformers' names."""
  return draw(torch_shapes(Functional(lambda rngs: Clip(config(name), rngs=rngs)).abstract), 0)


def write(folder, name="openai", weights=None, ending="safetensors", tokenizer=True, **files):
  """A folder as transformers writes it; `files` are further JSON files, or other content of config.json."""
  folder.mkdir(parents=True, exist_ok=True)
  for file, content in ({"config": CONFIGS[name]} | files).items():
    (folder / f"{file}.json").write_text(json.dumps(content))
  # What files hold beside the network: always the first, and the others before transformers 4.31.
  weights = {"logit_scale": np.array(2.7, np.float32)} | (tensors(name) if weights is None else weights)
  counts = {"text_model.embeddings.position_ids": np.arange(77)[None],
            "vision_model.embeddings.position_ids": np.arange(17)[None]}
  if ending == "bin":
    archive = Archive()
    state = {key: archive.tensor(values) for key, values in (weights | counts).items()}
    archive.zip(folder / "pytorch_model.bin", StateDict(state))
  elif ending == "parts":
    parts = {f"model-0000{part + 1}-of-00002.safetensors": dict(list(weights.items())[part::2]) for part in range(2)}
    for file, part in parts.items():
      save_file(part, folder / file)
    index = {"metadata": {}, "weight_map": {key: file for file, part in parts.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  else:
    save_file(weights, folder / "model.safetensors")
  for file in TOKENIZER.iterdir() if tokenizer else ():
    shutil.copy(file, folder)
  return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  return {name: read_clip(write(tmp_path_factory.mktemp(name), name)) for name in CONFIGS}


def images_for(clip, count=3):
  size = clip.config.image_size
  return (pixels((count, size, size, 3), 1) + 1) / 2


# --- transformers' numbers


@BOTH
def test_the_features_equal_the_reference(clips, name):
  """Components of about 0.3; 5e-7 away."""
  clip = clips[name]
  assert clip.config == config(name)
  with np.load(EXPECTED) as expected:
    np.testing.assert_allclose(clip.images(images_for(clip)), expected[f"{name}_images"], atol=3e-6)
    np.testing.assert_allclose(clip.texts(ids(name)), expected[f"{name}_texts"], atol=3e-6)


@pytest.mark.parametrize("size", [(40, 60), (61, 37), (32, 32), (33, 32), (20, 91), (11, 9), (200, 150)])
def test_images_are_prepared_as_by_transformers(size):
  """Larger and smaller ones, upright and wide, with odd margins."""
  from transformers import CLIPImageProcessorPil
  frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
  processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32, do_normalize=False)
  expected = processor(list(frames), return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(prepare_images(frames, 32), expected, rtol=0, atol=1e-6)


@BOTH
def test_no_product_has_the_lower_precision_of_tpus(clips, name):
  """There, products of float32 numbers are of bfloat16 ones unless a program asks for more."""
  clip = clips[name]
  for method, inputs, least in ((clip.images, images_for(clip), 14), (clip.texts, ids(name), 17)):
    program = jax.jit(lambda x, method=method: method(x)).trace(inputs).lower(lowering_platforms=("tpu",))
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", program.as_text())
    assert len(products) >= least and all("HIGHEST" in product for product in products)


# --- files


@pytest.mark.parametrize("ending", ["bin", "parts"])
def test_the_same_network_from_each_layout_of_files(tmp_path, clips, ending):
  assert_equal(read_clip(write(tmp_path, ending=ending, tokenizer=False)), clips["openai"])


def test_half_precision_is_widened(tmp_path):
  half = {name: values.astype(np.float16) for name, values in tensors().items()}
  wide = {name: values.astype(np.float32) for name, values in half.items()}
  assert_equal(read_clip(write(tmp_path / "half", weights=half, tokenizer=False)),
               read_clip(write(tmp_path / "wide", weights=wide, tokenizer=False)))


@pytest.mark.parametrize("change, words", [
    (lambda weights: weights.pop("visual_projection.weight"), "1 missing: visual_projection.weight"),
    (lambda weights: weights.update({"text_model.extra": np.ones(2, np.float32)}), "1 unexpected: text_model.extra"),
    (lambda weights: weights.update({"vision_model.post_layernorm.bias": np.ones(3, np.float32)}),
     "1 of another shape: vision_model.post_layernorm.bias"),
    (lambda weights: weights.update({"text_projection.weight": np.full((8, 16), np.inf, np.float32)}),
     "holds NaN or infinity")])
def test_weights_that_are_not_exactly_the_network_are_refused(tmp_path, change, words):
  weights = dict(tensors())
  change(weights)
  with pytest.raises(WeightsError, match=words):
    read_clip(write(tmp_path, weights=weights, tokenizer=False))


def changed(**changes):
  """The config.json of "openai", with some of its settings changed: vision_config__patch_size=None takes it away."""
  settings = copy.deepcopy(CONFIGS["openai"])
  for path, value in changes.items():
    *parents, key = path.split("__")
    inside = functools.reduce(dict.get, parents, settings)
    inside[key] = value
    if value is None:
      del inside[key]
  return settings


@pytest.mark.parametrize("changes, words", [
    (dict(vision_config=None), "is not a whole CLIP"), (dict(text_config=None), "is not a whole CLIP"),
    (dict(model_type="siglip"), "is not a whole CLIP"),
    (dict(vision_config__layer_norm_eps=1e-6), "layer_norm_eps 1e-06 in its vision_config"),
    (dict(text_config__layer_norm_eps=1e-6), "layer_norm_eps 1e-06"),
    (dict(vision_config__hidden_act="relu"), "activation must be quick_gelu or gelu, got 'relu'"),
    (dict(vision_config__num_attention_heads=5), "5 heads do not divide 24 channels"),
    (dict(vision_config__patch_size=64), "patches of 64 pixels are larger than images of 32"),
    (dict(vision_config__image_size=[32, 32]), r"has image_size \[32, 32\], where a number"),
    (dict(projection_dim="8"), "has projection_dim '8', where a number"),
    (dict(vision_config__patch_size=None), "of another shape: vision_model.embeddings")])
def test_a_config_of_another_network_is_refused(tmp_path, changes, words):
  with pytest.raises(WeightsError, match=words):
    read_clip(write(tmp_path, tokenizer=False, config=changed(**changes)))


def test_a_second_text_config_wins_as_in_transformers(tmp_path, clips):
  """OpenAI's ViT-L/14 has one: its defaults win too, so the end token is named."""
  stated = {key: value for key, value in CONFIGS["openai"]["text_config"].items() if key != "eos_token_id"}
  written = changed(text_config_dict=stated, text_config__hidden_size=999)
  assert read_clip(write(tmp_path, tokenizer=False, config=written)).config == dataclasses.replace(
      clips["openai"].config, end_token=49407)


@pytest.mark.parametrize("file", ["preprocessor_config", "processor_config"])
def test_mean_and_deviation_are_those_of_the_image_processor(tmp_path, file):
  settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.25, 0.25], "resample": 3,
              "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_resize": True}
  content = {"image_processor": settings} if file == "processor_config" else settings
  config = read_clip(write(tmp_path, tokenizer=False, **{file: content})).config
  assert (config.mean, config.std) == ((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("settings, words", [
    ({"resample": 2}, "in a way that is not done here \\(resample 2\\)"),
    ({"size": {"height": 32, "width": 32}}, "not done here \\(size"), ({"crop_size": 30}, "crop_size 30"),
    ({"do_center_crop": False}, "do_center_crop False"), ({"image_mean": [0.5]}, r"has \[0.5\] where three numbers"),
    ({"image_std": [0.5, 0.0, 0.5]}, "image_std .* where positive numbers belong")])
def test_images_that_are_prepared_otherwise_are_refused(tmp_path, settings, words):
  with pytest.raises(WeightsError, match=words):
    read_clip(write(tmp_path, tokenizer=False, preprocessor_config=settings))


# --- texts


@BOTH
def test_a_text_is_cut_to_what_the_network_takes(clips, name):
  """And keeps its end token."""
  length = clips[name].config.text.length
  tokens = clips[name].tokenize(["snowy sea", "a city " * 200])
  assert tokens.shape == (2, length) and tokens.dtype == np.int32
  assert tokens[0, 3:].tolist() == [END] * (length - 3) and tokens[1, -1] == END != tokens[1, -2]
  assert np.isfinite(clips[name].texts(tokens)).all()


def test_a_clip_without_a_tokenizer_works_until_it_is_asked_for(tmp_path):
  clip = read_clip(write(tmp_path, tokenizer=False))
  with pytest.raises(WeightsError, match=f"{tmp_path} has no tokenizer: copy vocab.json and merges.txt"):
    clip.tokenize(["a city"])


def test_one_text_is_no_list_of_texts(clips):
  with pytest.raises(InputError, match="put it into a list"):
    clips["openai"].tokenize("a city")


@pytest.mark.parametrize("change, words", [
    (dict(vocab_size=500), "has 555 ids, and the network 500"),
    (dict(eos_token_id=7), "ends texts by the id 554, .* says 7")])
def test_a_tokenizer_of_another_network_is_refused(tmp_path, change, words):
  with pytest.raises(WeightsError, match=words):
    read_clip(write(tmp_path, config=changed(**{f"text_config__{key}": value for key, value in change.items()})))


@BOTH
def test_padding_of_either_kind_changes_nothing(clips, name):
  given = ids(name)
  expected = np.asarray(clips[name].texts(given))
  ends = np.argmax(given == END, axis=1)[:, None]
  for padding in (END, 0):
    padded = np.where(np.arange(given.shape[1]) > ends, padding, given)
    np.testing.assert_allclose(clips[name].texts(padded), expected, atol=1e-6)


def test_a_text_without_its_end_has_no_feature(clips):
  """transformers would take the feature of the first token."""
  given = ids("openclip")
  given[1][given[1] == END] = 5
  features = np.asarray(clips["openclip"].texts(given))
  assert np.isnan(features[1]).all() and np.isfinite(np.delete(features, 1, axis=0)).all()


# --- the score


@BOTH
def test_features_have_length_1(clips, name):
  for features in (clips[name].images(images_for(clips[name])), clips[name].texts(ids(name))):
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)


def test_a_score_does_not_depend_on_the_batch(clips):
  clip = clips["openai"]
  images, text = images_for(clip), np.asarray(clip.texts(ids("openai")))[0]
  alone = [clip_score(clip.images(images[index:index + 1]), text)[0] for index in range(3)]
  np.testing.assert_allclose(clip_score(clip.images(images), text), alone, atol=1e-4)
  features = np.asarray(clip.images(images))
  assert [clip_score(features[index:index + 1], text)[0] for index in range(3)] == clip_score(features, text).tolist()


def test_a_score_is_a_hundred_cosines_and_never_negative():
  text = np.array([0.0, 1.0])
  images = np.array([[0, 1], [0.8, 0.6], [1, 0], [0, -1], [0, 2]])
  np.testing.assert_allclose(clip_score(images, text), [100, 60, 0, 0, 100])


@pytest.mark.parametrize("images, text", [((2, 3), (4,)), ((3,), (3,)), ((2, 3), (1, 3))])
def test_features_that_do_not_fit_are_refused(images, text):
  with pytest.raises(ValueError, match=r"features must be \[n d\] and \[d\]"):
    clip_score(np.ones(images), np.ones(text))


@pytest.mark.parametrize("pixels, words", [
    (np.zeros((1, 16, 32, 3), np.float32), r"must be \[n 32 32 3\], got \[1, 16, 32, 3\]"),
    (np.zeros((32, 32, 3), np.float32), r"must be \[n 32 32 3\], got \[32, 32, 3\]"),
    (np.zeros((1, 32, 32, 3), np.uint8), "floating-point in .* got uint8")])
def test_images_that_are_not_prepared_are_refused(clips, pixels, words):
  with pytest.raises(InputError, match=words):
    clips["openai"].images(pixels)


@pytest.mark.parametrize("frames", [np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8),
                                    np.zeros((1, 8, 8, 4), np.uint8), np.zeros((1, 0, 8, 3), np.uint8)])
def test_frames_that_cannot_be_prepared_are_refused(frames):
  with pytest.raises(InputError, match=r"frames must be uint8 \[n H W 3\]"):
    prepare_images(frames, 8)


def test_no_frames_are_no_images():
  assert prepare_images(np.zeros((0, 8, 8, 3), np.uint8), 4).shape == (0, 4, 4, 3)
