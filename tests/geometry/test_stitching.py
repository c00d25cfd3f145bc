import jax
import numpy as np
import pytest

from panda_jax.geometry import (
  VIDEOPANDA_RIG,
  Camera,
  coverage,
  cubemap_rig,
  equirect_rays,
  horizontal_rig,
  rays,
  solid_angle_weights,
  stitch,
  stitch_table,
)
from tests.fast import jit
from tests.geometry.analytic import paint, psnr
from tests.paths import REAL, needs_real

SIZE = (512, 1024)
PANORAMA = paint(equirect_rays(SIZE))


def test_panorama_to_views_and_back_is_the_same_panorama():
  """512x1024 -> 8 views of 512² -> 512x1024: 106 dB; what is lost is half a pixel at the views' borders."""
  views = VIDEOPANDA_RIG.project(PANORAMA, (512, 512))
  assert psnr(VIDEOPANDA_RIG.stitch(views, SIZE), PANORAMA) > 100


@pytest.mark.parametrize("rig, weights, floor", [(VIDEOPANDA_RIG, "smooth", 120), (cubemap_rig(), "uniform", 85)])
def test_other_rigs_and_weights_bring_the_panorama_back(rig, weights, floor):
  """Smooth weights lose nothing at the borders; a cube, without overlap, a little more."""
  panorama = paint(equirect_rays((256, 512)))
  assert psnr(rig.stitch(rig.project(panorama, (256, 256)), (256, 512), weights=weights), panorama) > floor


@pytest.mark.parametrize("method, floor", [("nearest", 45), ("bilinear", 75), ("bicubic", 85)])
def test_true_views_stitch_to_the_true_panorama(method, floor):
  """Stitching alone: the views are painted, not projected."""
  views = np.stack([paint(rays(camera, (256, 256))) for camera in VIDEOPANDA_RIG])
  assert psnr(stitch(views, VIDEOPANDA_RIG, (256, 512), method), paint(equirect_rays((256, 512)))) > floor


@pytest.mark.parametrize("weights", ["uniform", "smooth"])
def test_views_of_one_colour_stitch_to_that_colour(weights):
  views = np.full((8, 32, 32, 1), 7, np.uint8)
  np.testing.assert_allclose(stitch(views, VIDEOPANDA_RIG, (64, 128), weights=weights), 7, rtol=1e-5)


def test_uniform_weights_average_the_views_that_see_a_pixel():
  """Each view paints its own number: every panorama pixel is the plain mean of those that cover it."""
  numbers = np.arange(8, dtype=np.float32)
  views = np.broadcast_to(numbers[:, None, None, None], (8, 32, 32, 1))
  seen = np.stack([coverage(camera, (64, 128)) for camera in VIDEOPANDA_RIG])
  expected = np.einsum("v,vhw->hw", numbers, seen) / seen.sum(0)
  np.testing.assert_allclose(stitch(views, VIDEOPANDA_RIG, (64, 128))[..., 0], expected, rtol=1e-5)


def test_smooth_weights_leave_no_edge_where_a_view_begins():
  """When one view is brighter than its neighbours, uniform averaging steps by half of that, smooth weights hardly."""
  views = np.zeros((8, 64, 64, 1), np.float32)
  views[0] = 1
  uniform, smooth = (
    stitch(views, VIDEOPANDA_RIG, (128, 256), weights=weights)[64, :, 0] for weights in ("uniform", "smooth")
  )
  assert abs(np.diff(uniform)).max() == pytest.approx(0.5, abs=1e-5)
  assert abs(np.diff(smooth)).max() < 0.1
  assert smooth[128] == pytest.approx(1, abs=1e-3)


def test_jax_under_jit_gives_what_numpy_gives():
  views = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)
  result = jax.jit(lambda views: stitch(views, VIDEOPANDA_RIG, (32, 64)))(views)
  assert result.shape == (2, 32, 64, 3) and result.dtype == np.float32
  np.testing.assert_allclose(result, stitch(views, VIDEOPANDA_RIG, (32, 64)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 64), (512, 1024), (501, 999)])
def test_the_papers_rig_sees_every_pixel(size):
  """With the 100 degree up and down views it does; with 90 degrees, or without them, it would not."""
  def seen_by(cameras):
    return np.any([coverage(camera, size) for camera in cameras], axis=0)
  assert seen_by(VIDEOPANDA_RIG).all()
  assert not seen_by([*horizontal_rig(6), Camera(0, 90), Camera(0, -90)]).all()
  assert not seen_by(horizontal_rig(6)).all()


def test_a_cube_face_covers_a_sixth_of_the_sphere():
  """Each of the six alike, counted with the solid angle of its pixels."""
  for camera in cubemap_rig():
    share = np.mean(coverage(camera, (256, 512)) * solid_angle_weights(256)[:, None])
    assert share == pytest.approx(1 / 6, abs=2e-3)


def test_a_wide_view_covers_less_height():
  wide = coverage(Camera(0, 0), (64, 128), view_size=(9, 16))
  square = coverage(Camera(0, 0), (64, 128))
  assert wide.any(1).sum() < square.any(1).sum() and (wide.any(0) == square.any(0)).all()
  assert not coverage(Camera(180, 0), (64, 128))[:, 32:96].any()      # nothing of what lies in front


def test_a_rig_with_a_hole_is_refused_and_the_hole_is_named():
  """Six side views alone leave both caps open; the message says how much and where."""
  with pytest.raises(ValueError, match="6 cameras leave .* of 8192 panorama pixels uncovered.*latitude 8"):
    stitch_table(horizontal_rig(6), (32, 32), (64, 128))


def test_the_refusal_names_the_way_out():
  with pytest.raises(ValueError, match='stitch with uncovered="black"'):
    horizontal_rig(4).stitch(np.zeros((4, 16, 16, 3)), (16, 32))


@pytest.mark.parametrize("dtype, bright, black", [(np.uint8, 200, 0), (np.float32, 0.5, -1), (np.float16, 0.5, -1)])
def test_what_no_view_sees_is_black_when_asked_for(dtype, bright, black):
  """Four side views leave two caps: 0 in pictures of 0 to 255, -1 in pictures of -1 to 1; in NumPy and JAX."""
  rig, views = horizontal_rig(4), np.full((2, 4, 32, 32, 3), bright, dtype)
  seen = np.any([coverage(camera, (64, 128)) for camera in rig], axis=0)
  assert not seen.all()
  result = rig.stitch(views, (64, 128), uncovered="black")
  assert isinstance(result, np.ndarray) and result.dtype == (np.float32 if dtype == np.uint8 else dtype)
  np.testing.assert_array_equal(result[:, ~seen], black)
  np.testing.assert_allclose(result[:, seen], bright, rtol=1e-3)
  traced = jit(lambda views: rig.stitch(views, (64, 128), uncovered="black"))(views)
  assert traced.dtype == result.dtype
  np.testing.assert_allclose(traced, result, rtol=1e-3)


@pytest.mark.parametrize("weights", ["uniform", "smooth"])
def test_the_option_changes_no_pixel_that_is_seen(weights):
  """A rig that sees everything gives the same bits; of the paper's side views, what only they see stays as it was."""
  views = np.random.default_rng(0).uniform(-1, 1, (8, 32, 32, 3)).astype(np.float32)
  whole = VIDEOPANDA_RIG.stitch(views, (64, 128), weights=weights)
  np.testing.assert_array_equal(VIDEOPANDA_RIG.stitch(views, (64, 128), weights=weights, uncovered="black"), whole)
  sides = horizontal_rig(6).stitch(views[:6], (64, 128), weights=weights, uncovered="black")
  caps = np.any([coverage(camera, (64, 128)) for camera in VIDEOPANDA_RIG[6:]], axis=0)
  np.testing.assert_allclose(sides[~caps], whole[~caps], atol=1e-6)


def test_a_table_knows_what_it_leaves_empty():
  table = stitch_table(horizontal_rig(6), (32, 32), (64, 128), uncovered="black")
  seen = np.any([coverage(camera, (64, 128)) for camera in horizontal_rig(6)], axis=0)
  np.testing.assert_array_equal(table.empty, ~seen)
  assert not stitch_table(VIDEOPANDA_RIG, (32, 32), (64, 128)).empty.any()
  with pytest.raises(ValueError, match="read-only"):
    table.empty[0, 0] = False


def test_a_view_that_falls_between_all_pixels_leaves_everything_black():
  np.testing.assert_array_equal(stitch(np.ones((1, 4, 4, 1)), [Camera(0, 0, 1)], (2, 4), uncovered="black"), -1)


def test_wrong_arguments_are_refused_in_one_sentence():
  with pytest.raises(ValueError, match=r"views must be \[... v h w c\]"):
    stitch(np.zeros((8, 4, 4)), VIDEOPANDA_RIG, (8, 16))
  with pytest.raises(ValueError, match="v=6, but the rig has 8 cameras"):
    stitch(np.zeros((6, 4, 4, 3)), VIDEOPANDA_RIG, (8, 16))
  with pytest.raises(ValueError, match='"uniform" or "smooth"'):
    stitch(np.zeros((8, 4, 4, 3)), VIDEOPANDA_RIG, (8, 16), weights="gauss")
  with pytest.raises(ValueError, match="method must be one of"):
    stitch(np.zeros((8, 4, 4, 3)), VIDEOPANDA_RIG, (8, 16), method="lanczos")
  with pytest.raises(ValueError, match='uncovered must be "error" or "black"'):
    stitch(np.zeros((8, 4, 4, 3)), VIDEOPANDA_RIG, (8, 16), uncovered="white")
  with pytest.raises(ValueError, match="panorama size"):
    stitch(np.zeros((8, 4, 4, 3)), VIDEOPANDA_RIG, (0, 16))


@needs_real
def test_photographs_survive_the_round_trip():
  """Real 512x1024 photographs through 8 views of 512² and back, over the sphere: 38.8 dB (sharpest) to 56.2 dB."""
  import cv2
  for path in sorted((REAL / "photo").iterdir())[1::4]:
    photo = cv2.resize(cv2.imread(str(path)), SIZE[::-1], interpolation=cv2.INTER_AREA)
    stitched = VIDEOPANDA_RIG.stitch(VIDEOPANDA_RIG.project(photo, (512, 512)), SIZE)
    error = np.square(stitched - photo).mean((1, 2)) * solid_angle_weights(SIZE[0])
    assert 10 * np.log10(255**2 / error.mean()) > 36, path.name
