"""The UNet: additions that start as nothing, shapes, and what each kind of attention may look at."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.models.functional import Functional
from panda_jax.models.unet import UNet, UNetConfig
from panda_jax.tree import flatten, unflatten
from tests.fast import draw, init_key, jit

# One level has every kind of layer but the change of size. One width: few shapes of kernel, few programs to compile.
CONFIG = UNetConfig(in_channels=8, block_out_channels=(8,), attention=(True,), layers_per_block=1, heads=2,
                    text_channels=8, norm_groups=4)
TWO_LEVELS = dataclasses.replace(CONFIG, block_out_channels=(8, 8), attention=(True, False), heads=(1, 2))
SIZE = (8, 4)
VIEWS, FRAMES = 2, 3


@functools.cache
def network(config=CONFIG):
  return Functional(lambda rngs: UNet(config, rngs=rngs))


def image_only(config):
  """The same network without all that video and views add."""
  return dataclasses.replace(config, temporal=False, multiview=False, view_conditions=False)


@functools.cache
def compiled(config=CONFIG):
  """(params, latents, timestep, text, conditions) -> output."""
  net = network(config)
  return jit(lambda params, latents, timestep, text, conditions: net(params, latents, timestep, text, **conditions))


def inputs(views=VIEWS, frames=FRAMES, batch=2):
  rng = np.random.default_rng(views + frames)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  mask = (rng.random((batch, views, frames)) < 0.4).astype(np.float32)
  conditions = dict(rays=normal(batch, views, *SIZE, 3), mask=mask,
                    sigma=mask * rng.random(mask.shape).astype(np.float32))
  return (normal(batch, views, frames, *SIZE, 8), rng.integers(0, 1000, batch), normal(batch, 5, 8)), conditions


@pytest.fixture(scope="module")
def fresh():
  """Parameters as a training run begins with them."""
  return network().init(init_key(7))


@pytest.fixture(scope="module")
def trained():
  """Parameters of which none is zero any more."""
  return draw(network().abstract)


# --- additions that start as nothing


def test_new_layers_change_nothing_at_initialisation(fresh):
  """Whatever rays, mask and sigma say, each image comes out as the plain image model gives it.

  The image model gets the same [b v f h w c]: images cannot meet in it, as a test below shows, and another layout would
  add in another order.
  """
  image, arguments, conditions = image_only(CONFIG), *inputs()
  image_params = unflatten({path: leaf for path, leaf in flatten(fresh).items()
                            if path in flatten(network(image).abstract)})
  per_image = compiled(image)(image_params, *arguments, {})
  assert float(jnp.abs(per_image).max()) > 0.1
  np.testing.assert_allclose(compiled()(fresh, *arguments, conditions), per_image, rtol=0, atol=1e-6)


def starting_at_zero(params):
  """The kernels among the added layers that begin at zero, by path."""
  image = flatten(network(image_only(CONFIG)).abstract)
  return [path for path, leaf in flatten(params).items()
          if path not in image and path.endswith("kernel") and not np.any(leaf)]


def test_every_layer_that_starts_at_zero_starts_to_learn_at_once(fresh):
  """Moving any one of them moves the output: were one behind another, neither would ever get a gradient."""
  kinds = ("attn_multiview/out/",                                     # in 4 transformers: down 1, middle 1, up 2
           "proj_out/",                                               # in 3 motion modules: down 1, up 2
           "conv_in_conditions/", "sigma_embedding/linear_2/")
  paths = starting_at_zero(fresh)
  assert [sum(kind in path for path in paths) for kind in kinds] == [4, 3, 1, 1]
  assert len(paths) == 9
  arguments, conditions = inputs()
  before = compiled()(fresh, *arguments, conditions)
  for path in paths:
    leaves = flatten(fresh)
    moved = unflatten(leaves | {path: draw({"x": leaves[path]})["x"] / 10})
    assert float(jnp.abs(compiled()(moved, *arguments, conditions) - before).max()) > 1e-4, path


def test_images_are_apart_until_training_joins_them(fresh, trained):
  (latents, *rest), conditions = inputs()
  run = lambda params: dependence(lambda x: compiled()(params, x, *rest, conditions), latents)
  assert np.array_equal(run(fresh), np.eye(VIEWS * FRAMES, dtype=bool))
  assert run(trained).all()


# --- who may look at whom


def dependence(function, latents):
  """bool [v*f v*f]: whether an output image (row) depends on an input image (column)."""
  base = function(latents)
  columns = []
  for view, frame in np.ndindex(latents.shape[1:3]):
    changed = latents.copy()
    changed[:, view, frame] += 1.0
    columns.append(np.abs(function(changed) - base).max((0, 3, 4, 5)).ravel() > 1e-6)
  return np.stack(columns, -1)


@pytest.mark.parametrize("temporal, multiview", [(True, False), (False, True), (False, False)])
def test_temporal_layers_join_frames_and_multiview_layers_join_views(temporal, multiview):
  config = dataclasses.replace(CONFIG, temporal=temporal, multiview=multiview, view_conditions=False)
  params = draw(network(config).abstract)
  (latents, *rest), _ = inputs()
  seen = dependence(lambda x: compiled(config)(params, x, *rest, {}), latents)
  joined = lambda size, together: np.ones((size, size), bool) if together else np.eye(size, dtype=bool)
  np.testing.assert_array_equal(seen, np.kron(joined(VIEWS, multiview), joined(FRAMES, temporal)))


def test_views_are_told_apart_by_their_rays_alone(trained):
  """In another order they come out in that order."""
  (latents, timestep, text), conditions = inputs()
  turned = {name: value[:, ::-1] for name, value in conditions.items()}
  expected = compiled()(trained, latents, timestep, text, conditions)[:, ::-1]
  np.testing.assert_allclose(compiled()(trained, latents[:, ::-1], timestep, text, turned), expected, atol=5e-5)
  unlike = compiled()(trained, latents[:, ::-1], timestep, text, conditions)
  assert float(jnp.abs(unlike - expected).max()) > 1e-2


def test_frames_are_told_apart_by_their_positions(trained):
  (latents, timestep, text), conditions = inputs()
  backwards = conditions | {name: conditions[name][:, :, ::-1] for name in ("mask", "sigma")}
  forwards = compiled()(trained, latents, timestep, text, conditions)
  assert float(jnp.abs(compiled()(trained, latents[:, :, ::-1], timestep, text, backwards)[:, :, ::-1]
                       - forwards).max()) > 1e-3


def test_learned_positions_begin_as_the_sinusoidal_table():
  """They are parameters then, and only then: an array that a module merely holds would be trained unasked."""
  learned = dataclasses.replace(image_only(CONFIG), temporal=True, learned_positions=True)
  fixed = dataclasses.replace(learned, learned_positions=False)
  params = network(learned).init(init_key(0))
  tables = {path: leaf for path, leaf in flatten(params).items() if path.endswith("positions")}
  rest = {path: leaf for path, leaf in flatten(params).items() if path not in tables}
  assert len(tables) == 3 and rest.keys() == flatten(network(fixed).abstract).keys()
  rest = {path: draw({"x": leaf})["x"] if path.endswith("proj_out/kernel") else leaf for path, leaf in rest.items()}
  arguments, _ = inputs()
  np.testing.assert_allclose(compiled(learned)(unflatten(rest | tables), *arguments, {}),
                             compiled(fixed)(unflatten(rest), *arguments, {}), atol=1e-6)


def test_clips_of_a_batch_do_not_meet(trained):
  (latents, timestep, text), conditions = inputs()
  changed = [np.concatenate([value[:1] + 1, value[1:]]) for value in (latents, timestep, text)]
  altered = {name: np.concatenate([1 - value[:1], value[1:]]) for name, value in conditions.items()}
  before = compiled()(trained, latents, timestep, text, conditions)
  after = compiled()(trained, *changed, altered)
  np.testing.assert_allclose(after[1], before[1], atol=2e-5)
  assert float(jnp.abs(after[0] - before[0]).max()) > 0.1


@pytest.mark.parametrize("name", ["rays", "mask", "sigma", "text", "timestep"])
def test_every_condition_reaches_every_image_once_trained(trained, name):
  (latents, timestep, text), conditions = inputs()
  run = lambda timestep, text, **conditions: compiled()(trained, latents, timestep, text, conditions)
  values = dict(conditions, timestep=timestep, text=text)
  changed = values | {name: values[name] + (200 if name == "timestep" else 0.5)}
  assert float(jnp.abs(run(**values) - run(**changed)).max((3, 4, 5)).min()) > 1e-4


def test_given_and_unknown_noise_levels_differ(trained):
  """Noise of sigma 0.05 and of 0.1 are told apart: the embedding has the resolution of the timesteps'."""
  arguments, conditions = inputs()
  run = lambda sigma: compiled()(trained, *arguments, conditions | {"sigma": np.full_like(conditions["mask"], sigma)})
  assert float(jnp.abs(run(0.05) - run(0.1)).max()) > 1e-3


# --- sizes


@pytest.mark.parametrize("views, frames", [(1, 1), (3, 16), (8, 6)])
def test_any_matrix_comes_out_in_its_own_shape(views, frames):
  net = network(TWO_LEVELS)
  arguments, conditions = inputs(views, frames)
  output = jax.eval_shape(lambda: net(draw(net.abstract), *arguments, **conditions))
  assert (output.shape, output.dtype) == ((2, views, frames, *SIZE, 8), jnp.float32)


def abstractly(params, arguments, conditions):
  """Traces without computing."""
  return jax.eval_shape(lambda: network()(params, *arguments, **conditions))


def test_wrong_shapes_are_named(trained):
  (latents, timestep, text), conditions = inputs()
  cases = [
    ("latents must be", (latents[0], timestep, text), {}),
    ("latents must be", (latents[..., :7], timestep, text), {}),
    ("mask must be", (latents, timestep, text), {"mask": None}),
    ("rays must be", (latents, timestep, text), {"rays": conditions["rays"][:, :1]}),
    ("sigma must be", (latents, timestep, text), {"sigma": conditions["sigma"][..., 0]}),
    ("timestep must be", (latents, timestep[:1], text), {}),
    ("timestep must be", (latents, timestep, text[..., :7]), {}),
  ]
  for words, arguments, changes in cases:
    with pytest.raises(ValueError, match=words):
      abstractly(trained, arguments, conditions | changes)
  with pytest.raises(ValueError, match="32 frame positions, got 33"):
    abstractly(trained, *inputs(1, 33, batch=1))


def test_latents_that_cannot_be_halved_are_refused():
  (latents, timestep, text), conditions = inputs()
  net = network(TWO_LEVELS)
  with pytest.raises(ValueError, match="multiples of 2, got 3 x 4"):
    jax.eval_shape(lambda: net(draw(net.abstract), latents[:, :, :, :3], timestep, text, **conditions))


def test_an_image_network_refuses_conditions_it_would_ignore(trained):
  (latents, timestep, text), conditions = inputs()
  net = network(image_only(CONFIG))
  params = draw(net.abstract)
  with pytest.raises(ValueError, match="rays must be absent"):
    jax.eval_shape(lambda: net(params, latents, timestep, text, rays=conditions["rays"]))


@pytest.mark.parametrize("changes, words", [
  (dict(attention=(True, False)), "1 levels"), (dict(heads=(1, 2)), "1 levels"),
  (dict(heads=3), "3 heads do not divide 8"),
  (dict(norm_groups=3), "3 groups do not divide 8")])
def test_sizes_that_do_not_fit_together_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    network(dataclasses.replace(CONFIG, **changes))


def test_paths_are_those_of_the_checkpoints():
  paths = flatten(network(TWO_LEVELS).abstract)
  for path in ("down_blocks/0/resnets/0/conv1/kernel", "down_blocks/0/downsamplers/0/conv/bias",
               "down_blocks/0/attentions/0/transformer_blocks/0/attn1/to_out/0/kernel",
               "up_blocks/1/motion_modules/1/transformer_blocks/0/attn2/to_q/kernel",
               "mid_block/attentions/0/proj_in/kernel", "time_embedding/linear_1/kernel",
               "down_blocks/0/attentions/0/transformer_blocks/0/ff/net/0/proj/kernel"):
    assert path in paths
