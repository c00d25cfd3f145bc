"""Where 360DVD begins: the base as it is, and the published adapter, a new one, or that of a trained model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.models.adapter360 import Adapter360Config
from panda_jax.systems.starting_dvd360 import dvd360, on_another_base
from panda_jax.tree import flatten, unflatten
from panda_jax.weights import WeightsError, check_params, load_model, save_model
from tests.systems import toy

SIZE, ADAPTER = (16, 32), Adapter360Config(channels=(8, 16), downscale=toy.FACTOR)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return toy.write_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer")


def test_every_network_is_taken_as_it_is(tokenizer):
  networks = toy.networks() | {"adapter360": toy.network("adapter360", ADAPTER, seed=7)}
  tensors, config = dvd360(networks, tokenizer, panorama_size=SIZE)
  system = systems.build(config)
  params = {path: tensor.read() for path, tensor in tensors.items()}
  check_params(unflatten(params), jax.eval_shape(system.init, jax.random.key(0)))
  for name, kind in {"unet": "unet", "adapter": "adapter360", "text": "text_encoder", "vae": "vae"}.items():
    for path, tensor in networks[kind].params().items():
      np.testing.assert_array_equal(params[f"{name}/{path}"], tensor.read())
  assert system.unet_config.max_frames == 32 and config.model.train == "adapter"


def test_without_the_published_adapter_it_is_new_and_not_zero(tokenizer):
  one, other, another = (
      {path: tensor.read() for path, tensor in dvd360(toy.networks(), tokenizer, panorama_size=SIZE, seed=seed)[0].items()
       if path.startswith("adapter/")} for seed in (0, 0, 1))
  assert one.keys() == {f"adapter/{path}" for path in toy.network("adapter360", ADAPTER).params()}
  for path, values in one.items():
    np.testing.assert_array_equal(values, other[path])
    if path.endswith("kernel"):
      limit = 1 / np.sqrt(np.prod(values.shape[:-1]))
      assert 0.9 * limit < np.abs(values).max() <= limit and not np.array_equal(values, another[path])


def make_trained(folder, tokenizer, **networks):
  """A model folder with settings of its own, as training leaves one: the adapter has moved, the base has not."""
  tensors, config = dvd360(toy.networks() | networks, tokenizer, preset="paper", panorama_size=SIZE, fps=8.0)
  config.optimizer = {"learning_rate": 1e-5}
  config.model.sampling.steps = 11
  save_model(folder, unflatten({path: tensor.read() for path, tensor in tensors.items()}), config)
  return folder


def test_a_trained_adapter_goes_on_another_base_and_keeps_its_settings(tokenizer, tmp_path):
  """A base of other weights, of other norms and heads: all that is not the adapter is the new base's, to the bit."""
  adapter = toy.network("adapter360", ADAPTER, seed=7)
  trained = make_trained(tmp_path / "trained", tokenizer, adapter360=adapter)
  other = {"unet": toy.network("unet", dataclasses.replace(toy.UNET, heads=4, resnet_norm="cross_frame"), seed=11),
           "vae": toy.network("vae", toy.VAE, seed=12), "text_encoder": toy.network("text_encoder", toy.CLIP, seed=13)}
  tensors, config = on_another_base(trained, other, tokenizer)
  save_model(tmp_path / "moved", unflatten(tensors), config)
  params, config = load_model(tmp_path / "moved")
  check_params(params, jax.eval_shape(systems.build(config).init, jax.random.key(0)))
  for name, network in {"unet": other["unet"], "adapter": adapter, "text": other["text_encoder"],
                        "vae": other["vae"]}.items():
    assert flatten(params[name]).keys() == network.params().keys()
    for path, tensor in network.params().items():
      np.testing.assert_array_equal(flatten(params[name])[path], tensor.read())
  before = load_model(trained)[1]
  assert config.model.unet.heads == 4 and config.model.unet.resnet_norm == "cross_frame" and "optimizer" not in config
  assert {name: value for name, value in config.model.items() if name not in ("unet", "text")} == {
      name: value for name, value in before.model.items() if name not in ("unet", "text")}
  assert (config.data.fps, config.model.sampling.steps, config.model.sampling.rotation_sign) == (8.0, 11, -1)


@pytest.mark.parametrize("change, words", [
  (lambda networks: networks | {"unet": toy.network("unet", dataclasses.replace(toy.UNET, block_out_channels=(8, 24)))},
   "features of \\(8, 16\\) channels .* wants \\(8, 24\\)"),
  (lambda networks: networks | {"adapter360": toy.network("adapter360", ADAPTER)}, "both bring a 360-Adapter"),
  (lambda networks: {kind: net for kind, net in networks.items() if kind != "unet"}, "UNet is absent")])
def test_a_base_that_the_trained_adapter_cannot_go_on_is_refused(tokenizer, tmp_path, change, words):
  trained = make_trained(tmp_path / "trained", tokenizer)
  with pytest.raises(WeightsError, match=words):
    on_another_base(trained, change(toy.networks()), tokenizer)


@pytest.mark.parametrize("lost, words", [("adapter/body/0/block2/bias", "1 missing: body.0.block2.bias"),
                                         ("adapter/conv_in/kernel", "conv_in.weight' is absent")])
def test_part_of_a_trained_adapter_is_refused(tokenizer, tmp_path, lost, words):
  trained = make_trained(tmp_path / "trained", tokenizer)
  params, config = load_model(trained)
  save_model(trained, unflatten({path: leaf for path, leaf in flatten(params).items() if path != lost}), config)
  with pytest.raises(WeightsError, match=words):
    on_another_base(trained, toy.networks(), tokenizer)


def test_only_a_360dvd_has_an_adapter_to_give(tokenizer, tmp_path):
  for folder in (tmp_path, tmp_path / "nowhere"):
    with pytest.raises(WeightsError, match="config.json"):
      on_another_base(folder, toy.networks(), tokenizer)
  (tmp_path / "config.json").write_text(json.dumps({"system": "videopanda"}))
  with pytest.raises(WeightsError, match="no model folder of 360DVD"):
    on_another_base(tmp_path, toy.networks(), tokenizer)


@pytest.mark.parametrize("networks, words", [
  (lambda: toy.networks(temporal=False), "has no motion modules"),
  (lambda: {kind: net for kind, net in toy.networks().items() if kind != "vae"}, "360DVD is made of .* VAE is absent"),
  (lambda: toy.networks() | {"adapter360": toy.network("adapter360", dataclasses.replace(ADAPTER, channels=(4, 16)))},
   "features of \\(4, 16\\) channels .* wants \\(8, 16\\)")])
def test_what_does_not_belong_together_is_refused(tokenizer, networks, words):
  with pytest.raises(WeightsError, match=words):
    dvd360(networks(), tokenizer, panorama_size=SIZE)
