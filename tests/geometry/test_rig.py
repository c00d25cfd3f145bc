import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.geometry import VIDEOPANDA_RIG, Camera, Rig, cubemap_rig, horizontal_rig, project, rays, stitch

NOISE = np.random.default_rng(0).uniform(-1, 1, (64, 128, 3)).astype(np.float32)


def test_the_papers_rig():
  """Six 90 degree views 60 degrees apart to the right on the horizon, then up, then down, 100 degrees each."""
  assert [camera.yaw_deg for camera in VIDEOPANDA_RIG] == [0, 60, 120, 180, 240, 300, 0, 0]
  assert [camera.pitch_deg for camera in VIDEOPANDA_RIG] == [0] * 6 + [90, -90]
  assert [camera.fov_deg for camera in VIDEOPANDA_RIG] == [90] * 6 + [100, 100]
  assert len(VIDEOPANDA_RIG) == 8 and VIDEOPANDA_RIG[6] == Camera(0, 90, 100)


def test_a_rig_is_its_cameras_in_order():
  np.testing.assert_array_equal(
    VIDEOPANDA_RIG.project(NOISE, (16, 16)), [project(NOISE, camera, (16, 16)) for camera in VIDEOPANDA_RIG]
  )
  views = VIDEOPANDA_RIG.project(NOISE, (16, 16))
  np.testing.assert_array_equal(VIDEOPANDA_RIG.stitch(views, (16, 32)), stitch(views, list(VIDEOPANDA_RIG), (16, 32)))


def test_views_come_before_height_whatever_leads():
  batch = np.stack([NOISE, -NOISE])[:, None]
  views = VIDEOPANDA_RIG.project(batch, (8, 12))
  assert views.shape == (2, 1, 8, 8, 12, 3)
  np.testing.assert_array_equal(views[0, 0], -views[1, 0])


def test_jax_under_jit_gives_what_numpy_gives():
  result = jax.jit(lambda panorama: VIDEOPANDA_RIG.project(panorama, (16, 16)))(jnp.asarray(NOISE))
  np.testing.assert_allclose(result, VIDEOPANDA_RIG.project(NOISE, (16, 16)), atol=1e-6)


def test_turning_the_rig_equals_rolling_the_panorama():
  """By W/8, which is 45 degrees: the views agree to float error."""
  rolled = np.roll(NOISE, 128 // 8, axis=1)
  np.testing.assert_allclose(
    VIDEOPANDA_RIG.turned(45).project(rolled, (32, 32)), VIDEOPANDA_RIG.project(NOISE, (32, 32)), atol=1e-6
  )


def test_turning_the_rig_does_not_change_its_relative_rays():
  """So the network sees the same rays whatever random yaw the pipeline draws."""
  np.testing.assert_allclose(VIDEOPANDA_RIG.turned(77).rays((8, 8), 2), VIDEOPANDA_RIG.rays((8, 8), 2), atol=1e-6)


@pytest.mark.parametrize("reference", [0, 3, 6])
def test_the_reference_camera_sees_its_own_rays_straight_ahead(reference):
  """In its own frame a camera looks along z, whatever its yaw and pitch."""
  camera = VIDEOPANDA_RIG[reference]
  relative = VIDEOPANDA_RIG.rays((8, 8), reference)
  assert relative.shape == (8, 8, 8, 3) and relative.dtype == np.float32
  np.testing.assert_allclose(relative[reference], rays(Camera(0, 0, camera.fov_deg), (8, 8)), atol=1e-6)


def test_rays_relative_to_view_1_place_view_2_at_60_degrees_to_the_right():
  relative = VIDEOPANDA_RIG.rays((8, 8), reference=1)
  np.testing.assert_allclose(relative[2], rays(Camera(60, 0), (8, 8)), atol=1e-6)
  np.testing.assert_allclose(relative[0], rays(Camera(-60, 0), (8, 8)), atol=1e-6)
  np.testing.assert_allclose(relative[6], rays(Camera(-60, 90, 100), (8, 8)), atol=1e-6)


def test_rays_of_some_views_come_in_the_order_asked_for():
  everything = VIDEOPANDA_RIG.rays((4, 4), reference=5)
  np.testing.assert_array_equal(VIDEOPANDA_RIG.rays((4, 4), reference=5, views=(5, 7, 0)), everything[[5, 7, 0]])
  assert tuple(VIDEOPANDA_RIG.select((5, 7, 0))) == (VIDEOPANDA_RIG[5], VIDEOPANDA_RIG[7], VIDEOPANDA_RIG[0])


def test_other_rigs():
  assert [camera.yaw_deg for camera in horizontal_rig(8, 60)] == [45 * k for k in range(8)]
  assert all(camera.fov_deg == 60 and camera.pitch_deg == 0 for camera in horizontal_rig(8, 60))
  assert [(camera.yaw_deg, camera.pitch_deg) for camera in cubemap_rig()] == [
    (0, 0), (90, 0), (180, 0), (270, 0), (0, 90), (0, -90)
  ]


def test_rigs_are_values():
  """Equal when their cameras are, usable as dictionary keys, also when built from a list."""
  assert Rig([Camera(0, 0)]) == Rig((Camera(0, 0),)) and len({cubemap_rig(), cubemap_rig()}) == 1


def test_wrong_arguments_are_refused_in_one_sentence():
  with pytest.raises(ValueError, match="at least one camera"):
    Rig(())
  with pytest.raises(ValueError, match="views 0 to 7, got view 8"):
    VIDEOPANDA_RIG.rays((4, 4), reference=8)
  with pytest.raises(ValueError, match="views 0 to 7, got view -1"):
    VIDEOPANDA_RIG.select([-1])
