"""The UNet: additions that start as nothing, shapes, and what each kind of attention may look at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.models.functional import Functional, flatten, unflatten
from panda_jax.models.unet import UNet, UNetConfig

CONFIG = UNetConfig(in_channels=4, block_out_channels=(16, 32), attention=(True, False), layers_per_block=1, heads=(2, 4),
                    text_channels=12, norm_groups=8)
IMAGE = dataclasses.replace(CONFIG, temporal=False, multiview=False, view_conditions=False)


def network(config=CONFIG):
  return Functional(lambda rngs: UNet(config, rngs=rngs))


def inputs(views, frames, batch=2, seed=0, size=(8, 4)):
  keys = jax.random.split(jax.random.key(seed), 6)
  latents = jax.random.normal(keys[0], (batch, views, frames, *size, 4))
  timestep = jax.random.randint(keys[1], (batch,), 0, 1000)
  text = jax.random.normal(keys[2], (batch, 5, 12))
  rays = jax.random.normal(keys[3], (batch, views, *size, 3))
  mask = jax.random.bernoulli(keys[4], 0.4, (batch, views, frames)).astype(jnp.float32)
  return (latents, timestep, text), dict(rays=rays, mask=mask, sigma=mask * jax.random.uniform(keys[5], mask.shape))


@pytest.fixture(scope="module")
def params():
  return network().init(jax.random.key(7))


def perturbed(params, seed=3):
  """Every leaf moved, so that nothing that began at zero still hides."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return tree.unflatten([leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)])


@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (8, 2)])
def test_new_layers_change_nothing_at_initialisation(params, shape):
  """Whatever rays, mask and sigma say, each image comes out as the plain image model gives it."""
  (latents, timestep, text), conditions = inputs(*shape)
  image_net = network(IMAGE)
  image_params = unflatten({path: leaf for path, leaf in flatten(params).items() if path in flatten(image_net.abstract)})
  multiview = network()(params, latents, timestep, text, **conditions)
  b, v, f, h, w, c = latents.shape
  per_image = image_net(image_params, latents.reshape(b * v * f, 1, 1, h, w, c), jnp.repeat(timestep, v * f),
                        jnp.repeat(text, v * f, axis=0)).reshape(latents.shape)
  assert float(jnp.abs(per_image).max()) > 0.1
  np.testing.assert_allclose(multiview, per_image, atol=1e-6)


def test_jit_gives_what_no_jit_gives(params):
  arguments, conditions = inputs(2, 3)
  params = perturbed(params)
  np.testing.assert_allclose(jax.jit(network())(params, *arguments, **conditions),
                             network()(params, *arguments, **conditions), atol=2e-5)


def depends(function, latents):
  """[v f] -> [v f] bool: whether output image (row) depends on input image (column)."""
  base = function(latents)
  rows = []
  for view in range(latents.shape[1]):
    for frame in range(latents.shape[2]):
      changed = function(latents.at[:, view, frame].add(1.0))
      rows.append(np.asarray(jnp.abs(changed - base).max((0, 3, 4, 5)) > 1e-6))
  return np.stack(rows, -1)                                            # [v f, changed image]


@pytest.mark.parametrize("temporal, multiview", [(True, False), (False, True), (True, True), (False, False)])
def test_temporal_layers_join_frames_and_multiview_layers_join_views(temporal, multiview):
  config = dataclasses.replace(CONFIG, temporal=temporal, multiview=multiview, view_conditions=False)
  net = network(config)
  params = perturbed(net.init(jax.random.key(0)))
  (latents, timestep, text), _ = inputs(2, 3, batch=1)
  seen = depends(jax.jit(lambda x: net(params, x, timestep, text)), latents).reshape(2, 3, 2, 3)
  for view, frame, other_view, other_frame in np.ndindex(seen.shape):
    same_view, same_frame = view == other_view, frame == other_frame
    expected = (same_view or multiview) and (same_frame or temporal)
    assert seen[view, frame, other_view, other_frame] == expected


def test_without_positions_the_order_of_views_does_not_matter(params):
  """Views are told apart by their rays alone."""
  (latents, timestep, text), conditions = inputs(4, 2)
  params, net = perturbed(params), jax.jit(network())
  order = jnp.array([2, 0, 3, 1])
  moved = net(params, latents[:, order], timestep, text, **{name: x[:, order] for name, x in conditions.items()})
  np.testing.assert_allclose(moved, net(params, latents, timestep, text, **conditions)[:, order], atol=5e-5)


def test_clips_of_a_batch_do_not_meet(params):
  (latents, timestep, text), conditions = inputs(2, 2, batch=3)
  params, net = perturbed(params), jax.jit(network())
  together = net(params, latents, timestep, text, **conditions)
  alone = net(params, latents[1:2], timestep[1:2], text[1:2], **{name: x[1:2] for name, x in conditions.items()})
  np.testing.assert_allclose(together[1:2], alone, atol=2e-5)


@pytest.mark.parametrize("name", ["rays", "mask", "sigma", "text", "timestep"])
def test_every_condition_reaches_the_output_once_trained(params, name):
  (latents, timestep, text), conditions = inputs(2, 2)
  params = perturbed(params)
  values = dict(conditions, text=text, timestep=timestep)
  run = jax.jit(lambda v: network()(params, latents, v["timestep"], v["text"], rays=v["rays"], mask=v["mask"], sigma=v["sigma"]))
  changed = dict(values, **{name: values[name] + (200 if name == "timestep" else 0.5)})
  assert float(jnp.abs(run(values) - run(changed)).max()) > 1e-4


def test_wrong_shapes_are_named(params):
  (latents, timestep, text), conditions = inputs(2, 2)
  net = network()
  with pytest.raises(ValueError, match="latents must be"):
    net(params, latents[0], timestep, text, **conditions)
  with pytest.raises(ValueError, match="multiples of 2"):
    net(params, latents[:, :, :, :3], timestep, text, **conditions)
  with pytest.raises(ValueError, match="mask must be"):
    net(params, latents, timestep, text, **dict(conditions, mask=None))
  with pytest.raises(ValueError, match="timestep must be"):
    net(params, latents, timestep[:1], text, **conditions)
  with pytest.raises(ValueError, match="32 frame positions"):
    long = inputs(1, 33, batch=1)
    net(params, *long[0], **long[1])


def test_a_tree_that_does_not_fit_is_refused_by_name(params):
  arguments, conditions = inputs(1, 1)
  leaves = flatten(params)
  leaves["conv_inn/kernel"] = leaves.pop("conv_in/kernel")
  with pytest.raises(ValueError, match="conv_in/kernel is missing; conv_inn/kernel is unexpected"):
    network()(unflatten(leaves), *arguments, **conditions)
  leaves = flatten(params)
  leaves["conv_out/bias"] = jnp.zeros(5)
  with pytest.raises(ValueError, match=r"conv_out/bias has shape \(5,\), not \(4,\)"):
    network()(unflatten(leaves), *arguments, **conditions)


def test_paths_are_those_of_the_checkpoints(params):
  paths = flatten(params)
  for path in ("down_blocks/0/resnets/0/conv1/kernel", "down_blocks/0/attentions/0/transformer_blocks/0/attn1/to_out/0/kernel",
               "up_blocks/1/motion_modules/1/transformer_blocks/0/attn2/to_q/kernel", "mid_block/attentions/0/proj_in/kernel",
               "down_blocks/0/attentions/0/transformer_blocks/0/ff/net/0/proj/kernel", "time_embedding/linear_1/kernel"):
    assert path in paths
