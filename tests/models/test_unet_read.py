"""The part of the UNet that a sampler does once: what `read` keeps is all that `denoise` needs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.models.functional import Functional
from panda_jax.models.unet import UNet, UNetConfig
from tests.fast import draw, jit

SMALL = UNetConfig(in_channels=4, block_out_channels=(8,), attention=(True,), layers_per_block=1, heads=2,
                   text_channels=12, norm_groups=4)
CONFIGS = {
  "everything": SMALL,
  "stage one": dataclasses.replace(SMALL, multiview=False, view_conditions=False),
  "images": dataclasses.replace(SMALL, temporal=False, multiview=False, view_conditions=False),
  "as Stable Diffusion 2 and AnimateDiff 2 have it": dataclasses.replace(
    SMALL, block_out_channels=(8, 8), attention=(False, True), heads=(1, 2), linear_projection=True,
    motion_mid=True, resnet_norm="cross_frame", learned_positions=True),
}
BATCH, VIEWS, FRAMES, SIZE, WORDS = 2, 2, 3, (4, 6), 5


@functools.cache
def network(config):
  """(network, parameters of which none is zero)."""
  net = Functional(lambda rngs: UNet(config, rngs=rngs))
  return net, draw(net.abstract)


def inputs(config, moving=False):
  """(latents, timestep, text) and the conditions that this network takes."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  latents, text = normal(BATCH, VIEWS, FRAMES, *SIZE, 4), normal(BATCH, WORDS, 12)
  if not config.view_conditions:
    return (latents, np.array([3, 700]), text), {}
  mask = (rng.random((BATCH, VIEWS, FRAMES)) < 0.5).astype(np.float32)
  rays = normal(BATCH, VIEWS, *([FRAMES] if moving else []), *SIZE, 3)
  return (latents, np.array([3, 700]), text), {
    "rays": rays, "mask": mask, "sigma": 0.7 * mask * rng.random(mask.shape, np.float32)}


def compiled(config, function, circular):
  """`function(network bound to parameters, ...)`, as a program of its own."""
  net, params = network(config)
  program = jit(lambda params, *arguments: function(net.bind(params), circular, *arguments))
  return lambda *arguments: program(params, *arguments)


@functools.cache
def in_one(config, circular=False):
  """(latents, timestep, text, conditions) -> prediction."""
  return compiled(config, lambda unet, circular, latents, timestep, text, conditions: unet(
    latents, timestep, text, **conditions, circular=circular), circular)


@functools.cache
def reader(config, circular=False):
  """(text, conditions) -> what is read."""
  return compiled(config, lambda unet, circular, text, conditions: unet.read(text, **conditions, circular=circular),
                  circular)


@functools.cache
def denoiser(config, circular=False):
  """(latents, timestep, what was read) -> prediction."""
  return compiled(config, lambda unet, circular, latents, timestep, read: unet.denoise(
    latents, timestep, read, circular=circular), circular)


@pytest.mark.parametrize("name, circular", [(name, False) for name in CONFIGS] + [("everything", True)])
def test_read_once_and_denoise_at_any_time_equals_the_whole_network(name, circular):
  """In programs of their own, so that nothing passes between them but what was read."""
  config = CONFIGS[name]
  (latents, timestep, text), conditions = inputs(config)
  read = reader(config, circular)(text, conditions)
  for x, when in ((latents, timestep), (latents[::-1] * 2, timestep[::-1])):
    expected = in_one(config, circular)(x, when, text, conditions)
    np.testing.assert_allclose(denoiser(config, circular)(x, when, read), expected, atol=2e-5)
  assert float(jnp.abs(expected).max()) > 0.1


def test_edges_that_join_make_a_difference_to_what_is_read():
  """Of the rays and the mask, whose convolution is part of what is done once."""
  _, text = inputs(SMALL)[0][1:]
  conditions = inputs(SMALL)[1]
  apart, joined = (reader(SMALL, circular)(text, conditions) for circular in (False, True))
  for ours, theirs in ((apart.rays, joined.rays), (apart.mask_features, joined.mask_features)):
    differs = np.abs(np.asarray(ours - theirs)).max((0, 1, 2, 3, 5)) > 1e-4            # by column
    np.testing.assert_array_equal(differs, [True, False, False, False, False, True])


@pytest.mark.parametrize("circular", [False, True])
def test_mask_and_rays_are_four_more_channels_of_the_first_layer(circular):
  """Read apart, they add up to one convolution of the planes beside one another (§3.1), at the borders, too."""
  (_, _, text), conditions = inputs(SMALL, moving=True)
  read = reader(SMALL, circular)(text, conditions)
  planes = np.concatenate([np.broadcast_to(conditions["mask"][..., None, None, None], (BATCH, VIEWS, FRAMES, *SIZE, 1)),
                           conditions["rays"]], -1)
  layer = compiled(SMALL, lambda unet, circular, planes: unet.conv_in_conditions(planes, circular), circular)
  np.testing.assert_allclose(read.rays + read.mask * read.mask_features, layer(planes), atol=1e-5)


def test_a_camera_that_does_not_move_may_come_frame_by_frame():
  """Rays [b v f h w 3] that are equal in all frames are read as those [b v h w 3], in each frame."""
  arguments, conditions = inputs(SMALL)
  every_frame = conditions | {"rays": np.repeat(conditions["rays"][:, :, None], FRAMES, 2)}
  still, moving = (reader(SMALL)(arguments[2], told) for told in (conditions, every_frame))
  np.testing.assert_allclose(moving.rays, np.repeat(still.rays, FRAMES, 2), atol=1e-6)
  for ours, theirs in zip(jax.tree.leaves(dataclasses.replace(moving, rays=still.rays)), jax.tree.leaves(still)):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
  net, params = network(SMALL)
  assert jax.eval_shape(lambda: net(params, *arguments, **every_frame)).shape == arguments[0].shape


def test_a_camera_that_moves_is_seen_in_the_frame_in_which_it_moves():
  """By the first layer; the others then carry it on."""
  arguments, conditions = inputs(SMALL, moving=True)
  moved = conditions["rays"].copy()
  moved[:, 1, 2] *= -1
  read = lambda rays: reader(SMALL)(arguments[2], conditions | {"rays": rays}).rays
  before, after = read(conditions["rays"]), read(moved)
  changed = np.abs(np.asarray(before - after)).max((0, 3, 4, 5)) > 1e-4
  np.testing.assert_array_equal(changed, [[False, False, False], [False, False, True]])


def test_only_what_is_told_is_read():
  """Without view conditions there is nothing but the text, and a call with rays is refused."""
  config = CONFIGS["stage one"]
  (latents, timestep, text), _ = inputs(config)
  read = reader(config)(text, {})
  assert read.rays is read.mask is read.mask_features is read.sigma is None
  assert len(jax.tree.leaves(read)) == 2 * 4                                  # keys and values: down 1, middle 1, up 2
  with pytest.raises(ValueError, match="rays must be absent"):
    in_one(config)(latents, timestep, text, {"rays": inputs(SMALL)[1]["rays"]})


@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_read_holds_one_text_for_all_views_and_frames(name):
  """Its size does not grow with the matrix but for a mask and a sigma of each image."""
  config = CONFIGS[name]
  (_, _, text), conditions = inputs(config)
  net, params = network(config)
  read = jax.eval_shape(lambda: net.bind(params).read(text, **conditions))
  assert {leaf.shape[:2] for leaf in jax.tree.leaves(read.text)} == {(BATCH, WORDS)}
  if config.view_conditions:
    width = config.block_out_channels[0]
    assert read.rays.shape == (BATCH, VIEWS, 1, *SIZE, width) and read.mask_features.shape == (1, 1, 1, *SIZE, width)
    assert read.mask.shape == (BATCH, VIEWS, FRAMES, 1, 1, 1) and read.sigma.shape == (BATCH, VIEWS, FRAMES, 4 * width)
