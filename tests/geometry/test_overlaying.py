import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.geometry import VIDEOPANDA_RIG, Camera, coverage, equirect_rays, overlay, project, rays, to_uint8
from tests.fast import jit
from tests.geometry.analytic import paint, psnr

SIZE, VIEW = (128, 256), (128, 128)
PANORAMA = paint(equirect_rays(SIZE))
NOISE = np.random.default_rng(0).uniform(-1, 1, (*SIZE, 3)).astype(np.float32)
CAMERAS = (
  Camera(0, 0),
  Camera(180, 0, 70),                # across the seam
  Camera(200, 35, 60, 25),
  Camera(10, 90, 100),               # the zenith
  Camera(-30, -80, 120, -15),        # the nadir
)
lay = jit(overlay)


def laid(panorama, view, camera, fade=0.15):
  """One frame, in NumPy."""
  fov_deg = np.array([camera.fov_deg])
  return np.asarray(lay(panorama[None], view[None], camera.rotation()[None], fov_deg, np.float32(fade))[0])


def half_widths(camera, size=SIZE, aspect=1.0):
  """Of every pixel of the panorama that the camera sees, how far from the view's border it is, in half widths."""
  right, up, forward = np.moveaxis(equirect_rays(size) @ camera.rotation(), -1, 0)
  half = np.tan(np.radians(camera.fov_deg) / 2) * np.where(forward > 0, forward, np.nan)
  return np.minimum(1 - abs(right / half), aspect - abs(up / half))


@pytest.mark.parametrize("camera", CAMERAS, ids=str)
def test_a_panoramas_own_view_laid_over_it_changes_nothing(camera):
  """To the error of bilinear sampling: at the seam, at the poles, rolled."""
  result = laid(PANORAMA, project(PANORAMA, camera, (256, 256)), camera)
  assert abs(result - PANORAMA).max() < 2e-3 and psnr(result, PANORAMA) > 80


@pytest.mark.parametrize("camera", CAMERAS, ids=str)
def test_the_view_shows_where_the_camera_looks(camera):
  """Painted views, on an empty panorama: in the opaque middle stands what is painted on the sphere there."""
  result = laid(np.zeros_like(PANORAMA), paint(rays(camera, (256, 256))), camera)
  middle = half_widths(camera) > 0.16
  assert middle.sum() > 300
  np.testing.assert_allclose(result[middle], PANORAMA[middle], atol=2e-3)


@pytest.mark.parametrize("camera", CAMERAS, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_outside_the_view_the_panorama_is_bit_equal(camera, dtype):
  """Also where the view holds nonsense, and in every type of pixel, which is kept."""
  panorama = (NOISE * 100 + 120).astype(dtype)
  view = np.full((*VIEW, 3), 255).astype(dtype)
  result = laid(panorama, view, camera)
  outside = ~coverage(camera, SIZE)
  assert result.dtype == panorama.dtype and outside.any()
  np.testing.assert_array_equal(result[outside], panorama[outside])
  assert (result[half_widths(camera) > 0.16] == 255).all()


@pytest.mark.parametrize("fade", [0.05, 0.15, 0.5])
def test_the_view_fades_out_over_its_outermost_part(fade):
  """White on black: opaque further in than `fade` half widths, nothing at the border, and never back on the way."""
  camera = Camera(20, 10, 90)
  share = laid(np.zeros((256, 512, 1), np.float32), np.ones((64, 64, 1), np.float32), camera, fade)[..., 0]
  distance = half_widths(camera, (256, 512))
  assert (share[distance > fade + 1e-4] == 1).all()
  border = (distance > 0) & (distance < fade / 20)
  assert border.any() and share[border].max() < 0.01
  edge = abs(distance - fade / 2) < 0.004
  right, up, forward = np.moveaxis(equirect_rays((256, 512)) @ camera.rotation(), -1, 0)
  sides = edge & (abs(abs(right) - abs(up)) > 0.4 * forward)      # away from the corners, where two fades multiply
  assert sides.any()
  np.testing.assert_allclose(share[sides], 0.5, atol=0.15)
  along = laid(np.zeros((1, 4000, 1), np.float32), np.ones((64, 64, 1), np.float32), Camera(0, 0), fade)[0, :, 0]
  rise, fall = np.diff(along)[:2000], np.diff(along)[2000:]
  assert (rise >= 0).all() and (fall <= 0).all() and along[2000] == 1


def test_the_fade_is_smooth():
  """No step and no kink, neither where it begins nor where it ends: a straight ramp would bend by 0.02 in a column."""
  row = laid(np.zeros((1, 4000, 1), np.float32), np.ones((64, 64, 1), np.float32), Camera(0, 0))[0, :, 0]
  assert abs(np.diff(row)).max() < 0.035 and abs(np.diff(row.astype(float), n=2)).max() < 0.004


def test_without_a_fade_the_view_is_cut_off_sharply():
  result = laid(np.zeros((*SIZE, 1), np.float32), np.ones((*VIEW, 1), np.float32), Camera(37, 12, 77, 8), fade=0)
  np.testing.assert_array_equal(result[..., 0], coverage(Camera(37, 12, 77, 8), SIZE))


def test_views_need_not_be_square():
  """A 16:9 view keeps its field of view, covers less height, and fades over equally many pixels on all sides."""
  camera = Camera(-60, 15, 100, 5)
  view = paint(rays(camera, (144, 256)))
  result = laid(np.zeros_like(PANORAMA), view, camera)
  middle = half_widths(camera, aspect=9 / 16) > 0.16
  np.testing.assert_allclose(result[middle], PANORAMA[middle], atol=2e-3)
  np.testing.assert_array_equal(result[~coverage(camera, SIZE, (144, 256))], 0)


def test_every_frame_has_its_own_camera():
  """A camera that moves gives what its frames give one by one."""
  path = [Camera(10 * k, 4 * k, 70 + 5 * k, 3 * k) for k in range(4)]
  panoramas = np.stack([np.roll(NOISE, k, axis=1) for k in range(4)])
  views = np.stack([paint(rays(camera, VIEW)) for camera in path])
  rotation, fov_deg = np.stack([camera.rotation() for camera in path]), np.array([camera.fov_deg for camera in path])
  together = np.asarray(lay(panoramas, views, rotation, fov_deg, np.float32(0.15)))
  for frame, camera in enumerate(path):
    np.testing.assert_allclose(together[frame], laid(panoramas[frame], views[frame], camera), atol=1e-6)


def test_one_compilation_serves_every_camera():
  """Rotation, field of view and fade are traced: moving the camera compiles nothing."""
  traces = []

  @jax.jit
  def program(*inputs):
    traces.append(inputs)
    return overlay(*inputs)

  results = [
    program(NOISE[None], np.ones((1, *VIEW, 3), np.float32), camera.rotation()[None], np.array([float(camera.fov_deg)]),
            fade)
    for camera, fade in zip(CAMERAS, (0.0, 0.1, 0.2, 0.3, 0.4), strict=True)
  ]
  assert len(traces) == 1
  for camera, result in zip(CAMERAS, results, strict=True):
    np.testing.assert_array_equal(np.any(result[0] != NOISE, axis=-1)[~coverage(camera, SIZE)], False)
    assert (result[0][half_widths(camera) > 0.41] == 1).all()


def test_it_works_without_jit_on_numpy_arrays():
  camera = CAMERAS[2]
  view = project(NOISE, camera, VIEW)
  result = overlay(NOISE[None], view[None], camera.rotation()[None], np.array([camera.fov_deg]))
  assert isinstance(result, jax.Array)
  np.testing.assert_allclose(result[0], laid(NOISE, view, camera), atol=3e-5)


def test_bytes_are_rounded_and_clipped():
  """Half of a view of 255 on 0 rounds to whole numbers; float views beyond 0 to 255 do not wrap around."""
  camera = Camera(0, 0)
  grey = laid(np.zeros((*SIZE, 1), np.uint8), np.full((*VIEW, 1), 255, np.uint8), camera)
  exact = laid(np.zeros((*SIZE, 1), np.float32), np.full((*VIEW, 1), 255, np.float32), camera)
  np.testing.assert_array_equal(grey, np.rint(exact))
  for value, expected in ((300.0, 255), (-40.0, 0)):
    result = laid(np.full((*SIZE, 1), 128, np.uint8), np.full((*VIEW, 1), value, np.float32), camera)
    assert result[64, 128, 0] == expected


def test_a_given_view_stands_in_a_stitched_panorama_as_it_was_given():
  """The use it is made for: views that disagree are averaged by stitching, the given one is then laid over them."""
  given = Camera(15, 10, 70, 5)
  views = np.stack([to_uint8(120 + 100 * paint(rays(camera, (64, 64)))) for camera in VIDEOPANDA_RIG])
  panorama = to_uint8(VIDEOPANDA_RIG.stitch(255 - views, SIZE))
  clip = to_uint8(120 + 100 * paint(rays(given, VIEW)))
  middle = half_widths(given) > 0.16
  truth = 120 + 100 * PANORAMA
  assert abs(panorama[middle] - truth[middle]).mean() > 20
  assert abs(laid(panorama, clip, given)[middle] - truth[middle]).max() < 2


def test_wrong_arguments_are_refused_with_their_shapes():
  panorama, view, rotation, fov_deg = (
    np.zeros((2, 8, 16, 3)), np.zeros((2, 4, 4, 3)), np.zeros((2, 3, 3)), np.full(2, 90.0)
  )
  with pytest.raises(ValueError, match=r"\[f H W c\] and a view \[f h w c\], got panorama \(8, 16, 3\)"):
    overlay(panorama[0], view, rotation, fov_deg)
  with pytest.raises(ValueError, match=r"view \(2, 4, 4, 1\)"):
    overlay(panorama, view[..., :1], rotation, fov_deg)
  for inputs in ((view[:1], rotation, fov_deg), (view, rotation[0], fov_deg), (view, rotation, fov_deg[:1])):
    with pytest.raises(ValueError, match=r"a rotation \[f 3 3\] and a fov_deg \[f\] per frame of the panorama"):
      overlay(panorama, *inputs)
  for fade in (-0.1, 1.5, float("nan")):
    with pytest.raises(ValueError, match="fade must be a share"):
      overlay(panorama, view, rotation, fov_deg, fade)
