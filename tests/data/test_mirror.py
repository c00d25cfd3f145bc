import numpy as np
import pytest

from panda_jax.data.mirror import mirrored, mirrored_rays, names_sides
from panda_jax.geometry import Camera, Rig


@pytest.mark.parametrize("caption", [
  "A car turns left", "on the RIGHT-hand side", "moving leftwards", "the rightmost tower", "a left-handed player",
  "right,then on", "it turns clockwise", "an anti-clockwise turn", "a street (left)"])
def test_captions_that_name_sides_are_known(caption):
  assert names_sides(caption)


@pytest.mark.parametrize("caption", [
  "", "a bright day", "an upright piano", "leftover food", "the copyright sign", "a frightened bird", "a clock",
  "cleft rock"])
def test_words_that_only_look_like_sides_do_not_count(caption):
  assert not names_sides(caption)


@pytest.mark.parametrize("size", [(4, 6), (3, 5)])
def test_mirrored_rays_are_those_of_the_mirrored_cameras(size):
  """A camera at yaw 70 that rolls by 10 becomes one at yaw -70 that rolls by -10, also as the first view sees it."""
  cameras = Camera(20, 0, 80), Camera(70, 30, 90, 10), Camera(-110, -45, 100, -5), Camera(0, 90, 100)
  there = Rig(cameras).rays(size)
  opposite = Rig([Camera(-camera.yaw_deg, camera.pitch_deg, camera.fov_deg, -camera.roll_deg) for camera in cameras])
  np.testing.assert_allclose(mirrored_rays(there), opposite.rays(size), atol=1e-6)
  np.testing.assert_allclose(mirrored_rays(there)[0], there[0], atol=1e-7)


def test_a_picture_mirrored_twice_is_itself():
  picture = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
  np.testing.assert_array_equal(mirrored(mirrored(picture)), picture)
  np.testing.assert_array_equal(mirrored(picture)[0, 1, 0], picture[0, 1, 4])
