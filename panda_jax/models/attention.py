"""Attention: the one place that chooses a kernel, and the multi-head layer that every block uses.

Short sequences are plain products. Long ones have a kernel of each platform: on TPUs splash attention, on NVIDIA's GPUs
cuDNN's, and blocks in plain JAX on CPUs and for whatever those two do not take.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from panda_jax.models import attention_blocks, attention_fused
from panda_jax.models.layers import Linear
from panda_jax.models.products import product

# Scores of one image and head from which they are never held all at once. Levels of Stable Diffusion with fewer have
# half a GiB of them in an 8x16 matrix of 64x64 latents under guidance, and plain products are the fastest there is.
_MANY_SCORES = 2**18


def attend(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool = False) -> jax.Array:
  """Scaled dot-product attention with a float32 softmax.

  Args:
    query: [b s n d].
    key, value: [b l n d], of the same type.
    causal: whether a token sees only itself and those before it; s equals l then.

  Returns:
    [b s n d] float32; of long sequences it has the precision of the operands' type.
  """
  if causal or query.shape[1] * key.shape[1] < _MANY_SCORES:
    return _plain(query, key, value, causal)
  # The platform is the one that a program is lowered for: programs for TPUs are also made on machines without one.
  return jax.lax.platform_dependent(query, key, value, **_long_ways(query, key)).astype(jnp.float32)


def _plain(query, key, value, causal=False):
  scores = product("bsnd,blnd->bnsl", query, key) * query.shape[-1] ** -0.5
  if causal:
    scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return product("bnsl,blnd->bsnd", weights, value)


def _long_ways(query, key):
  """Differentiable functions of queries, keys and values for the platforms, which give [b s n d] of their type."""
  ways = {"cpu": functools.partial(attention_blocks.blockwise, attention_blocks.ON_CPU),
          "default": functools.partial(attention_blocks.blockwise, attention_blocks.ELSEWHERE)}
  if attention_fused.fits_splash(query, key):
    ways["tpu"] = attention_fused.splash
  if attention_fused.fits_cudnn(query):
    ways["cuda"] = attention_fused.cudnn
  return ways


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
