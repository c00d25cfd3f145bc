"""Matrix products and convolutions: the one place that chooses how they are computed.

Operands have the type of the parameters, sums and results are float32. TPUs and GPUs have convolutions; XLA's for CPUs
take up to 1.4 times the time of torch's in float32, and 2.5 to 8 times in bfloat16, so there they become matrix products
(docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp

# Narrower networks compile faster with plain convolutions, and run as fast.
_WIDE = 128
# Rows of a feed-forward whose hidden layer a CPU keeps in its cache.
_ROWS = 1024
# Pixels of a batch from which Winograd's transforms cost less than they save.
_MANY = 1024

Pads = tuple[int, int]


def product(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """`einsum` of two operands of one type, with float32 sums and result."""
  einsum = lambda x, y: jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)
  if x.dtype != jnp.float16:
    return einsum(x, y)
  # XLA for CPUs has no float32 sums of float16 products.
  wide = lambda x, y: einsum(x.astype(jnp.float32), y.astype(jnp.float32))
  return jax.lax.platform_dependent(x, y, cpu=wide, default=einsum)


def dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[... c] times [c c'] -> [... c'] float32."""
  return product("...c,cd->...d", x, kernel)


def by_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """A function of single rows [... c] -> [... c'], on CPUs of some rows after the others."""
  *rows, c = x.shape
  if c < _WIDE or math.prod(rows) % _ROWS or math.prod(rows) == _ROWS:
    return function(x)

  def on_cpu(x):
    y = jax.lax.map(function, x.reshape(-1, _ROWS, c))
    return y.reshape(*rows, y.shape[-1])

  return jax.lax.platform_dependent(x, cpu=on_cpu, default=function)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, rows: Pads, columns: Pads) -> jax.Array:
  """A 2-D convolution.

  Args:
    x: [b h w c].
    kernel: [rows columns c c'], of the same type.
    stride: of both axes.
    rows, columns: zeros added before and after.

  Returns:
    [b h' w' c'] float32.
  """
  if kernel.shape[:2] == (1, 1) and stride == 1 and rows == columns == (0, 0):
    return dot(x, kernel[0, 0])

  def native(x, kernel):
    # A float32 result would need no rounding here, but JAX cannot differentiate such a convolution.
    return _direct(x, kernel, stride, rows, columns).astype(jnp.float32)

  def on_cpu(x, kernel):
    height, width = x.shape[1] + sum(rows), x.shape[2] + sum(columns)
    if min(kernel.shape[2:]) < _WIDE:
      return _direct(x.astype(jnp.float32), kernel.astype(jnp.float32), stride, rows, columns)
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    if stride == 1 and kernel.shape[:2] == (3, 3) and not (height % 2 or width % 2) and x.shape[0] * height * width >= _MANY:
      return _winograd(x, kernel)
    return _as_one_product(x, kernel, stride)

  return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=native)


def _direct(x, kernel, stride, rows, columns):
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), (rows, columns),
                                      dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _as_one_product(x, kernel, stride):                                   # x: [b h w c], padded
  """Every pixel's neighbourhood as one long row."""
  height, width = ((pixels - size) // stride + 1 for pixels, size in zip(x.shape[1:3], kernel.shape))
  shifted = [x[:, i:i + stride * (height - 1) + 1:stride, j:j + stride * (width - 1) + 1:stride]
             for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
  return dot(jnp.concatenate(shifted, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


def _winograd(x, kernel):                                                 # x: [b h w c], padded; h and w even
  """F(2x2, 3x3): 16 products per 2x2 pixels instead of 36, with 1.5 (bfloat16: 2.5) times the rounding error.

  Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), §4.1.
  """
  dtype = x.dtype
  x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
  b, height, width, c = x.shape
  h, w = height // 2 - 1, width // 2 - 1
  cells = x.reshape(b, height // 2, 2, width // 2, 2, c)
  tiles = [[cells[:, i // 2:i // 2 + h, i % 2, j // 2:j // 2 + w, j % 2] for j in range(4)] for i in range(4)]
  inputs = _both_axes(lambda a, b, c, d: (a - c, b + c, c - b, b - d), tiles)
  weights = _both_axes(lambda a, b, c: (a, (a + b + c) / 2, (a - b + c) / 2, c),
                       [[kernel[i, j] for j in range(3)] for i in range(3)])
  products = [[dot(inputs[i][j].astype(dtype), weights[i][j].astype(dtype)) for j in range(4)] for i in range(4)]
  outputs = _both_axes(lambda a, b, c, d: (a + b + c, b - c - d), products)
  return jnp.stack([jnp.stack(row, axis=3) for row in outputs], axis=2).reshape(b, 2 * h, 2 * w, -1)


def _both_axes(transform, grid):
  """Applies a transform of one axis to the columns of a grid of arrays, then to its rows."""
  by_column = [transform(*column) for column in zip(*grid)]
  return [transform(*row) for row in zip(*by_column)]
