"""Attention in blocks, in plain JAX: no platform ever holds all scores, neither forwards nor backwards."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from einops import rearrange

from panda_jax.models.products import product


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How a platform goes through the scores.

  Attributes:
    one_by_one: images and heads one after the other; else heads alone, with all images together. A loop over images
      would gather those that lie on other devices; it is for CPUs, whose caches hold the scores of one.
    keys: the most keys of a block.
    scores: about how many a block has; of all its images together, so that memory does not grow with them.
    queries: the fewest and the most queries of a block, each a multiple of 16; they go before `scores`.
  """

  one_by_one: bool
  keys: int
  scores: int
  queries: tuple[int, int]


# On a CPU 8 MiB of scores, which stay in the cache. Elsewhere 64 MiB, which XLA keeps in a TPU v5e's own memory; fewer
# than 256 queries would leave too little work between two steps of the loop.
ON_CPU = Blocks(one_by_one=True, keys=4096, scores=2**21, queries=(512, 2048))
ELSEWHERE = Blocks(one_by_one=False, keys=1024, scores=2**24, queries=(256, 8192))


@functools.partial(jax.jit, static_argnums=0)
def blockwise(blocks: Blocks, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Attention of queries [b s n d] over keys and values [b l n d]: [b s n d] of the operands' type."""
  return _blockwise(blocks, query, key, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(blocks, query, key, value):
  return _forward(blocks, query, key, value)[0]


def _blockwise_forward(blocks, query, key, value):
  out, logsum = _forward(blocks, query, key, value)
  return out, (query, key, value, out, logsum)


def _blockwise_backward(blocks, residuals, out_gradient):
  return _backward(blocks, *residuals, out_gradient)


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def _forward(blocks, query, key, value):
  """Online softmax: block by block of queries, for each through all keys (Rabe and Staats, arXiv 2112.05682).

  Returns:
    [b s n d] of the operands' type, and the logarithm of each softmax's sum [b s n] float32.
  """
  cut = _Cut.of(blocks, query, key)
  d = query.shape[-1]

  def attend_head(operands):
    q, k, v = operands                                                                    # [… s d], [… l d]
    # Columns of ones sum the weights in the same product: to divide by, and without another pass over them.
    v = jnp.concatenate([v, jnp.ones((*v.shape[:-1], 8), v.dtype)], axis=-1)

    def attend_rows(row):
      q_rows = cut.rows(q, row)

      def attend_columns(state, column):
        scores = cut.scores(q_rows, cut.columns(k, column), column)
        highest = scores.max(-1, keepdims=True)
        if state is not None:
          highest = jnp.maximum(highest, state[0])
        sums = product("...sl,...ld->...sd", jnp.exp(scores - highest).astype(v.dtype), cut.columns(v, column))
        if state is not None:
          sums = sums + state[1] * jnp.exp(state[0] - highest)
        return highest, sums

      if cut.key_blocks == 1:
        highest, sums = attend_columns(None, 0)
      else:
        lead = q_rows.shape[:-1]
        start = jnp.full((*lead, 1), -jnp.inf), jnp.zeros((*lead, v.shape[-1]))
        highest, sums = jax.lax.fori_loop(0, cut.key_blocks, lambda i, state: attend_columns(state, i), start)
      total = sums[..., d:d + 1]
      return (sums[..., :d] / total).astype(v.dtype), highest + jnp.log(total)

    return jax.lax.map(attend_rows, jnp.arange(cut.query_blocks))

  out, logsum = jax.lax.map(attend_head, (cut.fold_queries(query), cut.fold_keys(key), cut.fold_keys(value)))
  join = lambda x: cut.unfold(rearrange(x, "g k ... s d -> g ... (k s) d"), query.shape[1])
  return join(out), join(logsum)[..., 0]


def _backward(blocks, query, key, value, out, logsum, out_gradient):
  """Gradients of the three operands; the weights are made again, block by block (FlashAttention, arXiv 2205.14135)."""
  cut = _Cut.of(blocks, query, key)
  out_gradient = out_gradient.astype(query.dtype)
  shared = (out_gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)

  def attend_head(operands):
    q, k, v, dout, logsum, shared = operands                                              # [… s d], [… l d]

    def attend_columns(dq, column):
      k_columns, v_columns = cut.columns(k, column), cut.columns(v, column)

      def attend_rows(state, row):
        dq, dk, dv = state
        q_rows, dout_rows, logsum_rows, shared_rows = (cut.rows(x, row) for x in (q, dout, logsum, shared))
        weights = jnp.exp(cut.scores(q_rows, k_columns, column) - logsum_rows)
        dv = dv + product("...sl,...sd->...ld", weights.astype(v.dtype), dout_rows)
        dweights = product("...sd,...ld->...sl", dout_rows, v_columns)
        dscores = (weights * (dweights - shared_rows) * q.shape[-1] ** -0.5).astype(q.dtype)
        dk = dk + product("...sl,...sd->...ld", dscores, q_rows)
        dq_rows = cut.rows(dq, row) + product("...sl,...ld->...sd", dscores, k_columns)
        return (jax.lax.dynamic_update_slice_in_dim(dq, dq_rows, row * cut.queries, axis=-2), dk, dv), None

      zeros = jnp.zeros(k_columns.shape)
      (dq, dk, dv), _ = jax.lax.scan(attend_rows, (dq, zeros, zeros), jnp.arange(cut.query_blocks))
      return dq, (dk.astype(k.dtype), dv.astype(v.dtype))

    dq, (dk, dv) = jax.lax.scan(attend_columns, jnp.zeros(q.shape), jnp.arange(cut.key_blocks))
    return dq.astype(q.dtype), dk, dv

  operands = (cut.fold_queries(query), cut.fold_keys(key), cut.fold_keys(value),
              *(cut.fold_queries(x) for x in (out_gradient, logsum[..., None], shared)))
  dq, dk, dv = jax.lax.map(attend_head, operands)
  dk, dv = (rearrange(x, "g k ... l d -> g ... (k l) d") for x in (dk, dv))
  return tuple(cut.unfold(x, whole.shape[1]) for x, whole in ((dq, query), (dk, key), (dv, value)))


@dataclasses.dataclass(frozen=True)
class _Cut:
  """How the blocks lie in operands of given lengths, which are padded where none divides them.

  Attributes:
    heads: n.
    one_by_one: see `Blocks`.
    queries, query_blocks, keys, key_blocks: sizes and numbers of blocks.
    length: keys without padding.
  """

  heads: int
  one_by_one: bool
  queries: int
  query_blocks: int
  keys: int
  key_blocks: int
  length: int

  @classmethod
  def of(cls, blocks: Blocks, query: jax.Array, key: jax.Array) -> _Cut:
    keys, key_blocks = split(key.shape[1], blocks.keys, 128)
    together = 1 if blocks.one_by_one else query.shape[0]
    largest = blocks.scores // (together * keys) // 16 * 16
    queries, query_blocks = split(query.shape[1], min(max(largest, blocks.queries[0]), blocks.queries[1]), 16)
    return cls(query.shape[2], blocks.one_by_one, queries, query_blocks, keys, key_blocks, key.shape[1])

  def fold_queries(self, x):
    """[b s n d] -> [g … s+ d]: g one after the other, the images … together if not `one_by_one`."""
    return self._fold(x, self.queries * self.query_blocks)

  def fold_keys(self, x):
    return self._fold(x, self.keys * self.key_blocks)

  def _fold(self, x, length):
    x = jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0)))
    return rearrange(x, "b s n d -> (b n) s d" if self.one_by_one else "b s n d -> n b s d")

  def unfold(self, x, length):
    """The inverse of `fold_…`, without the padding."""
    pattern = "(b n) s d -> b s n d" if self.one_by_one else "n b s d -> b s n d"
    return rearrange(x, pattern, n=self.heads)[:, :length]

  def rows(self, x, row):
    """A block of queries, or of what belongs to them: [… s+ d] -> [… s d]."""
    return jax.lax.dynamic_slice_in_dim(x, row * self.queries, self.queries, axis=-2)

  def columns(self, x, column):
    """A block of keys or values: [… l+ d] -> [… l d]."""
    return jax.lax.dynamic_slice_in_dim(x, column * self.keys, self.keys, axis=-2)

  def scores(self, q, k, column):
    """[… s d], [… l d], which is block `column` -> [… s l] float32, -inf where there is no key."""
    scores = product("...sd,...ld->...sl", q, k) * q.shape[-1] ** -0.5
    if self.keys * self.key_blocks == self.length:
      return scores
    return jnp.where(column * self.keys + jnp.arange(self.keys) < self.length, scores, -jnp.inf)


def split(length: int, largest: int, multiple: int) -> tuple[int, int]:
  """Size and number of blocks for `length` tokens: one block, or blocks of a multiple of `multiple`.

  No block is larger than `largest`, which is a multiple itself, and the last one is never all padding.
  """
  if length <= largest:
    return length, 1
  exact = (size for size in range(largest, largest // 2, -multiple) if length % size == 0)
  blocks = math.ceil(length / largest)
  size = next(exact, math.ceil(length / blocks / multiple) * multiple)
  return size, math.ceil(length / size)
