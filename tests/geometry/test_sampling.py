import math

import numpy as np
import pytest

from panda_jax.geometry import VIDEOPANDA_RIG, Camera, apply_table, equirect_rays, project, projection_table, rays
from tests.geometry.analytic import paint, psnr

SIZE = (256, 256)
PANORAMA = paint(equirect_rays((512, 1024)))
SEAM = Camera(180, 0)
POLES = (Camera(0, 90), Camera(30, -80, 100, 15))


@pytest.mark.parametrize("camera", [*VIDEOPANDA_RIG, SEAM, *POLES, Camera(-130, 40, 60, 20)], ids=str)
@pytest.mark.parametrize("method, floor", [("nearest", 55), ("bilinear", 90), ("bicubic", 140)])
def test_views_show_what_is_painted_on_the_sphere(camera, method, floor):
  """At their own pixel centres, at the seam and the poles as well as elsewhere; half a pixel off would be 54 dB."""
  assert psnr(project(PANORAMA, camera, SIZE, method), paint(rays(camera, SIZE))) > floor


@pytest.mark.parametrize("camera", [SEAM, *POLES], ids=str)
def test_no_pixel_at_the_seam_or_a_pole_is_worse_than_anywhere_else(camera):
  """The largest single error, not the mean, which would hide a thin line."""
  def worst(camera):
    return abs(project(PANORAMA, camera, SIZE) - paint(rays(camera, SIZE))).max()
  assert worst(camera) < 2 * worst(Camera(0, 0)) < 1e-5


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_rolling_the_panorama_equals_turning_the_camera(method):
  """W/8 columns to the right are 45 degrees of yaw, to float error."""
  noise = np.random.default_rng(0).uniform(-1, 1, (64, 128, 3)).astype(np.float32)
  for camera in (*VIDEOPANDA_RIG, Camera(100, 50, 80, 30)):
    turned = Camera(camera.yaw_deg + 45, camera.pitch_deg, camera.fov_deg, camera.roll_deg)
    rolled = project(np.roll(noise, 16, axis=1), turned, (32, 32), method)
    np.testing.assert_allclose(rolled, project(noise, camera, (32, 32), method), atol=1e-6)


def test_a_row_beyond_the_pole_is_the_opposite_meridian():
  """Just off the zenith, bilinear sampling mixes two pixels of row 0 that lie half a turn apart."""
  panorama = np.zeros((8, 16, 1), np.float32)
  panorama[0, 3], panorama[0, 11] = 1, 3
  lon = (3.5 / 16 - 0.5) * 360
  towards_3, centre, towards_11 = (
    float(project(panorama, Camera(lon, pitch), (1, 1), "bilinear").item()) for pitch in (85, 90, 95)
  )
  assert centre == pytest.approx(2, abs=1e-6)                   # half of each
  assert towards_3 + towards_11 == pytest.approx(4, abs=1e-6) and 1 < towards_3 < centre < towards_11 < 3


@pytest.mark.parametrize("size", [(256, 511), (301, 640), (256, 256)])
def test_any_panorama_size_covers_the_full_sphere(size):
  """2:1 is the rule, but an odd width or a stretched panorama still joins at the seam and across the poles."""
  panorama = paint(equirect_rays(size))
  for camera in (SEAM, *POLES):
    assert psnr(project(panorama, camera, SIZE), paint(rays(camera, SIZE))) > 100


def test_views_need_not_be_square():
  camera = Camera(20, -30, 110, 10)
  assert psnr(project(PANORAMA, camera, (90, 160)), paint(rays(camera, (90, 160)))) > 140


def test_corner_convention_is_the_formula_of_imagine360():
  """An independent transcription, pixel by pixel: inclusive grids on both sides and bilinear sampling."""
  height, width, h, w, fov, yaw, pitch = 16, 32, 5, 8, 90, 110, 35
  panorama = np.random.default_rng(0).uniform(size=(height, width, 1)).astype(np.float32)
  expected = np.empty((h, w, 1))
  for i in range(h):
    for j in range(w):
      tan_x, tan_y = math.tan(math.radians(fov / 2)), math.tan(math.radians(fov * h / w / 2))
      right, up = tan_x * (2 * j / (w - 1) - 1), tan_y * (1 - 2 * i / (h - 1))
      elevation, turn = math.radians(pitch), math.radians(yaw)
      ahead, up = math.cos(elevation) - up * math.sin(elevation), math.sin(elevation) + up * math.cos(elevation)
      lon = math.remainder(turn + math.atan2(right, ahead), 2 * math.pi)
      lat = math.asin(up / math.sqrt(right**2 + ahead**2 + up**2))
      x, y = (lon / math.pi + 1) * (width - 1) / 2, (1 - 2 * lat / math.pi) * (height - 1) / 2
      x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
      left, right = (panorama[y0, k] * (y0 + 1 - y) + panorama[y0 + 1, k] * (y - y0) for k in (x0, x0 + 1))
      expected[i, j] = left * (x0 + 1 - x) + right * (x - x0)
  table = projection_table((height, width), Camera(yaw, pitch, fov), (h, w), "bilinear", convention="corner")
  np.testing.assert_allclose(apply_table(table, panorama), expected, atol=1e-6)


def test_corner_convention_is_not_the_default():
  """Mixing them up shifts a view by up to half a pixel: 64 dB where the right one has 140."""
  center, corner = (
    apply_table(projection_table((512, 1024), Camera(0, 0), SIZE, convention=convention), PANORAMA)
    for convention in ("center", "corner")
  )
  np.testing.assert_array_equal(center, project(PANORAMA, Camera(0, 0), SIZE))
  assert psnr(corner, center) < 70


def test_wrong_arguments_are_refused_in_one_sentence():
  camera = Camera(0, 0)
  with pytest.raises(ValueError, match=r"a panorama must be \[... H W c\], got shape \(4, 8\)"):
    project(np.zeros((4, 8)), camera, (2, 2))
  with pytest.raises(ValueError, match=r"view size \(h, w\) must be two positive whole numbers, got \(2, 0\)"):
    project(np.zeros((4, 8, 3)), camera, (2, 0))
  with pytest.raises(ValueError, match="method must be one of nearest, bilinear, bicubic"):
    project(np.zeros((4, 8, 3)), camera, (2, 2), "lanczos")
  with pytest.raises(ValueError, match='convention must be "center" or "corner"'):
    projection_table((4, 8), camera, (2, 2), convention="edge")
  with pytest.raises(ValueError, match="180 degrees high"):
    projection_table((4, 8), camera, (4, 2), convention="corner")
