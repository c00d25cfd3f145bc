"""Panoramas of systems that see them whole: one window, with motion or without, through the same door as views."""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from panda_jax.data.flow import decode_flow
from panda_jax.data.video import write_video
from panda_jax.errors import InputError
from panda_jax.generate.fingerprint import of_model, of_request
from panda_jax.generate.load import _set_switches, make_generator, settings_of
from panda_jax.generate.motion import make_motion
from panda_jax.generate.results import Results
from panda_jax.generate.whole import WholeGenerator
from panda_jax.generate.windows import Generator, Request
from panda_jax.geometry import WholePanoramas
from tests.generate.toy import Counting

SIZE = (8, 16)
CONFIG = ConfigDict(dict(data=dict(fps=8.0), model=dict(sampling=dict(
  steps=3, text_guidance=2.0, frames=4, panorama_height=8, spacing="leading", rescale=0.0, noise_scale=1.0,
  rotation_sign=1, unrotate_output=False, circular_rounding="down"))))


class Bright:
  """Each frame is as bright as params["start"], and the red of its motion more."""

  shows, most_frames, takes_images, timesteps = WholePanoramas(SIZE, motion=True), 6, False, 1000

  def tokenize(self, text):
    return np.array([len(text)], np.int32)

  def encode_images(self, params, images):
    return images[..., ::2, ::2, :1].astype(jnp.float32)

  def sample_latents(self, params, given, request, rng, *, steps, guidance, noise_scale, spacing, rescale, on_step):
    red = request["motion"][:, None, :, ::2, ::2, :1] if "motion" in request else 0
    for _ in range(steps if on_step else 0):
      jax.debug.callback(lambda _: on_step(), rng)
    return given + params["start"] + red

  def decode(self, params, latents):
    return latents.repeat(2, axis=3).repeat(2, axis=4).repeat(3, axis=5).astype(jnp.uint8)


@pytest.fixture
def generate():
  made = make_generator(Bright(), {"start": np.float32(50)}, settings_of(CONFIG))
  assert isinstance(made, WholeGenerator)
  return made


def motion(frames: int) -> np.ndarray:
  return np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SIZE, 3), np.uint8)


def test_frames_are_of_the_request_and_follow_its_motion(generate):
  for frames in (2, 5):
    plain, moved = (np.stack(list(generate(Request("sea", frames, motion=condition))))
                    for condition in (None, motion(frames)))
    assert plain.shape == (frames, *SIZE, 3) and (plain == 50).all()
    assert moved[:, 0, 0, 0].tolist() == [50 + frame for frame in range(frames)]


def test_a_clip_is_one_window_and_is_written_and_kept_as_any_other(generate, tmp_path):
  request, steps = Request("sea", 3), []
  for expected in ([0], []):
    with Results(generate, request, tmp_path, "sea", 8.0, of_request(request), views=True) as results:
      assert results.windows == 1 and list(results.make(lambda: steps.append(1))) == expected
  jax.effects_barrier()
  assert len(steps) == 3 and sorted(path.name for path in tmp_path.iterdir()) == ["sea_360.mp4", "sea_views.mp4"]


def test_another_height_is_resized_to(generate):
  generate.settings = dataclasses.replace(generate.settings, panorama_height=16)
  assert next(generate(Request("sea", 1))).shape == (16, 32, 3)


def test_systems_of_views_have_the_other_generator_which_refuses_motion():
  generate = make_generator(Counting(), {"start": np.float32(50)}, settings_of(CONFIG))
  assert isinstance(generate, Generator)
  with pytest.raises(InputError, match="takes no motion"):
    generate.check(Request("sea", 2, motion=motion(2)))


@pytest.mark.parametrize("request_, words", [
  (Request("sea", 7), "clips of 1 to 6"), (Request("sea", 0), "clips of 1 to 6"),
  (Request("sea", 2, motion=motion(3)), r"is \[2, 8, 16, 3\] in colours, got \[3, 8, 16, 3\]"),
  (Request("sea", 2, video=np.zeros((2, 4, 4, 3), np.uint8)), "cannot be given a view")])
def test_what_it_cannot_make_is_refused(generate, request_, words):
  with pytest.raises(InputError, match=words):
    generate.check(request_)


def test_switches_and_motion_are_part_of_what_a_video_is_made_from():
  config = CONFIG.copy_and_resolve_references()
  _set_switches(config, {"unrotate_output": "True", "rotation_sign": "-1", "circular_rounding": "up"})
  assert dict(config.model.sampling, steps=3) == dict(CONFIG.model.sampling) | dict(
      unrotate_output=True, rotation_sign=-1, circular_rounding="up")
  one, other = (of_model(settings_of(each), {}, each) for each in (CONFIG, config))
  assert {name for name in one if one[name] != other[name]} == {
      "sampling.unrotate_output", "sampling.rotation_sign", "sampling.circular_rounding"}
  plain, moved, others = (of_request(Request("sea", 2, motion=each)) for each in (None, motion(2), motion(2) + 1))
  assert "the motion" not in plain and moved["the motion"] != others["the motion"]


@pytest.mark.parametrize("switches, words", [
  ({"steps": "3"}, "has the switches circular_rounding, rotation_sign"), ({"rotation_sign": "left"}, "a value such as 1")])
def test_switches_that_are_none_are_refused(switches, words):
  with pytest.raises(InputError, match=words):
    _set_switches(CONFIG.copy_and_resolve_references(), switches)


# --- what --motion says


def test_motion_in_words_is_flow_in_colours():
  """To turn right by 4.5° moves the picture left by an eightieth of its width."""
  assert make_motion("none", 3, (32, 64)) is None
  flow = decode_flow(make_motion("rotate:4.5", 3, (32, 64)), 64)
  assert flow.shape == (3, 32, 64, 2)
  np.testing.assert_allclose(flow, np.broadcast_to([-0.8, 0.0], flow.shape), atol=0.05)
  ahead = decode_flow(make_motion("forward:0.05", 1, (32, 64)), 64)[0]
  assert ahead[16, 40, 0] > 0.05 and ahead[16, 23, 0] < -0.05           # away from where it goes


def test_motion_may_be_a_film_of_colours(tmp_path):
  colours = np.full((4, 32, 64, 3), (40, 90, 10), np.uint8)
  write_video(tmp_path / "flow.mp4", colours, 8.0)
  read = make_motion(str(tmp_path / "flow.mp4"), 3, (16, 32))
  assert read.shape == (3, 16, 32, 3) and np.abs(read.astype(int) - colours[0, 0, 0]).max() < 12
  with pytest.raises(InputError, match="has 4 frames, and 5 are made"):
    make_motion(str(tmp_path / "flow.mp4"), 5, (16, 32))


@pytest.mark.parametrize("text, words", [("rotate:far", "give a number per frame"), ("forward:2", "between -1 and 1"),
                                         ("nowhere.mp4", "nowhere.mp4")])
def test_motion_that_means_nothing_is_refused(text, words):
  with pytest.raises(InputError, match=words):
    make_motion(text, 2, SIZE)
