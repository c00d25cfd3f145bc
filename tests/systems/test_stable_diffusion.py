"""VideoPanda on Stable Diffusion's VAE and CLIP: what it trains, what its loss teaches, and what it samples."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.systems.starting_point import videopanda
from panda_jax.training.state import merge_params, split_params
from panda_jax.tree import flatten, unflatten
from tests.fast import init_key, jit
from tests.systems import toy

VIEWS, FRAMES = 2, 2


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """(tensors, config) of a UNet of one level."""
  networks = toy.networks(block_out_channels=(8,), attention=(True,))
  return videopanda(networks, toy.write_tokenizer(tmp_path_factory.mktemp("system") / "tokenizer"),
                    view_size=toy.VIEW_SIZE, frames=FRAMES)


@pytest.fixture(scope="module")
def config(start):
  return start[1]


@pytest.fixture(scope="module")
def params(start):
  return unflatten({path: jnp.asarray(tensor.read()) for path, tensor in start[0].items()})


@pytest.fixture(scope="module")
def system(config):
  return systems.build(config)


def make_batch(system):
  spec = system.batch_spec((VIEWS, FRAMES), 2)
  images = np.random.default_rng(3).integers(0, 256, spec["images"].shape).astype(np.uint8)
  return {"images": images, "rays": np.stack([system.rig.rays(system.rays_size)[:VIEWS]] * 2),
          "text": np.stack([system.tokenize(text) for text in ("the sea", "a field")])}


def test_a_batch_is_as_the_system_declares_it(system):
  batch, spec = make_batch(system), system.batch_spec((VIEWS, FRAMES), 2)
  assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
    name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()}


@pytest.mark.parametrize("freeze_spatial", [False, True])
def test_the_vae_and_clip_are_trained_in_no_stage(system, config, params, freeze_spatial):
  config = copy.deepcopy(config)
  config.model.freeze_spatial = freeze_spatial
  staged = systems.build(config)
  trained = {path for path in flatten(params) if staged.trainable(path)}
  added = ("attn_multiview", "motion_modules", "conv_in_conditions", "sigma_embedding")
  assert trained == {path for path in flatten(params) if path.startswith("unet/")
                     and (not freeze_spatial or any(part in added for part in path.split("/")))}


def test_a_new_model_has_the_networks_of_the_config(system, params):
  fresh = jax.eval_shape(system.init, init_key(0))
  assert {path: leaf.shape for path, leaf in flatten(fresh).items()} == {
    path: leaf.shape for path, leaf in flatten(params).items()}


def test_the_loss_teaches_what_is_trained_and_nothing_else(system, params):
  """From the starting point on: a first step reaches every last layer that is zero, and every motion module."""
  trainable, frozen = split_params(params, system.trainable)

  @jit
  def step(trainable, frozen, batch, rng):
    return jax.value_and_grad(lambda part: system.loss(merge_params(part, frozen), batch, rng), has_aux=True)(trainable)

  (loss, metrics), gradients = step(trainable, frozen, make_batch(system), jax.random.key(5))
  gradients = flatten(gradients)
  assert np.isfinite(loss) and loss > 0.1 and metrics.keys() == {"given"}
  assert gradients.keys() == {path for path in flatten(params) if system.trainable(path)}
  moved = {path for path, gradient in gradients.items() if np.abs(gradient).max() > 0}
  still = gradients.keys() - moved
  behind_zeros = ("/attn_multiview/attention/", "sigma_embedding/linear_1/")
  assert still == {path for path in gradients if any(part in path for part in behind_zeros)}


def test_a_dropped_text_is_read_as_the_empty_one(system, params):
  ids = np.stack([system.tokenize(text) for text in ("the sea", "the sea", "")])
  kept, dropped, empty = np.asarray(jit(system.encode_text)(params, ids, np.array([1.0, 0.0, 1.0])))
  np.testing.assert_array_equal(dropped, empty)
  assert np.abs(kept - empty).max() > 0.1 and np.abs(empty).max() > 0.1


def test_sampling_keeps_given_images_as_the_vae_does(system, params):
  batch = {name: value[:1] for name, value in make_batch(system).items()}
  mask = np.array([[[1, 1], [0, 0]]], np.float32)
  sample = jit(lambda *inputs: system.sample(*inputs, steps=2, guidance=2.0))
  views = np.asarray(sample(params, batch | {"mask": mask, "sigma": 0.5 * mask}, jax.random.key(0)))
  assert views.dtype == np.uint8 and views.shape == batch["images"].shape
  through = jit(lambda params, images: system.decode(params, system.encode_images(params, images)))
  difference = np.abs(views.astype(int) - np.asarray(through(params, batch["images"])))[0]
  assert difference[0].max() <= 1 and (difference[1] > 1).mean() > 0.5
