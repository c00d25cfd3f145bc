"""Attention: the one place that chooses a kernel, and the multi-head layer that every block uses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Scaled dot-product attention with a float32 softmax.

  Args:
    query: [b s n d].
    key, value: [b l n d].

  Returns:
    [b s n d].
  """
  scores = jnp.einsum("bsnd,blnd->bnsl", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("bnsl,blnd->bsnd", weights, value)


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
    self.to_q = nnx.Linear(channels, channels, use_bias=bias, rngs=rngs)
    self.to_k = nnx.Linear(context_channels, channels, use_bias=bias, rngs=rngs)
    self.to_v = nnx.Linear(context_channels, channels, use_bias=bias, rngs=rngs)
    self.to_out = nnx.List([nnx.Linear(channels, channels, rngs=rngs)])

  def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
    """x: [b s c], context: [b l c'] or None for self-attention -> [b s c]."""
    context = x if context is None else context
    split = lambda y: rearrange(y, "b s (n d) -> b s n d", n=self.heads)
    out = attend(split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context)))
    return self.to_out[0](rearrange(out, "b s n d -> b s (n d)"))
