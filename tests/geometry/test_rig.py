import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.geometry import (
  VIDEOPANDA_RIG,
  Camera,
  Rig,
  coverage,
  cubemap_rig,
  equirect_rays,
  horizontal_rig,
  icosahedron_rig,
  make_rig,
  project,
  rays,
  stitch,
)
from tests.geometry.analytic import paint, psnr

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


def test_the_rig_of_imagine360():
  """Its order and angles, from the top ring down; the angles of the spec are rounded to a thousandth of a degree."""
  up, down = [-144, -72, 0, 72, 144], [-180, -108, -36, 36, 108]
  expected = [(yaw, pitch) for pitch, ring in ((52.623, up), (10.812, up), (-10.812, down), (-52.623, down))
              for yaw in ring]
  np.testing.assert_allclose([(camera.yaw_deg, camera.pitch_deg) for camera in icosahedron_rig()], expected, atol=5e-4)
  assert {(camera.fov_deg, camera.roll_deg) for camera in icosahedron_rig()} == {(90, 0)}


def test_icosahedron_cameras_look_through_the_middles_of_equal_faces():
  """Every axis has three nearest neighbours, all at the angle between neighbouring faces, and an opposite one."""
  axes = np.stack([camera.rotation()[:, 2] for camera in icosahedron_rig()])
  cosines = np.sort(axes @ axes.T, axis=1)
  np.testing.assert_allclose(cosines[:, -4:-1], np.sqrt(5) / 3, atol=1e-12)
  np.testing.assert_allclose(cosines[:, 0], -1, atol=1e-12)


def test_the_icosahedron_covers_the_sphere_and_brings_a_panorama_back():
  rig = make_rig("icosahedron")
  seen = np.sum([coverage(camera, (256, 512)) for camera in rig], axis=0)
  assert seen.min() == 2 and seen.max() == 5
  panorama = paint(equirect_rays((128, 256)))
  assert psnr(rig.stitch(rig.project(panorama, (128, 128)), (128, 256), weights="smooth"), panorama) > 90


@pytest.mark.parametrize("rig", [VIDEOPANDA_RIG, cubemap_rig(), icosahedron_rig(), horizontal_rig(8)],
                         ids=lambda rig: rig.name)
def test_a_config_names_a_rig(rig):
  assert make_rig(rig.name) == rig


@pytest.mark.parametrize("n, fov_deg", [(3, 120), (4, 90), (8, 90), (12, 90)])
def test_horizontal_rigs_close_the_circle(n, fov_deg):
  """At equal steps and 90 degrees, and three views are widened to 120, so that they meet."""
  rig = make_rig(f"horizontal{n}")
  assert [camera.yaw_deg for camera in rig] == pytest.approx([360 / n * k for k in range(n)])
  assert {(camera.pitch_deg, camera.fov_deg) for camera in rig} == {(0, fov_deg)}
  horizon = np.any([coverage(camera, (65, 720)) for camera in rig], axis=0)[32]
  assert horizon.all()


def test_a_config_lists_the_cameras():
  """As tuples, or as the lists that JSON makes of them; field of view and roll may be left out."""
  assert make_rig([[0, 0], (90.0, 10.0, 80.0), (180, -10, 70, 5)]) == Rig(
    (Camera(0, 0), Camera(90, 10, 80), Camera(180, -10, 70, 5))
  )
  assert make_rig(tuple(VIDEOPANDA_RIG)).cameras == VIDEOPANDA_RIG.cameras
  assert make_rig(VIDEOPANDA_RIG) is VIDEOPANDA_RIG


@pytest.mark.parametrize("spec", ["cube", "horizontal", "horizontal-4", "horizontal8 ", "", None, 8])
def test_an_unknown_rig_is_refused_with_the_choices(spec):
  with pytest.raises(ValueError, match="unknown rig .* use videopanda, cubemap, icosahedron, horizontalN"):
    make_rig(spec)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_horizontal_views_are_refused(n):
  with pytest.raises(ValueError, match="whole circle: use horizontal3 or more"):
    make_rig(f"horizontal{n}")


@pytest.mark.parametrize(
  "cameras", [(0, 0, 90, 0), ((0,),), ((0, 0, 90, 0, 1),), (("a", 0),), ("ab",), (None,)], ids=str
)
def test_what_is_no_camera_is_refused_with_its_number(cameras):
  with pytest.raises(ValueError, match=r"camera 1 of the rig must be \(yaw_deg, pitch_deg, fov_deg, roll_deg\)"):
    make_rig((Camera(0, 0), *cameras))


def test_a_listed_camera_keeps_the_limits_of_cameras():
  with pytest.raises(ValueError, match="between 0 and 180 degrees, got 200"):
    make_rig(((0, 0, 200, 0),))
  with pytest.raises(ValueError, match="at least one camera"):
    make_rig(())


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
