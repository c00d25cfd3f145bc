"""What training carries from step to step."""

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from panda_jax.errors import InputError
from panda_jax.tree import flatten, unflatten


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """One checkpoint's worth of training, the data iterator aside.

  Attributes:
    step: int32 scalar, the number of finished steps.
    params: nested dict, the trainable parameters.
    frozen: nested dict, the parameters no gradient is taken for.
    ema: moving average of `params`, same tree.
    opt_state: the optimizer's, for `params` only.
  """
  step: jax.Array
  params: dict
  frozen: dict
  ema: dict
  opt_state: Any

  def replace(self, **changes) -> "TrainState":
    return dataclasses.replace(self, **changes)


def split_params(params: dict, trainable: Callable[[str], bool]) -> tuple[dict, dict]:
  """Parts a tree in two by path.

  Args:
    params: nested dict of arrays.
    trainable: path ("unet/conv_in/kernel") -> whether it is trained.

  Returns:
    trainable, frozen: nested dicts that share no path.
  """
  parts = ({}, {})
  for path, leaf in flatten(params).items():
    parts[0 if trainable(path) else 1][path] = leaf
  return unflatten(parts[0]), unflatten(parts[1])


def merge_params(trainable: dict, frozen: dict) -> dict:
  """The inverse of `split_params`."""
  return unflatten({**flatten(frozen), **flatten(trainable)})


def create_state(params: dict, trainable: Callable[[str], bool], optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step. Call it under jit: the average must be a copy, not an alias, of the parameters.

  Raises:
    InputError: if nothing is trainable.
  """
  params, frozen = split_params(params, trainable)
  if not params:
    raise InputError("every parameter of this model is frozen: nothing to train; check config.model")
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, frozen=frozen,
                    ema=jax.tree.map(jnp.copy, params), opt_state=optimizer.init(params))
