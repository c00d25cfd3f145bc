"""Convolutions and norms, each against its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.models import layers
from panda_jax.models.functional import Functional
from tests.fast import draw, jit


def images(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(make, *arguments, **options):
  return Functional(lambda rngs: make(*arguments, **options, rngs=rngs))


def test_group_norm_is_of_each_image_and_each_group():
  norm = network(layers.GroupNorm, 6, 3)
  params = draw(norm.abstract)
  x = 5 + 3 * images(2, 2, 2, 4, 3, 6)
  out = np.asarray(jit(norm)(params, x))
  for index in np.ndindex(2, 2, 2):
    for group in (slice(0, 2), slice(2, 4), slice(4, 6)):
      values = x[index][..., group].astype(np.float64)
      normal = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
      expected = normal * params["scale"][group] + params["bias"][group]
      np.testing.assert_allclose(out[index][..., group], expected, atol=1e-5)


def test_group_norm_computes_half_precision_in_float32():
  """A large mean over small differences, which bfloat16 statistics would lose."""
  norm = network(layers.GroupNorm, 4, 2)
  params = draw(norm.abstract)
  x = jnp.asarray(64 + 2 * images(1, 1, 1, 8, 8, 4), jnp.bfloat16)
  half, full = jit(lambda x: (norm(params, x), norm(params, x.astype(jnp.float32))))(x)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, full, atol=1e-6)


def test_halving_takes_every_other_pixel_beginning_with_the_first():
  """A kernel that copies the centre shows where the strided convolution lies: as torch's padding=1 has it."""
  down = network(layers.Downsample, 1)
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[1, 1] = 1
  x = images(1, 1, 1, 4, 6, 1)
  out = jit(down)({"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}, x)
  np.testing.assert_array_equal(out, x[:, :, :, ::2, ::2])


def test_doubling_repeats_pixels():
  up = network(layers.Upsample, 1)
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[1, 1] = 1
  x = images(1, 2, 1, 2, 3, 1)
  out = jit(up)({"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}, x)
  np.testing.assert_array_equal(out, x.repeat(2, axis=3).repeat(2, axis=4))


def test_group_norm_across_frames_is_that_of_one_tall_image():
  """The published 360DVD and AnimateDiff v1 pool the statistics of a clip; its views stay apart."""
  b, v, f, h, w, c = 2, 2, 3, 2, 4, 6
  pooled, single = network(layers.GroupNorm, c, 3, across_frames=True), network(layers.GroupNorm, c, 3)
  params = draw(pooled.abstract)
  x = images(b, v, f, h, w, c)
  expected = jit(single)(params, x.reshape(b, v, 1, f * h, w, c)).reshape(x.shape)
  np.testing.assert_allclose(jit(pooled)(params, x), expected, atol=1e-6)
  assert np.abs(jit(single)(params, x) - expected).max() > 0.1


def test_layer_norm_keeps_the_digits_of_small_differences():
  norm = network(layers.LayerNorm, 8)
  x = 1000 + images(5, 8)
  exact = x.astype(np.float64)
  expected = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  out = jit(norm)({"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}, x)
  np.testing.assert_allclose(out, expected, atol=2e-4)


@pytest.mark.parametrize("make", [lambda **k: layers.Conv(3, 4, **k), lambda **k: layers.Downsample(3, (0, 1), **k),
                                  lambda **k: layers.Upsample(3, **k), lambda **k: layers.ResnetBlock(3, 6, 3, **k)])
def test_a_circular_layer_does_not_know_where_the_panorama_was_cut(make):
  """Turned by an even number of columns before or after, it gives the same; with open edges it does not."""
  net = network(make)
  params = draw(net.abstract)
  x = images(2, 4, 8, 3)
  run = jit(lambda x, circular: net(params, x, circular=circular))
  for circular, same in ((True, True), (False, False)):
    straight, turned = run(x, circular), run(np.roll(x, 2, axis=-2), circular)
    shift = 2 * straight.shape[-2] // x.shape[-2]
    assert np.allclose(np.roll(straight, shift, axis=-2), turned, atol=1e-5) == same


def test_circular_may_be_decided_while_it_runs():
  net = network(layers.Conv, 3, 4)
  params = draw(net.abstract)
  x = images(1, 4, 6, 3)
  for circular in (True, False):
    traced = jit(lambda x, circular: net(params, x, circular))(x, circular)
    static = jit(lambda x: net(params, x, circular))(x)
    np.testing.assert_allclose(traced, static, atol=1e-6)


def test_layers_give_float32_whatever_the_type_of_their_weights():
  """What enters a product is rounded, what leaves it is not."""
  net = network(layers.Linear, 4, 3)
  params = {name: value.astype(jnp.bfloat16) for name, value in draw(net.abstract).items()}
  x = images(5, 4)
  out = jit(net)(params, x)
  rounded = [np.asarray(value, np.float32) for value in (x.astype(jnp.bfloat16), params["kernel"], params["bias"])]
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, rounded[0] @ rounded[1] + rounded[2], atol=1e-6)
