"""All of a run that is known before any array exists: system, mesh, optimizer, where the state lies, its programs."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict
import numpy as np
import optax

from panda_jax.errors import InputError
from panda_jax.models.remat import POLICIES
from panda_jax.parallel.mesh import choose_sizes, make_mesh, matrix_mesh
from panda_jax.parallel.sharding import (
    batch_shardings, clip_shards, global_batch, matrix_of, replicated, state_shardings)
from panda_jax.parallel.topology import memory
from panda_jax.training.config import check_batch_size
from panda_jax.training.optimizer import make_optimizer, make_schedule, rate_scales
from panda_jax.training.state import TrainState, create_state
from panda_jax.training.step import INIT_STREAM, make_train_step, stream
from panda_jax.training.validation import check_timesteps, make_preview, make_validation_step
from panda_jax.tree import flatten

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Setup:
  """What the trainer runs and the planner compiles.

  Attributes:
    config: of the run.
    system: see `panda_jax.systems.base.System`.
    mesh: see `panda_jax.parallel.make_mesh`.
    optimizer, schedule: see `panda_jax.training.optimizer`.
    abstract: TrainState of ShapeDtypeStructs with shardings.
    shardings: TrainState of shardings.
    stored: what the dataset stores in place of images and text, as arguments of `System.batch_spec`; known when it is
      opened.
  """

  config: ConfigDict
  system: Any
  mesh: Mesh
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  abstract: TrainState
  shardings: TrainState
  stored: Mapping[str, bool] = dataclasses.field(default_factory=dict)

  @classmethod
  def make(cls, config: ConfigDict, devices: list | None = None, system: Any = None) -> Setup:
    """Nothing is allocated or compiled.

    Args:
      config: checked by `check_config`.
      devices: that the run has; default jax.devices(). Those of a topology that is not here will do.
      system: default systems.build(config).

    Raises:
      InputError: for a config that these devices, or its own networks, cannot use.
    """
    options = config.training
    if options.remat not in POLICIES:
      raise InputError(f"training.remat must be one of {', '.join(POLICIES)}, got {options.remat!r}")
    if options.dtype not in DTYPES:
      raise InputError(f"training.dtype must be {' or '.join(DTYPES)}, got {options.dtype!r}")
    system = _build_system(config) if system is None else system
    check_timesteps(options.validation_timesteps, system.timesteps)
    schedule = make_schedule(config.optimizer, options.steps)
    optimizer = make_optimizer(config.optimizer, schedule)
    abstract = jax.eval_shape(lambda key: create_state(system.init(key), system.trainable, optimizer),
                              jax.eval_shape(lambda: jax.random.key(0)))
    rate_scales(config.optimizer.rate_scales, flatten(abstract.params))    # refuses a rule that has no effect
    devices = jax.devices() if devices is None else devices
    mesh = make_mesh(choose_sizes(
        config.mesh.to_dict(), len(devices), clips=config.batch_size // options.accumulate,
        shapes=config.matrix.shapes, memory=memory(devices[0]),
        state=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))), devices)
    check_batch_size(config, devices=clip_shards(mesh))
    for views, frames in config.matrix.shapes:
      matrix_mesh(mesh, views, frames)                                     # refuses matrices that cannot be shared
    shardings = state_shardings(mesh, abstract, optimizer)
    return cls(config, system, mesh, optimizer, schedule, _placed(abstract, shardings), shardings)

  @property
  def init_key(self) -> jax.Array:
    """The key of what a run begins with at random."""
    return stream(self.config.seed, INIT_STREAM)

  def fresh_state(self) -> TrainState:
    """The state of a run that begins at random, every array born where it lies."""
    create = lambda key: create_state(self.system.init(key), self.system.trainable, self.optimizer)
    return jax.jit(create, out_shardings=self.shardings)(self.init_key)

  def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's clips as its part of the global batch, see `global_batch`."""
    return global_batch(self.mesh, batch, self.system.letters)

  def batch(self, shape: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch of matrices of (views, frames)."""
    return dict(self.system.batch_spec(shape, self.config.batch_size, **self.stored))

  def trace_step(self, shape: tuple[int, int]) -> jax.stages.Traced:
    """The step `(state, batch) -> (state, metrics)` for matrices of (views, frames); the state is donated."""
    options, batch = self.config.training, self.batch(shape)
    step = make_train_step(self.system, self.optimizer, self.schedule, self.mesh, seed=self.config.seed,
                           ema_decay=self.config.optimizer.ema_decay, accumulate=options.accumulate,
                           remat=options.remat, dtype=options.dtype)
    state, lies, everywhere = self._program(batch)
    return jax.jit(step, in_shardings=(state, lies), out_shardings=(state, everywhere),
                   donate_argnums=0).trace(self._abstract(state), batch)

  def trace_validation(self, batch: dict) -> jax.stages.Traced:
    """The program `(state, batch, number, timestep) -> loss` for batches like this one."""
    loss = make_validation_step(self.system, self.mesh, self.config.training.dtype)
    state, lies, everywhere = self._program(batch)
    return jax.jit(loss, in_shardings=(state, lies, everywhere, everywhere), out_shardings=everywhere).trace(
        self._abstract(state), batch, np.uint32(0), np.int32(0))

  def trace_preview(self, batch: dict) -> jax.stages.Traced:
    """The program `(state, batch) -> uint8 [row v f h w 3]`, see `make_preview`."""
    preview = make_preview(self.system, self.mesh, self.config.seed, self.config.training.dtype)
    state, lies, everywhere = self._program(batch)
    return jax.jit(preview, in_shardings=(state, lies), out_shardings=everywhere).trace(self._abstract(state), batch)

  def overview(self) -> str:
    """What the run trains and on what, in one line."""
    axes = " x ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items())
    kind = self.mesh.devices.flat[0].device_kind
    return (f"{count(self.abstract.params) / 1e6:.2f} M parameters to train, {count(self.abstract.frozen) / 1e6:.2f} M "
            f"frozen; {self.mesh.size} {kind} device(s), mesh {axes}")

  def _program(self, batch: dict) -> tuple[TrainState, dict, NamedSharding]:
    """Where state, batch and what every device has lie in a program: all on the mesh of its matrices."""
    mesh = matrix_mesh(self.mesh, *matrix_of(batch, self.system.letters))
    state = jax.tree.map(lambda sharding: NamedSharding(mesh, sharding.spec), self.shardings)
    return state, batch_shardings(self.mesh, batch, self.system.letters), replicated(mesh)

  def _abstract(self, shardings: TrainState) -> TrainState:
    return _placed(self.abstract, shardings)


def count(tree: Any) -> int:
  """How many numbers a tree of arrays has."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _placed(abstract: Any, shardings: Any) -> Any:
  return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                      abstract, shardings)


def _build_system(config: ConfigDict) -> Any:
  from panda_jax import systems                                # tests with a system of their own need no networks
  return systems.build(config)
