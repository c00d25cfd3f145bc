"""Batches of stored latents and text states: to the system they are the images and captions that they were made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from panda_jax import systems
from panda_jax.systems.starting_point import videopanda
from panda_jax.tree import unflatten
from tests.fast import draw, init_key, jit
from tests.systems import toy
from tests.systems.test_videopanda import with_network

VIEWS, FRAMES, BATCH = 2, 2, 2
TEXTS = "the sea", "a field"


def learned(folder):
  tensors, config = videopanda(toy.networks(block_out_channels=(8,), attention=(True,)),
                               toy.write_tokenizer(folder / "tokenizer"), view_size=toy.VIEW_SIZE, frames=FRAMES)
  return systems.build(config), unflatten({path: jnp.asarray(tensor.read()) for path, tensor in tensors.items()})


def untrained(folder):
  config = tiny.get_config("runlocal")
  config.model.view_size = 8
  config.model.text = dict(channels=8, length=8, heads=2)
  config.model.unet.update(block_out_channels=(8,), attention=(True,), heads=(2,), norm_groups=4)
  system = systems.build(config)
  return system, {"unet": {}, "text": draw(system.text.abstract, seed=1)}


@pytest.fixture(scope="module", params=[learned, untrained], ids=["learned", "untrained"])
def model(request, tmp_path_factory):
  return request.param(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def both(model):
  """A batch of images and captions, and the batch of what is stored of them, in float32."""
  system, params = model
  spec = system.batch_spec((VIEWS, FRAMES), BATCH)
  coarse = np.random.default_rng(3).integers(0, 256, (*spec["images"].shape[:3], 1, 1, 3))
  images = np.broadcast_to(coarse, spec["images"].shape).astype(np.uint8)
  text = np.stack([system.tokenize(caption) for caption in TEXTS])
  batch = {"images": images, "rays": np.stack([system.rig.rays(system.rays_size)[:VIEWS]] * BATCH), "text": text}
  stored = {"latents": jit(system.encode_stored)(params, images), "rays": batch["rays"], "text": text}
  if system.words.pretrained:
    del stored["text"]
    stored["text_states"] = jit(system.encode_text)(params, text, jnp.ones(BATCH))
  return batch, {name: np.asarray(value) for name, value in stored.items()}


def quick(system):
  """The system with a function in the network's place that shows what reaches it."""
  network = lambda latents, timestep, text, conditions: latents / 2 + text.mean((1, 2))[:, None, None, None, None, None]
  return with_network(system, network)


def in_bfloat16(stored):
  return {name: value.astype(jnp.bfloat16) if name in ("latents", "text_states") else value
          for name, value in stored.items()}


def test_what_is_stored_is_declared(model, both):
  system, _ = model
  states = system.words.pretrained
  spec = system.batch_spec((VIEWS, FRAMES), BATCH, latents=True, text_states=states)
  assert {name: (leaf.shape, leaf.dtype) for name, leaf in in_bfloat16(both[1]).items()} == {
    name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()}
  assert spec.keys() == {"latents", "rays", "text_states" if states else "text"}
  assert all(name in system.letters for name in spec)


def test_the_loss_is_that_of_the_images_and_captions(model, both):
  """The latents are drawn with the same keys, and the same texts are dropped; what is left is bfloat16's rounding."""
  (system, params), (images, stored) = model, both
  system = quick(system)
  loss = jit(lambda batch, rng: system.loss(params, batch, rng)[0])
  for seed in range(6):
    key = init_key(seed)
    expected = float(loss(images, key))
    assert float(loss(stored, key)) == pytest.approx(expected, rel=1e-4)
    assert float(loss(in_bfloat16(stored), key)) == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("model", [learned], ids=["learned"], indirect=True)
def test_a_dropped_text_is_the_empty_one_though_only_the_others_are_stored(model, both):
  system, params = model
  encode = jit(lambda batch, keep: system._text(params, batch, keep))
  keep = np.array([1.0, 0.0])
  expected, given = (encode({name: batch[name] for name in ("text", "text_states") if name in batch}, keep)
                     for batch in both)
  np.testing.assert_allclose(given, expected, atol=1e-5)


def test_what_is_drawn_does_not_depend_on_how_images_come(model, both):
  system, _ = model
  images, stored = (jax.eval_shape(lambda batch: system.draw(jax.random.key(0), batch), batch) for batch in both)
  assert {name: leaf for name, leaf in images.items() if name not in both[0]} == {
    name: leaf for name, leaf in stored.items() if name not in both[1]}


def test_a_preview_of_latents_shows_what_the_codec_makes_of_them(model, both):
  system, params = model
  shown = np.asarray(jit(quick(system).preview)(params, in_bfloat16(both[1]), init_key(0)))
  way = jit(lambda images: system.decode(params, system.encode_images(params, images)))
  assert shown.dtype == np.uint8 and shown.shape[2:] == both[0]["images"].shape[1:]
  assert np.abs(shown[:, 0].astype(int) - np.asarray(way(both[0]["images"]))).max() <= 4


def test_only_networks_that_are_never_trained_decide_what_is_stored(model):
  system, params = model
  key = system.stored_key(system.key_params(params))
  assert set(system.key_params(params)) == ({"vae", "text"} if system.vae else set())
  assert not any(system.trainable(f"{name}/any") for name in system.key_params(params))
  assert (key["codec weights"] is None) == (system.vae is None) and ("text" in key) == system.words.pretrained
