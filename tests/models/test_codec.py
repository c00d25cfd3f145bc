"""The cosine codec: what it keeps, and latents that a diffusion model can use."""

import numpy as np
import pytest

from panda_jax.data.worlds import draw_world, render
from panda_jax.evaluation.metrics import psnr
from panda_jax.geometry import VIDEOPANDA_RIG
from panda_jax.models.codec import CosineCodec
from tests.fast import jit

CODEC = CosineCodec()
ENCODE, DECODE = jit(CODEC.encode), jit(CODEC.decode)


@pytest.fixture(scope="module")
def views():
  """uint8 [48 8 32 32 3]: the views of the first moment of 48 worlds."""
  panoramas = np.stack([next(render(draw_world(seed), 1)) for seed in range(48)])
  return np.clip(np.rint(VIDEOPANDA_RIG.project(panoramas, (32, 32))), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def latents(views):
  return np.asarray(ENCODE(views / np.float32(127.5) - 1))


def noise(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_grey_images_come_back_exactly():
  """All of the luma is kept."""
  grey = noise(3, 2, 16, 8, 1).repeat(3, axis=-1)
  np.testing.assert_allclose(DECODE(ENCODE(grey)), grey, atol=1e-5)


def test_views_of_worlds_come_back_at_35_db_on_average(views, latents):
  decoded = np.clip((np.asarray(DECODE(latents)) + 1) * 127.5, 0, 255)
  scores = [psnr(a, b) for a, b in zip(decoded.reshape(-1, 32, 32, 3), views.reshape(-1, 32, 32, 3).astype(np.float32))]
  assert np.mean(scores) >= 35                                # measured 46, the worst view 33.6
  assert np.min(scores) >= 30


@pytest.mark.parametrize("chroma_size", [1, 2, 3, 4])
def test_more_chroma_coefficients_keep_more_and_all_of_them_everything(views, chroma_size):
  codec = CosineCodec(chroma_size)
  assert codec.channels == 16 + 2 * chroma_size**2
  pixels = views[:8] / np.float32(127.5) - 1
  latents, decoded = jit(lambda x: (codec.encode(x), codec.decode(codec.encode(x))))(pixels)
  assert latents.shape == (8, 8, 8, 8, codec.channels)
  error = np.sqrt(np.square(decoded - pixels).mean())
  assert error <= (0.04, 0.02, 0.01, 1e-5)[chroma_size - 1]


def test_latents_of_worlds_have_about_unit_variance(latents):
  """Each channel's deviation over blocks: the lowest of each of luma and chroma near 1, none above 1.4 or below 0.12.

  Measured 0.17 to 1.2. The highest frequencies are kept small on purpose: they matter less to the eye and the loss.
  """
  deviation = latents.reshape(-1, 24).std(0)
  assert ((0.12 < deviation) & (deviation < 1.4)).all()
  assert ((0.8 < deviation[[0, 16, 20]]) & (deviation[[0, 16, 20]] < 1.4)).all()
  assert 0.4 < np.sqrt(np.square(deviation).mean()) < 1.1
  assert np.abs(latents.reshape(-1, 24).mean(0)).max() < 0.6


def test_the_luma_transform_is_orthogonal():
  """The images of its sixteen coefficients are orthogonal, so white noise keeps its energy but for the scales."""
  atoms = np.asarray(DECODE(np.eye(24, dtype=np.float32).reshape(24, 1, 1, 24)))[:16]               # [16 4 4 3]
  np.testing.assert_allclose(atoms, atoms[..., :1].repeat(3, axis=-1), atol=1e-6)
  products = np.einsum("ihw,jhw->ij", atoms[..., 0], atoms[..., 0])
  scale = np.sqrt(np.diag(products))
  np.testing.assert_allclose(products / scale / scale[:, None], np.eye(16), atol=1e-5)
  white = noise(64, 64, 1).repeat(3, axis=-1)
  coefficients = np.asarray(ENCODE(white))[..., :16] * scale
  assert np.square(coefficients).sum() == pytest.approx(np.square(white[..., 0]).sum(), rel=1e-4)
  deviation = coefficients.reshape(-1, 16).std(0)
  assert deviation.min() > 0.9 * white.std() and deviation.max() < 1.1 * white.std()


def test_both_ways_are_linear():
  a, b = noise(1, 8, 8, 3, seed=1), noise(1, 8, 8, 3, seed=2)
  np.testing.assert_allclose(ENCODE(2 * a - 3 * b), 2 * ENCODE(a) - 3 * ENCODE(b), atol=1e-4)
  a, b = noise(1, 2, 2, 24, seed=1), noise(1, 2, 2, 24, seed=2)
  np.testing.assert_allclose(DECODE(2 * a - 3 * b), 2 * DECODE(a) - 3 * DECODE(b), atol=1e-4)


def test_latents_say_the_same_after_a_way_through_pixels():
  latents = noise(2, 3, 5, 24)
  np.testing.assert_allclose(ENCODE(DECODE(latents)), latents, atol=1e-4)


def test_each_latent_pixel_stands_for_its_own_block():
  pixels = noise(8, 8, 3)
  changed = pixels.copy()
  changed[:4, 4:] += 0.5
  moved = np.abs(np.asarray(ENCODE(changed)) - np.asarray(ENCODE(pixels))).max(-1) > 1e-6
  assert moved.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("shape", [(6, 8, 3), (8, 6, 3), (8, 8, 4), (8, 8, 1)])
def test_sizes_that_do_not_fit_are_refused(shape):
  with pytest.raises(ValueError, match="multiples of 4"):
    CODEC.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("chroma_size", [0, 5])
def test_impossible_chroma_sizes_are_refused(chroma_size):
  with pytest.raises(ValueError, match="chroma_size must be 1 to 4"):
    CosineCodec(chroma_size)
