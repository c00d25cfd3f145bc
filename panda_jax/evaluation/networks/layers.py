"""What the networks of metrics have in common: frozen batch normalisation."""

from __future__ import annotations

from flax import nnx
import jax
import jax.numpy as jnp


class BatchNorm(nnx.Module):
  """Batch normalisation with the statistics that it was trained with: constants here, like the other weights."""

  def __init__(self, channels: int, epsilon: float = 1e-5):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones((channels,)))
    self.bias = nnx.Param(jnp.zeros((channels,)))
    self.running_mean = nnx.Param(jnp.zeros((channels,)))
    self.running_var = nnx.Param(jnp.ones((channels,)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... c] -> the same shape."""
    factor = self.scale[...] * jax.lax.rsqrt(self.running_var[...] + self.epsilon)
    return (x - self.running_mean[...]) * factor + self.bias[...]
