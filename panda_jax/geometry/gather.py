"""The JAX side of `apply_table`."""

import jax
import jax.numpy as jnp


@jax.jit
def resample(indices: jax.Array, weights: jax.Array, pixels: jax.Array) -> jax.Array:
  """Weighted sums of source pixels, one tap at a time.

  All taps in one gather would hold k times the result (48 times for a stitched panorama); the loop holds it once, and
  on a CPU it is eight times faster. It also needs no matrix product, whose default precision on TPU and GPU (bfloat16,
  TF32) is too coarse for pixels.

  Args:
    indices: [n k] into the source pixels.
    weights: [n k].
    pixels: [b s c], b images of s source pixels.

  Returns:
    [b n c], of the pixels' dtype, or float32 if that is an integer.
  """
  dtype = pixels.dtype if jnp.issubdtype(pixels.dtype, jnp.floating) else jnp.float32
  working = jnp.promote_types(dtype, jnp.float32)      # bfloat16 pixels are summed in float32

  def add_tap(total, tap):
    index, weight = tap
    return total + jnp.take(pixels, index, axis=1).astype(working) * weight[:, None], None

  start = jnp.zeros((pixels.shape[0], indices.shape[0], pixels.shape[2]), working)
  total, _ = jax.lax.scan(add_tap, start, (indices.T, weights.T))
  return total.astype(dtype)
