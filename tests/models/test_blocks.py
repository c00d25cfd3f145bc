"""The blocks of the UNet, each against its definition."""

import numpy as np

from panda_jax.models import blocks
from panda_jax.models.attention import Attention
from panda_jax.models.functional import Functional
from tests.fast import draw, jit


def images(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(make, *arguments):
  return Functional(lambda rngs: make(*arguments, rngs=rngs))


def test_multiview_attention_is_one_attention_over_all_pixels_of_all_views_of_a_frame():
  b, v, f, s, c = 2, 2, 3, 4, 6
  net, attention = network(blocks.MultiViewAttention, c, 2), network(Attention, c, 2)
  params = draw(net.abstract)
  x = images(b, v, f, s, c)
  tokens = x.transpose(0, 2, 1, 3, 4).reshape(b * f, v * s, c)
  out = np.asarray(jit(attention)(params["attention"], tokens)) @ params["out"]["kernel"] + params["out"]["bias"]
  expected = out.reshape(b, f, v, s, c).transpose(0, 2, 1, 3, 4)
  np.testing.assert_allclose(jit(net)(params, x), expected, atol=1e-6)
