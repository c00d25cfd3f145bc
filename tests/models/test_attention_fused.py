"""Fused kernels against plain products: what TPUs do in interpret mode, what each platform gets in lowered programs."""

import types

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from panda_jax.models import attention, attention_fused
from panda_jax.models.attention import _plain, attend
from tests.models.test_attention import operands, tokens, with_gradients


def compare(kernel, queries, keys, heads, d, dtype):
  """Values and gradients of a kernel and of plain products, beside those of plain products in float32."""
  drawn = *operands(queries, keys, dtype, b=2, n=heads, d=d), jnp.asarray(tokens(2, queries, heads, d, seed=3))
  exact = with_gradients(_plain)(*(x.astype(jnp.float32) for x in drawn))
  ours, plain = with_gradients(kernel)(*drawn), with_gradients(_plain)(*drawn)
  return [jax.tree.leaves(results) for results in (ours, plain, exact)]


def interpreted(query, key, value):
  out = attention_fused.splash(query, key, value, interpret=True)
  assert out.shape == query.shape and out.dtype == query.dtype
  return out


def largest_error(have, want):
  return float(jnp.abs(have.astype(jnp.float32) - want).max() / jnp.abs(want).max())


def error(have, want):
  return float(jnp.linalg.norm(have.astype(jnp.float32) - want) / jnp.linalg.norm(want))


# One block of keys or several, whole or padded ones, as many queries as keys or not, heads of whole lanes or not.
SHAPES = [(256, 256, 2, 40), (300, 130, 2, 40), (1024, 77, 1, 64), (1033, 1031, 1, 64), (2304, 2304, 1, 160),
          (130, 300, 1, 512)]


@pytest.mark.parametrize("queries, keys, heads, d", SHAPES)
def test_splash_attention_equals_plain_products(queries, keys, heads, d):
  ours, _, exact = compare(interpreted, queries, keys, heads, d, jnp.float32)
  assert max(largest_error(have, want) for have, want in zip(ours, exact, strict=True)) < 2e-5


@pytest.mark.parametrize("queries, keys, heads, d", [(300, 130, 2, 40), (1033, 1031, 1, 64)])
def test_splash_attention_in_half_precision_rounds_its_operands_alone(queries, keys, heads, d):
  """Queries are rounded once more than in plain products, after the scale of the scores."""
  for have, other, want in zip(*compare(interpreted, queries, keys, heads, d, jnp.bfloat16), strict=True):
    assert error(have, want) < max(2 * error(other, want), 5e-3)


def test_padding_is_never_looked_at():
  """Scores far below zero, where padding would weigh more than any key."""
  query, key, value = operands(140, 130)
  given = jnp.abs(query) * 10, -jnp.abs(key) * 10, value, jnp.ones_like(query)
  (out, gradients), (expected, _) = with_gradients(interpreted)(*given), with_gradients(_plain)(*given)
  np.testing.assert_allclose(out, expected, atol=1e-3)
  assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("length", [1024, 1031, 1500, 2304, 4099, 36864])
@pytest.mark.parametrize("d, dtype", [(40, "float32"), (160, "bfloat16"), (512, "float32")])
def test_blocks_are_large_and_cover_a_sequence_with_little_padding(length, d, dtype):
  size = attention_fused._block(length, d, jnp.dtype(dtype))
  blocks = -(-length // size)
  assert size % 128 == 0 and 128 <= size <= 1024
  assert blocks * size - length < blocks * 128


def lowered_for_tpu(function, queries, keys, dtype=jnp.bfloat16):
  given = [jax.ShapeDtypeStruct((1, length, 2, 40), dtype) for length in (queries, keys, keys)]
  return jax.jit(function).trace(*given).lower(lowering_platforms=("tpu",)).as_text()


def kernels(text):
  return text.count("@tpu_custom_call")


def test_programs_for_tpus_have_the_kernel_for_long_sequences_alone():
  """On this machine, which need not have one."""
  assert kernels(lowered_for_tpu(attend, 2048, 1024)) == 1
  assert kernels(lowered_for_tpu(attend, 256, 256)) == 0
  assert kernels(lowered_for_tpu(attend, 65536, 77)) == 0
  assert kernels(lowered_for_tpu(attend, 2048, 1024, jnp.float16)) == 0


@pytest.mark.parametrize("keys, backward", [(1024, 1), (2048, 2)])
def test_the_kernel_works_in_sharded_steps_that_compute_layers_again(keys, backward):
  """Inside jax.shard_map, gradients, checkpoints and loops over layers."""
  layers = lambda query, key, value: jax.lax.scan(
      lambda x, _: (jax.checkpoint(attend)(x, key, value).astype(x.dtype), None), query, length=3)[0].sum()
  mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
  step = jax.shard_map(jax.grad(layers, (0, 1, 2)), mesh=mesh,
                       in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"), check_vma=False)
  assert kernels(lowered_for_tpu(step, 2048, keys)) == 2 + backward


@pytest.mark.parametrize("version, d, dtype, fits", [
    ("PJRT C API\ncuda 12090", 64, "bfloat16", True), ("PJRT C API\ncuda 12090", 40, "float16", True),
    ("PJRT C API\ncuda 12090", 64, "float32", False), ("PJRT C API\ncuda 12090", 160, "bfloat16", False),
    ("PJRT C API\ncuda 12090", 36, "bfloat16", False), ("PJRT C API\nrocm 60300", 64, "bfloat16", False)])
def test_cudnn_is_for_half_precision_on_gpus_that_have_it(monkeypatch, version, d, dtype, fits):
  query = jax.ShapeDtypeStruct((1, 2048, 2, d), dtype)
  assert "cuda" not in attention._long_ways(query, query)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax.extend.backend, "get_backend", lambda: types.SimpleNamespace(platform_version=version))
  assert ("cuda" in attention._long_ways(query, query)) == fits


@pytest.mark.skipif(jax.default_backend() == "cpu", reason="compares what an accelerator does, and there is none")
@pytest.mark.parametrize("queries, keys, d", [(2048, 2048, 40), (1033, 1031, 64), (4096, 1024, 128), (2304, 2304, 160)])
def test_the_accelerator_of_this_machine_loses_no_more_than_plain_products(queries, keys, d):
  with jax.default_matmul_precision("highest"):
    results = compare(attend, queries, keys, 2, d, jnp.bfloat16)
  for have, other, want in zip(*results, strict=True):
    assert error(have, want) < max(2 * error(other, want), 5e-3)
