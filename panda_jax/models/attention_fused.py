"""Fused attention: kernels that keep the scores on the chip. Splash attention on TPUs, cuDNN's on NVIDIA's GPUs.

For counters of FLOPs: in a traced program splash attention is `pallas_call`s, whose body `params["jaxpr"]` runs once
for every cell of `params["grid_mapping"].grid`, with images; of a `cond` in it the branch with most products runs.
That makes 4 n s l d for every image forwards and 14 n s l d backwards, where scores are made twice (10 where one block
has all keys), with s and l of whole blocks.
"""

from __future__ import annotations

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental.pallas.ops.tpu import splash_attention

from panda_jax.models.attention_blocks import split

# Fewer queries or keys are not worth a kernel, for which XLA has to lay out its operands anew.
_FEWEST = 1024
# Blocks of 1024 tokens take three quarters of the cycles per score that those of 512 take, as compiled for v5p, v5e and
# v6e. With more bytes than these in an operand's block, the scores no longer fit beside it on the chip.
_LARGEST_BLOCK, _BLOCK_BYTES = 1024, 2**18
_LANES = 128


def fits_splash(query: jax.Array, key: jax.Array) -> bool:
  """Whether `splash` is the way for queries [b s n d] and keys [b l n d] on a TPU."""
  return min(query.shape[1], key.shape[1]) >= _FEWEST and query.dtype in (jnp.bfloat16, jnp.float32)


@functools.partial(jax.jit, static_argnames="interpret")
def splash(query: jax.Array, key: jax.Array, value: jax.Array, interpret: bool = False) -> jax.Array:
  """Attention by JAX's kernels for TPUs, forwards and backwards.

  On more than one device it has to be called inside `jax.shard_map`, with `check_vma=False`.

  Args:
    query: [b s n d], bfloat16 or float32.
    key, value: [b l n d], of the same type.
    interpret: does what the kernels do in plain JAX, slowly.

  Returns:
    [b s n d] of the operands' type.
  """
  (_, s, n, d), l = query.shape, key.shape[1]
  rows, columns = (_block(length, d, query.dtype) for length in (s, l))
  query = _heads((query * d**-0.5).astype(query.dtype), rows)
  key, value = _heads(key, columns), _heads(value, columns)
  segments = None
  if key.shape[2] > l:
    # Keys that are padding are another segment than all queries. No gradient comes back from queries that are padding.
    segments = splash_attention.SegmentIds(np.zeros(query.shape[2], np.int32),
                                           np.arange(key.shape[2], dtype=np.int32) // l)
  kernel = _kernel((n, query.shape[2], key.shape[2]), d, rows, columns, interpret)
  out = jax.vmap(lambda *image: kernel(*image, segment_ids=segments))(query, key, value)
  return rearrange(out, "b n s d -> b s n d")[:, :s]


def _block(length: int, d: int, dtype: jnp.dtype) -> int:
  """The tokens of a block of a sequence that is padded to whole ones: a multiple of 128."""
  row_bytes = -(-d // _LANES) * _LANES * dtype.itemsize
  largest = max(min(_LARGEST_BLOCK, _BLOCK_BYTES // row_bytes // _LANES * _LANES), _LANES)
  size, _ = split(length, largest, _LANES)
  return -(-size // _LANES) * _LANES


def _heads(x, block):
  """[b s n d] -> [b n s+ d], of whole blocks."""
  return rearrange(jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0))), "b s n d -> b n s d")


@functools.cache
def _kernel(shape, d, rows, columns, interpret):
  """The kernels for scores of a shape [n s+ l+], which are made once for all layers alike."""
  n, *lengths = shape
  # One kernel for all gradients makes scores once, but gives a gradient of all queries for every block of keys.
  fused = lengths[1] == columns and d <= _LANES
  # Rows of 40 numbers would take the place of 128 in memory; columns of them do not.
  layout = splash_attention.QKVLayout.SEQ_MINOR if d % _LANES else splash_attention.QKVLayout.HEAD_DIM_MINOR
  sizes = splash_attention.BlockSizes(
      block_q=rows, block_kv=columns, block_q_dkv=rows, block_kv_dkv=columns, use_fused_bwd_kernel=fused,
      block_q_dq=None if fused else rows, block_kv_dq=None if fused else columns,
      q_layout=layout, k_layout=layout, v_layout=layout)
  mask = splash_attention.MultiHeadMask([splash_attention.FullMask(tuple(lengths))] * n)
  # Numbers, not tracers of whichever program asks first.
  with jax.ensure_compile_time_eval():
    kernel = splash_attention.make_splash_mha_single_device(mask, block_sizes=sizes, interpret=interpret)
  return jax.tree.map(np.asarray, kernel)


def fits_cudnn(query: jax.Array) -> bool:
  """Whether this process has a GPU whose cuDNN takes queries [b s n d]; without one, tracing its kernel fails."""
  return (query.dtype in (jnp.bfloat16, jnp.float16) and query.shape[-1] <= 128 and query.shape[-1] % 8 == 0
          and jax.default_backend() == "gpu" and "cuda" in jax.extend.backend.get_backend().platform_version)


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Attention by cuDNN, forwards and backwards: as `splash`, of bfloat16 or float16."""
  return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
