"""Videos of any length, window by window, by a system whose every frame says where it comes from."""

import itertools
import types

import jax
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.generate import windows
from panda_jax.generate.camera_track import CameraTrack
from panda_jax.generate.windows import Generator, Request, Settings, plan_windows
from panda_jax.geometry import Camera, RigViews, cubemap_rig, frame_rays, horizontal_rig
from panda_jax.training.config import load_config
from tests.fast import draw, jit
from tests.generate.toy import Counting

SETTINGS = Settings(steps=7, text_guidance=3.0, video_guidance=1.0, frames=4, view_sigma=0.02, row_sigma=0.1,
                    panorama_height=8)
VIDEO = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8) + 100     # frame k is 100 + k
PARAMS = {"start": np.float32(50.5)}


def generator(settings=SETTINGS, say=lambda line: None, **system):
  return Generator(Counting(**system), PARAMS, settings, say)


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
    plan = plan_windows(total, length)
    assert plan[0].start == 0 and plan[0].known == 0
    made = [window.start + frame for window in plan for frame in range(window.known, window.frames)]
    assert made == list(range(len(made)))                            # each frame made once, in order
    assert total <= len(made) < total + length
    assert {window.frames for window in plan} == {min(total, length)}
    for before, after in itertools.pairwise(plan):
      assert after.known == 1 and after.start == before.start + before.frames - 1


def test_one_window_is_no_longer_than_asked():
  assert [(window.start, window.frames, window.known) for window in plan_windows(3, 12)] == [(0, 3, 0)]
  assert len(plan_windows(12, 12)) == 1 and len(plan_windows(13, 12)) == 2
  assert len(plan_windows(1, 1)) == 1


def test_the_papers_61_frames_are_4_windows():
  assert len(plan_windows(61, 16)) == 4


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
  np.testing.assert_array_equal(first["given"][0, 0, :, 0, 0, 0], [100.25, 101.25, 102.25, 103.25])


def test_the_next_windows_are_given_the_last_frame_of_all_views(from_text):
  """Even the first view is carried over then, so it is noised like the others."""
  _, (_, second, third) = from_text
  mask = np.zeros((1, 6, 4))
  mask[:, :, 0] = 1
  for window in (second, third):
    np.testing.assert_array_equal(window["mask"], mask)
    np.testing.assert_allclose(window["sigma"], 0.1 * mask)


def test_the_next_windows_of_a_video_are_given_its_own_frames_and_the_row(from_video):
  _, (_, second, third) = from_video
  mask = np.zeros((1, 6, 4))
  mask[:, 0] = mask[:, :, 0] = 1
  sigma = 0.1 * mask
  sigma[:, 0] = 0.02
  for window, start in ((second, 3), (third, 6)):
    np.testing.assert_array_equal(window["mask"], mask)
    np.testing.assert_allclose(window["sigma"], sigma)
    np.testing.assert_array_equal(window["given"][0, 0, :, 0, 0, 0], 100.25 + start + np.arange(4))
    assert (window["given"][0, 1:, 0] == 100.25 + start).all()


@pytest.mark.parametrize("made", ["from_text", "from_video"])
def test_windows_join_with_the_overlapping_frame_bit_equal_in_latents(made, request):
  """Not decoded and encoded again: that would turn 53.5 into 53.25."""
  _, seen = request.getfixturevalue(made)
  for before, after in itertools.pairwise(seen):
    np.testing.assert_array_equal(after["given"][:, :, 0], before["latents"][:, :, -1])
    np.testing.assert_array_equal(after["latents"][:, :, 0], before["latents"][:, :, -1])


def test_the_first_view_of_a_row_is_the_videos_own_frame_not_the_models_copy():
  """A model that spoils what it is given, in all views, spoils the row but not the video."""
  generate_spoilt = generator()
  keep = generate_spoilt.system.sample_latents
  generate_spoilt.system.sample_latents = lambda *arguments, **options: keep(*arguments, **options) + 10
  _, (_, second, _) = generate(Request("", 9, VIDEO), generate_spoilt)
  np.testing.assert_array_equal(second["given"][0, 0, :, 0, 0, 0], [103.25, 104.25, 105.25, 106.25])
  assert (second["given"][0, 1:, 0] == 113.25).all()


def test_a_video_that_is_too_short_goes_on_with_its_last_frame():
  frames, seen = generate(Request("", 9, VIDEO[:5]))
  assert [window["given"][0, 0, :, 0, 0, 0].tolist() for window in seen] == [
    [100.25, 101.25, 102.25, 103.25], [103.25, 104.25, 104.25, 104.25], [104.25] * 4]
  assert len(frames) == 9


def test_only_the_given_video_is_encoded(from_video):
  generate = generator()
  list(generate(Request("", 9, VIDEO)))
  list(generate(Request("a", 9)))
  assert set(generate.system.encoded) == {(1, 1, 1, 4, 4, 3), (1, 1, 4, 4, 4, 3)}      # the former for its shape alone


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
  """First and later windows share a program; with and without a video they differ, even at the same guidance."""
  said = []
  generate = generator(say=said.append)
  for request in (Request("a", 9), Request("b", 12, seed=1), Request("", 9, VIDEO), Request("c", 4, VIDEO)):
    list(generate(request))
  defaults = dict(steps=7, noise_scale=1.0, spacing="trailing", rescale=0.0)
  assert generate.system.traced == [defaults | {"guidance": 3.0}, defaults | {"guidance": 1.0}]
  assert len(said) == 2 and all(line.startswith("compiled the sampler for 6 views x 4 frames") for line in said)
  list(generate(Request("short", 2)))
  assert len(generate.system.traced) == 3


def test_every_setting_of_the_sampler_reaches_it():
  settings = Settings(steps=3, text_guidance=2.0, video_guidance=1.0, frames=2, view_sigma=0.0, row_sigma=0.0,
                      panorama_height=8, noise_scale=0.5, spacing="leading", rescale=0.7)
  generate = generator(settings)
  list(generate(Request("a", 2)))
  assert generate.system.traced == [dict(steps=3, guidance=2.0, noise_scale=0.5, spacing="leading", rescale=0.7)]


def test_a_window_is_made_only_when_its_frames_are_wanted():
  """So only one is in memory, however long the video."""
  made = []
  frames = generator()(Request("endless", 10**9), on_window=lambda: made.append(1))
  assert made == []
  for taken, expected in ((4, 1), (1, 2), (2, 2), (1, 3)):
    list(itertools.islice(frames, taken))
    assert len(made) == expected


@pytest.mark.parametrize("video, rows", [(None, np.array), (VIDEO, np.array), (VIDEO, lambda row: row)])
def test_windows_can_begin_in_the_middle_with_the_row_of_the_one_before(video, rows):
  """Whether the row stayed on the device or came back from a file."""
  request = Request("a", 12, video, seed=3)
  whole = list(generator().windows(request))
  spec = generator().row_spec(request)
  assert [made.number for made in whole] == [0, 1, 2, 3] and all(isinstance(made.row, jax.Array) for made in whole)
  assert (whole[0].row.shape, whole[0].row.dtype) == (spec.shape, spec.dtype) == ((1, 6, 2, 2, 1), np.float32)
  rest = list(generator().windows(request, first=2, row=rows(whole[1].row)))
  for made, expected in zip(rest, whole[2:], strict=True):
    assert made.number == expected.number
    np.testing.assert_array_equal(made.frames, expected.frames)
    np.testing.assert_array_equal(made.row, expected.row)


def test_every_denoising_step_is_told_of():
  steps = []
  generate = generator()
  for _ in generate.windows(Request("a", 9), on_step=lambda: steps.append(1)):
    pass
  jax.effects_barrier()
  assert len(steps) == 3 * 7
  list(generate.windows(Request("a", 9)))                            # nobody watches: a program without the calls
  jax.effects_barrier()
  assert len(steps) == 3 * 7


@pytest.mark.parametrize("weights", ["uniform", "smooth"])
def test_the_panorama_is_the_views_stitched_and_rounded(weights):
  """Interpolation overshoots at hard edges, which must clip and not wrap around."""
  rig = cubemap_rig()
  views = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (6, 2, 4, 4, 3))
  expected = np.stack([rig.stitch(views[:, frame], (8, 16), weights=weights) for frame in range(2)])
  assert expected.min() < -1 and expected.max() > 256
  stitched = jit(lambda x: RigViews(rig, (4, 4), (2, 2)).panorama(x, (8, 16), weights))(views)
  assert stitched.dtype == np.uint8
  assert np.abs(np.asarray(stitched, np.float64) - np.clip(expected, 0, 255)).max() <= 0.51


def test_what_no_camera_sees_stays_black_and_that_is_said_once():
  said = []
  generate = generator(rig=horizontal_rig(4), say=said.append)
  frames = list(generate(Request("a", 9)))
  assert (frames[0][0] == 0).all() and (frames[0][4] == 50).all()
  list(generate(Request("", 4, VIDEO)))
  lines = [line for line in said if "black" in line]
  assert len(lines) == 1 and "horizontal4" in lines[0]


# --- a view of its own


OWN = [Camera(30 * frame, 20, 70, 5) for frame in range(9)]           # pans


def own_generator(settings=SETTINGS, **system):
  return generator(settings, own_view=True, **system)


def test_an_own_view_stands_in_front_of_the_rig_with_the_rays_of_its_camera():
  camera = Camera(40, 20, 70, 5)
  _, seen = generate(Request("", 9, VIDEO, camera=camera), own_generator())
  mask = np.zeros((1, 7, 4))
  mask[:, 0] = 1
  np.testing.assert_array_equal(seen[0]["mask"], mask)
  mask[:, :, 0] = 1
  for window in seen[1:]:
    np.testing.assert_array_equal(window["mask"], mask)
  for window in seen:
    np.testing.assert_array_equal(window["rays"], frame_rays(cubemap_rig(), [camera] * 4, (2, 2))[None])
    assert window["sigma"][0, 0].max() == np.float32(0.02)
  for before, after in itertools.pairwise(seen):
    np.testing.assert_array_equal(after["given"][:, :, 0], before["latents"][:, :, -1])


def test_windows_of_a_camera_that_moves_have_each_frames_own_rays():
  track = CameraTrack((0.0, 8.0), "frame", (0.0, 240.0), (20.0, 20.0), (5.0, 5.0), (70.0, 70.0))
  generate_own = own_generator()
  _, seen = generate(Request("", 9, VIDEO[:9], camera=track), generate_own)
  for window, start in zip(seen, (0, 3, 6)):
    cameras = [OWN[min(start + frame, 8)] for frame in range(4)]
    np.testing.assert_allclose(window["rays"], frame_rays(cubemap_rig(), cameras, (2, 2))[None], atol=1e-6)
  assert len(generate_own.system.traced) == 1


def test_the_panorama_shows_the_given_picture_where_its_camera_looks():
  """The toy's own images go on from the given ones; a model that answers black shows what is laid over it."""
  for keep in (True, False):
    settings = Settings(**{**vars(SETTINGS), "panorama_height": 32, "keep_given": keep})
    generate_own = own_generator(settings)
    generate_own.system.decode = lambda params, latents: np.uint8(0) * Counting().decode(params, latents)
    frames, _ = generate(Request("", 4, VIDEO, camera=Camera(90, 30, 60)), generate_own)
    for number, frame in enumerate(frames):
      y, x = (90 - 30) / 180 * 32, (90 + 180) / 360 * 64
      assert (frame[round(y), round(x)] == (100 + number if keep else 0)).all()
      assert (frame[round(y), round(x) - 32] == 0).all() and (frame[-1] == 0).all()


def test_without_a_video_a_system_of_own_views_samples_the_rig_alone():
  frames, seen = generate(Request("a", 9), own_generator())
  assert seen[0]["mask"].shape == (1, 6, 4) and len(frames) == 9
  np.testing.assert_array_equal(seen[0]["rays"], cubemap_rig().rays((2, 2))[None])


def test_a_camera_that_was_never_trained_is_said():
  said = []
  generate_own = own_generator(say=said.append)
  list(generate_own(Request("", 4, VIDEO, camera=Camera(200, 0, 120))))
  list(generate_own(Request("", 4, VIDEO, camera=Camera(0, -15, 90))))
  said = [line for line in said if "trained" in line]
  assert len(said) == 2 and "field of view" in said[0] and "60° to 100°" in said[0] and "pitch, -15°" in said[1]


# --- the rig's first view as the only camera


def test_without_own_view_the_yaw_turns_the_panorama():
  said = []
  rng = np.random.default_rng(0)
  video = rng.integers(0, 200, (4, 4, 4, 3), np.uint8)
  straight, turned, left = (generate(Request("", 4, video, camera=camera), generator(say=said.append))[0]
                            for camera in (None, Camera(90, 0), Camera(-45, 0)))
  np.testing.assert_array_equal(turned, np.roll(straight, 4, axis=2))
  np.testing.assert_array_equal(left, np.roll(straight, -2, axis=2))
  assert not np.array_equal(turned, straight)
  assert sum("turns the finished panorama" in line for line in said) == 2


def test_without_own_view_a_wider_clip_is_cut_to_the_rigs_field_of_view():
  """Of 4 pixels over 126.9° (tan 63.4° = 2) the inner 2 are 90°."""
  said = []
  video = np.zeros((4, 4, 4, 3), np.uint8)
  video[:, 1:3, 1:3] = 80
  _, seen = generate(Request("", 4, video, camera=Camera(0, 0, 126.87)), generator(say=said.append))
  np.testing.assert_array_equal(seen[0]["given"][0, 0], np.full((4, 2, 2, 1), 80.25, np.float32))
  assert any("cut to the 90°" in line for line in said)


@pytest.mark.parametrize("camera, words", [
  (Camera(0, 20), "a pitch of 20°.*0° only.*own_view=True"),
  (Camera(0, 0, 90, 10), "a roll of 10°.*0° only.*own_view=True"),
  (Camera(0, 0, 60), "60.0° wide.*90° only.*own_view=True"),
])
def test_without_own_view_other_cameras_are_refused(camera, words):
  with pytest.raises(InputError, match=words):
    generator().check(Request("", 4, VIDEO, camera=camera))


def test_angles_a_turn_apart_are_the_same_camera():
  generator().check(Request("", 4, VIDEO, camera=Camera(0, 360, 90.3, -360)))


# --- the real system


@pytest.mark.parametrize("own_view", [False, True])
def test_windows_of_the_real_system_join_bit_equal_at_sigma_0(own_view, monkeypatch):
  """The network itself, with random weights: the latents of a window's first frame are the last of the one before."""
  monkeypatch.setattr(windows, "jax", types.SimpleNamespace(**{**vars(jax), "jit": jit}))      # compiles in less time
  config = load_config("configs/tiny.py:runlocal", [f"--config.model.own_view={own_view}"])
  system = systems.build(config)
  params = draw(jax.eval_shape(system.init, jax.random.key(0)))
  seen, decode = [], system.decode

  def watched(params, latents):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), latents)
    return decode(params, latents)

  system.decode = watched
  settings = Settings(steps=2, text_guidance=1.0, video_guidance=2.0, frames=3, view_sigma=0.0, row_sigma=0.0,
                      panorama_height=32)
  video = np.random.default_rng(0).integers(0, 255, (5, *system.view_size, 3), np.uint8)
  made = list(Generator(system, params, settings).windows(Request("sea", 5, video)))
  jax.effects_barrier()
  assert [len(window.frames) for window in made] == [3, 2] and np.isfinite(seen[0]).all()
  row = made[0].row[:, own_view:]                                             # what is decoded: the rig's views
  np.testing.assert_array_equal(seen[0][:, :, -1], row)
  np.testing.assert_array_equal(seen[1][:, :, 0], row)
  assert np.abs(seen[1][:, 1:, 1] - seen[1][:, 1:, 0]).max() > 0.1            # the frames after it are others


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


@pytest.mark.parametrize("request_", [Request("a", 4, VIDEO), Request("a", 5)])
def test_a_model_that_goes_by_its_text_alone_takes_no_video_and_makes_one_window(request_):
  generate = generator()
  generate.system.takes_images = False
  with pytest.raises(InputError, match="by its text alone.*at most 4 frames"):
    next(generate(request_))
  generate.check(Request("a", 4))
