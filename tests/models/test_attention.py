"""Attention against jax.nn's own, and long sequences against short ones."""

import os
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from panda_jax.models import attention, attention_blocks
from panda_jax.models.attention import Attention, _plain, attend
from panda_jax.models.functional import Functional
from tests.fast import draw, jit

ROOT = Path(__file__).parents[2]


def tokens(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_attend_equals_jax_dot_product_attention():
  query, key, value = tokens(2, 6, 3, 4), 2 * tokens(2, 5, 3, 4, seed=1), tokens(2, 5, 3, 4, seed=2)
  expected = jit(jax.nn.dot_product_attention)(query, key, value)
  np.testing.assert_allclose(jit(attend)(query, key, value), expected, atol=1e-6)


# How accelerators go through the scores, in blocks small enough for a test, and how a CPU does.
SMALL = attention_blocks.Blocks(one_by_one=False, keys=256, scores=2**16, queries=(96, 256))
PLATFORMS = pytest.mark.parametrize("blocks", [attention_blocks.ON_CPU, SMALL], ids=["cpu", "accelerator"])


@pytest.fixture
def as_on(monkeypatch):
  """Has attention computed on this machine as on a platform with such blocks."""
  return lambda blocks: monkeypatch.setattr(attention_blocks, "ON_CPU", blocks)


def operands(queries, keys, dtype=np.float32, b=2, n=2, d=8):
  drawn = tokens(b, queries, n, d), 2 * tokens(b, keys, n, d, seed=1), tokens(b, keys, n, d, seed=2)
  return tuple(jnp.asarray(x, dtype) for x in drawn)


def with_gradients(function):
  """Compiles anew, whatever was traced before: (value, gradients of all operands)."""
  def both(query, key, value, out_gradient):
    out, backward = jax.vjp(lambda *x: function(*x).astype(jnp.float32), query, key, value)
    return out, backward(out_gradient)
  return jit(both)


# What blocks divide, nine views, 77 words, primes, one query, two keys.
LENGTHS = [(1024, 256), (2304, 2304), (4096, 77), (1033, 1031), (521, 2053), (1, 270_000), (140_000, 2)]


@PLATFORMS
@pytest.mark.parametrize("queries, keys", LENGTHS)
def test_long_sequences_of_any_length_equal_short_ones(as_on, blocks, queries, keys):
  """Block by block or all scores at once: the same values and gradients."""
  as_on(blocks)
  assert queries * keys >= attention._MANY_SCORES
  given = *operands(queries, keys, b=1), tokens(1, queries, 2, 8, seed=3)
  out, gradients = with_gradients(attend)(*given)
  expected, wanted = with_gradients(_plain)(*given)
  # thousands of weights are summed, in an order that is the processor's: 3e-6 apart with AVX-512, 1e-5 with AVX2
  np.testing.assert_allclose(out, expected, atol=5e-6 * np.abs(expected).max())
  for have, want in zip(gradients, wanted, strict=True):
    np.testing.assert_allclose(have, want, atol=1e-5 * np.abs(want).max())


@PLATFORMS
def test_padding_is_never_looked_at(as_on, blocks):
  """A prime number of keys is padded. With scores far below zero, padding would weigh more than any key; and far above
  it, an exponential of them would not be finite."""
  as_on(blocks)
  for sign in (-1, 1):
    query, key, value = operands(521, 1031)
    query, key = jnp.abs(query) * 10, sign * jnp.abs(key) * 10
    out, gradients = with_gradients(attend)(query, key, value, jnp.ones_like(query))
    expected, _ = with_gradients(_plain)(query, key, value, jnp.ones_like(query))
    np.testing.assert_allclose(out, expected, atol=1e-3)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@PLATFORMS
def test_long_sequences_in_half_precision_lose_no_more_than_short_ones(as_on, blocks):
  """Softmax and sums are float32, over all blocks: against float32, errors stay those of the operands' rounding."""
  as_on(blocks)
  given = *operands(1024, 2053, jnp.bfloat16), jnp.asarray(tokens(2, 1024, 2, 8, seed=3))
  exact = with_gradients(_plain)(*(x.astype(jnp.float32) for x in given))
  ours, plain = with_gradients(attend)(*given), with_gradients(_plain)(*given)
  assert ours[0].dtype == jnp.float32 and {x.dtype for x in ours[1]} == {jnp.dtype(jnp.bfloat16)}
  error = lambda have, want: float(jnp.linalg.norm(have.astype(jnp.float32) - want) / jnp.linalg.norm(want))
  for have, other, want in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), jax.tree.leaves(exact), strict=True):
    assert error(have, want) < max(1.5 * error(other, want), 5e-3)


@PLATFORMS
def test_neither_values_nor_gradients_ever_hold_all_scores(as_on, blocks):
  as_on(blocks)
  tokens_of = jax.ShapeDtypeStruct((1, 8209, 1, 8), jnp.float32)                                     # a prime
  loss = lambda *x: attend(*x).sum()
  for function in (lambda *x: loss(*x), jax.grad(lambda *x: loss(*x), (0, 1, 2))):
    memory = jit(function).lower(tokens_of, tokens_of, tokens_of).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8209**2 * 4 / 4


def test_clips_on_eight_devices_stay_where_they_are():
  """As accelerators do it, neither the way forward nor the way back sends anything, in whole blocks or padded ones."""
  child = subprocess.run(
      [sys.executable, "-m", "tests.models.test_attention"], cwd=ROOT, capture_output=True, text=True, timeout=300,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"})
  assert child.returncode == 0, child.stderr


def _on_eight_devices():
  attention_blocks.ON_CPU = SMALL
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  for queries, keys in ((1024, 512), (1033, 1031)):
    drawn = *operands(queries, keys, b=16), jnp.asarray(tokens(16, queries, 2, 8, seed=3))
    split = jax.device_put(drawn, NamedSharding(mesh, PartitionSpec("data")))
    program = with_gradients(attend).lower(*split).compile()
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
      assert f" {exchange}" not in program.as_text(), exchange
    results, expected = program(*split), with_gradients(_plain)(*drawn)
    for have, want in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
      assert have.sharding.spec[0] == "data"
      np.testing.assert_allclose(have, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("length, largest, multiple", [
    (36864, 1024, 128), (2304, 1024, 128), (4099, 512, 16), (1025, 1024, 128), (77, 1024, 128), (32769, 1024, 128),
    (1500, 1024, 128), (524288, 8192, 16), (65537, 256, 16)])
def test_blocks_cover_a_sequence_with_little_padding(length, largest, multiple):
  size, count = attention_blocks.split(length, largest, multiple)
  assert size <= largest and (count == 1 or size % multiple == 0)
  assert size * (count - 1) < length <= size * count              # the last block is not all padding
  assert size * count - length < multiple * count


def test_causal_attention_sees_nothing_that_comes_later():
  query, key, value = tokens(1, 7, 2, 4), tokens(1, 7, 2, 4, seed=1), tokens(1, 7, 2, 4, seed=2)
  expected = jit(lambda *x: jax.nn.dot_product_attention(*x, is_causal=True))(query, key, value)
  np.testing.assert_allclose(jit(lambda *x: attend(*x, causal=True))(query, key, value), expected, atol=1e-6)


def test_half_precision_has_a_float32_softmax_and_float32_sums():
  """Many equal keys: weights of 1/1000 summed in bfloat16 would stop growing long before 1."""
  query, key = jnp.zeros((1, 1, 1, 4), jnp.bfloat16), jnp.zeros((1, 1000, 1, 4), jnp.bfloat16)
  out = jit(attend)(query, key, jnp.ones((1, 1000, 1, 4), jnp.bfloat16))
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out.astype(jnp.float32), 1, atol=0.02)


@pytest.mark.parametrize("context_channels", [None, 6])
def test_the_layer_is_projection_attention_projection(context_channels):
  layer = Functional(lambda rngs: Attention(8, 2, context_channels, rngs=rngs))
  params = draw(layer.abstract)
  x = tokens(2, 5, 8)
  context = None if context_channels is None else tokens(2, 3, context_channels)
  source = x if context is None else context
  project = lambda y, name: (y @ params[name]["kernel"]).reshape(*y.shape[:2], 2, 4)
  attended = jit(jax.nn.dot_product_attention)(project(x, "to_q"), project(source, "to_k"), project(source, "to_v"))
  out = params["to_out"]["0"]
  expected = np.asarray(attended).reshape(2, 5, 8) @ out["kernel"] + out["bias"]
  np.testing.assert_allclose(jit(layer)(params, x, context), expected, atol=2e-6)


def test_heads_must_divide_the_channels():
  with pytest.raises(ValueError, match="3 heads do not divide 8 channels"):
    Attention(8, 3, rngs=nnx.Rngs(0))


if __name__ == "__main__":
  _on_eight_devices()
