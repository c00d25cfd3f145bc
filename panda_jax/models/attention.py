"""Attention: the one place that chooses a kernel, and the multi-head layer that every block uses."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from panda_jax.models.layers import Linear
from panda_jax.models.products import product

# Scores of one head from which a CPU does better block by block than with all of them in memory.
_MANY_SCORES = 2**18
_BLOCK = 512


def attend(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool = False) -> jax.Array:
  """Scaled dot-product attention with a float32 softmax.

  Args:
    query: [b s n d].
    key, value: [b l n d], of the same type.
    causal: whether a token sees only itself and those before it; s equals l then.

  Returns:
    [b s n d] float32.
  """
  block = math.gcd(query.shape[1], _BLOCK)
  if causal or query.shape[1] * key.shape[1] < _MANY_SCORES or block < 64:
    return _plain(query, key, value, causal)
  return jax.lax.platform_dependent(query, key, value, cpu=lambda *args: _blocks(*args, block), default=_plain)


def _plain(query, key, value, causal=False):
  scores = product("bsnd,blnd->bnsl", query, key) * query.shape[-1] ** -0.5
  if causal:
    scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return product("bnsl,blnd->bsnd", weights, value)


def _blocks(query, key, value, block):
  """One head and `block` queries after the other: a few MiB of scores at a time, which stay in the cache."""
  b, s, n, d = query.shape
  per_head = s // block
  queries = rearrange(query, "b (k s) n d -> (b n k) s d", s=block)
  keys, values = (rearrange(x, "b l n d -> (b n) l d") for x in (key, value))
  # Columns of ones sum the weights in the same product: to divide by, after it, and without another pass over them.
  values = jnp.concatenate([values, jnp.ones((*values.shape[:2], 8), values.dtype)], axis=-1)

  @jax.checkpoint                        # the backward pass makes each block's scores again instead of keeping them all
  def attend_block(operands):
    index, q = operands
    k, v = (jax.lax.dynamic_index_in_dim(x, index // per_head, keepdims=False) for x in (keys, values))
    scores = product("sd,ld->sl", q, k) * d**-0.5
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    sums = product("sl,ld->sd", weights.astype(v.dtype), v)
    return sums[:, :d] / sums[:, d:d + 1]

  out = jax.lax.map(attend_block, (jnp.arange(len(queries)), queries))
  return rearrange(out, "(b n k) s d -> b (k s) n d", b=b, n=n)


class Attention(nnx.Module):
  """Multi-head attention, named as in Stable Diffusion checkpoints: to_q, to_k, to_v, to_out.0."""

  def __init__(self, channels: int, heads: int, context_channels: int | None = None, *, bias: bool = False,
               rngs: nnx.Rngs):
    """Queries have `channels`; keys and values come from `context_channels`, by default the same (self-attention).

    `bias`: whether to_q, to_k and to_v have one, as in the VAE; to_out.0 always has.

    Raises:
      ValueError: if the heads do not divide the channels.
    """
    if channels % heads:
      raise ValueError(f"{heads} heads do not divide {channels} channels")
    context_channels = context_channels or channels
    self.heads = heads
    self.to_q = Linear(channels, channels, use_bias=bias, rngs=rngs)
    self.to_k = Linear(context_channels, channels, use_bias=bias, rngs=rngs)
    self.to_v = Linear(context_channels, channels, use_bias=bias, rngs=rngs)
    self.to_out = nnx.List([Linear(channels, channels, rngs=rngs)])

  def read(self, context: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of a context [b l c'], each [b l n d]: once for all that is asked of it later."""
    return self._heads(self.to_k(context)), self._heads(self.to_v(context))

  def __call__(self, x: jax.Array, context: jax.Array | tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
    """x: [b s c], context: [b l c'], what `read` made of it, or None for self-attention -> [b s c]."""
    key, value = context if isinstance(context, tuple) else self.read(x if context is None else context)
    out = attend(self._heads(self.to_q(x)), key, value)
    return self.to_out[0](rearrange(out, "b s n d -> b s (n d)"))

  def _heads(self, y):
    return rearrange(y.astype(self.to_q.kernel.dtype), "b s (n d) -> b s n d", n=self.heads)
