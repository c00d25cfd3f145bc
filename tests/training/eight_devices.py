"""What eight pretended devices compute and save, for the tests: in a process of its own, import fixes their number.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.training.eight_devices FOLDER
"""

import json
from pathlib import Path
import re
import sys

import jax
import numpy as np

from panda_jax.parallel import global_batch, make_mesh, replicated, state_shardings
from panda_jax.training.checkpoint import Checkpoints
from panda_jax.training.optimizer import make_optimizer, make_schedule
from panda_jax.training.programs import Programs
from panda_jax.training.state import create_state
from panda_jax.training.step import make_train_step
from panda_jax.training.validation import Validation, make_validation_step
from panda_jax.tree import flatten
from tests.training.toy import ToySystem, numbers, toy_config, toy_data

TIMESTEPS = (50, 500, 950)
CLIPS = 16
WIDTH = 512                                                    # large enough to be split


def setup(devices: int):
  """System, optimizer, schedule, mesh, state, where it lies, and a batch."""
  system, config = ToySystem(), toy_config().optimizer
  schedule = make_schedule(config, steps=10)
  optimizer = make_optimizer(config, schedule)
  mesh = make_mesh({"data": devices}, jax.devices()[:devices])
  create = lambda key: create_state(system.init(key), system.trainable, optimizer)
  shardings = state_shardings(mesh, jax.eval_shape(create, jax.random.key(0)), optimizer)
  state = jax.jit(create, out_shardings=shardings)(jax.random.key(0))
  batch = global_batch(mesh, {"numbers": numbers(0, 0, (CLIPS, 2, 3))}, system.letters)
  return system, optimizer, schedule, mesh, state, shardings, batch


def compiled_step(devices: int, accumulate: int):
  """(program, state, batch)."""
  system, optimizer, schedule, mesh, state, shardings, batch = setup(devices)
  step = jax.jit(make_train_step(system, optimizer, schedule, mesh, seed=1, ema_decay=0.9, accumulate=accumulate),
                 out_shardings=(shardings, replicated(mesh)))
  return step.lower(state, batch).compile(), state, batch


def step_results(devices: int, accumulate: int) -> dict:
  """Parameters and metrics after two steps."""
  step, state, batch = compiled_step(devices, accumulate)
  for _ in range(2):
    state, metrics = step(state, batch)
  return {name: np.asarray(leaf).tolist() for name, leaf in (flatten(state.params) | metrics).items()}


def validation_results(devices: int, after: int = 0) -> dict:
  """The losses, of the same average in any state `after` so many steps."""
  system, _, _, mesh, state, _, batch = setup(devices)
  batches = [batch, global_batch(mesh, {"numbers": numbers(0, 1, (CLIPS, 2, 3))}, system.letters)]
  state = state.replace(step=state.step + after)
  programs = Programs()
  programs.add("validation", batch, "validation", jax.jit(
      make_validation_step(system, mesh)).trace(state, batch, np.uint32(0), np.int32(0)))
  programs.compile(lambda text: None, alone=True)
  return Validation(programs, batches, TIMESTEPS)(state)


def save_checkpoint(workdir: Path) -> None:
  """A checkpoint whose large kernels are split over the devices."""
  system, optimizer = ToySystem(width=WIDTH), make_optimizer(toy_config().optimizer, lambda step: 0.1)
  create = lambda key: create_state(system.init(key), system.trainable, optimizer)
  shardings = state_shardings(make_mesh({"fsdp": 8}), jax.eval_shape(create, jax.random.key(0)), optimizer)
  state = jax.jit(create, out_shardings=shardings)(jax.random.key(0))
  assert state.ema["net"]["middle"]["kernel"].addressable_shards[0].data.shape == (WIDTH, WIDTH // 8)
  checkpoints, batches = Checkpoints(workdir / "checkpoints", keep=1), toy_data(toy_config(), system).train
  checkpoints.save(1, state, batches)
  checkpoints.close()
  batches.close()


def main(folder: Path) -> None:
  """Saves a checkpoint, and prints the results of the others as JSON."""
  assert jax.device_count() == 8
  save_checkpoint(folder)
  step, *_ = compiled_step(8, accumulate=2)
  exchanges = set(re.findall(r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)", step.as_text()))
  print(json.dumps({"step": step_results(8, accumulate=2), "exchanges": sorted(exchanges),
                    "validation": validation_results(8)}))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
