import numpy as np
import pytest

from panda_jax.geometry import equirect_rays, solid_angle_weights
from panda_jax.geometry.sphere import equirect_pixels


def test_the_middle_of_the_panorama_looks_forward():
  """The four pixels around the centre average to z; three quarters of the width look right, the first rows up."""
  directions = equirect_rays((64, 128))
  forward, right = directions[31:33, 63:65].mean((0, 1)), directions[31:33, 95:97].mean((0, 1))
  np.testing.assert_allclose(forward / np.linalg.norm(forward), (0, 0, 1), atol=1e-12)
  np.testing.assert_allclose(right / np.linalg.norm(right), (1, 0, 0), atol=1e-12)
  assert (directions[0, :, 1] > 0.999).all() and (directions[-1, :, 1] < -0.999).all()


@pytest.mark.parametrize("size", [(8, 16), (7, 15), (16, 16)])
def test_every_pixel_centre_falls_back_on_its_own_pixel(size):
  x, y = equirect_pixels(equirect_rays(size), size)
  np.testing.assert_allclose(x, np.broadcast_to(np.arange(size[1]), size), atol=1e-9)
  np.testing.assert_allclose(y, np.broadcast_to(np.arange(size[0])[:, None], size), atol=1e-9)


def test_solid_angle_weights_average_the_sphere():
  """Mean 1; rows mirror each other; the weighted mean of sin² latitude is its mean over the sphere, 1/3."""
  weights = solid_angle_weights(512)
  height = equirect_rays((512, 1))[:, 0, 1]
  assert weights.shape == (512,) and weights.dtype == np.float32
  assert weights.mean() == pytest.approx(1)
  np.testing.assert_allclose(weights, weights[::-1], rtol=1e-5)
  assert np.mean(weights * height**2) == pytest.approx(1 / 3, abs=1e-5)


def test_unknown_conventions_and_sizes_are_refused():
  with pytest.raises(ValueError, match="convention"):
    equirect_pixels(np.array([0.0, 0, 1]), (8, 16), "centre")
  with pytest.raises(ValueError, match="panorama size"):
    equirect_rays((8, 0))
