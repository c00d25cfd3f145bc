"""A checksum of parameters that is the same wherever they lie: on the host, or in parts on many devices."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from panda_jax.tree import flatten

_MIX = 0x9E3779B1                                              # odd; spreads positions over all 32 bits
_PART = 1 << 22                                                # numbers of a host array that are looked at together


def checksum(params: dict[str, Any]) -> str:
  """Digest of paths, shapes and values, the values as float32: "sums:" and 32 hexadecimal digits.

  Values enter by two sums modulo 2**32, each with an odd factor for every position. Sums do not depend on their order,
  so devices add up what they hold and nothing is gathered. It tells one set of weights from another; it is no
  signature.

  Args:
    params: nested dict of NumPy or JAX arrays of any floating type; half precision counts as the float32 it stands for.
  """
  leaves = flatten(params)
  sums = {path: _sums_on_devices(leaf) if isinstance(leaf, jax.Array) else _sums_on_host(np.asarray(leaf))
          for path, leaf in leaves.items()}                    # all are under way before the first is waited for
  digest = hashlib.sha256()
  for path, leaf in sorted(leaves.items()):
    first, second = np.asarray(sums[path]).tolist()
    digest.update(f"{path} {tuple(np.shape(leaf))} {first:08x}{second:08x}\n".encode())
  return f"sums:{digest.hexdigest()[:32]}"


def _sums_on_devices(leaf: jax.Array) -> jax.Array:
  """uint32 [2], on every device."""
  lies = leaf.sharding
  everywhere = NamedSharding(lies.mesh, PartitionSpec()) if isinstance(lies, NamedSharding) else None
  return jax.jit(_sums, out_shardings=everywhere)(leaf)


def _sums(leaf: jax.Array) -> jax.Array:
  bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
  position = jnp.zeros(leaf.shape, jnp.uint32)
  for axis, length in enumerate(leaf.shape):
    stride = math.prod(leaf.shape[axis + 1:]) % 2**32
    position += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
  return jnp.stack([(bits * factor).sum(dtype=jnp.uint32) for factor in _factors(position)])


def _sums_on_host(leaf: np.ndarray) -> np.ndarray:
  """uint32 [2]."""
  flat, total = leaf.reshape(-1), np.zeros(2, np.uint32)
  for start in range(0, flat.size, _PART):
    bits = flat[start:start + _PART].astype(np.float32).view(np.uint32)
    position = (np.arange(start, start + bits.size, dtype=np.uint64) & 0xFFFFFFFF).astype(np.uint32)
    total += np.stack([(bits * factor).sum(dtype=np.uint32) for factor in _factors(position)])
  return total


def _factors(position: Any) -> tuple[Any, Any]:
  """Two odd numbers for each position; all in uint32, which wraps."""
  return position * 2 + 1, ((position * np.uint32(_MIX)) ^ (position >> 15)) | 1

