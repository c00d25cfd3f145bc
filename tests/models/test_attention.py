"""Attention against jax.nn's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from panda_jax.models.attention import Attention, _plain, attend
from panda_jax.models.functional import Functional
from tests.fast import draw, jit


def tokens(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_attend_equals_jax_dot_product_attention():
  query, key, value = tokens(2, 6, 3, 4), 2 * tokens(2, 5, 3, 4, seed=1), tokens(2, 5, 3, 4, seed=2)
  expected = jit(jax.nn.dot_product_attention)(query, key, value)
  np.testing.assert_allclose(jit(attend)(query, key, value), expected, atol=1e-6)


@pytest.mark.parametrize("queries, keys", [(1024, 256), (1536, 300), (4096, 77)])
def test_long_sequences_equal_short_ones(queries, keys):
  """On a CPU they go block by block; values and gradients are those of all scores at once."""
  query, key, value = tokens(2, queries, 2, 8), 2 * tokens(2, keys, 2, 8, seed=1), tokens(2, keys, 2, 8, seed=2)
  loss = lambda function: lambda *arguments: jnp.square(function(*arguments)).sum()
  np.testing.assert_allclose(jit(attend)(query, key, value), jit(_plain)(query, key, value), atol=2e-6)
  ours, expected = (jit(jax.grad(loss(function), (0, 1, 2)))(query, key, value) for function in (attend, _plain))
  for have, want in zip(ours, expected):
    np.testing.assert_allclose(have, want, atol=1e-5 * np.abs(want).max())


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
