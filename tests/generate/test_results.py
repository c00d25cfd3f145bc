"""The files of one request: panorama and views grow together, each goes on by itself, and nothing else changes."""

import jax
import numpy as np
import pytest

from panda_jax.data.video import read_frames, write_video
from panda_jax.errors import InputError
from panda_jax.generate.results import Results, side_by_side
from panda_jax.generate.segments import GrowingVideo
from panda_jax.generate.spherical import spherical_metadata
from panda_jax.generate.windows import Generator, Request, Settings
from panda_jax.geometry import Camera
from tests.generate.toy import VIEW, Counting

SETTINGS = Settings(steps=1, text_guidance=3.0, video_guidance=1.0, frames=4, view_sigma=0.0, row_sigma=0.1,
                    panorama_height=16)
REQUEST = Request("sea", 9, seed=5)                    # 3 windows
VIDEO = np.random.default_rng(0).integers(0, 200, (9, VIEW, VIEW, 3), np.uint8)


@pytest.fixture(scope="module")
def generate():
  """One model for all tests, so that its programs are compiled once."""
  return Generator(Counting(), {"start": np.float32(50.5)}, SETTINGS)


@pytest.fixture
def make(generate, tmp_path):
  def make(folder="", request=REQUEST, **options):
    (tmp_path / folder).mkdir(exist_ok=True)
    made_from = {"prompt": request.prompt, "seed": request.seed}
    with Results(generate, request, tmp_path / folder, "a", 8.0, made_from, **options) as results:
      made = list(results.make())
    assert results.complete
    return made
  return make


def names(folder):
  return sorted(path.name for path in folder.rglob("*"))


def levels(path):
  return [round(float(frame.mean())) for frame in read_frames(path)]


@pytest.mark.parametrize("request_, own_view", [
  (REQUEST, False), (Request("", 6, VIDEO, camera=Camera(90, 0)), False),
  (Request("", 6, VIDEO, camera=Camera(90, 20, 70)), True),
])
def test_the_views_are_those_that_the_panorama_was_stitched_from(request_, own_view):
  """Without what is done to the panorama afterwards: a given picture laid over it, a turn."""
  generate = Generator(Counting(own_view=own_view), {"start": np.float32(50.5)}, SETTINGS)
  for plain, made in zip(generate.windows(request_), generate.windows(request_, views=True), strict=True):
    np.testing.assert_array_equal(made.frames, plain.frames)         # asking for them changes nothing
    np.testing.assert_array_equal(made.row, plain.row)
    assert plain.views is None and made.views.shape == (6, len(made.frames), VIEW, VIEW, 3)
    stitched = np.asarray(generate.system.shows.panorama(made.views, (16, 32)))
    if request_.video is None:
      np.testing.assert_array_equal(made.frames, stitched)
    elif not own_view:
      np.testing.assert_array_equal(made.frames, np.roll(stitched, 8, axis=2))
    else:
      assert not np.array_equal(made.frames, stitched)
      np.testing.assert_array_equal(made.frames[:, :, :8], stitched[:, :, :8])       # behind the given picture


def test_views_lie_side_by_side_in_the_rigs_order():
  views = np.arange(6, dtype=np.uint8)[:, None, None, None, None] * np.ones((6, 2, 4, 5, 3), np.uint8)
  row = side_by_side(views)
  assert row.shape == (2, 4, 30, 3)
  np.testing.assert_array_equal(row[1, 2, :, 0], np.repeat(np.arange(6), 5))


def test_both_files_grow_and_the_panorama_is_the_same_as_without_views(make, tmp_path):
  assert make("plain") == [0, 1, 2] == make("both", views=True)
  assert names(tmp_path / "plain") == ["a_360.mp4"] and names(tmp_path / "both") == ["a_360.mp4", "a_views.mp4"]
  assert (tmp_path / "plain/a_360.mp4").read_bytes() == (tmp_path / "both/a_360.mp4").read_bytes()
  views = np.stack(list(read_frames(tmp_path / "both/a_views.mp4")))
  assert views.shape == (9, VIEW, 6 * VIEW, 3)
  np.testing.assert_allclose(levels(tmp_path / "both/a_views.mp4"), range(50, 59), atol=1)
  assert spherical_metadata(tmp_path / "both/a_views.mp4") == {} != spherical_metadata(tmp_path / "both/a_360.mp4")


@pytest.mark.parametrize("adds", range(1, 6))
def test_an_interruption_anywhere_ends_with_the_same_bytes(make, tmp_path, monkeypatch, adds):
  """Also between a window's views and its panorama."""
  make("straight", views=True)
  add, added = GrowingVideo.add, []

  def interrupted(self, frames, row):
    if len(added) == adds:
      raise KeyboardInterrupt
    added.append(1)
    add(self, frames, row)

  monkeypatch.setattr(GrowingVideo, "add", interrupted)
  with pytest.raises(KeyboardInterrupt):
    make("stopped", views=True)
  monkeypatch.setattr(GrowingVideo, "add", add)
  assert make("stopped", views=True) == list(range(adds // 2, 3))
  for name in ("a_360.mp4", "a_views.mp4"):
    assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
  assert names(tmp_path / "stopped") == ["a_360.mp4", "a_views.mp4"]


def test_views_can_be_asked_for_later_and_left_out_again(make, tmp_path):
  make()
  panorama = tmp_path / "a_360.mp4"
  before = panorama.read_bytes(), panorama.stat().st_mtime_ns
  assert make(views=True) == [0, 1, 2] and make(views=True) == [] == make()
  assert (panorama.read_bytes(), panorama.stat().st_mtime_ns) == before
  assert names(tmp_path) == ["a_360.mp4", "a_views.mp4"]


def test_views_of_another_request_are_refused_replaced_and_never_left_beside_another_panorama(make, tmp_path):
  other = Request("land", 9, seed=5)
  make(views=True)
  with pytest.raises(InputError, match="a_360.mp4 is from another request"):
    make(request=other, views=True)
  (tmp_path / "a_360.mp4").unlink()
  with pytest.raises(InputError, match="a_views.mp4 is from another request"):
    make(request=other, views=True)
  assert names(tmp_path) == ["a_views.mp4"]
  make(request=other, overwrite=True)
  assert names(tmp_path) == ["a_360.mp4"]
  write_video(tmp_path / "a_views.mp4", [np.zeros((8, 16, 3), np.uint8)], 8)        # somebody's own file stays
  make(request=other, overwrite=True)
  assert names(tmp_path) == ["a_360.mp4", "a_views.mp4"]


def test_files_of_a_batch_are_named_after_their_clips(make, tmp_path):
  make(in_batch=True, views=True)
  assert names(tmp_path) == ["a.mp4", "a_views.mp4"] and spherical_metadata(tmp_path / "a.mp4") != {}
  with pytest.raises(InputError, match="a.mp4 is from another request .*give another --output, or --overwrite"):
    make(request=Request("land", 9), in_batch=True)


def test_programs_with_and_without_views_are_compiled_once_each():
  said = []
  generate = Generator(Counting(), {"start": np.float32(50.5)}, SETTINGS, said.append)
  for views in (False, True, False, True):
    list(generate.windows(Request("a", 4), views=views))
  jax.effects_barrier()
  assert len(said) == 2
