"""One table: which mesh axis splits which dimension of which array. Model code names no mesh axis."""

from __future__ import annotations

from collections.abc import Callable
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from panda_jax.errors import InputError
from panda_jax.parallel.exchange import CLIPS, FRAMES, VIEWS
from panda_jax.parallel.mesh import matrix_mesh
from panda_jax.tree import flatten, unflatten

# Path -> ways to split a parameter, aligned to its LAST dimensions; the first way that divides evenly is taken and
# a parameter that none divides is replicated. A new mesh axis is a new name in these rows.
PARAMETER_RULES = (
    # kernels [… in out]: by output channels, or by input channels where the output is a few latent channels
    (r"(^|/)kernel$", (("fsdp",), ("fsdp", None))),
    # tables [rows c]: token embeddings, positions
    (r"(^|/)(embedding|positions)$", (("fsdp",), ("fsdp", None))),
    # vectors and scalars
    (r"(^|/)(bias|scale)$", ()),
)

# Letter of an axis of a batch -> what splits it; a system says which letters its arrays have. Other letters are whole.
BATCH_RULES = {"b": CLIPS, "v": VIEWS, "f": FRAMES}

# Below this a gather costs more than the memory it saves (1 MiB of float32).
SMALL = 2**18


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


# Parameters and state

def parameter_shardings(mesh: Mesh, abstract: dict, rules=PARAMETER_RULES, small: int | None = None) -> dict:
  """A sharding for every parameter.

  Args:
    mesh: from `make_mesh`.
    abstract: nested dict of arrays or ShapeDtypeStructs.
    rules: rows of (path regex, ways to split); the first row that matches decides.
    small: parameters of fewer elements are replicated; by default `SMALL`.

  Returns:
    nested dict of NamedSharding, same keys.

  Raises:
    ValueError: if a parameter of two or more dimensions matches no row (vectors and scalars never need one).
  """
  flat = {path: NamedSharding(mesh, _spec(mesh, path, leaf.shape, rules, small))
          for path, leaf in flatten(abstract).items()}
  return unflatten(flat)


def state_shardings(mesh: Mesh, abstract_state: Any, optimizer: optax.GradientTransformation,
                    small: int | None = None) -> Any:
  """Shardings for a whole TrainState: averages and moments lie where their parameters lie, counters everywhere.

  Args:
    abstract_state: a TrainState of ShapeDtypeStructs.
    optimizer: the one whose state it holds.
  """
  everywhere = replicated(mesh)
  trainable = parameter_shardings(mesh, abstract_state.params, small=small)
  opt_state = optax.tree_utils.tree_map_params(
      optimizer, lambda _, sharding: sharding, abstract_state.opt_state, trainable,
      transform_non_params=lambda _: everywhere)
  return abstract_state.replace(
      step=everywhere, params=trainable, ema=trainable, opt_state=opt_state,
      frozen=parameter_shardings(mesh, abstract_state.frozen, small=small))


def specs(shardings: Any) -> Any:
  """The PartitionSpec of every sharding of a tree."""
  return jax.tree.map(lambda sharding: sharding.spec, shardings)


# Batches

def batch_specs(batch: dict, letters: dict[str, str]) -> dict[str, PartitionSpec]:
  """How each array of a batch is split, by clips, views and frames; for the mesh of its matrices.

  Args:
    batch: arrays or ShapeDtypeStructs; one with a frame axis more than its letters, [b v f …], has it behind the views.
    letters: name -> letters of the axes, "b v f h w c"; an array that is not named has the letter b alone.
  """
  return {name: _batch_spec(leaf, letters.get(name, "b").split()) for name, leaf in batch.items()}


def matrix_of(batch: dict, letters: dict[str, str]) -> tuple[int, int]:
  """(views, frames) of a batch, from an array that has both axes."""
  name, axes = next((name, axes.split()) for name, axes in letters.items()
                    if name in batch and {"v", "f"} <= set(axes.split()))
  return tuple(batch[name].shape[axes.index(letter)] for letter in "vf")


def batch_shardings(mesh: Mesh, batch: dict, letters: dict[str, str]) -> dict:
  """A sharding for every array of a batch.

  Args:
    mesh: from `make_mesh`.
    batch, letters: see `batch_specs`.

  Raises:
    InputError: if the clips or the matrices cannot be shared out evenly.
  """
  parts = clip_shards(mesh)
  for name, leaf in batch.items():
    if leaf.shape[0] % parts:
      raise InputError(f"a batch of {leaf.shape[0]} clips ({name}) cannot be shared by {parts} devices "
                       f"(mesh {dict(mesh.shape)}): set config.batch_size to a multiple of {parts}")
  mesh = matrix_mesh(mesh, *matrix_of(batch, letters))
  return {name: NamedSharding(mesh, spec) for name, spec in batch_specs(batch, letters).items()}


def clip_shards(mesh: Mesh) -> int:
  """Among how many groups of devices clips are shared."""
  return math.prod(mesh.shape[axis] for axis in CLIPS)


def data_shard(mesh: Mesh) -> tuple[int, int]:
  """Which part of every global batch this process reads.

  Processes that hold images of the same clips (`context` over several hosts) read the same part.

  Returns:
    (index, count): the clips [index * n, (index + 1) * n) of n * count.

  Raises:
    InputError: if the devices of this process do not hold a run of clips of their own.
  """
  ours = [index // mesh.shape["context"] for index, device in enumerate(mesh.devices.flat)
          if device.process_index == jax.process_index()]
  first, length, total = min(ours), max(ours) - min(ours) + 1, clip_shards(mesh)
  if first % length or total % length or set(ours) != set(range(first, first + length)):
    raise InputError(f"the mesh {dict(mesh.shape)} scatters the clips of process {jax.process_index()} over the batch: "
                     "choose config.mesh.context as a divisor or a multiple of the chips of a host")
  return first // length, total // length


def global_batch(mesh: Mesh, batch: dict[str, np.ndarray], letters: dict[str, str]) -> dict[str, jax.Array]:
  """Puts this process's clips on its devices as its part of the global batch.

  Args:
    mesh: from `make_mesh`.
    batch: NumPy arrays [b …], b the clips of this process's `data_shard`, with all their images.
    letters: see `batch_specs`.

  Returns:
    jax arrays [b·shards …].
  """
  _, count = data_shard(mesh)
  shardings = batch_shardings(mesh, {name: jax.ShapeDtypeStruct((len(x) * count, *x.shape[1:]), x.dtype)
                                     for name, x in batch.items()}, letters)
  return {name: jax.make_array_from_process_local_data(shardings[name], x, (len(x) * count, *x.shape[1:]))
          for name, x in batch.items()}


# Programs

def on_devices(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
  """`function` as every device runs it on its own parts; what they exchange is said by `panda_jax.parallel.exchange`.

  Args:
    function: of local arrays.
    mesh: from `matrix_mesh`.
    in_specs, out_specs: trees of PartitionSpecs, of all arguments and of the result.
  """
  # Pallas kernels do not say over which axes their results vary, so this cannot be checked.
  return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _batch_spec(leaf: Any, letters: list[str]) -> PartitionSpec:
  if leaf.ndim == len(letters) + 1:
    letters = [*letters[:2], "f", *letters[2:]]
  axes = [BATCH_RULES.get(letter) for letter in letters]
  return PartitionSpec(*axes)


def _spec(mesh: Mesh, path: str, shape: tuple[int, ...], rules, small: int) -> PartitionSpec:
  ways = next((ways for pattern, ways in rules if re.search(pattern, path)), None)
  if ways is None:
    if len(shape) < 2:
      return PartitionSpec()
    raise ValueError(f"no sharding rule matches the parameter {path} {list(shape)}: "
                     f"add a row for it to PARAMETER_RULES in {__name__}")
  if math.prod(shape) < (SMALL if small is None else small) or mesh.shape["fsdp"] == 1:
    return PartitionSpec()
  for way in ways:
    if len(way) > len(shape):
      continue
    axes = (None,) * (len(shape) - len(way)) + way
    if all(axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(axes, shape)):
      return PartitionSpec(*axes)
  return PartitionSpec()
