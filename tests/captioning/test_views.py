"""Which frame is looked at, where the views look, and how rows name their files."""

import cv2
import numpy as np
import pytest

from panda_jax.captioning import views
from panda_jax.captioning.clips import find_clips, read_file
from panda_jax.captioning.sentences import read_sentences
from panda_jax.data import prepare, records, video
from panda_jax.errors import InputError
from tests.captioning.stub import make_stills, make_video, panorama, write_sentences


def turned_to(frame: np.ndarray, count: int = 24) -> int:
  """Which frame of `make_video` this is."""
  still = panorama(100).astype(float)
  return min(range(count), key=lambda k: np.abs(np.roll(still, -2 * k, axis=1) - frame).mean())


@pytest.mark.parametrize("count", [1, 2, 24, 25])
def test_the_first_and_the_middle_frame(tmp_path, count):
  path = make_video(tmp_path / "a.mp4", count)
  assert turned_to(read_file(path)) == 0
  assert turned_to(read_file(path, "middle"), 25) == count // 2


def test_frames_of_a_span(tmp_path):
  path = make_video(tmp_path / "a.mp4", 24, fps=12)
  assert turned_to(read_file(path, "first", start=0.5, end=1.5)) == 6
  assert turned_to(read_file(path, "middle", start=0.5, end=1.5)) == 12
  with pytest.raises(InputError, match="no frame"):
    read_file(path, "first", start=5.0, end=6.0)


def test_views_look_ahead_right_left_and_behind():
  """A quarter of the panorama has each colour, centred where a view looks; behind, the seam is inside the view."""
  colours = {0: (255, 0, 0), 90: (0, 255, 0), -90: (0, 0, 255), 180: (255, 255, 0)}
  frame = np.zeros((64, 128, 3), np.uint8)
  for yaw, colour in colours.items():
    middle = round((yaw / 360 + 0.5) * 128)
    frame[:, np.arange(middle - 16, middle + 16) % 128] = colour
  seen = views.project_views(frame, views.YAWS_DEG, 32)
  assert seen.shape == (4, 32, 32, 3) and seen.dtype == np.uint8
  for view, colour in zip(seen, colours.values()):
    np.testing.assert_array_equal(view[16, 8:24], np.broadcast_to(colour, (16, 3)))


def test_a_large_panorama_is_low_passed_before_it_is_projected():
  """Columns of black and white, finer than the view can show, become grey and not stripes."""
  frame = np.zeros((512, 1024, 3), np.uint8)
  frame[:, ::2] = 255
  view, = views.project_views(frame, (0,), 32)
  assert abs(view.mean() - 127.5) < 3 and view.std() < 5


def test_files_are_named_so_that_prepare_finds_them(tmp_path):
  for folder in ("a", "b"):
    make_stills(tmp_path / folder, 1)
  make_stills(tmp_path, 2)
  (tmp_path / "p00.png").unlink()
  clips, _ = find_clips([tmp_path])
  assert [clip.file for clip in clips] == ["p01.png", "a/p00.png", "b/p00.png"]
  assert len({clip.id for clip in clips}) == 3


def test_a_dataset_has_a_row_per_file_or_per_clip(tmp_path):
  make_stills(tmp_path / "in", 1)
  make_video(tmp_path / "in" / "walk.mp4", 24)
  options = prepare.Options(height=32, encoding="png", max_frames_per_clip=10)
  prepare.prepare([tmp_path / "in"], tmp_path / "data", options)
  per_file, _ = find_clips([tmp_path / "data"])
  assert [(clip.id, clip.file) for clip in per_file] == [("p00", "p00.png"), ("walk", "walk.mp4")]
  per_clip, _ = find_clips([tmp_path / "data"], "middle", "clip")
  assert {clip.file for clip in per_clip} == {
    record["id"] for split in ("train", "validation") for record in records.open_records(tmp_path / "data", split)}
  assert all(views.look(clip, views.YAWS_DEG, 16).shape == (4, 16, 16, 3) for clip in per_clip)
  walk = [clip for clip in per_clip if clip.file.startswith("walk")]
  assert [turned_to(video.resize(clip.read(), (100, 200))) for clip in walk] == [4, 13, 21]      # of 0-8, 9-17, 18-23


def test_a_dataset_without_a_manifest_is_captioned_clip_by_clip(tmp_path):
  records.write_records(tmp_path / "data", {"train": [records.Clip(name, "", 8.0, [panorama(16)]) for name in "ab"]})
  clips, _ = find_clips([tmp_path / "data"])
  assert [clip.file for clip in clips] == ["a", "b"] and clips[0].read().shape == (16, 32, 3)


def test_what_cannot_be_opened_is_left_out_by_name(tmp_path):
  make_stills(tmp_path, 1)
  (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
  clips, warnings = find_clips([tmp_path])
  assert [clip.file for clip in clips] == ["p00.png"]
  assert any("gone.mp4" in sentence and "leads nowhere" in sentence for sentence in warnings)


def test_an_ordinary_film_is_not_taken_for_a_panorama(tmp_path):
  cv2.imwrite(str(tmp_path / "film.png"), panorama(200)[40:160, 30:110])
  cv2.imwrite(str(tmp_path / "wide.png"), panorama(200)[50:100, 30:130])
  (film, wide), _ = find_clips([tmp_path])
  for clip, why in ((film, "not 2:1"), (wide, "do not join")):
    with pytest.raises(InputError, match=why):
      views.look(clip, (0,), 32)
    assert views.look(clip, (0,), 32, allow_flat=True).shape == (1, 32, 32, 3)


def test_one_colour_says_try_another_frame(tmp_path):
  cv2.imwrite(str(tmp_path / "black.png"), np.zeros((32, 64, 3), np.uint8))
  (clip,), _ = find_clips([tmp_path])
  with pytest.raises(InputError, match="--frame middle"):
    views.look(clip, (0,), 32)


# Sentences from elsewhere


@pytest.fixture
def clips(tmp_path):
  make_stills(tmp_path / "in", 2)
  return find_clips([tmp_path / "in"])[0]


def test_sentences_of_a_table_are_found_by_id_or_file_and_by_any_name_of_the_angle(clips, tmp_path):
  (tmp_path / "s.csv").write_text(
    '\ufeffid,yaw_deg,other,sentence\r\np00,0,,"a beach, wide"\r\np00.png,270.0,,the sea\r\n'
    "p01,-180,,a wall\r\nstranger,0,,nobody\r\np01,45,,no view\r\n", encoding="utf-8")
  assert read_sentences(tmp_path / "s.csv", clips, views.YAWS_DEG) == {"p00": {0: "a beach, wide", -90: "the sea"},
                                                                       "p01": {180: "a wall"}}


@pytest.mark.parametrize("content, why", [
  ("id,yaw,sentence\n", "yaw_deg"), ("id,yaw_deg,sentence\np00,left,x\n", "line 2"),
  ("id,yaw_deg,sentence\np00,inf,x\n", "line 2"),
  ("id,yaw_deg,sentence\np00,0,x\np00.png,0,y\n", "line 3.*repeats"), ('id,yaw_deg,sentence\np00,0,"x\n', "line 2")])
def test_a_bad_table_is_refused(clips, tmp_path, content, why):
  (tmp_path / "s.csv").write_text(content)
  with pytest.raises(InputError, match=why):
    read_sentences(tmp_path / "s.csv", clips, views.YAWS_DEG)


def test_the_working_file_of_360_text_fusion(clips, tmp_path):
  """Four lines per clip in the order 0, 90, -90, 180; a comma in a sentence is no harm."""
  lines = [f"frames/{clip.id}/{yaw}.png,a {clip.id}, seen at {yaw}" for clip in clips for yaw in views.YAWS_DEG]
  (tmp_path / "caption.txt").write_text("\n".join(lines) + "\n")
  found = read_sentences(tmp_path / "caption.txt", clips, views.YAWS_DEG)
  assert found["p01"][-90] == "a p01, seen at -90"
  (tmp_path / "plain.txt").write_text("\n".join(line.partition(",")[2] for line in lines))
  assert read_sentences(tmp_path / "plain.txt", clips, views.YAWS_DEG) == found
  (tmp_path / "order.txt").write_text("\n".join(lines[4:] + lines[:4]))
  with pytest.raises(InputError, match="line 1 .* speaks of p01, it is the turn of p00"):
    read_sentences(tmp_path / "order.txt", clips, views.YAWS_DEG)
  (tmp_path / "short.txt").write_text("\n".join(lines[:-1]))
  with pytest.raises(InputError, match="7 lines, 2 clips of 4 views need 8"):
    read_sentences(tmp_path / "short.txt", clips, views.YAWS_DEG)


def test_the_helper_table_is_one(clips, tmp_path):
  found = read_sentences(write_sentences(tmp_path / "s.csv", ["p00"]), clips, views.YAWS_DEG)
  assert found == {"p00": {yaw: f"a p00 at {yaw}" for yaw in views.YAWS_DEG}}


def test_a_dataset_of_ordinary_films_has_one_view(tmp_path):
  square = panorama(32)[:, :32]
  records.write_records(tmp_path / "data", {"train": [records.Clip("a", "", 8.0, [square])]}, "png", kind="flat")
  (clip,), _ = find_clips([tmp_path / "data"])
  np.testing.assert_array_equal(views.look(clip, (0,), 32), square[None])
