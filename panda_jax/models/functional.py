"""A network as pure functions over a plain nested dict, which is all that jit, optax and orbax ever see."""

from __future__ import annotations

import functools
from typing import Any, Callable

import jax
import numpy as np
from flax import nnx

from panda_jax.parallel import exchange
from panda_jax.tree import flatten

Params = dict[str, Any]


class Functional:
  """Wraps an nnx module whose whole state is parameters.

  `nnx.merge` matches by position and would accept a renamed or re-shaped tree in silence, so the tree is checked first.

  Attributes:
    abstract: nested dict of jax.ShapeDtypeStruct; its paths are the torch paths with "/" for ".".
  """

  def __init__(self, build: Callable[[nnx.Rngs], nnx.Module]):
    """`build(rngs)` makes the module; it is only traced here, nothing is allocated."""
    self._build = build
    self._graphdef, state = nnx.split(nnx.eval_shape(lambda: build(_Keys(jax.random.key(0)))))
    self._integer_keys = nnx.to_pure_dict(state)
    self.abstract: Params = _string_keys(self._integer_keys)

  def init(self, rng: jax.Array) -> Params:
    """Fresh parameters. Deterministic in `rng`; may run under jit with out_shardings."""
    return params_of(self._build(_Keys(rng)))

  def __call__(self, params: Params, *args, **kwargs):
    """Applies the network.

    Raises:
      ValueError: if the tree or a shape differs from `abstract`.
    """
    return self.bind(params)(*args, **kwargs)

  def bind(self, params: Params) -> nnx.Module:
    """The module itself, holding these parameters.

    Raises:
      ValueError: if the tree or a shape differs from `abstract`.
    """
    check_tree(params, self.abstract)
    return nnx.merge(self._graphdef, _with_keys_of(self._integer_keys, params))


  def whole(self, params: Params) -> Params:
    """The parameters as the network has them, from the devices that share them: for one that is called in a loop."""
    check_tree(params, self.abstract)
    return jax.tree.map(lambda leaf, like: exchange.whole(leaf, like.shape), params, self.abstract)


class _Keys:
  """Gives each parameter its key, in place of nnx.Rngs.

  That counts in a traced variable, which takes time by the square of a network's size: half a minute for Stable
  Diffusion's UNet.
  """

  def __init__(self, key: jax.Array):
    self._key, self._count = key, 0

  def params(self) -> jax.Array:
    self._count += 1
    return jax.random.fold_in(self._key, self._count)


def params_of(module: nnx.Module) -> Params:
  """The parameters that a module holds."""
  return _string_keys(nnx.to_pure_dict(nnx.state(module)))


def compiled(method: Callable) -> Callable:
  """Decorates a method of a network, so that calling it by hand compiles it, once per shape, instead of each operation.

  Inside somebody's `jit`, `grad` or `eval_shape` it is the plain method. Python bools and integers among the keyword
  arguments are static.
  """

  @functools.wraps(method)
  def call(self, *args, **kwargs):
    graphdef, state = nnx.split(self)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs, state))):
      return method(self, *args, **kwargs)
    static = tuple((name, value) for name, value in kwargs.items() if isinstance(value, int))
    arrays = {name: value for name, value in kwargs.items() if not isinstance(value, int)}
    return _apply(method, graphdef, static, state, args, arrays)

  return call


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(method, graphdef, static, state, args, arrays):
  return method(nnx.merge(graphdef, state), *args, **arrays, **dict(static))


def check_tree(params: Params, abstract: Params) -> None:
  """Raises ValueError naming the first leaves that are missing, unexpected or of another shape."""
  missing, unexpected, reshaped = compare_trees(params, abstract)
  problems = [f"{path} is missing" for path in missing] + [f"{path} is unexpected" for path in unexpected]
  problems += [f"{path} has shape {have}, not {want}" for path, (have, want) in reshaped.items()]
  if problems:
    raise ValueError(f"parameters do not fit the network: {'; '.join(sorted(problems)[:5])}"
                     + (f" … {len(problems)} in all" if len(problems) > 5 else ""))


def compare_trees(params: Params, abstract: Params) -> tuple[list[str], list[str], dict[str, tuple]]:
  """How a tree differs from the one that a network asks for; a device's part of a parameter counts as the whole.

  Returns:
    Paths that are missing, paths that are unexpected, and {path: (its shape, the network's)}; each sorted by path.
  """
  have = {path: tuple(np.shape(leaf)) for path, leaf in flatten(params).items()}
  want = {path: tuple(leaf.shape) for path, leaf in flatten(abstract).items()}
  reshaped = {path: (have[path], want[path]) for path in sorted(want.keys() & have.keys())
              if want[path] != have[path] and exchange.split_axis(have[path], want[path]) is None}
  return sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys()), reshaped


def _string_keys(tree):
  return {str(key): _string_keys(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _with_keys_of(template, tree):
  # List indices are integers inside nnx: as strings, "10" would sort before "2" and merge would swap the blocks.
  if not isinstance(template, dict):
    return tree
  return {key: _with_keys_of(value, tree[str(key)]) for key, value in template.items()}
