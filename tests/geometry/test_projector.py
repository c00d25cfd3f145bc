from concurrent import futures
import pickle

import numpy as np
import pytest

from panda_jax.geometry import (
  VIDEOPANDA_RIG, Camera, Projector, equirect_rays, icosahedron_rig, project, rays, to_uint8,
)
from panda_jax.geometry import projector as projector_module
from tests.geometry.analytic import paint, psnr

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (3, 64, 128, 3), np.uint8)         # frames; nothing is harder to interpolate
AROUND = (                                                      # every way to project, and where the ways could break
  *VIDEOPANDA_RIG,
  Camera(180, 0), Camera(-33.3, 0, 60), Camera(7, 0, 170),      # the seam; not in whole columns; up to the poles
  Camera(45, 90), Camera(-90, -90, 60), Camera(10, 90),         # turned by whole columns, and not
  Camera(20, 30), Camera(100, -77, 80, 33), Camera(0, 0, 90, 180), Camera(0, 90, 90, 10), Camera(180, 1, 120),
)


def _differences(projector: Projector, panoramas: np.ndarray) -> np.ndarray:
  """Levels of 255 between the projector's views and those of `project`."""
  expected = [[to_uint8(project(panorama, camera, projector.view_size, projector.method)) for panorama in panoramas]
              for camera in projector.cameras]
  return abs(projector(panoramas).astype(int) - np.array(expected))


@pytest.mark.parametrize("view_size", [(64, 64), (40, 72), (33, 50), (1, 2)], ids=str)
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_views_are_those_of_project(method, view_size):
  """Rounding apart: what lies in the middle between two levels may go to the other one."""
  differences = _differences(Projector((64, 128), AROUND, view_size, method), NOISE)
  assert differences.max() <= 1 and differences.mean() < 2e-4


@pytest.mark.parametrize("seed", range(6))
def test_any_camera_and_any_size(seed):
  """Also odd widths, where half a turn is not in whole pixels, and panoramas smaller than the taps reach."""
  rng = np.random.default_rng(seed)
  size, view_size = tuple(rng.integers((2, 2), (50, 90)).tolist()), tuple(rng.integers(2, 40, 2).tolist())
  cameras = [Camera(*rng.uniform(-180, 180, 2), rng.uniform(10, 160), rng.uniform(-180, 180)) for _ in range(3)]
  cameras += [Camera(rng.uniform(-720, 720), 0, 90), Camera(rng.integers(-9, 9) * 360 / size[1], 90, 100)]
  panoramas = rng.integers(0, 256, (2, *size, 3), np.uint8)
  assert _differences(Projector(size, cameras, view_size), panoramas).max() <= 1


def test_the_smallest_panoramas():
  for height, width in ((1, 2), (2, 2), (1, 4), (2, 4), (3, 6), (4, 8)):
    panoramas = RNG.integers(0, 256, (1, height, width, 3), np.uint8)
    assert _differences(Projector((height, width), VIDEOPANDA_RIG, (8, 8)), panoramas).max() <= 1


def test_this_opencv_interpolates_exactly():
  """Or else pitched and rolled cameras are slow, and the tests below test nothing."""
  assert projector_module._remap_is_exact()


def test_an_opencv_that_rounds_positions_is_not_used(monkeypatch):
  """Version 4 would be some levels off; pitched and rolled views then come from the table, to the byte."""
  monkeypatch.setattr(projector_module, "_remap_is_exact", lambda: False)
  projector = Projector((64, 128), (Camera(20, 30), Camera(100, -77, 80, 33)), (32, 32))
  assert not _differences(projector, NOISE).any()


def test_hardly_a_pixel_is_rounded_the_other_way():
  """At full size: 10 in a million values for the paper's rig, 1 in a thousand for pitched and rolled cameras."""
  panoramas = RNG.integers(0, 256, (1, 512, 1024, 3), np.uint8)
  for cameras, often in ((VIDEOPANDA_RIG.select([1, 6, 7]), 5e-5), ((Camera(20, 30), Camera(100, -77, 80, 33)), 3e-3)):
    differences = _differences(Projector((512, 1024), cameras, (256, 256)), panoramas)
    assert differences.max() <= 1 and differences.mean() < often


def test_views_show_what_is_painted_on_the_sphere():
  """59 dB is what 8 bits leave of a picture; half a pixel off would be 54."""
  def levels(values):
    return 127.5 * (values + 1)
  projector = Projector((512, 1024), AROUND, (128, 128))
  views = projector(to_uint8(levels(paint(equirect_rays((512, 1024)))))[None])[:, 0]
  for camera, view in zip(projector.cameras, views, strict=True):
    assert psnr(view, levels(paint(rays(camera, (128, 128)))), 255) > 56.5, camera


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_rolling_the_panorama_equals_turning_the_camera(method):
  """W/8 columns to the right are 45 degrees of yaw; to the byte, for cameras that stand at whole columns."""
  cameras = [Camera(yaw, pitch) for yaw in (0, 45, 90, 315) for pitch in (0, 90, -90)]
  turned = [Camera(camera.yaw_deg + 45, camera.pitch_deg) for camera in cameras]
  views = Projector((64, 128), cameras, (32, 32), method)(NOISE)
  rolled = Projector((64, 128), turned, (32, 32), method)(np.roll(NOISE, 16, axis=2))
  differences = abs(views.astype(int) - rolled)
  assert not differences[1::3].any() and not differences[2::3].any()               # the poles
  assert differences.max() <= 1 and differences.mean() < 1e-4


@pytest.mark.parametrize("rig", [AROUND, icosahedron_rig()], ids=["around", "icosahedron"])
def test_a_view_depends_on_nothing_but_its_frame_and_camera(rig):
  """The same bytes alone and in a clip of any length, among all cameras and among a few in any order."""
  panoramas = np.concatenate([NOISE, NOISE[::-1], NOISE[:, ::-1]])                 # more than are projected at once
  projector = Projector((64, 128), rig, (24, 40))
  views = projector(panoramas)
  assert views.shape == (len(rig), 9, 24, 40, 3) and views.dtype == np.uint8
  for order in ([0], [5, 2, 7], [len(rig) - 1, 6, 6], []):
    for frames in (slice(None), slice(4, 5), slice(2, 2)):
      np.testing.assert_array_equal(projector(panoramas[frames], order), views[order, frames])


def test_panoramas_need_not_be_contiguous_and_stay_as_they_are():
  mirrored, before = NOISE[::2, ::-1, ::-1], NOISE.copy()
  mirrored.setflags(write=False)
  projector = Projector((64, 128), AROUND, (24, 24))
  np.testing.assert_array_equal(projector(mirrored), projector(np.ascontiguousarray(mirrored)))
  np.testing.assert_array_equal(NOISE, before)


def test_processes_and_threads_get_the_same_bytes():
  projector = Projector((64, 128), AROUND, (48, 48))
  views = projector(NOISE)
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(projector))(NOISE), views)
  with futures.ThreadPoolExecutor(4) as pool:
    for other in pool.map(projector, [NOISE] * 8):
      np.testing.assert_array_equal(other, views)


def test_the_papers_rig_takes_little_memory():
  """Of which a table of one view, 34 MB, would be three times as much."""
  assert len(pickle.dumps(Projector((512, 1024), VIDEOPANDA_RIG, (512, 512)))) < 12e6


def test_wrong_arguments_are_refused_in_one_sentence():
  projector = Projector((64, 128), VIDEOPANDA_RIG, (8, 8))
  with pytest.raises(ValueError, match=r"panoramas must be uint8 \[f 64 128 3\], got float64 \[64, 128, 3\]"):
    projector(np.zeros((64, 128, 3)))
  with pytest.raises(ValueError, match=r"got uint8 \[1, 32, 64, 3\]"):
    projector(np.zeros((1, 32, 64, 3), np.uint8))
  with pytest.raises(ValueError, match="the projector has cameras 0 to 7, got 8"):
    projector(NOISE, [0, 8])
  with pytest.raises(ValueError, match="the projector has cameras 0 to 7, got -1"):
    projector(NOISE, [-1])
  with pytest.raises(ValueError, match="a projector needs at least one camera"):
    Projector((64, 128), [], (8, 8))
  with pytest.raises(ValueError, match="method must be one of nearest, bilinear, bicubic, got 'lanczos'"):
    Projector((64, 128), VIDEOPANDA_RIG, (8, 8), "lanczos")
  with pytest.raises(ValueError, match=r"view size \(h, w\) must be two positive whole numbers"):
    Projector((64, 128), VIDEOPANDA_RIG, (8, 0))
