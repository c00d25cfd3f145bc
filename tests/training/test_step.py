import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panda_jax.errors import InputError
from panda_jax.training.state import create_state, merge_params, split_params
from panda_jax.training.step import make_train_step, make_validation_step
from tests.training.toy import ToySystem, numbers


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
  step = jax.jit(make_train_step(system, optimizer, schedule, seed=1, ema_decay=0.9))
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
  step = jax.jit(make_train_step(system, optimizer, schedule, seed=1, ema_decay=0.9))
  for number, decay in ((0, 0.1), (10, 0.55), (10**6, 0.9)):
    after, _ = step(state.replace(step=jnp.int32(number)), batch)
    expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.params, after.params)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7), after.ema, expected)


def test_validation_uses_the_average_and_fixed_noise(setup):
  """It does not see the raw parameters or the step, and every batch has noise of its own."""
  system, _, _, state, batch = setup
  validate = jax.jit(make_validation_step(system, seed=1))
  loss = validate(state, batch, np.uint32(0))
  other = state.replace(step=state.step + 5, params=jax.tree.map(jnp.zeros_like, state.params))
  assert validate(other, batch, np.uint32(0)) == loss
  assert validate(state, batch, np.uint32(1)) != loss
  assert validate(state.replace(ema=other.params), batch, np.uint32(0)) != loss
