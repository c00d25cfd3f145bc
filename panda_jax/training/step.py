"""One training step and one validation pass, as pure functions."""

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
                    seed: int, ema_decay: float) -> Callable:
  """Builds `(state, batch) -> (state, metrics)`.

  The metrics are the system's own plus loss, grad_norm (before clipping) and learning_rate, all float32 scalars.
  """

  def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    def loss_of(params):
      return system.loss(merge_params(params, state.frozen), batch, stream(seed, state.step))

    (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Early on the plain average would be mostly the initialisation.
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.ema, params)
    metrics = {**metrics, "loss": loss, "grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state.step)}
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state), metrics

  return train_step


def make_validation_step(system: Any, *, seed: int) -> Callable:
  """Builds `(state, batch, number) -> loss` with the averaged parameters.

  Batch `number` meets the same noise always, so that losses of different steps can be compared.
  """

  def validation_step(state: TrainState, batch: dict, number: jax.Array) -> jax.Array:
    rng = jax.random.fold_in(stream(seed, VALIDATION_STREAM), number)
    loss, _ = system.loss(merge_params(state.ema, state.frozen), batch, rng)
    return jnp.asarray(loss, jnp.float32)

  return validation_step
