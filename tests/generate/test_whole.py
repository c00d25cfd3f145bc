"""Panoramas of systems that see them whole: one window, with motion or without, through the same door as views."""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from panda_jax.data.clips import Clip
from panda_jax.data.video import read_frames
from panda_jax.errors import InputError
from panda_jax.generate.batch import Job, check_model, make_clips
from panda_jax.generate.fingerprint import of_model, of_request
from panda_jax.generate.load import _set_switches, make_generator, settings_of
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
    away = request["negative"][0, 0] if "negative" in request else 0
    return given + params["start"] + red - away

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


def test_what_is_kept_away_from_reaches_the_system_and_is_part_of_the_request(generate):
  """The stand-in is darker by the length of the negative text; one program more."""
  plain, away = Request("sea", 1), Request("sea", 1, negative="rain")
  assert next(generate(away)).mean() == next(generate(plain)).mean() - 4
  assert "the negative prompt" not in of_request(plain) and of_request(away)["the negative prompt"] == "rain"
  generate.settings = dataclasses.replace(generate.settings, text_guidance=1.0)
  with pytest.raises(InputError, match="no effect without guidance"):
    generate.check(away)
  with pytest.raises(InputError, match="takes no negative prompt"):
    make_generator(Counting(), {"start": np.float32(50)}, settings_of(CONFIG)).check(away)


def test_of_a_table_each_clip_has_the_motion_that_it_is_said_to_have(generate, tmp_path):
  """One program for all; a clip without is named, and the others are made."""
  clips, said = [Clip(name, "sea") for name in ("still", "moved", "none")], []
  conditions = {"still": motion(3) * 0, "moved": motion(3)}

  def motion_of(clip):
    if clip.id not in conditions:
      raise InputError("it has no film of flow")
    return conditions[clip.id]

  generate._say = said.append
  job = Job(tmp_path, {}, 3, 8.0, motion=motion_of)
  check_model(generate, job)
  outcomes = list(make_clips(generate, clips, job))
  assert [outcome.failure for outcome in outcomes] == ["", "", "it has no film of flow"] and len(said) == 1
  frames = {name: list(read_frames(tmp_path / f"{name}.mp4")) for name in conditions}
  np.testing.assert_allclose([frame[..., 0].mean() for frame in frames["still"]], [50, 50, 50], atol=1)
  np.testing.assert_allclose([frame[..., 0].mean() for frame in frames["moved"]], [50, 51, 52], atol=1)
  assert all(outcome.kept for outcome in list(make_clips(generate, clips[:2], job)))
  conditions["still"] = motion(3)
  (other,) = make_clips(generate, clips[:1], job)
  assert "is from another request" in other.failure


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
