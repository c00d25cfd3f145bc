"""What config.init may name, what it must not mean otherwise, and the tokenizer that comes with it."""

import copy
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.training import loop
from panda_jax.training.config import load_config, write_config
from panda_jax.training.init import check_same_networks, complete_config, find_source, load_params
from panda_jax.weights import save_model
from panda_jax.weights.shipped import ASSETS
from tests.systems.toy import write_tokenizer
from tests.training.toy import ToySystem, toy_config, toy_data

UNET = dict(block_out_channels=(8, 16), attention=(True, False), heads=2)


def config_with(unet=UNET, codec=None, text=None):
  config = toy_config()
  config.model = dict(unet=dict(unet), codec=dict(codec or {}), text=dict(text or {}))
  return config


def params_of(system):
  return jax.tree.map(np.asarray, jax.jit(system.init)(jax.random.key(0)))


def load(folder, system):
  """The parameters with which a run of this system would start from the folder."""
  return load_params(find_source(str(folder)), system, jax.eval_shape(system.init, jax.random.key(0)),
                     jax.random.key(1))


@pytest.fixture
def folder(tmp_path):
  """A function: writes a model folder with a config, and gives its path."""
  def write(config, name="model", system=None):
    save_model(tmp_path / name, params_of(system or ToySystem()), config)
    return str(tmp_path / name)
  return write


def refuse(folder, theirs, ours):
  with pytest.raises(InputError) as error:
    check_same_networks(ours, find_source(folder(theirs)))
  return str(error.value)


# What it may name


def test_a_shipped_model_is_found_by_name():
  source = find_source("tiny")
  assert source.folder == ASSETS / "tiny" and not source.is_run
  check_same_networks(load_config("configs/tiny.py"), source)          # its own config fits, whatever defaults it names


def test_a_run_is_told_from_its_model_folder(tmp_path):
  loop.train(toy_config(steps=4), tmp_path / "run", ToySystem(), toy_data)
  assert find_source(str(tmp_path / "run")).is_run
  assert not find_source(str(tmp_path / "run" / "model")).is_run
  one, other = (load(tmp_path / name, ToySystem()) for name in ("run", "run/model"))
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("make, message", [
    (lambda path: None, "is not a folder, nor a model that comes with panda_jax: give a model folder, the workdir"),
    (lambda path: path.write_text(""), "is not a folder: give a model folder"),
    (lambda path: path.mkdir(), "has no model.safetensors: a model folder holds model.safetensors and config.json"),
    (lambda path: (path / "checkpoints").mkdir(parents=True), "holds no config.json"),
])
def test_what_is_nothing_to_start_from_is_named(tmp_path, make, message):
  make(tmp_path / "it")
  with pytest.raises(InputError, match=message):
    find_source(str(tmp_path / "it"))


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  write_config(tmp_path / "run", toy_config())
  with pytest.raises(InputError, match="has no complete checkpoint yet: train longer"):
    load(tmp_path / "run", ToySystem())


# The parameters


def test_what_the_system_adds_is_added_and_nothing_else(folder, tmp_path):
  """A model that lacks something else, or has too much, is refused by name, with where it came from."""
  staged = ToySystem(added=True)
  plain = folder(toy_config())
  params = load(plain, staged)
  assert not params["net"]["added"]["kernel"].any()
  np.testing.assert_array_equal(params["net"]["last"]["kernel"], params_of(ToySystem())["net"]["last"]["kernel"])

  full = folder(toy_config(), "full", staged)
  with pytest.raises(InputError, match=r"of .*full \(config.init\) do not fit this model: 1 unexpected.*added"):
    load(full, ToySystem())

  class Strict(ToySystem):
    def adopt(self, params, rng):
      raise InputError("unet/conv_in/kernel is missing")
  with pytest.raises(InputError, match=r"of .*model \(config.init\) do not fit this model: unet/conv_in/kernel is mis"):
    load(plain, Strict())


def test_a_model_without_a_whole_network_is_refused(tmp_path):
  params = params_of(ToySystem())
  save_model(tmp_path / "half", {"codec": params["codec"]}, toy_config())
  with pytest.raises(InputError, match="5 missing"):
    load(tmp_path / "half", ToySystem())


def test_what_a_run_has_too_much_is_refused_too(tmp_path):
  """Its checkpoint is never partly read."""
  loop.train(toy_config(steps=4), tmp_path / "run", ToySystem(added=True), toy_data)
  with pytest.raises(InputError, match="1 unexpected.*net/added"):
    load(tmp_path / "run", ToySystem())


def test_stored_types_become_those_of_the_system(tmp_path):
  half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params_of(ToySystem()))
  save_model(tmp_path / "half", half, toy_config())
  params = load(tmp_path / "half", ToySystem())
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


# What its weights mean


@pytest.mark.parametrize("theirs, ours, key, values", [
    (dict(unet=UNET | dict(heads=4)), {}, "unet.heads", ("4", "2")),
    (dict(unet=UNET | dict(max_frames=16)), {}, "unet.max_frames", ("16", "32")),
    ({}, dict(unet=UNET | dict(temporal=False)), "unet.temporal", ("true", "false")),
    ({}, dict(unet=UNET | dict(motion_norm="cross_frame")), "unet.motion_norm", ('"per_frame"', '"cross_frame"')),
    (dict(codec=dict(chroma_size=3)), {}, "codec.chroma_size", ("3", "2")),
    (dict(codec=dict(kind="stable_diffusion")), {}, "codec.kind", ('"stable_diffusion"', '"cosine"')),
    (dict(codec=dict(kind="stable_diffusion", scaling_factor=0.2)), dict(codec=dict(kind="stable_diffusion")),
     "codec.scaling_factor", ("0.2", "0.18215")),
    (dict(text=dict(kind="clip", tokenizer="")), {}, "text.kind", ('"clip"', '"tiny"')),
    (dict(text=dict(kind="clip", tokenizer="", activation="gelu")), dict(text=dict(kind="clip", tokenizer="")),
     "text.activation", ('"gelu"', '"quick_gelu"')),
    (dict(text=dict(kind="clip", tokenizer="", empty=(49406, 49407, 0))), dict(text=dict(kind="clip", tokenizer="")),
     "text.empty", ("[49406, 49407, 0]", "[49406, 49407, 49407]")),
])
def test_weights_that_would_mean_something_else_are_refused(tmp_path, theirs, ours, key, values):
  """The shapes of most of these agree. The sentence has the key and both values; one not named has its default."""
  write_config(tmp_path, config_with(**theirs))
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(InputError) as error:
    check_same_networks(config_with(**ours), find_source(str(tmp_path)))
  assert str(error.value).startswith(
      f"config.model.{key} is {values[0]} in {tmp_path} (config.init) and {values[1]} in this config")


@pytest.mark.parametrize("theirs, ours", [
    (dict(unet=UNET | dict(multiview=False, view_conditions=False)), {}),
    (dict(unet=UNET | dict(temporal=False, max_frames=1)), dict(unet=UNET | dict(learned_positions=True))),
    (dict(unet=UNET | dict(in_channels=4, text_channels=64, layers_per_block=2)), {}),
    (dict(codec=dict(kind="cosine", chroma_size=2), text=dict(kind="tiny", length=32)), {}),
    (dict(codec=dict(kind="stable_diffusion", images_per_batch=2)), dict(codec=dict(kind="stable_diffusion"))),
    (dict(text=dict(kind="clip", tokenizer="there", empty=(49406, 49407, 49407))),
     dict(text=dict(kind="clip", tokenizer="here"))),
])
def test_what_does_not_change_their_meaning_may_differ(tmp_path, theirs, ours):
  write_config(tmp_path, config_with(**theirs))
  (tmp_path / "checkpoints").mkdir()
  check_same_networks(config_with(**ours), find_source(str(tmp_path)))


def test_every_key_that_differs_is_named(folder):
  sentence = refuse(folder, config_with(UNET | dict(heads=4, norm_groups=8)), config_with())
  assert "config.model.unet.heads is 4" in sentence and "(and config.model.unet.norm_groups)" in sentence
  assert "give these keys the values of" in sentence and "config.json" in sentence


def test_a_wrong_start_leaves_no_workdir(folder, tmp_path):
  config = config_with()
  config.init = folder(config_with(UNET | dict(heads=4)))
  with pytest.raises(InputError, match="unet.heads"):
    loop.train(config, tmp_path / "run", ToySystem(), toy_data)
  assert not (tmp_path / "run").exists()


# The tokenizer

CLIP = dict(text=dict(kind="clip", tokenizer=""))


@pytest.fixture
def tokenizer(tmp_path):
  return str(write_tokenizer(tmp_path / "tokenizer"))


def test_the_tokenizer_comes_with_the_model_and_stays(folder, tmp_path, tokenizer, monkeypatch):
  """One flag is enough: it is named in the run's config.json by a path that holds anywhere, and lies in its model."""
  theirs = config_with(**CLIP)
  theirs.model.text.tokenizer = tokenizer
  folder(theirs)
  monkeypatch.chdir(tmp_path)
  config = config_with(**CLIP)
  config.init = "model"
  given = copy.deepcopy(config)
  loop.train(config, "run", ToySystem(), toy_data)
  assert config.to_dict() == given.to_dict()                           # the caller's is left as it was
  written = json.loads(Path("run/config.json").read_text())
  assert written["model"]["text"]["tokenizer"] == str(tmp_path / "model" / "tokenizer")
  assert (tmp_path / "run" / "model" / "tokenizer" / "vocab.json").is_file()

  os.rename("model", "elsewhere")                                      # the run goes on without asking for it again
  assert complete_config(config, "run").model.text.tokenizer == str(tmp_path / "model" / "tokenizer")


def test_the_tokenizer_of_a_run_comes_with_it(tmp_path, tokenizer, monkeypatch):
  theirs = config_with(**CLIP)
  theirs.model.text.tokenizer = "tokenizer"                            # as it was typed
  write_config(tmp_path, theirs)
  (tmp_path / "checkpoints").mkdir()
  monkeypatch.chdir(tmp_path)
  config = config_with(**CLIP)
  config.init = "."
  assert complete_config(config, "new").model.text.tokenizer == tokenizer


def test_a_tokenizer_that_is_named_is_kept(folder, tmp_path, tokenizer):
  theirs, config = config_with(**CLIP), config_with(**CLIP)
  theirs.model.text.tokenizer = tokenizer
  config.init, config.model.text.tokenizer = folder(theirs), "mine"
  assert complete_config(config, tmp_path / "new").model.text.tokenizer == "mine"
