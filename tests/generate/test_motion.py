"""What --motion says: a few words, the motion of a 360° film, a film of flow in colours; for one video or a table."""

import numpy as np
import pytest

from panda_jax.data.clips import Clip
from panda_jax.data.flow import DISFlow, decode_flow, encode_flow
from panda_jax.data.video import read_frames, resize, write_video
from panda_jax.errors import InputError
from panda_jax.generate.motion import make_motion, motion_of_clips, motion_of_film
from tests.data.made_clips import moving, write

SIZE, FPS = (32, 64), 8.0
FILM = (64, 128)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
  """A camera that turns right by one pixel of `FILM` in each of 20 frames, at 16 per second."""
  return write(tmp_path_factory.mktemp("films") / "pan.mp4", moving(size=FILM, step=1), 16)


def make(text, frames, size=SIZE, fps=FPS, **options):
  return make_motion(text, frames, size, fps, **options)


def test_words_are_flow_in_colours():
  """To turn right by 4.5° moves the picture left by an eightieth of its width."""
  assert make("none", 3) is None
  flow = decode_flow(make("rotate:4.5", 3), 64)
  assert flow.shape == (3, 32, 64, 2)
  np.testing.assert_allclose(flow, np.broadcast_to([-0.8, 0.0], flow.shape), atol=0.05)
  ahead = decode_flow(make("forward:0.05", 1), 64)[0]
  assert ahead[16, 40, 0] > 0.05 and ahead[16, 23, 0] < -0.05           # away from where it goes


def test_a_film_of_colours_is_read_as_it_is(tmp_path):
  colours = np.full((4, 32, 64, 3), (40, 90, 10), np.uint8)
  write_video(tmp_path / "flow.mp4", colours, 8.0)
  read = make(str(tmp_path / "flow.mp4"), 3, (16, 32))
  assert read.shape == (3, 16, 32, 3) and np.abs(read.astype(int) - colours[0, 0, 0]).max() < 12
  with pytest.raises(InputError, match="has 4 frames, and 5 are made"):
    make(str(tmp_path / "flow.mp4"), 5, (16, 32))


@pytest.mark.parametrize("fps, places", [(16.0, [0, 1, 2, 3]), (8.0, [0, 2, 4, 6]), (32.0, [0, 0, 1, 1])])
def test_like_a_film_is_its_flow_to_its_own_next_frame_wherever_the_model_looks(film, fps, places):
  """As in training: where a model's frames are two of the film's apart, the flow is that of one."""
  frames = list(read_frames(film))
  flow = [DISFlow()(np.stack(frames[place:place + 2]))[0] for place in places]
  expected = [resize(encode_flow(each, FILM[1]), SIZE) for each in flow]
  made = make(f"like:{film}", 4, fps=fps)
  np.testing.assert_array_equal(made, expected)
  assert np.median(decode_flow(made, SIZE[1])[..., 0]) == pytest.approx(-0.5, abs=0.2)


def test_the_last_frame_of_a_film_moves_as_the_one_before(film):
  made = motion_of_film(film, 20, SIZE, 16.0)
  np.testing.assert_array_equal(made[19], made[18])
  with pytest.raises(InputError, match="gives 20 frames at 16 per second, 21 are to be made: give .* --frames 20"):
    motion_of_film(film, 21, SIZE, 16.0)


def test_a_film_of_one_frame_stands_still(tmp_path):
  film = write(tmp_path / "one.mp4", moving(size=FILM)[:1], 8)
  np.testing.assert_array_equal(motion_of_film(film, 1, SIZE, 8.0), np.zeros((1, *SIZE, 3)))


def test_of_a_table_each_clip_moves_as_its_own_video(film):
  motion = motion_of_clips("like", 3, SIZE, 16.0, "dis-symmetric")
  np.testing.assert_array_equal(motion(Clip("a", video=film)), motion_of_film(film, 3, SIZE, 16.0, "dis-symmetric"))
  with pytest.raises(InputError, match="it has no video to take its motion from"):
    motion(Clip("b"))


def test_of_a_table_each_clip_moves_as_the_film_of_its_name(tmp_path):
  for level, name in enumerate(("argus__0001", "b")):
    write(tmp_path / f"{name}.mp4", [np.full((32, 64, 3), 40 * level, np.uint8)] * 3)
  motion = motion_of_clips(str(tmp_path), 3, SIZE, FPS)
  assert [round(motion(Clip(name)).mean() / 40) for name in ("argus::0001", "b")] == [0, 1]
  with pytest.raises(InputError, match="has no film of flow for it: add c.mp4"):
    motion(Clip("c"))


@pytest.mark.parametrize("text", ["rotate:2", "forward:0.01"])
def test_words_hold_for_all_clips_of_a_table(text):
  motion = motion_of_clips(text, 3, SIZE, FPS)
  np.testing.assert_array_equal(motion(Clip("a")), make(text, 3))
  assert motion(Clip("a")) is motion(Clip("b")) and motion_of_clips("none", 3, SIZE, FPS) is None


@pytest.mark.parametrize("text, words", [
  ("rotate:far", "give a number per frame"), ("forward:2", "between -1 and 1"), ("nowhere.mp4", "nowhere.mp4"),
  ("like:nowhere.mp4", "nowhere.mp4"), ("like:square.mp4", "is 32x32, not 2:1"), ("like", "say which 360° film's")])
def test_what_means_nothing_is_refused(tmp_path, monkeypatch, text, words):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / "square.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3)
  with pytest.raises(InputError, match=words):
    make(text, 2)


def test_an_estimator_that_there_is_not_is_refused_before_any_clip():
  with pytest.raises(InputError, match="no flow estimator 'no'"):
    motion_of_clips("like", 2, SIZE, FPS, "no")
