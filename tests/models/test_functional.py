"""Networks as pure functions: trees of parameters keep their order and are refused when they do not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from panda_jax.models.functional import Functional, check_tree
from panda_jax.tree import flatten, unflatten
from tests.fast import jit


class Chain(nnx.Module):
  """Eleven layers, each of which adds its own number after doubling."""

  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])

  def __call__(self, x):
    for layer in self.layers:
      x = layer(x)
    return x


@pytest.fixture(scope="module")
def chain():
  return Functional(Chain)


def test_a_list_of_eleven_keeps_its_order(chain):
  """Sorted as strings, "10" would come before "2"."""
  leaves = {}
  for index in range(11):
    leaves[f"layers/{index}/kernel"] = 2 * np.eye(2, dtype=np.float32)
    leaves[f"layers/{index}/bias"] = np.full(2, index, np.float32)
  expected = np.zeros(2)
  for index in range(11):
    expected = 2 * expected + index
  for order in (sorted, lambda paths: sorted(paths, reverse=True)):
    params = unflatten({path: leaves[path] for path in order(leaves)})
    np.testing.assert_array_equal(jit(chain)(params, np.zeros((1, 2), np.float32)), expected[None])


def test_a_tree_comes_back_from_jax_in_working_order(chain):
  """What jit, optax and orbax do to a tree sorts its keys."""
  params = unflatten({path: np.full(leaf.shape, len(path) + index, np.float32) / 20
                      for index, (path, leaf) in enumerate(flatten(chain.abstract).items())})
  x = np.ones((1, 2), np.float32)
  sorted_by_jax = jax.tree.map(lambda leaf: leaf, params)
  np.testing.assert_array_equal(jit(chain)(sorted_by_jax, x), jit(chain)(params, x))


def test_init_is_deterministic_in_its_key_and_has_string_keys_only(chain):
  first, again, other = (jax.tree.map(np.asarray, chain.init(jax.random.key(seed))) for seed in (1, 1, 2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first["layers"]["0"]["kernel"], other["layers"]["0"]["kernel"])
  assert not np.array_equal(first["layers"]["0"]["kernel"], first["layers"]["1"]["kernel"])
  paths = jax.tree_util.tree_flatten_with_path(first)[0]
  assert all(type(key.key) is str for path, _ in paths for key in path)
  check_tree(first, chain.abstract)


def test_building_allocates_nothing(chain):
  assert all(type(leaf) is jax.ShapeDtypeStruct for leaf in flatten(chain.abstract).values())


def test_a_tree_that_does_not_fit_is_refused_by_name(chain):
  leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in flatten(chain.abstract).items()}
  x = jnp.zeros((1, 2))
  renamed = {path.replace("layers/3/bias", "layers/3/bais"): leaf for path, leaf in leaves.items()}
  with pytest.raises(ValueError, match="layers/3/bais is unexpected; layers/3/bias is missing$"):
    chain(unflatten(renamed), x)
  with pytest.raises(ValueError, match=re.escape("layers/10/bias has shape (5,), not (2,)")):
    chain(unflatten(leaves | {"layers/10/bias": np.zeros(5)}), x)
  with pytest.raises(ValueError, match="layers/11/bias is unexpected"):
    chain(unflatten(leaves | {"layers/11/bias": np.zeros(2)}), x)
  with pytest.raises(ValueError, match="… 22 in all"):
    chain({}, x)


def test_flatten_and_unflatten_undo_each_other():
  tree = {"a": {"0": {"kernel": 1}, "10": {"kernel": 2}, "2": {"kernel": 3}}, "b": 4}
  assert flatten(tree) == {"a/0/kernel": 1, "a/10/kernel": 2, "a/2/kernel": 3, "b": 4}
  assert unflatten(flatten(tree)) == tree


@pytest.mark.parametrize("key", [0, "", "a/b"])
def test_names_that_two_trees_could_share_are_refused(key):
  with pytest.raises(ValueError, match="non-empty strings without '/'"):
    flatten({"x": {key: 1}})


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a")])
def test_a_leaf_cannot_be_a_group_too(paths):
  with pytest.raises(ValueError, match="lies below another tensor|both a tensor and a group"):
    unflatten(dict.fromkeys(paths, 1))
