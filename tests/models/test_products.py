"""Products and convolutions are the same however they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.models import products
from tests.fast import jit


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(x, kernel, stride, rows, columns):
  """XLA's own convolution, in float64."""
  with jax.enable_x64():
    return np.asarray(jax.lax.conv_general_dilated(
        x.astype(np.float64), kernel.astype(np.float64), (stride, stride), (rows, columns),
        dimension_numbers=("NHWC", "HWIO", "NHWC")))


CASES = {
  "many pixels: Winograd": ((2, 30, 34, 128), (3, 3, 128, 130), 1, (1, 1), (1, 1)),
  "few pixels: one product": ((1, 6, 10, 128), (3, 3, 128, 128), 1, (1, 1), (1, 1)),
  "an odd size: one product": ((3, 19, 21, 128), (3, 3, 128, 128), 1, (1, 1), (1, 1)),
  "a stride": ((1, 8, 10, 128), (3, 3, 128, 128), 2, (1, 1), (1, 1)),
  "the VAE's stride, an odd size": ((1, 9, 8, 128), (3, 3, 128, 128), 2, (0, 1), (0, 1)),
  "wrapped columns": ((1, 32, 34, 128), (3, 3, 128, 128), 1, (1, 1), (0, 0)),
  "pixel by pixel": ((2, 3, 5, 7), (1, 1, 7, 4), 1, (0, 0), (0, 0)),
  "pixel by pixel, a stride": ((2, 4, 6, 128), (1, 1, 128, 128), 2, (0, 0), (0, 0)),
  "another shape of kernel": ((1, 40, 40, 128), (3, 1, 128, 128), 1, (1, 1), (0, 0)),
  "narrow": ((1, 5, 6, 3), (3, 3, 3, 8), 1, (1, 1), (1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_way_to_convolve_gives_the_convolution(case):
  shape, kernel_shape, *geometry = CASES[case]
  x = normal(*shape)
  kernel = normal(*kernel_shape, seed=1) / np.sqrt(np.prod(kernel_shape[:3]))
  out = jit(lambda x, kernel: products.convolve(x, kernel, *geometry))(x, kernel)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, reference(x, kernel, *geometry), atol=1e-5)


@pytest.mark.parametrize("case", ["many pixels: Winograd", "few pixels: one product", "narrow"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_way_to_convolve_has_the_gradient_of_the_convolution(case, dtype):
  shape, kernel_shape, *geometry = CASES[case]
  x = normal(*shape).astype(dtype)
  kernel = (normal(*kernel_shape, seed=1) / np.sqrt(np.prod(kernel_shape[:3]))).astype(dtype)
  loss = lambda convolve: lambda x, kernel: jnp.square(convolve(x, kernel)).mean()
  ours = jit(jax.grad(loss(lambda x, kernel: products.convolve(x, kernel, *geometry)), (0, 1)))(x, kernel)
  wide = jit(jax.grad(loss(lambda x, kernel: products._direct(x, kernel, *geometry)), (0, 1)))(
      x.astype(np.float32), kernel.astype(np.float32))
  for have, want in zip(ours, wide):
    assert have.dtype == dtype
    error = np.abs(np.asarray(have, np.float32) - want).max() / np.abs(want).max()
    assert error < (1e-5 if dtype == jnp.float32 else 2e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_sums_of_half_precision_are_float32(dtype):
  """4096 ones and one of 2^-11 do not sum to 4096 only."""
  x = np.ones((1, 4097), dtype)
  x[0, -1] = 2**-11
  out = jit(products.dot)(x, np.ones((4097, 1), dtype))
  assert out.dtype == jnp.float32 and float(out[0, 0]) == 4096 + 2**-11


@pytest.mark.parametrize("shape", [(3, 1024, 130), (1, 1024, 130), (2, 700, 130), (4, 1024, 8)])
def test_rows_come_out_alike_in_blocks_and_at_once(shape):
  x = normal(*shape)
  double = lambda rows: jnp.concatenate([rows, 2 * rows], axis=-1)
  np.testing.assert_array_equal(jit(lambda x: products.by_rows(double, x))(x), double(x))
  gradient = jit(jax.grad(lambda x: jnp.square(products.by_rows(jnp.sin, x)).sum()))(x)
  np.testing.assert_allclose(gradient, np.sin(2 * x), atol=1e-6)
