import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panda_jax.errors import InputError
from panda_jax.training.optimizer import make_optimizer, make_schedule
from tests.training.toy import toy_config


def options(**changes):
  config = toy_config().optimizer
  config.update(changes)
  return config


def test_warm_up_rises_in_equal_parts_and_reaches_the_rate():
  schedule = make_schedule(options(learning_rate=1.0, warmup_steps=4), steps=10)
  np.testing.assert_allclose([schedule(step) for step in range(6)], [0.25, 0.5, 0.75, 1, 1, 1])


def test_cosine_falls_from_the_rate_to_nothing():
  schedule = make_schedule(options(learning_rate=1.0, warmup_steps=2, schedule="cosine"), steps=10)
  rates = [float(schedule(step)) for step in range(11)]
  assert rates[1] == rates[2] == 1 and rates[10] == 0 and rates[6] == pytest.approx(0.5)
  assert all(later < earlier for earlier, later in zip(rates[2:], rates[3:]))


def test_no_warm_up_starts_at_the_rate():
  schedule = make_schedule(options(learning_rate=0.25, warmup_steps=0), steps=10)
  assert schedule(0) == 0.25


def test_weight_decay_pulls_matrices_and_spares_vectors():
  """Without a gradient only kernels move, towards zero."""
  optimizer = make_optimizer(options(weight_decay=0.1), optax.constant_schedule(0.5))
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "gate": jnp.ones(())}
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
  np.testing.assert_allclose(updates["kernel"], -0.05 * np.ones((2, 2)))
  assert not updates["bias"].any() and not updates["gate"].any()


def test_clipping_bounds_the_step_that_the_optimizer_sees():
  """A gradient a million times too long does not change the moments more than one at the limit; 0 means no limit."""
  params = {"bias": jnp.zeros(3)}
  def first_moment(clip_norm):
    optimizer = make_optimizer(options(clip_norm=clip_norm), optax.constant_schedule(1.0))
    _, state = optimizer.update({"bias": jnp.full(3, 1e6)}, optimizer.init(params), params)
    return optax.tree.get(state, "mu")["bias"]

  np.testing.assert_allclose(np.linalg.norm(first_moment(1.0)), 0.1, rtol=1e-5)
  np.testing.assert_allclose(first_moment(0.0), 1e5, rtol=1e-5)


@pytest.mark.parametrize("name, value", [("learning_rate", 0.0), ("warmup_steps", -1), ("schedule", "linear"),
                                         ("b1", 1.0), ("b2", -0.1), ("ema_decay", 1.0),
                                         ("weight_decay", -1.0), ("clip_norm", -1.0)])
def test_a_setting_out_of_range_is_named(name, value):
  config = options(**{name: value})
  with pytest.raises(InputError, match=f"optimizer.{name}"):
    make_optimizer(config, make_schedule(config, steps=10))
