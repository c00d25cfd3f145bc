"""What a network keeps of its forward pass for the backward pass, and what it computes again (rematerialisation)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import contextvars

import jax
from jax.ad_checkpoint import checkpoint_name

POLICIES = ("none", "block", "dots", "offload")
_BETWEEN = "between_blocks"

_policy = contextvars.ContextVar("remat_policy", default="none")


@contextlib.contextmanager
def remat(policy: str) -> Iterator[None]:
  """Networks that are traced inside follow this policy.

  "none" keeps everything. "block" keeps what enters each block, and the backward pass computes the block again. "dots"
  keeps the results of matrix products with parameters, too: more memory, less to compute again. "offload" is "block"
  with what enters a block kept in the host's memory.

  Raises:
    ValueError: for another policy.
  """
  if policy not in POLICIES:
    raise ValueError(f"remat must be one of {', '.join(POLICIES)}, got {policy!r}")
  token = _policy.set(policy)
  try:
    yield
  finally:
    _policy.reset(token)


def block(function: Callable, *args) -> jax.Array:
  """`function(*args)`, a block of a network, under the policy."""
  policy = _policy.get()
  if policy == "none":
    return function(*args)
  if policy == "dots":
    return jax.checkpoint(function, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)(*args)
  return between(jax.checkpoint(function)(*args))


def between(x: jax.Array) -> jax.Array:
  """Marks an activation that goes from block to block and is no block's result: it is kept like these."""
  return checkpoint_name(x, _BETWEEN)


def network(function: Callable, *args):
  """`function(*args)`, a whole network made of blocks: "offload" keeps what goes between them in the host's memory."""
  if _policy.get() != "offload":
    return function(*args)
  return jax.checkpoint(function, policy=jax.checkpoint_policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[], names_which_can_be_offloaded=[_BETWEEN], offload_src="device",
      offload_dst="pinned_host"))(*args)
