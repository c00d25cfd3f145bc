"""The blocks of the UNet, each against its definition."""

import jax.numpy as jnp
import numpy as np

from panda_jax.models import blocks, layers
from panda_jax.models.attention import Attention
from panda_jax.models.functional import Functional
from tests.fast import draw, jit


def images(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(make, *arguments):
  return Functional(lambda rngs: make(*arguments, rngs=rngs))


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
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.02)


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


def test_multiview_attention_is_one_attention_over_all_pixels_of_all_views_of_a_frame():
  b, v, f, s, c = 2, 2, 3, 4, 6
  net, attention = network(blocks.MultiViewAttention, c, 2), network(Attention, c, 2)
  params = draw(net.abstract)
  x = images(b, v, f, s, c)
  tokens = x.transpose(0, 2, 1, 3, 4).reshape(b * f, v * s, c)
  out = np.asarray(jit(attention)(params["attention"], tokens)) @ params["out"]["kernel"] + params["out"]["bias"]
  expected = out.reshape(b, f, v, s, c).transpose(0, 2, 1, 3, 4)
  np.testing.assert_allclose(jit(net)(params, x), expected, atol=1e-6)
