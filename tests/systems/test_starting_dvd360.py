"""Where 360DVD begins: the base as it is, and the published adapter or a new one."""

import dataclasses

import jax
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.models.adapter360 import Adapter360Config
from panda_jax.systems.starting_dvd360 import dvd360
from panda_jax.tree import flatten, unflatten
from panda_jax.weights import WeightsError, check_params
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


@pytest.mark.parametrize("networks, words", [
  (lambda: toy.networks(temporal=False), "has no motion modules"),
  (lambda: {kind: net for kind, net in toy.networks().items() if kind != "vae"}, "360DVD is made of .* VAE is absent"),
  (lambda: toy.networks() | {"adapter360": toy.network("adapter360", dataclasses.replace(ADAPTER, channels=(4, 16)))},
   "features of \\(4, 16\\) channels .* wants \\(8, 16\\)")])
def test_what_does_not_belong_together_is_refused(tokenizer, networks, words):
  with pytest.raises(WeightsError, match=words):
    dvd360(networks(), tokenizer, panorama_size=SIZE)
