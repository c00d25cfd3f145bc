"""Videos of any length, window by window, by a system whose every frame says where it comes from."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.generate.windows import Generator, Request, Settings, plan_windows, stitch_frames
from panda_jax.geometry import cubemap_rig
from tests.fast import jit

SETTINGS = Settings(steps=7, text_guidance=3.0, video_guidance=1.0, frames=4, view_sigma=0.02, row_sigma=0.1,
                    panorama_height=8)
VIDEO = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8) + 100     # frame k is 100 + k


class Counting:
  """Continues what it is given: each image is one brighter than that of the frame before; a start without any is 50.

  Given images come back as they are. `seen` holds the request of every window, `traced` the options of every program.
  """

  def __init__(self):
    self.rig, self.view_size, self.rays_size, self.timesteps = cubemap_rig(), (4, 4), (2, 2), 1000
    self.seen, self.traced = [], []

  def tokenize(self, text):
    return np.array([len(text), 7], np.int32)

  def sample(self, params, request, rng, *, steps, guidance, noise_scale):
    self.traced.append((steps, guidance))
    jax.debug.callback(lambda **values: self.seen.append({name: np.asarray(x) for name, x in values.items()}),
                       **request, key=jax.random.key_data(rng))
    images, given = request["images"], request["mask"][..., None, None, None] > 0
    start = jnp.where(given.any(), jnp.where(given, images, 0)[:, :, :1].max((0, 1, 2, 3, 4, 5)), params["start"])
    frame = jnp.arange(images.shape[2])[:, None, None, None]
    return jnp.where(given, images, (start + frame).astype(jnp.uint8))


def generator(settings=SETTINGS, say=lambda line: None):
  return Generator(Counting(), {"start": np.uint8(50)}, settings, say)


def generate(request, generate=None):
  """(the frames, what the system saw in each window)."""
  generate = generate or generator()
  frames = list(generate(request))
  jax.effects_barrier()
  return frames, generate.system.seen


@pytest.fixture(scope="module")
def from_text():
  return generate(Request("a meadow", 9, seed=5))


@pytest.fixture(scope="module")
def from_video():
  return generate(Request("", 9, VIDEO, seed=5))


# --- the plan


@pytest.mark.parametrize("length", [2, 3, 4, 12])
def test_windows_cover_every_frame_and_overlap_by_one(length):
  for total in range(1, 30):
    windows = plan_windows(total, length)
    assert windows[0].start == 0 and windows[0].known == 0
    made = [window.start + frame for window in windows for frame in range(window.known, window.frames)]
    assert made == list(range(len(made)))                            # each frame made once, in order
    assert total <= len(made) < total + length
    assert {window.frames for window in windows} == {min(total, length)}
    for before, after in itertools.pairwise(windows):
      assert after.known == 1 and after.start == before.start + before.frames - 1


def test_one_window_is_no_longer_than_asked():
  assert [(window.start, window.frames, window.known) for window in plan_windows(3, 12)] == [(0, 3, 0)]
  assert len(plan_windows(12, 12)) == 1 and len(plan_windows(13, 12)) == 2
  assert len(plan_windows(1, 1)) == 1


@pytest.mark.parametrize("total, length", [(0, 4), (-1, 4), (3, 0), (3, 1)])
def test_impossible_plans_are_refused(total, length):
  with pytest.raises(InputError, match="cannot be made in windows"):
    plan_windows(total, length)


# --- what each window is told


def test_a_first_window_without_video_is_told_nothing_but_the_text(from_text):
  _, (first, *_) = from_text
  assert not first["mask"].any() and not first["sigma"].any()
  np.testing.assert_array_equal(first["text"], [[len("a meadow"), 7]])
  np.testing.assert_array_equal(first["rays"], cubemap_rig().rays((2, 2))[None])


def test_a_first_window_with_a_video_is_given_its_first_view(from_video):
  _, (first, *_) = from_video
  mask = np.zeros((1, 6, 4))
  mask[:, 0] = 1
  np.testing.assert_array_equal(first["mask"], mask)
  np.testing.assert_allclose(first["sigma"], 0.02 * mask)
  np.testing.assert_array_equal(first["images"][0, 0], VIDEO[:4])


def test_the_next_windows_are_given_the_last_frame_of_all_views(from_text):
  """Even the first view is carried over then, so it is noised like the others."""
  _, (_, second, third) = from_text
  mask = np.zeros((1, 6, 4))
  mask[:, :, 0] = 1
  for window, last in ((second, 53), (third, 56)):
    np.testing.assert_array_equal(window["mask"], mask)
    np.testing.assert_allclose(window["sigma"], 0.1 * mask)
    assert (window["images"][0, :, 0] == last).all()


def test_the_next_windows_of_a_video_are_given_its_own_frames_and_the_row(from_video):
  _, (_, second, third) = from_video
  mask = np.zeros((1, 6, 4))
  mask[:, 0] = mask[:, :, 0] = 1
  sigma = 0.1 * mask
  sigma[:, 0] = 0.02
  for window, start in ((second, 3), (third, 6)):
    np.testing.assert_array_equal(window["mask"], mask)
    np.testing.assert_allclose(window["sigma"], sigma)
    np.testing.assert_array_equal(window["images"][0, 0], VIDEO[start:start + 4])
    assert (window["images"][0, 1:, 0] == 100 + start).all()


def test_the_first_view_of_a_row_is_the_videos_own_frame_not_the_models_copy():
  """A model that spoils what it is given, in all views, spoils the row but not the video."""
  generate_spoilt = generator()
  keep = generate_spoilt.system.sample
  generate_spoilt.system.sample = lambda *arguments, **options: keep(*arguments, **options) + jnp.uint8(10)
  _, (_, second, _) = generate(Request("", 9, VIDEO), generate_spoilt)
  np.testing.assert_array_equal(second["images"][0, 0], VIDEO[3:7])
  assert (second["images"][0, 1:, 0] == 113).all()


def test_a_video_that_is_too_short_goes_on_with_its_last_frame():
  frames, seen = generate(Request("", 9, VIDEO[:5]))
  assert [window["images"][0, 0, :, 0, 0, 0].tolist() for window in seen] == [
    [100, 101, 102, 103], [103, 104, 104, 104], [104, 104, 104, 104]]
  assert len(frames) == 9


# --- what comes out


@pytest.mark.parametrize("made, start", [("from_text", 50), ("from_video", 100)])
def test_frames_come_in_order_without_repeating_the_overlap(made, start, request):
  frames, seen = request.getfixturevalue(made)
  assert len(seen) == 3                                              # 4 + 3 + 3 frames, of which one is not wanted
  assert [frame.shape for frame in frames] == [(8, 16, 3)] * 9 and frames[0].dtype == np.uint8
  for number, frame in enumerate(frames):
    assert (frame == start + number).all(), number


def test_the_seed_and_the_window_decide_the_noise(from_text):
  keys = [tuple(window["key"].ravel()) for window in from_text[1]]
  assert len(set(keys)) == 3
  again, other = (generate(Request("a meadow", 4, seed=seed))[1] for seed in (5, 6))
  assert tuple(again[0]["key"].ravel()) == keys[0] != tuple(other[0]["key"].ravel())


def test_each_shape_and_guidance_is_compiled_once():
  said = []
  generate = generator(say=said.append)
  for request in (Request("a", 9), Request("b", 12, seed=1), Request("", 9, VIDEO), Request("c", 4, VIDEO)):
    list(generate(request))
  assert generate.system.traced == [(7, 3.0), (7, 1.0)]
  assert len(said) == 2 and all(line.startswith("compiled the sampler for 6 views x 4 frames") for line in said)
  list(generate(Request("short", 2)))
  assert len(generate.system.traced) == 3


def test_a_window_is_made_only_when_its_frames_are_wanted():
  """So only one is in memory, however long the video."""
  windows = []
  frames = generator()(Request("endless", 10**6), on_window=lambda: windows.append(1))
  assert windows == []
  for taken, expected in ((4, 1), (1, 2), (2, 2), (1, 3)):
    list(itertools.islice(frames, taken))
    assert len(windows) == expected


@pytest.mark.parametrize("weights", ["uniform", "smooth"])
def test_the_panorama_is_the_views_stitched_and_rounded(weights):
  """Interpolation overshoots at hard edges, which must clip and not wrap around."""
  rig = cubemap_rig()
  views = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (6, 2, 4, 4, 3))
  expected = np.stack([rig.stitch(views[:, frame], (8, 16), weights=weights) for frame in range(2)])
  assert expected.min() < -1 and expected.max() > 256
  stitched = jit(lambda x: stitch_frames(x, rig, (8, 16), weights))(views)
  assert stitched.dtype == np.uint8
  assert np.abs(np.asarray(stitched, np.float64) - np.clip(expected, 0, 255)).max() <= 0.51


# --- what is refused


@pytest.mark.parametrize("request_, words", [
  (Request("a", 0), "0 frames were asked for"),
  (Request("", 4, VIDEO[:, :2]), r"views of \(4, 4\) pixels"),
  (Request("", 4, VIDEO[0]), r"views of \(4, 4\) pixels"),
  (Request("", 4, VIDEO[:0]), "no frames"),
])
def test_bad_requests_are_refused_in_one_sentence(request_, words):
  with pytest.raises(InputError, match=words):
    next(generator()(request_))
