"""Names, viewer and sheet of a video of any length."""

import numpy as np
import pytest

from panda_jax.data.video import write_video
from panda_jax.errors import InputError
from panda_jax.generate import write
from panda_jax.generate.write import make_folder, read_moments, slug, write_extras, write_results


def flat(levels, size=(16, 32)):
  return [np.full((*size, 3), level, np.uint8) for level in levels]


@pytest.mark.parametrize("text, name", [
  ("Dusk over the sea, 2 birds!", "dusk_over_the_sea_2_birds"), ("clips/My Clip.MP4", "my_clip"), ("", ""), (None, ""),
  ("x" * 200, "x" * 60),
])
def test_a_prompt_or_a_file_makes_a_plain_file_name(text, name):
  assert slug(text) == name


@pytest.mark.parametrize("count, numbers", [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (100, [0, 33, 66, 99])])
def test_moments_are_spread_from_the_first_frame_to_the_last(tmp_path, count, numbers):
  write_video(tmp_path / "a.mp4", flat(2 * k for k in range(count)), 8)
  frames, found = read_moments(tmp_path / "a.mp4", 4)
  assert found == numbers
  np.testing.assert_allclose(frames.mean((1, 2, 3)), 2 * np.array(numbers), atol=2)


def test_a_long_video_is_never_in_memory(tmp_path, monkeypatch):
  write_video(tmp_path / "a_360.mp4", flat(range(200)), 8)
  converted = []
  keep = write.to_rgb
  monkeypatch.setattr(write, "to_rgb", lambda frame: converted.append(1) or keep(frame))
  assert [path.name for path in write_extras(tmp_path / "a_360.mp4")] == ["a_360.html", "a_360.png"]
  assert len(converted) == 4


def test_a_video_too_large_for_a_page_gets_its_sheet_and_a_word(tmp_path, monkeypatch):
  monkeypatch.setattr(write, "LARGEST", 100)
  said = []
  write_video(tmp_path / "a_360.mp4", flat([50] * 3), 8)
  assert write_extras(tmp_path / "a_360.mp4", say=said.append) == [tmp_path / "a_360.png"]
  assert "no viewer" in said[0] and not (tmp_path / "a_360.html").exists()


def test_results_are_a_video_a_viewer_and_a_sheet(tmp_path):
  files = write_results(iter(flat([10, 20])), tmp_path / "new", "a", 8)
  assert [path.name for path in files] == ["a_360.mp4", "a_360.html", "a_360.png"] and all(map(write.Path.is_file, files))
  assert write_results(flat([10]), tmp_path, "b", 8, extras=False) == [tmp_path / "b_360.mp4"]


def test_a_folder_below_a_file_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  for folder in (tmp_path / "file", tmp_path / "file" / "samples"):
    with pytest.raises(InputError, match="is a file or lies below one"):
      make_folder(folder)
