"""Views of one panorama agree; views of several do not."""

import numpy as np
import pytest

from panda_jax.evaluation.consistency import overlap_psnr
from panda_jax.geometry import Camera, Projector, cubemap_rig, make_rig
from tests.evaluation.panoramas import smooth_world

RIG = make_rig("videopanda")


def views_of(panorama: np.ndarray, rig=RIG) -> np.ndarray:
  return Projector(panorama.shape[:2], tuple(rig), (48, 48))(panorama[None].round().astype(np.uint8))


def test_views_of_one_panorama_agree_and_a_view_of_another_does_not():
  views = views_of(smooth_world(height=64))
  assert overlap_psnr(views, RIG) > 38
  views[2] = views_of(smooth_world(1.0, height=64))[2]
  assert overlap_psnr(views, RIG) < 25


def test_a_difference_of_brightness_is_counted_where_two_views_overlap():
  """Two cameras at the horizon, one 20 levels brighter: 20 log10(255 / 20) dB, whatever they show; frames are pooled."""
  cameras = (Camera(0, 0, 90), Camera(45, 0, 90))
  views = np.full((2, 3, 32, 32, 3), 100, np.uint8)
  views[1] = 120
  assert overlap_psnr(views, cameras) == pytest.approx(20 * np.log10(255 / 20))
  assert overlap_psnr(np.full_like(views, 7), cameras) == np.inf
  views[1, :, :, 16:] = 100                                     # the right half of the second is not seen by the first
  assert overlap_psnr(views, cameras) == pytest.approx(20 * np.log10(255 / 20), abs=0.3)


def test_the_faces_of_a_cube_do_not_overlap():
  assert overlap_psnr(views_of(smooth_world(height=64), cubemap_rig()), cubemap_rig()) is None


def test_wrong_input_is_refused_with_a_reason():
  with pytest.raises(ValueError, match="one camera each"):
    overlap_psnr(np.zeros((2, 1, 8, 8, 3), np.uint8), RIG)
