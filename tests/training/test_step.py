import functools

import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.parallel import make_mesh
from panda_jax.training.config import load_config
from panda_jax.training.optimizer import make_optimizer, make_schedule
from panda_jax.training.state import create_state, merge_params, split_params
from panda_jax.training.step import in_dtype, make_train_step
from panda_jax.tree import flatten
from tests.training import eight_devices
from tests.training.toy import ToySystem, numbers, toy_config

ONE = make_mesh()


@pytest.fixture(scope="module")
def setup():
  system, schedule = ToySystem(), optax.constant_schedule(0.1)
  optimizer = optax.sgd(schedule)
  state = jax.jit(lambda key: create_state(system.init(key), system.trainable, optimizer))(jax.random.key(0))
  return system, optimizer, schedule, state, {"numbers": jnp.asarray(numbers(0, 0, (4, 2, 3)))}


def test_splitting_and_merging_give_the_tree_back():
  params = ToySystem().init(jax.random.key(0))
  trainable, frozen = split_params(params, lambda path: "bias" in path)
  assert trainable["net"].keys() == {"first", "middle"} and "bias" not in frozen["net"]["first"]
  jax.tree.map(np.testing.assert_array_equal, merge_params(trainable, frozen), params)


def test_a_model_with_nothing_to_train_is_refused():
  with pytest.raises(InputError, match="every parameter of this model is frozen"):
    create_state(ToySystem().init(jax.random.key(0)), lambda path: False, optax.sgd(0.1))


def test_a_step_is_a_function_of_state_and_batch(setup):
  """Twice the same step is the same; the noise of the next step is another."""
  system, optimizer, schedule, state, batch = setup
  step = jax.jit(make_train_step(system, optimizer, schedule, ONE, seed=1, ema_decay=0.9))
  one, first = step(state, batch)
  two, second = step(state, batch)
  jax.tree.map(np.testing.assert_array_equal, (one, first), (two, second))
  _, later = step(state.replace(step=state.step + 1), batch)
  assert later["loss"] != first["loss"]
  assert first.keys() == {"loss", "grad_norm", "learning_rate", "mean_prediction"}
  assert one.step == 1 and first["learning_rate"] == np.float32(0.1)


def test_the_average_follows_quickly_at_first_and_slowly_later(setup):
  """Its decay is min(ema_decay, (1 + step) / (10 + step))."""
  system, optimizer, schedule, state, batch = setup
  step = jax.jit(make_train_step(system, optimizer, schedule, ONE, seed=1, ema_decay=0.9))
  for number, decay in ((0, 0.1), (10, 0.55), (10**6, 0.9)):
    after, _ = step(state.replace(step=jnp.int32(number)), batch)
    expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.params, after.params)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7), after.ema, expected)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(setup, accumulate):
  """Gradients, metrics, parameters and average, to float32's rounding: each clip meets the noise it met before."""
  system, optimizer, schedule, state, batch = setup
  results = [
      jax.jit(make_train_step(system, optimizer, schedule, ONE, seed=1, ema_decay=0.9, accumulate=parts))(state, batch)
      for parts in (1, accumulate)]
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *results)


def test_products_in_bfloat16_leave_the_state_in_float32(setup):
  """Kernels are rounded on their way into products; gradients, parameters and averages are as fine as before."""
  system, optimizer, schedule, state, batch = setup
  (fine, exact), (rounded, near) = (
      jax.jit(make_train_step(system, optimizer, schedule, ONE, seed=1, ema_decay=0.9, dtype=dtype))(state, batch)
      for dtype in ("float32", "bfloat16"))
  assert {leaf.dtype for leaf in jax.tree.leaves((rounded.params, rounded.ema))} == {jnp.dtype("float32")}
  assert 0 < abs(near["loss"] / exact["loss"] - 1) < 0.01
  assert all(value.dtype == jnp.float32 for value in near.values())
  moved = jax.tree.map(lambda after, before: np.linalg.norm(after - before), fine.params, state.params)
  apart = jax.tree.map(lambda one, other: np.linalg.norm(one - other), fine.params, rounded.params)
  assert all(one < 0.1 * other for one, other in zip(jax.tree.leaves(apart), jax.tree.leaves(moved)))


def test_kernels_alone_change_their_type():
  params = {"net": {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "words": {"embedding": jnp.ones((2, 2))}}}
  types = {path: leaf.dtype.name for path, leaf in flatten(in_dtype(params, "bfloat16")).items()}
  assert types == {"net/a/kernel": "bfloat16", "net/a/bias": "float32", "net/words/embedding": "float32"}


def test_a_step_in_parts_takes_the_memory_of_a_part():
  """Of what the gradient needs of the forward pass, only one part's is there at a time."""
  system, config = ToySystem(width=64), toy_config().optimizer
  schedule = make_schedule(config, steps=10)
  optimizer = make_optimizer(config, schedule)
  state = jax.eval_shape(lambda key: create_state(system.init(key), system.trainable, optimizer), jax.random.key(0))
  batch = system.batch_spec((8, 64), 16)
  whole, parts = (jax.jit(make_train_step(system, optimizer, schedule, ONE, seed=1, ema_decay=0.9, accumulate=count)).lower(
      state, batch).compile().memory_analysis().temp_size_in_bytes for count in (1, 8))
  assert parts < 0.3 * whole


# Frozen parameters. The rows of the codec's kernel have a length that nothing else in these programs has.


class FrozenSystem(ToySystem):
  """Its numbers go through a frozen layer of 4 x 5 and a frozen one of 5 x 4 first."""

  def init(self, rng):
    return {**super().init(rng), "codec": {"in": {"kernel": jnp.eye(4, 5)}, "out": {"kernel": jnp.eye(5, 4)}}}

  def loss(self, params, batch, rng):
    codec = params["codec"]
    batch = {**batch, "numbers": batch["numbers"] @ codec["in"]["kernel"] @ codec["out"]["kernel"]}
    return super().loss({**params, "codec": {"kernel": jnp.eye(4)}}, batch, rng)


def step_of(trainable, accumulate=1):
  """(state of shapes, batch of shapes, step) of a FrozenSystem."""
  system, config = FrozenSystem(), toy_config().optimizer
  schedule = make_schedule(config, steps=10)
  optimizer = make_optimizer(config, schedule)
  state = jax.eval_shape(lambda key: create_state(system.init(key), trainable, optimizer), jax.random.key(0))
  return state, system.batch_spec((2, 3), 4), make_train_step(
      system, optimizer, schedule, ONE, seed=1, ema_decay=0.9, accumulate=accumulate)


def product_shapes(jaxpr):
  """The shapes of all matrix products of a program, in its loops and calls, too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation.outvars[0].aval.shape
    for inner in jaxprs_in_params(equation.params):
      yield from product_shapes(inner)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_gradient_is_computed_for_frozen_parameters(accumulate):
  """The program has no product of the shape of their gradient, and computes less."""
  found = {}
  for name, trainable in (("all", lambda path: True), ("frozen", ToySystem().trainable)):
    state, batch, step = step_of(trainable, accumulate)
    shapes = list(product_shapes(jax.make_jaxpr(step)(state, batch).jaxpr))
    found[name] = {(4, 5), (5, 4)} & set(shapes), jax.jit(step).lower(state, batch).cost_analysis()["flops"]
  (gradients, everything), (none, less) = found["all"], found["frozen"]
  assert gradients and not none and less < everything


def test_stage_two_of_the_real_system_computes_no_gradient_of_its_spatial_layers():
  """A kernel costs three products: forward, for what is before it, and for itself; a frozen one has no third."""
  def flops(freeze_spatial):
    config = load_config("configs/tiny.py:runlocal")
    config.model.unet.update(block_out_channels=(16,), attention=(True,), heads=(2,))
    config.model.freeze_spatial = freeze_spatial
    system = systems.build(config)
    optimizer = optax.sgd(0.1)
    state = jax.eval_shape(lambda key: create_state(system.init(key), system.trainable, optimizer), jax.random.key(0))
    step = make_train_step(system, optimizer, optax.constant_schedule(0.1), ONE, seed=1, ema_decay=0.9)
    return jax.jit(step).lower(state, system.batch_spec((2, 2), 2)).cost_analysis()["flops"]

  assert flops(True) < 0.85 * flops(False)


def test_frozen_parameters_are_in_neither_optimizer_nor_average_and_stay_bit_for_bit():
  state, batch, step = step_of(ToySystem().trainable)
  codec = jax.tree.map(lambda leaf: leaf.shape, state.frozen["codec"])
  shapes = {leaf.shape for leaf in jax.tree.leaves((state.opt_state, state.ema, state.params))}
  assert not shapes & {(4, 5), (5, 4)} and codec == {"in": {"kernel": (4, 5)}, "out": {"kernel": (5, 4)}}

  rng = np.random.default_rng(0)
  values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), state)
  values = values.replace(opt_state=jax.tree.map(np.zeros_like, values.opt_state), step=np.int32(0))
  before, step = jax.tree.map(np.copy, values.frozen), jax.jit(step)
  for index in range(3):
    values, _ = step(values, {"numbers": numbers(0, index, (4, 2, 3))})
  jax.tree.map(np.testing.assert_array_equal, values.frozen, before)


def test_eight_devices_accumulate_as_one_and_keep_their_clips(on_eight_devices):
  """Two parts on eight devices are the whole batch on one; no clip travels, only gradients are summed."""
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-7),
               on_eight_devices["step"], eight_devices.step_results(1, accumulate=1))
  assert not {"all-to-all", "collective-permute", "all-gather"} & set(on_eight_devices["exchanges"])
  assert "all-reduce" in on_eight_devices["exchanges"]
