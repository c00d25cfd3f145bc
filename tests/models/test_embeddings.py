"""Sinusoidal embeddings against their formulas."""

import math

import jax
import numpy as np
import pytest

from panda_jax.models.embeddings import TimestepEmbedding, frame_positions, sinusoid
from panda_jax.models.functional import Functional
from tests.fast import draw, jit


def test_a_timestep_is_cosines_first_then_sines():
  values = np.array([[0, 1, 500], [7, 250, 999]], np.int32)
  embedded = jit(lambda x: sinusoid(x, 6))(values)
  for index in np.ndindex(values.shape):
    angles = [values[index] * 10_000 ** (-k / 3) for k in range(3)]
    expected = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
    np.testing.assert_allclose(embedded[index], expected, atol=1e-4)


@pytest.mark.parametrize("channels", [8, 7])
def test_frame_positions_interleave_sine_and_cosine(channels):
  table = frame_positions(5, channels)
  assert table.shape == (5, channels) and table.dtype == np.float32
  for frame, channel in np.ndindex(table.shape):
    angle = frame * 10_000 ** (-(channel - channel % 2) / channels)
    assert table[frame, channel] == pytest.approx((math.cos if channel % 2 else math.sin)(angle), abs=1e-6)


def test_the_mlp_adds_nothing_while_its_last_layer_is_at_zero():
  layer = Functional(lambda rngs: TimestepEmbedding(4, 8, zero=True, rngs=rngs))
  np.testing.assert_array_equal(jit(lambda rng, x: layer(layer.init(rng), x))(jax.random.key(0), np.ones((3, 4))), 0)


def test_the_mlp_is_linear_silu_linear():
  layer = Functional(lambda rngs: TimestepEmbedding(4, 8, rngs=rngs))
  params = draw(layer.abstract)
  x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
  hidden = x @ params["linear_1"]["kernel"] + params["linear_1"]["bias"]
  expected = hidden / (1 + np.exp(-hidden)) @ params["linear_2"]["kernel"] + params["linear_2"]["bias"]
  np.testing.assert_allclose(jit(layer)(params, x), expected, atol=1e-6)
