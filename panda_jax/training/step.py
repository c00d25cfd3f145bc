"""One training step, as a pure function."""

from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from panda_jax.training.state import TrainState, merge_params

# Streams of the run's key that no training step (0, 1, 2 …) can reach.
INIT_STREAM, VALIDATION_STREAM, PREVIEW_STREAM = 2**32 - 1, 2**32 - 2, 2**32 - 3


def stream(seed: int, number: Any) -> jax.Array:
  """The random key of one step or purpose; a function of the seed and the number alone, so resume needs no state."""
  return jax.random.fold_in(jax.random.key(seed), number)


def make_train_step(system: Any, optimizer: optax.GradientTransformation, schedule: optax.Schedule, *,
                    seed: int, ema_decay: float, accumulate: int = 1) -> Callable:
  """Builds `(state, batch) -> (state, metrics)`.

  Args:
    system: see `panda_jax.systems.base.System`.
    optimizer, schedule: from `panda_jax.training.optimizer`.
    seed: of the run.
    ema_decay: of the moving average, in the long run.
    accumulate: parts that the clips of a batch go through the network in, one after the other. Everything random is
      drawn for the whole batch beforehand: the step is the same in any number of parts, and needs less memory in many.

  The metrics are the system's own, their mean over the parts, plus loss, grad_norm (before clipping) and learning_rate,
  all float32 scalars.
  """

  def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    rng = stream(seed, state.step)
    batch = system.draw(rng, batch)

    def gradients(part):
      def loss_of(params):
        return system.loss(merge_params(params, state.frozen), part, rng)
      (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
      return {**metrics, "loss": loss}, grads

    if accumulate == 1:
      metrics, grads = gradients(batch)
    else:
      metrics, grads = _mean_over_parts(gradients, batch, accumulate, state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Early on the plain average would be mostly the initialisation.
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.ema, params)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state.step)}
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state), metrics

  return train_step


def _mean_over_parts(function: Callable, batch: dict, count: int, params: dict) -> tuple[dict, dict]:
  """Means of `function(part) -> (metrics, gradients of params)` over `count` equal parts of a batch.

  A part is every count-th clip, not a run of clips: a device holds a run of them, and so has its share of every part.
  """
  parts = jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch)

  def add(total, part):
    metrics, grads = function(part)
    return jax.tree.map(jnp.add, total, grads), metrics

  total, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
  return jax.tree.map(lambda x: x.mean(0), metrics), jax.tree.map(lambda x: x / count, total)
