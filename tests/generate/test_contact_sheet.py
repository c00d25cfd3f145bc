"""A contact sheet shows, in their places and right way round, the moments, the views and the seam."""

import numpy as np
import pytest
from PIL import Image

from panda_jax.errors import InputError
from panda_jax.generate.contact_sheet import contact_sheet, write_png
from panda_jax.geometry import cubemap_rig

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def holds(sheet, colour, least=2000):
  """Whether at least so many pixels of the sheet are (nearly) of this colour."""
  return np.count_nonzero(np.abs(sheet.astype(int) - colour).max(-1) < 6) >= least


def flat(*colours, size=(64, 128)):
  return np.stack([np.full((*size, 3), colour, np.uint8) for colour in colours])


def test_the_first_and_the_last_moment_are_always_shown():
  frames = flat(RED, *[(90, 90, 90)] * 8, BLUE)
  sheet = contact_sheet(frames, fps=8, title="A title", lines=["a prompt"], moments=3, width=600)
  assert sheet.dtype == np.uint8 and sheet.shape[1:] == (600, 3)
  assert holds(sheet, RED) and holds(sheet, BLUE)


def test_views_look_into_their_own_directions():
  """The sky alone is green: it fills a view although it is only the top quarter of the panorama."""
  frames = flat(RED)
  frames[0, :16] = GREEN
  with_up = contact_sheet(frames, rig=cubemap_rig(), width=600)
  without = contact_sheet(frames, rig=type(cubemap_rig())(cubemap_rig().cameras[:1]), width=600)
  count = [np.count_nonzero(np.abs(sheet.astype(int) - GREEN).max(-1) < 6) for sheet in (with_up, without)]
  assert count[0] > count[1] + 100 * 100


def test_the_seam_stands_in_the_middle_of_its_panorama():
  """A panorama with a green stripe over its left and right edge shows one stripe in the seam row."""
  frames = flat(RED)
  frames[0, :, :4] = frames[0, :, -4:] = GREEN
  sheet = contact_sheet(frames, rig=cubemap_rig(), width=600)
  row = sheet[-32 - 40]                                    # 40 pixels above the lower margin: through the seam's tiles
  green = np.flatnonzero(np.abs(row.astype(int) - GREEN).max(-1) < 40)
  panorama = green[green < 32 + 2 * 174]                   # tiles of 348x174 and 174x174 beside each other
  assert abs(panorama.mean() - (32 + 348 / 2 - 0.5)) < 1
  assert 16 <= len(panorama) <= 24


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_video_of_any_length_gives_a_sheet_of_the_asked_width(count):
  assert contact_sheet(flat(*[RED] * count), rig=cubemap_rig(), moments=4, columns=3, width=500).shape[1] == 500


def test_long_text_makes_the_sheet_taller_not_wider():
  short = contact_sheet(flat(RED), rig=cubemap_rig(), lines=["WORDS"], width=500)
  long = contact_sheet(flat(RED), rig=cubemap_rig(), lines=["WORDS " * 100], width=500)
  assert long.shape[1] == 500 and len(long) > len(short) + 100


def test_panoramas_finer_than_the_views_do_not_alias():
  """One-pixel stripes come out grey, not as a moiré of black and white."""
  frames = np.zeros((1, 1024, 2048, 3), np.uint8)
  frames[:, :, ::2] = 255
  sheet = contact_sheet(frames, rig=cubemap_rig(), width=400)
  view = sheet[-32 - 100:-32 - 8, -32 - 100:-32 - 8]       # the 108x108 view in the lower right corner
  assert np.abs(view.astype(int) - 127.5).max() < 12


@pytest.mark.parametrize("frames", [np.zeros((2, 8, 16, 3), np.float32), np.zeros((8, 16, 3), np.uint8),
                                    np.zeros((0, 8, 16, 3), np.uint8)])
def test_other_arrays_are_refused_with_their_shape(frames):
  with pytest.raises(ValueError, match=r"frames must be uint8 \[f H W 3\]"):
    contact_sheet(frames)


def test_a_png_holds_exactly_the_picture(tmp_path):
  image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
  write_png(tmp_path / "new" / "sheet.png", image)
  assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "sheet.png")), image)
  assert len(list((tmp_path / "new").iterdir())) == 1
  with pytest.raises(InputError, match="is a folder"):
    write_png(tmp_path / "new", image)
