"""One table: which mesh axis splits which dimension of which array. Model code names no mesh axis."""

import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from panda_jax.errors import InputError
from panda_jax.models.functional import flatten, unflatten

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

# Every array of a batch is split by clips, its first dimension.
BATCH_SPEC = PartitionSpec(("data", "fsdp"))

# Below this a gather costs more than the memory it saves (1 MiB of float32).
SMALL = 2**18


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(mesh: Mesh, abstract: dict, rules=PARAMETER_RULES, small: int = SMALL) -> dict:
  """A sharding for every parameter.

  Args:
    mesh: from `make_mesh`.
    abstract: nested dict of arrays or ShapeDtypeStructs.
    rules: rows of (path regex, ways to split); the first row that matches decides.
    small: parameters of fewer elements are replicated.

  Returns:
    nested dict of NamedSharding, same keys.

  Raises:
    ValueError: if a parameter of two or more dimensions matches no row (vectors and scalars never need one).
  """
  flat = {path: NamedSharding(mesh, _spec(mesh, path, leaf.shape, rules, small))
          for path, leaf in flatten(abstract).items()}
  return unflatten(flat)


def state_shardings(mesh: Mesh, abstract_state: Any, optimizer: optax.GradientTransformation,
                    small: int = SMALL) -> Any:
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


def batch_shardings(mesh: Mesh, batch: dict) -> dict:
  """A sharding for every array of a batch.

  Raises:
    InputError: if the clips cannot be shared out evenly.
  """
  parts = math.prod(mesh.shape[axis] for axis in BATCH_SPEC[0])
  for name, leaf in batch.items():
    if leaf.shape[0] % parts:
      raise InputError(f"a batch of {leaf.shape[0]} clips ({name}) cannot be shared by {parts} devices "
                       f"(mesh {dict(mesh.shape)}): set config.batch_size to a multiple of {parts}")
  return {name: NamedSharding(mesh, BATCH_SPEC) for name in batch}


def global_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts this process's clips on its devices as its part of the global batch.

  Args:
    batch: NumPy arrays [b …], b the clips of this process.

  Returns:
    jax arrays [b·processes …], split as `BATCH_SPEC` says.
  """
  sharding = NamedSharding(mesh, BATCH_SPEC)
  return {name: jax.make_array_from_process_local_data(sharding, np.asarray(array)) for name, array in batch.items()}


def _spec(mesh: Mesh, path: str, shape: tuple[int, ...], rules, small: int) -> PartitionSpec:
  ways = next((ways for pattern, ways in rules if re.search(pattern, path)), None)
  if ways is None:
    if len(shape) < 2:
      return PartitionSpec()
    raise ValueError(f"no sharding rule matches the parameter {path} {list(shape)}: "
                     f"add a row for it to PARAMETER_RULES in {__name__}")
  if math.prod(shape) < small:
    return PartitionSpec()
  for way in ways:
    if len(way) > len(shape):
      continue
    axes = (None,) * (len(shape) - len(way)) + way
    if all(axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(axes, shape)):
      return PartitionSpec(*axes)
  return PartitionSpec()
