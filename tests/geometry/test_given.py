import dataclasses

import numpy as np
import pytest

from panda_jax.geometry import (
  VIDEOPANDA_RIG,
  Camera,
  GivenCameras,
  Rig,
  crop_fov_deg,
  frame_rays,
  make_rig,
  project,
  rays,
)

SIZE = (6, 8)


def draws(cameras, n, seed=0):
  rng = np.random.default_rng(seed)
  return [cameras.draw(rng) for _ in range(n)]


def test_by_default_only_the_direction_is_random():
  """The paper's given view: 90 degrees, level; it may look anywhere along the horizon."""
  for camera in draws(GivenCameras(), 20):
    assert 0 <= camera.yaw_deg < 360 and camera == Camera(camera.yaw_deg, 0, 90, 0)


def test_every_angle_fills_its_range_evenly():
  """Ten equal parts of each range get a tenth of the cameras each, so their yaw goes all the way round."""
  ranges = {"yaw_deg": (0, 360), "pitch_deg": (-40, 20), "fov_deg": (50, 110), "roll_deg": (-10, 10)}
  cameras = GivenCameras(**{name: ends for name, ends in ranges.items() if name != "yaw_deg"})
  drawn = draws(cameras, 4000)
  for name, (low, high) in ranges.items():
    counts, _ = np.histogram([getattr(camera, name) for camera in drawn], 10, (low, high))
    assert counts.sum() == 4000 and (abs(counts - 400) < 100).all(), name


def test_angles_are_drawn_independently():
  drawn = draws(GivenCameras((50, 110), (-40, 20), (-10, 10)), 4000)
  correlation = np.corrcoef(np.transpose([dataclasses.astuple(camera) for camera in drawn]))
  assert abs(correlation - np.eye(4)).max() < 0.06


def test_the_same_seed_draws_the_same_cameras():
  cameras = GivenCameras(fov_deg=(60, 100), pitch_deg=(-30, 30))
  assert draws(cameras, 5) == draws(cameras, 5) != draws(cameras, 5, seed=1)


def test_a_fixed_angle_does_not_disturb_the_others():
  """Runs that differ in one range see the same cameras otherwise, and the same random numbers after them."""
  for free, fixed in zip(draws(GivenCameras((50, 110), (-40, 20)), 5), draws(GivenCameras((50, 110)), 5), strict=True):
    assert (free.yaw_deg, free.fov_deg) == (fixed.yaw_deg, fixed.fov_deg) and fixed.pitch_deg == 0


def test_ranges_are_values_also_as_json_has_them():
  """Lists and whole numbers of a saved config make the same, hashable thing."""
  assert GivenCameras([60, 100]) == GivenCameras((60.0, 100.0))
  assert len({GivenCameras([60, 100]), GivenCameras((60.0, 100.0)), GivenCameras()}) == 2
  with pytest.raises(dataclasses.FrozenInstanceError):
    GivenCameras().fov_deg = (1, 2)


@pytest.mark.parametrize("name", ["fov_deg", "pitch_deg", "roll_deg"])
@pytest.mark.parametrize("values", [(20, 10), (np.nan, 10), (10, np.inf), (10,), (10, 20, 30), 10, "ab", None], ids=str)
def test_what_is_no_range_is_refused_by_name(name, values):
  with pytest.raises(ValueError, match=f"given camera {name} must be two"):
    GivenCameras(**{name: values})


@pytest.mark.parametrize("values", [(0, 90), (-10, 90), (90, 180), (200, 210)])
def test_impossible_fields_of_view_are_refused(values):
  with pytest.raises(ValueError, match="fov_deg must lie between 0 and 180 degrees"):
    GivenCameras(fov_deg=values)


@pytest.mark.parametrize("camera", [Camera(0, 0), Camera(200, -35, 65, 12)], ids=str)
@pytest.mark.parametrize("rig", ["videopanda", "horizontal3", "icosahedron"])
def test_a_camera_that_stands_still_is_the_first_view_of_a_larger_rig(camera, rig):
  """In every frame, bit for bit what Rig.rays gives with the given camera in front."""
  rig = make_rig(rig)
  moving = frame_rays(rig, [camera] * 3, SIZE)
  assert moving.shape == (1 + len(rig), 3, *SIZE, 3) and moving.dtype == np.float32
  for frame in range(3):
    np.testing.assert_array_equal(moving[:, frame], Rig((camera, *rig)).rays(SIZE))


def test_every_frame_is_relative_to_its_own_camera():
  """A camera that turns, tilts, zooms, and comes back to where it was."""
  path = [Camera(0, 0), Camera(10, 5, 80), Camera(20, 10, 70, 3), Camera(0, 0)]
  moving = frame_rays(VIDEOPANDA_RIG, path, SIZE)
  for frame, camera in enumerate(path):
    np.testing.assert_array_equal(moving[:, frame], Rig((camera, *VIDEOPANDA_RIG)).rays(SIZE))


def test_the_given_view_looks_straight_ahead_whatever_it_does():
  path = [Camera(70, 20, 80, 9), Camera(-100, -60, 80, -40)]
  for given in frame_rays(VIDEOPANDA_RIG, path, SIZE)[0]:
    np.testing.assert_allclose(given, rays(Camera(0, 0, 80), SIZE), atol=1e-7)


def test_when_the_camera_turns_right_the_rig_goes_left():
  """A rig view that is straight ahead at first is 30 degrees to the left once the camera has turned by 30."""
  _, first = frame_rays(Rig((Camera(0, 0),)), [Camera(0, 0), Camera(30, 0)], SIZE)
  np.testing.assert_allclose(first[0], rays(Camera(0, 0), SIZE), atol=1e-7)
  np.testing.assert_allclose(first[1], rays(Camera(-30, 0), SIZE), atol=1e-7)


def test_turning_camera_and_rig_together_changes_no_ray():
  path = [Camera(10 * k, 5 * k - 10) for k in range(4)]
  turned = [dataclasses.replace(camera, yaw_deg=camera.yaw_deg + 77) for camera in path]
  np.testing.assert_allclose(
    frame_rays(VIDEOPANDA_RIG.turned(77), turned, SIZE), frame_rays(VIDEOPANDA_RIG, path, SIZE), atol=1e-6
  )


def test_a_window_of_frames_is_a_slice_of_the_whole():
  path = [Camera(3 * k, k) for k in range(10)]
  np.testing.assert_array_equal(
    frame_rays(VIDEOPANDA_RIG, path[4:8], SIZE), frame_rays(VIDEOPANDA_RIG, path, SIZE)[:, 4:8]
  )


def test_rays_of_nothing_are_refused():
  with pytest.raises(ValueError, match="at least one frame"):
    frame_rays(VIDEOPANDA_RIG, [], SIZE)
  with pytest.raises(ValueError, match="view size"):
    frame_rays(VIDEOPANDA_RIG, [Camera(0, 0)], (0, 4))


@pytest.mark.parametrize("fov_deg, size", [(90, (9, 16)), (110, (270, 480)), (40, (100, 101))])
def test_the_square_in_the_middle_shows_the_same_scene_as_a_camera_of_its_own(fov_deg, size):
  """Cutting the columns off a wide view gives, ray for ray, a square view with the smaller field of view."""
  h, w = size[0] * 2, size[1] * 2
  left = (w - h) // 2
  square = rays(Camera(25, 10, fov_deg), (h, w))[:, left:left + h]
  np.testing.assert_allclose(square, rays(Camera(25, 10, crop_fov_deg(fov_deg, size)), (h, h)), atol=1e-6)


def test_the_square_of_a_film_frame():
  """A 90 degree view of 16:9 keeps 58.7 degrees; an upright or square picture keeps its full width."""
  assert crop_fov_deg(90, (1080, 1920)) == pytest.approx(58.716, abs=1e-3)
  assert crop_fov_deg(90, (1920, 1080)) == crop_fov_deg(90, (64, 64)) == 90


def test_the_cut_square_of_a_photograph_is_what_project_gives():
  panorama = np.random.default_rng(0).uniform(-1, 1, (64, 128, 3)).astype(np.float32)
  wide = project(panorama, Camera(40, -20, 100, 5), (36, 64))
  square = project(panorama, Camera(40, -20, crop_fov_deg(100, (36, 64)), 5), (36, 36))
  np.testing.assert_allclose(wide[:, 14:50], square, atol=1e-5)


@pytest.mark.parametrize("fov_deg", [0, 180, -5, np.nan])
def test_no_square_of_an_impossible_view(fov_deg):
  with pytest.raises(ValueError, match="field of view must be between 0 and 180"):
    crop_fov_deg(fov_deg, (9, 16))
  with pytest.raises(ValueError, match="picture size"):
    crop_fov_deg(90, (0, 16))
