"""Sinusoidal embeddings of timesteps, noise levels and frame positions, and the MLP behind them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from panda_jax.models.layers import Linear


def sinusoid(values: jax.Array, channels: int, max_period: float = 10_000.0) -> jax.Array:
  """[...] -> [... channels], cosines first, then sines, as Stable Diffusion's timestep embedding has them."""
  half = channels // 2
  frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
  angles = values.astype(jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def frame_positions(length: int, channels: int) -> np.ndarray:
  """[length channels] table of the AnimateDiff motion modules: sine and cosine interleaved."""
  position = np.arange(length)[:, None]
  frequency = np.exp(np.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
  table = np.zeros((length, channels), np.float32)
  table[:, 0::2] = np.sin(position * frequency)
  table[:, 1::2] = np.cos(position * frequency)[:, : channels // 2]
  return table


class TimestepEmbedding(nnx.Module):
  """Two linear layers with SiLU between, from a sinusoid to the width that every resnet reads."""

  def __init__(self, channels: int, embedding_channels: int, *, zero: bool = False, rngs: nnx.Rngs):
    """`zero` starts the last layer at zero, so that the embedding adds nothing until trained."""
    self.linear_1 = Linear(channels, embedding_channels, rngs=rngs)
    initialiser = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    self.linear_2 = Linear(embedding_channels, embedding_channels, kernel_init=initialiser, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... channels] -> [... embedding_channels]."""
    return self.linear_2(jax.nn.silu(self.linear_1(x)))
