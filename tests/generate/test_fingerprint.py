"""Two requests have the same fingerprint only where they make the same frames."""

import dataclasses
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from panda_jax.generate.camera_track import CameraTrack
from panda_jax.generate.fingerprint import fingerprint
from panda_jax.generate.segments import differences
from panda_jax.generate.windows import Request, Settings
from panda_jax.geometry import Camera

SETTINGS = Settings(steps=7, text_guidance=3.0, video_guidance=1.0, frames=4, view_sigma=0.0, row_sigma=0.1,
                    panorama_height=8)
REQUEST = Request("sea", 9, seed=1, camera=Camera(10, 0))
PARAMS = {"unet": {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}}


def config(**model):
  return ConfigDict(dict(data=dict(fps=8.0), model=dict(prediction="v", text=dict(tokenizer="/here", length=5),
                                                        sampling=dict(steps=7)) | model))


@pytest.fixture
def base(tmp_path):
  (tmp_path / "clip.mp4").write_bytes(b"pictures")
  return dict(request=REQUEST, settings=SETTINGS, params=PARAMS, config=config(), video=tmp_path / "clip.mp4")


def test_it_is_a_small_table_that_json_keeps(base):
  found = fingerprint(**base)
  assert json.loads(json.dumps(found)) == found == fingerprint(**base) and len(json.dumps(found)) < 2000


@pytest.mark.parametrize("change, said", [
  (dict(request=dataclasses.replace(REQUEST, prompt="land")), "prompt was 'sea', is now 'land'"),
  (dict(request=dataclasses.replace(REQUEST, frames=10)), "frames was 9, is now 10"),
  (dict(request=dataclasses.replace(REQUEST, seed=2)), "seed was 1, is now 2"),
  (dict(request=dataclasses.replace(REQUEST, camera=Camera(11, 0))), "the camera is another"),
  (dict(request=dataclasses.replace(REQUEST, camera=None)), "the camera was .*is now nothing"),
  (dict(settings=dataclasses.replace(SETTINGS, row_sigma=0.2)), "sampling.row_sigma was 0.1, is now 0.2"),
  (dict(settings=dataclasses.replace(SETTINGS, keep_given=False)), "sampling.keep_given was True, is now False"),
  (dict(params={"unet": PARAMS["unet"] | {"a": np.full((2, 3), 2, np.float32)}}), "the set of weights is another"),
  (dict(params={"unet": {"a": PARAMS["unet"]["a"].reshape(3, 2), "b": PARAMS["unet"]["b"]}}), "the set of weights"),
  (dict(config=config(prediction="epsilon")), "the model is another"),
  (dict(video=None), "the video was .*is now nothing"),
])
def test_whatever_decides_the_frames_shows(base, change, said):
  import re
  assert re.fullmatch(said + ".*", differences(fingerprint(**base), fingerprint(**base | change)))


def test_another_file_shows_and_another_name_does_not(base, tmp_path):
  before = fingerprint(**base)
  (tmp_path / "copy.mp4").write_bytes(b"pictures")
  assert fingerprint(**base | {"video": tmp_path / "copy.mp4"}) == before
  (tmp_path / "copy.mp4").write_bytes(b"Pictures")
  assert differences(before, fingerprint(**base | {"video": tmp_path / "copy.mp4"})) == "the video is another"


def test_what_decides_nothing_does_not_show(base):
  """Where the tokenizer lies, the config's own sampling, and how a camera that stands still was said."""
  same = dict(config=config(text=dict(tokenizer="/there", length=5), sampling=dict(steps=99)),
              request=dataclasses.replace(REQUEST, camera=CameraTrack.still(Camera(10, 0))))
  assert fingerprint(**base | same) == fingerprint(**base)
