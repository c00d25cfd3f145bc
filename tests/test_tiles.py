"""Text and tiles on paper: everything keeps to its width, and nothing that was written is lost."""

import numpy as np
import pytest

from panda_jax import tiles

RED = (200, 30, 30)


def picture(h, w, colour=RED):
  return np.full((h, w, 3), colour, np.uint8)


def inked(image):
  """Whether there is ink in each row."""
  return (np.abs(image.astype(int) - tiles.PAPER).max(-1) > 60).any(1)


@pytest.mark.parametrize("line", ["word " * 60, "unbrokenword" * 30, "a/very/long/path/" * 12, "海滩" * 80])
def test_text_is_wrapped_to_the_width_even_without_spaces(line):
  """It takes as many lines as its letters need: nothing runs out on the right."""
  short, long = (tiles.text([text], 16, tiles.INK, 200) for text in (line[:8], line))
  assert short.shape[1] == long.shape[1] == 200
  wide = tiles.text([line], 16, tiles.INK, 20000)
  columns = np.flatnonzero(inked(wide.swapaxes(0, 1)))
  assert len(long) >= len(short) * (columns.max() // 200)


def test_long_text_can_be_cut_after_some_lines():
  cut = tiles.text(["word " * 60], 16, tiles.INK, 200, most=3)
  assert len(cut) == len(tiles.text(["a", "b", "c"], 16, tiles.INK, 200))
  whole = tiles.text(["a", "b"], 16, tiles.INK, 200)
  np.testing.assert_array_equal(tiles.text(["a", "b"], 16, tiles.INK, 200, most=3), whole)


def test_letters_with_accents_are_drawn_without_them():
  drawn, plain = (tiles.text([line], 16, tiles.INK, 200) for line in ("plage d'été — über", "plage d'ete - uber"))
  np.testing.assert_array_equal(drawn, plain)


def test_a_word_too_long_for_the_first_line_leaves_no_empty_line():
  assert inked(tiles.text(["unbrokenword" * 30], 16, tiles.INK, 200))[:22].any()


def test_empty_labels_and_captions_are_drawn_too():
  for label in ("", "name\n", "name\n\n", "\n"):
    strip = tiles.row([(label, picture(20, 40))], 20, 100)
    assert strip.shape[1:] == (100, 3) and (strip[-20:, :40] == RED).all()


def test_the_pictures_of_a_row_stand_on_one_line_whatever_their_labels():
  strip = tiles.row([("short", picture(20, 40)), ("name\nwords " * 9, picture(40, 80))], 30, 200)
  assert strip.shape[1] == 200
  assert (strip[-30:, :60] == RED).all() and (strip[-30:, 60 + tiles.GAP:120 + tiles.GAP] == RED).all()
  assert (strip[-31] != RED).any(-1).all()


def test_a_grid_fills_its_width_and_keeps_the_last_row_as_large_as_the_others():
  rows = tiles.grid([(str(index), picture(10, 20)) for index in range(5)], 3, 324)
  assert len(rows) == 2 and {row.shape for row in rows} == {rows[0].shape}
  assert (rows[0][-1] == RED).all(-1).sum() == 3 * 100 and (rows[1][-1] == RED).all(-1).sum() == 2 * 100


@pytest.mark.parametrize("count, most, columns", [(1, 4, 1), (4, 4, 4), (5, 4, 3), (8, 10, 8), (20, 10, 10), (6, 4, 3)])
def test_columns_make_rows_as_equal_as_can_be(count, most, columns):
  assert tiles.columns_of(count, most) == columns


def test_paper_has_margins_all_around():
  sheet = tiles.paper([picture(10, tiles.inner(200)), picture(20, tiles.inner(200))], 200)
  assert sheet.shape == (2 * tiles.MARGIN + 30 + tiles.GAP, 200, 3)
  assert (sheet[tiles.MARGIN:tiles.MARGIN + 10, tiles.MARGIN:-tiles.MARGIN] == RED).all()
  assert (sheet[:, :tiles.MARGIN] == tiles.PAPER).all() and (sheet[-tiles.MARGIN:] == tiles.PAPER).all()
