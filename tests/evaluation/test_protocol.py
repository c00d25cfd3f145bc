"""A protocol says everything that changes a number, and refuses what it cannot mean."""

import json

import pytest

from panda_jax.errors import InputError
from panda_jax.evaluation.catalogue import METRICS, choose
from panda_jax.evaluation.protocol import Protocol, said_views
from panda_jax.geometry import Camera
from panda_jax.training.config import load_config


@pytest.mark.parametrize("preset", ["default", "videopanda", "outpainting", "long"])
def test_every_preset_is_a_protocol(preset):
  protocol = Protocol.of(load_config(f"configs/evaluation.py:{preset}"))
  described = json.loads(json.dumps(protocol.described()))
  assert described["views"].keys() == {name for name in protocol.surfaces if name != "panorama"}
  choose(protocol.metrics, (), truth=True, prompts=True, frames=protocol.frames)


def test_the_command_line_changes_a_value():
  config = load_config("configs/evaluation.py", ["--config.frames=8", "--config.surfaces=('panorama',)"])
  assert Protocol.of(config) == Protocol(frames=8, surfaces=("panorama",))
  with pytest.raises(InputError, match="no protocol 'vp'"):
    load_config("configs/evaluation.py:vp")


def test_views_have_the_panoramas_own_resolution_unless_told_otherwise():
  assert Protocol().view_shape == (256, 256) and Protocol(view_size=512).view_shape == (512, 512)
  assert said_views(Protocol().described(), "horizontal8") == "8 views of 256x256, 90°"
  assert said_views(Protocol().described(), "panorama") == ""


def test_any_camera_will_do():
  rig = Protocol(surfaces=("cameras:0,0,90;45,20,75,10",)).rig("cameras:0,0,90;45,20,75,10")
  assert tuple(rig) == (Camera(0, 0, 90), Camera(45, 20, 75, 10))


def test_what_is_done_with_the_numbers_afterwards_measures_nothing_again():
  base = Protocol().measuring()
  assert Protocol(samples=5, confidence=0.5, groups=2, normaliser="n", seed=3).measuring() == base
  for change in (dict(frames=8), dict(fps=4.0), dict(inception_resize="bilinear"), dict(surfaces=("panorama",))):
    assert Protocol(**change).measuring() != base


@pytest.mark.parametrize("values, words", [
  (dict(frames=0), "frames must be at least 1"), (dict(stride=2, fps=4.0), "two ways to choose frames"),
  (dict(height=15), "even number of rows"), (dict(surfaces=()), "surfaces"), (dict(surfaces=("sphere",)), "nor a rig"),
  (dict(surfaces=("cameras:0,0,200",)), "nor a rig"), (dict(surfaces=("cameras:a",)), "nor a rig"),
  (dict(inception_resize="area"), "bicubic or bilinear"), (dict(normaliser="N"), "n-1 or n"),
  (dict(window=4, overlap=4), "cannot overlap"), (dict(confidence=1.0), "confidence"), (dict(start=-1), "at least 0"),
])
def test_what_cannot_be_meant_is_refused(values, words):
  with pytest.raises(InputError, match=words):
    Protocol(**values)


def test_metrics_that_cannot_be_taken_are_left_out_with_a_reason():
  networks = ("inception", "i3d", "clip", "lpips_alex")
  chosen, left_out = choose(("all",), networks, truth=True, prompts=True, frames=16)
  assert [metric.name for metric in chosen] == [name for name in METRICS if name != "lpips_vgg"]
  assert "lpips_vgg=FILE" in left_out[0].sentence
  reasons = lambda **more: {x.metric: x.sentence for x in choose(("all",), networks, **(
    dict(truth=True, prompts=True, frames=16) | more))[1]}
  assert "no true videos" in reasons(truth=False)["fid"] and "clip_score" not in reasons(truth=False)
  assert "has a prompt" in reasons(prompts=False)["clip_score"]
  assert "9 frames" in reasons(frames=8)["fvd"] and "single frame" in reasons(frames=1)["flicker"]
  with pytest.raises(InputError, match="no metric 'FID'"):
    choose(("FID",), (), truth=True, prompts=True, frames=16)
