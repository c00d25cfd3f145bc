"""Tests of networks spend their time in the compiler: these keep it short."""

from collections.abc import Callable
import math

import jax
import numpy as np


def jit(function: Callable, **options) -> Callable:
  """`jax.jit` that, on the CPU, leaves out XLA's optimisations: a third of the compile time, and the same numbers."""
  unoptimised = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
  return jax.jit(function, compiler_options=unoptimised if jax.default_backend() == "cpu" else None, **options)


def init_key(seed: int) -> jax.Array:
  """A key for a network's own `init`: JAX's other generator, which compiles in half the time of the default one."""
  return jax.random.key(seed, impl="rbg")


def draw(abstract: dict, seed: int = 0) -> dict:
  """Random values for a tree of shapes, with no leaf at zero and activations of about unit size.

  Drawn by NumPy: a network's own `init` compiles one program per shape of kernel.
  """
  rng = np.random.default_rng(seed)

  def value(path, leaf):
    normal = rng.normal(size=leaf.shape)
    if len(leaf.shape) > 1:
      normal /= math.sqrt(math.prod(leaf.shape[:-1]))
    else:
      normal = 0.1 * normal + (path[-1].key == "scale")
    return normal.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(value, abstract)
