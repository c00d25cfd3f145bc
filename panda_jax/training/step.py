"""One training step, as a pure function."""

from typing import Any, Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import optax

from panda_jax.models.remat import remat as remat_policy
from panda_jax.parallel.mesh import matrix_mesh
from panda_jax.parallel.sharding import batch_specs, matrix_of, on_devices, parameter_shardings, specs
from panda_jax.training.state import TrainState, merge_params
from panda_jax.tree import flatten, unflatten

# Streams of the run's key that no training step (0, 1, 2 …) can reach.
INIT_STREAM, VALIDATION_STREAM, PREVIEW_STREAM = 2**32 - 1, 2**32 - 2, 2**32 - 3


def stream(seed: int, number: Any) -> jax.Array:
  """The random key of one step or purpose; a function of the seed and the number alone, so resume needs no state."""
  return jax.random.fold_in(jax.random.key(seed), number)


def make_train_step(system: Any, optimizer: optax.GradientTransformation, schedule: optax.Schedule, mesh: Mesh, *,
                    seed: int, ema_decay: float, accumulate: int = 1, remat: str = "none",
                    dtype: str = "float32") -> Callable:
  """Builds `(state, batch) -> (state, metrics)`.

  Args:
    system: see `panda_jax.systems.base.System`.
    optimizer, schedule: from `panda_jax.training.optimizer`.
    mesh: from `panda_jax.parallel.make_mesh`. Loss and gradients are computed by every device on its own part of the
      batch, in one `shard_map`; everything random is drawn for the whole batch beforehand.
    seed: of the run.
    ema_decay: of the moving average, in the long run.
    accumulate: parts that a device's clips go through the network in, one after the other: the step is the same in any
      number of parts, and needs less memory in many.
    remat: what is computed again in the backward pass, see `panda_jax.models.remat`.
    dtype: of matrix products and convolutions; parameters, sums, statistics and softmax are float32.

  The metrics are the system's own, their mean over the batch, plus loss, grad_norm (before clipping) and learning_rate,
  all float32 scalars.
  """

  def gradients_of_device(trained, frozen, batch, rng):
    """(metrics, gradients) of the mean over all devices, from this device's parts."""

    def gradients(part):
      def loss_of(trained):
        return system.loss(in_dtype(merge_params(trained, frozen), dtype), part, rng)
      with remat_policy(remat):
        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
      return {**metrics, "loss": loss}, grads

    if accumulate == 1:
      return gradients(batch)
    return _mean_over_parts(gradients, batch, accumulate, trained)

  def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    rng = stream(seed, state.step)
    batch = system.draw(rng, batch)
    devices = matrix_mesh(mesh, *matrix_of(batch, system.letters))
    trained, frozen = (specs(parameter_shardings(mesh, params)) for params in (state.params, state.frozen))

    def gradients(*parts):
      metrics, grads = gradients_of_device(*parts)
      mean = lambda grad, spec: jax.lax.psum(grad, _where_whole(devices, spec)) / devices.size
      return jax.lax.pmean(metrics, devices.axis_names), jax.tree.map(mean, grads, trained)

    metrics, grads = on_devices(
        gradients, devices, in_specs=(trained, frozen, batch_specs(batch, system.letters), PartitionSpec()),
        out_specs=(PartitionSpec(), trained))(state.params, state.frozen, batch, rng)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Early on the plain average would be mostly the initialisation.
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.ema, params)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state.step)}
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state), metrics

  return train_step


def in_dtype(params: dict, dtype: str) -> dict:
  """Kernels in the type that products are computed in; vectors and tables, which enter sums, as they are."""
  return unflatten({path: leaf.astype(dtype) if path.endswith("/kernel") else leaf
                    for path, leaf in flatten(params).items()})


def _where_whole(mesh: Mesh, spec: PartitionSpec) -> tuple[str, ...]:
  """The axes along which every device has the same part of an array, and a gradient of its own for it."""
  split = {name for names in spec if names for name in ((names,) if isinstance(names, str) else names)}
  return tuple(axis for axis in mesh.axis_names if axis not in split)


def _mean_over_parts(function: Callable, batch: dict, count: int, params: dict) -> tuple[dict, dict]:
  """Means of `function(part) -> (metrics, gradients of params)` over `count` equal parts of a batch."""
  parts = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)

  def add(total, part):
    metrics, grads = function(part)
    return jax.tree.map(jnp.add, total, grads), metrics

  total, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
  return jax.tree.map(lambda x: x.mean(0), metrics), jax.tree.map(lambda x: x / count, total)
