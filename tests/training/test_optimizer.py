import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panda_jax.errors import InputError
from panda_jax.training.optimizer import SCHEDULES, make_optimizer, make_schedule, rate_scales
from panda_jax.tree import flatten, unflatten
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


def test_linear_falls_in_equal_parts_to_nothing():
  schedule = make_schedule(options(learning_rate=1.0, warmup_steps=2, schedule="linear"), steps=10)
  np.testing.assert_allclose([schedule(step) for step in range(2, 11)], np.linspace(1, 0, 9), atol=1e-6)


def test_rsqrt_falls_with_the_root_of_the_step_and_knows_no_end():
  """At four times the warm-up it is half the rate; a longer run has the same rates."""
  config = options(learning_rate=1.0, warmup_steps=4, schedule="rsqrt")
  short, long = (make_schedule(config, steps) for steps in (10, 99))
  np.testing.assert_allclose([short(step) for step in (3, 4, 16, 64)], [1, 1, 0.5, 0.25], rtol=1e-6)
  assert [short(step) for step in range(99)] == [long(step) for step in range(99)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_alike(schedule):
  """In equal parts to the rate, which it then leaves from; without a warm-up it starts at the rate."""
  rates = make_schedule(options(learning_rate=1.0, warmup_steps=4, schedule=schedule), steps=20)
  np.testing.assert_allclose([rates(step) for step in range(5)], [0.25, 0.5, 0.75, 1, 1])
  assert make_schedule(options(learning_rate=0.25, warmup_steps=0, schedule=schedule), steps=10)(0) == 0.25


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


def updates_of(**changes):
  """{path: first update} of a small model."""
  config = options(clip_norm=0.0, weight_decay=0.1, **changes)
  optimizer = make_optimizer(config, optax.constant_schedule(0.5))
  params = unflatten({path: jnp.ones((2, 2)) for path in ("unet/conv_in/kernel", "unet/added/kernel", "text/kernel")})
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  return flatten(updates)


def test_rate_scales_multiply_the_whole_update_and_the_first_rule_decides():
  """Weight decay, too: it is the parameter's learning rate that is scaled. What no rule matches keeps its update."""
  plain = updates_of()
  scaled = updates_of(rate_scales=(("/added/", 2.0), ("^unet/", 0.1)))
  for path, factor in (("unet/added/kernel", 2.0), ("unet/conv_in/kernel", 0.1), ("text/kernel", 1.0)):
    np.testing.assert_allclose(scaled[path], factor * plain[path], rtol=1e-6)


def test_a_rule_that_decides_nothing_is_refused():
  """A spelling mistake would otherwise train the wrong thing for days."""
  paths = ("unet/conv_in/kernel", "unet/added/kernel")
  assert rate_scales((("added", 2.0),), paths) == {"unet/conv_in/kernel": 1.0, "unet/added/kernel": 2.0}
  for rules in ((("aded", 2.0),), (("unet", 2.0), ("added", 3.0))):
    with pytest.raises(InputError, match=f"optimizer.rate_scales: '{rules[-1][0]}' matches no parameter.*unet/conv_in"):
      rate_scales(rules, paths)


@pytest.mark.parametrize("name, value", [("learning_rate", 0.0), ("warmup_steps", -1), ("schedule", "step"),
                                         ("b1", 1.0), ("b2", -0.1), ("ema_decay", 1.0),
                                         ("weight_decay", -1.0), ("clip_norm", -1.0), ("rate_scales", ("net", 2)),
                                         ("rate_scales", (("net", "2"),)), ("rate_scales", (("(net", 2.0),)),
                                         ("rate_scales", (("net", -1.0),)), ("learning_rate", float("nan"))])
def test_a_setting_out_of_range_is_named(name, value):
  config = options(**{name: value})
  with pytest.raises(InputError, match=f"optimizer.{name}"):
    make_optimizer(config, make_schedule(config, steps=10))
