"""The validation loss at fixed timesteps and with fixed noise: numbers of any step, and of any run, can be compared."""

import math
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np

from panda_jax.errors import InputError
from panda_jax.parallel.exchange import CLIPS, FRAMES, VIEWS
from panda_jax.parallel.mesh import matrix_mesh
from panda_jax.parallel.sharding import batch_specs, matrix_of, on_devices, parameter_shardings, specs
from panda_jax.training.errors import TrainingStopped
from panda_jax.training.programs import Programs
from panda_jax.training.state import TrainState, merge_params
from panda_jax.training.step import PREVIEW_STREAM, VALIDATION_STREAM, in_dtype, stream

LOSS = "validation_loss"


def make_validation_step(system: Any, mesh: Mesh, dtype: str = "float32") -> Callable:
  """Builds `(state, batch, number, timestep) -> loss` with the averaged parameters; devices share it as they do a step.

  Batch `number` meets the same noise and is told the same always, at every timestep and whatever the seed of the run:
  losses of different steps, and of runs that differ in one setting, can be compared.
  """

  def validation_step(state: TrainState, batch: dict, number: jax.Array, timestep: jax.Array) -> jax.Array:
    rng = jax.random.fold_in(stream(0, VALIDATION_STREAM), number)
    batch = system.draw(rng, batch, timestep=timestep)
    params, devices = merge_params(state.ema, state.frozen), matrix_mesh(mesh, *matrix_of(batch, system.letters))

    def mean_loss(params, batch, rng):
      loss, _ = system.loss(in_dtype(params, dtype), batch, rng)
      return jax.lax.pmean(jnp.asarray(loss, jnp.float32), devices.axis_names)

    lies = specs(parameter_shardings(mesh, params)), batch_specs(batch, system.letters), PartitionSpec()
    return on_devices(mean_loss, devices, in_specs=lies, out_specs=PartitionSpec())(params, batch, rng)

  return validation_step


def make_preview(system: Any, mesh: Mesh, seed: int, dtype: str = "float32") -> Callable:
  """Builds `(state, batch) -> uint8 [row v f h w 3]`: what the system makes of the batch's first clip.

  The noise is the same every time. Every group of devices that shares clips samples the first of its own; the others are not looked at.
  """

  def preview(state: TrainState, batch: dict) -> jax.Array:
    params, devices = merge_params(state.ema, state.frozen), matrix_mesh(mesh, *matrix_of(batch, system.letters))

    def rows(params, batch, rng):
      return system.preview(in_dtype(params, dtype), {name: value[:1] for name, value in batch.items()}, rng)

    lies = specs(parameter_shardings(mesh, params)), batch_specs(batch, system.letters), PartitionSpec()
    images = on_devices(rows, devices, in_specs=lies, out_specs=PartitionSpec(CLIPS, None, VIEWS, FRAMES))
    return images(params, batch, stream(seed, PREVIEW_STREAM))[0]

  return preview


def check_timesteps(timesteps: Sequence[int], length: int) -> None:
  """Refuses timesteps that the noise schedule does not have.

  Args:
    timesteps: training.validation_timesteps.
    length: of the schedule.

  Raises:
    InputError: naming the first that is wrong.
  """
  if not timesteps:
    raise InputError("training.validation_timesteps is empty: give some, such as (100, 300, 500, 700, 900), or switch "
                     'validation off with data.validation_path=""')
  for timestep in timesteps:
    if not isinstance(timestep, int) or not 0 <= timestep < length:
      raise InputError(f"training.validation_timesteps has {timestep!r}: the timesteps of this model are the whole "
                       f"numbers from 0 to {length - 1}")
  if len(set(timesteps)) < len(timesteps):
    raise InputError(f"training.validation_timesteps {tuple(timesteps)} has one timestep twice: name each once")


class Validation:
  """The loss of every fixed batch at every fixed timestep, with the averaged parameters."""

  def __init__(self, programs: Programs, batches: list[dict], timesteps: Sequence[int]):
    """`programs`: with a "validation" compiled for these batches; `batches`: on the devices, all of one size."""
    self._programs, self._batches = programs, batches
    self._timesteps = tuple(timesteps)

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Waits for the devices.

    Returns:
      validation_loss, the mean over all, and validation_loss_t0100 … for each timestep.

    Raises:
      TrainingStopped: if a loss is not finite.
    """
    losses = [[self._programs.find("validation", batch)(state, batch, np.uint32(number), np.int32(timestep))
               for timestep in self._timesteps] for number, batch in enumerate(self._batches)]
    means = np.mean(jax.device_get(losses), axis=0, dtype=np.float64)                     # [timestep]
    values = {LOSS: float(np.mean(means))}
    values |= {f"{LOSS}_t{timestep:04d}": float(mean) for timestep, mean in zip(self._timesteps, means)}
    for name, value in values.items():
      if not math.isfinite(value):
        raise TrainingStopped(f"{name} is {value}: the averaged parameters are broken; the newest checkpoint is from "
                              "before; lower optimizer.learning_rate")
    return values
