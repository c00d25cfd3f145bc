"""The given clip: rate, crop, and what is refused."""

import numpy as np
import pytest

from panda_jax.data.video import write_video
from panda_jax.data.worlds import draw_world, render
from panda_jax.errors import InputError
from panda_jax.generate.perspective import read_perspective
from panda_jax.generate.write import slug


def grey_film(path, levels, fps, size=(48, 80)):
  write_video(path, (np.full((*size, 3), level, np.uint8) for level in levels), fps, crf=1)
  return path


@pytest.mark.parametrize("source_fps, wanted", [(8, [20, 40, 60, 80]), (16, [20, 60]), (4, [20, 20, 40, 40, 60, 60, 80, 80])])
def test_frames_are_taken_at_the_rate_of_the_model(tmp_path, source_fps, wanted):
  """A faster film loses frames, a slower one repeats them: what is on the screen at each tick."""
  film = grey_film(tmp_path / "film.mp4", (20, 40, 60, 80), source_fps)
  frames = read_perspective(film, (32, 32), 8.0, 100)
  assert frames.shape == (len(wanted), 32, 32, 3)
  np.testing.assert_allclose(frames.mean((1, 2, 3)), wanted, atol=2)


def test_no_more_frames_are_read_than_asked_for(tmp_path):
  film = grey_film(tmp_path / "film.mp4", range(0, 200, 10), 8)
  assert len(read_perspective(film, (32, 32), 8.0, 3)) == 3


def test_a_wide_film_gives_its_middle_square(tmp_path):
  frame = np.zeros((64, 128, 3), np.uint8)
  frame[:, 32:96] = 255                                              # the middle square is white
  frame[:, :4] = 128                                                 # and the edges do not join
  write_video(tmp_path / "wide.mp4", [frame] * 2, 8, crf=1)
  assert read_perspective(tmp_path / "wide.mp4", (16, 16), 8.0, 2)[:, 1:-1, 1:-1].min() > 245


def test_a_360_video_is_refused_by_name(tmp_path):
  write_video(tmp_path / "sphere.mp4", render(draw_world(0), 2, (64, 128)), 8)
  with pytest.raises(InputError, match="sphere.mp4 is twice as wide .*`panda prepare`"):
    read_perspective(tmp_path / "sphere.mp4", (32, 32), 8.0, 2)


@pytest.mark.parametrize("text, name", [
  ("Dusk over the sea, 2 birds!", "dusk_over_the_sea_2_birds"), ("clips/My Clip.MP4", "my_clip"), ("", ""), (None, ""),
  ("x" * 200, "x" * 60),
])
def test_a_prompt_or_a_file_makes_a_plain_file_name(text, name):
  assert slug(text) == name
