import numpy as np
import pytest

from panda_jax.geometry import Camera, rays

SIZE = (9, 9)      # odd, so that one pixel's centre is the optical axis


def middle(camera):
  return rays(camera, SIZE)[4, 4]


def test_yaw_turns_the_camera_to_the_right():
  """Yaw 0 looks forward (z), yaw 90 to the right (x), yaw 180 back, yaw -90 to the left."""
  for yaw, axis in {0: (0, 0, 1), 90: (1, 0, 0), 180: (0, 0, -1), -90: (-1, 0, 0)}.items():
    np.testing.assert_allclose(middle(Camera(yaw, 0)), axis, atol=1e-7)


def test_pitch_tilts_the_camera_up():
  """Pitch 90 looks at the zenith, -90 at the nadir, and 30 lifts the view by 30 degrees whatever the yaw."""
  np.testing.assert_allclose(middle(Camera(0, 90)), (0, 1, 0), atol=1e-7)
  np.testing.assert_allclose(middle(Camera(0, -90)), (0, -1, 0), atol=1e-7)
  for yaw in (0, 75, 200):
    assert middle(Camera(yaw, 30))[1] == pytest.approx(0.5)


def test_the_up_view_has_the_back_of_the_scene_at_its_top():
  """Tilting the head back, what lies behind comes down from above: the top of the up view looks backwards (-z)."""
  top, bottom = rays(Camera(0, 90), SIZE)[[0, -1], 4]
  assert top[2] < 0 < bottom[2]


def test_roll_turns_the_camera_clockwise():
  """After a roll of 90 degrees the camera's top points to the right of the world, and its right side down."""
  view = rays(Camera(0, 0, roll_deg=90), SIZE)
  assert view[0, 4, 0] > 0.6 and view[0, 4, 1] == pytest.approx(0, abs=1e-7)
  assert view[4, -1, 1] < -0.6 and view[4, -1, 0] == pytest.approx(0, abs=1e-7)


def test_roll_does_not_move_the_middle_of_the_picture():
  np.testing.assert_allclose(middle(Camera(40, 20, roll_deg=33)), middle(Camera(40, 20)), atol=1e-7)


def test_rows_run_down_and_columns_run_right():
  view = rays(Camera(0, 0), SIZE)
  assert (np.diff(view[..., 0], axis=1) > 0).all()
  assert (np.diff(view[..., 1], axis=0) < 0).all()


def test_the_field_of_view_ends_at_the_pixels_outer_edges():
  """The outermost pixel centre of a 90 degree view of w pixels is half a pixel inside the border: x / z = 1 - 1 / w."""
  x, _, z = rays(Camera(0, 0, 90), (8, 8))[0, -1]
  assert x / z == pytest.approx(1 - 1 / 8)


def test_pixels_are_square():
  """A wide view keeps its horizontal field of view and loses height; neighbours are equally far apart both ways."""
  view = rays(Camera(0, 0, 90), (4, 8))
  plane = view[..., :2] / view[..., 2:]
  np.testing.assert_allclose(np.diff(plane[..., 0], axis=1), 2 / 8, atol=1e-6)
  np.testing.assert_allclose(np.diff(plane[..., 1], axis=0), -2 / 8, atol=1e-6)


def test_rays_are_unit_float32_numpy():
  view = rays(Camera(123, -45, 100, 6), (5, 7))
  assert isinstance(view, np.ndarray) and view.dtype == np.float32 and view.shape == (5, 7, 3)
  np.testing.assert_allclose(np.linalg.norm(view, axis=-1), 1, atol=1e-6)


def test_rotation_is_a_rotation():
  rotation = Camera(123, -45, 100, 6).rotation()
  assert rotation.dtype == np.float64
  np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-15)
  assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize("fov_deg", [0, 180, -90, 270])
def test_an_impossible_field_of_view_is_refused(fov_deg):
  with pytest.raises(ValueError, match="field of view must be between 0 and 180"):
    Camera(0, 0, fov_deg)


@pytest.mark.parametrize("angles", [{"yaw_deg": np.nan}, {"pitch_deg": np.inf}, {"fov_deg": np.nan}])
def test_angles_that_are_not_numbers_are_refused_by_name(angles):
  with pytest.raises(ValueError, match=next(iter(angles))):
    Camera(**{"yaw_deg": 0, "pitch_deg": 0} | angles)


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4, 4.5), (4,), (1, 2, 3)])
def test_a_size_that_is_no_size_is_refused(size):
  with pytest.raises(ValueError, match="view size"):
    rays(Camera(0, 0), size)
