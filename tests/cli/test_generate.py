"""`panda generate` from its words to its files, with a toy system: long videos, interruptions, cameras."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from panda_jax.cli.main import main
from panda_jax.data.video import read_frames, write_video
from panda_jax.generate import segments
from panda_jax.generate.spherical import spherical_metadata
from tests.generate.toy import VIEW, Counting

CONFIG = ConfigDict(dict(data=dict(fps=8.0), model=dict(
    text={}, sampling=dict(steps=5, text_guidance=3.0, video_guidance=1.0, frames=4, view_sigma=0.0, row_sigma=0.1,
                           panorama_height=16))))
PARAMS = {"start": np.float32(50.5)}


class Toy:
  """What `open_system` gives; the systems that were opened are kept."""

  def __init__(self, **options):
    self.options, self.opened = options, []

  def __call__(self, workdir=None, checkpoint=None, dtype=None, switches=None):
    self.opened.append(Counting(**self.options))
    return self.opened[-1], PARAMS, CONFIG

  @property
  def seen(self):
    jax.effects_barrier()
    return self.opened[-1].seen


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
  """The command line is used from a folder with a clip of 9 frames, 16:9; frame k is 100 + k."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PANDA_CACHE", "off")
  verbosity = logging.get_verbosity()
  write_video("clip.mp4", [np.full((36, 64, 3), 100 + k, np.uint8) for k in range(9)], 8, crf=1)
  yield tmp_path
  logging.set_verbosity(verbosity)


@pytest.fixture
def toy(monkeypatch):
  def use(**options):
    toy = Toy(**options)
    monkeypatch.setattr("panda_jax.generate.load.open_system", toy)
    return toy
  return use


def generate(*words):
  return main(["generate", "--no-viewer", *words])


def levels(path):
  return [round(float(frame.mean())) for frame in read_frames(path)]


def names(folder="samples"):
  return sorted(os.listdir(folder))


def test_a_long_video_from_a_prompt(toy, capsys):
  toy()
  assert main(["generate", "--prompt", "A sea", "--frames", "9"]) == 0
  out, err = capsys.readouterr()
  assert out.split() == [f"samples/a_sea_360.{kind}" for kind in ("mp4", "html", "png")]
  np.testing.assert_allclose(levels("samples/a_sea_360.mp4"), range(50, 59), atol=1)
  assert names() == ["a_sea_360.html", "a_sea_360.mp4", "a_sea_360.png"]
  assert err.count("compiled the sampler") == 1 and set(spherical_metadata("samples/a_sea_360.mp4")) == {"v1", "v2"}


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(toy, capsys, monkeypatch):
  words = ["--prompt", "sea", "--video", "clip.mp4", "--frames", "9", "--output"]
  opened = toy()
  assert generate(*words, "straight") == 0
  add, added = segments.GrowingVideo.add, []

  def interrupted(self, frames, row):
    if len(added) == 2:
      raise KeyboardInterrupt
    added.append(1)
    add(self, frames, row)

  monkeypatch.setattr(segments.GrowingVideo, "add", interrupted)
  assert generate(*words, "stopped") == 130
  np.testing.assert_allclose(levels("stopped/sea_360.mp4"), range(100, 107), atol=1)
  monkeypatch.setattr(segments.GrowingVideo, "add", add)
  capsys.readouterr()
  assert generate(*words, "stopped") == 0
  assert "2 of 3 windows are there, going on" in capsys.readouterr().err
  assert len(opened.seen) == 1                                        # only the last window was made
  with open("straight/sea_360.mp4", "rb") as one, open("stopped/sea_360.mp4", "rb") as other:
    assert one.read() == other.read()
  assert names("stopped") == ["sea_360.mp4"]


KILLED = """
import os, signal, sys
from panda_jax.cli.main import main
from panda_jax.generate import segments
from tests.cli.test_generate import Toy
import panda_jax.generate.load
panda_jax.generate.load.open_system = Toy()
join, joined = segments.join, []
def killed(*arguments):
  joined.append(1)
  if len(joined) == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  join(*arguments)
segments.join = killed
main(sys.argv[1:])
"""


def test_a_killed_process_goes_on(toy, home):
  toy()
  words = ["generate", "--prompt", "sea", "--frames", "9", "--no-viewer", "--output"]
  assert main([*words, "straight"]) == 0
  done = subprocess.run([sys.executable, "-c", KILLED, *words, "killed"],
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
  assert done.returncode == -signal.SIGKILL
  assert levels("killed/sea_360.mp4") == levels("straight/sea_360.mp4")[:4]
  assert main([*words, "killed"]) == 0
  with open("straight/sea_360.mp4", "rb") as one, open("killed/sea_360.mp4", "rb") as other:
    assert one.read() == other.read()


def test_the_same_command_again_makes_nothing_and_another_of_that_name_is_refused(toy, capsys):
  opened = toy()
  words = ["--prompt", "sea", "--frames", "4"]
  assert generate(*words) == 0 == generate(*words)
  assert "is finished already" in capsys.readouterr().err and opened.seen == []
  assert generate(*words, "--seed", "3") == 2
  assert "seed was 0, is now 3" in capsys.readouterr().err
  assert generate(*words, "--row-sigma", "0.3", "--view-sigma", "0.2") == 2
  said = capsys.readouterr().err
  assert "row_sigma was 0.1, is now 0.3" in said and "view_sigma was 0.0, is now 0.2" in said
  assert generate(*words, "--seed", "3", "--overwrite") == 0 and len(opened.seen) == 1


def test_the_noise_on_what_is_given_is_chosen_on_the_command_line(toy):
  opened = toy()
  assert generate("--video", "clip.mp4", "--frames", "7", "--row-sigma", "0.3", "--view-sigma", "0.2") == 0
  sigma = opened.seen[1]["sigma"]
  assert (sigma[0, 0] == np.float32(0.2)).all() and (sigma[0, 1:, 0] == np.float32(0.3)).all()


def test_a_clip_that_is_too_short_is_said_and_its_last_frame_stands(toy, capsys):
  toy()
  assert generate("--video", "clip.mp4", "--frames", "12", "--name", "a") == 0
  assert "clip.mp4 gives 9 frames at 8 per second, 12 are made" in capsys.readouterr().err
  assert len(levels("samples/a_360.mp4")) == 12


def test_flags_say_how_the_clip_was_filmed(toy, capsys):
  """106.26° over 16:9 are 73.7° (tan 36.87° = 3/4) in the central square: inside what the toy was trained on."""
  opened = toy(own_view=True)
  assert generate("--video", "clip.mp4", "--fov", "106.26", "--pitch", "0", "--yaw", "-90", "--name", "a") == 0
  (window,) = opened.seen
  assert window["mask"].shape == (1, 7, 4) and "trained" not in capsys.readouterr().err
  corner = window["rays"][0, 0, 0, 0, 1]                              # the upper right of 2 x 2 rays
  assert corner[0] / corner[2] == pytest.approx(0.75 / 2, abs=1e-3)
  frame = next(read_frames("samples/a_360.mp4")).mean(-1)
  assert frame[8, 8] == pytest.approx(100, abs=2)


def test_a_table_moves_the_camera_from_window_to_window(toy, home):
  (home / "camera.csv").write_text("frame,yaw,pitch\n0,0,0\n8,80,0\n")
  opened = toy(own_view=True)
  assert generate("--video", "clip.mp4", "--camera", "camera.csv", "--frames", "7", "--no-keep-given") == 0
  front = [np.degrees(np.arctan2(rays[1, :, :, :, 0], rays[1, :, :, :, 2]).mean((1, 2)))
           for rays in (window["rays"][0] for window in opened.seen)]
  np.testing.assert_allclose(front, [[0, -10, -20, -30], [-30, -40, -50, -60]], atol=0.1)


def test_without_own_view_the_yaw_turns_the_result(toy, capsys):
  toy()
  assert generate("--video", "clip.mp4", "--yaw", "90") == 0
  assert "the yaw turns the finished panorama" in capsys.readouterr().err


@pytest.mark.parametrize("words, parts", [
  (["--prompt", "sea", "--fov", "70"], ["--fov says how the given clip was filmed", "give --video FILE"]),
  (["--prompt", "sea", "--camera", "camera.csv"], ["--camera says how the given clip was filmed"]),
  (["--video", "clip.mp4", "--camera", "camera.csv"], ["camera.csv line 3, column yaw: 'x' is no number"]),
  (["--video", "clip.mp4", "--camera", "nowhere.csv"], ["nowhere.csv cannot be read"]),
  (["--video", "clip.mp4", "--pitch", "30"], ["a pitch of 30°", "trained with config.model.own_view=True"]),
  (["--video", "clip.mp4", "--fov", "90"], ["58.7° wide", "trained with config.model.own_view=True"]),
  (["--video", "clip.mp4", "--fov", "200"], ["--fov 200 is no field of view"]),
  (["--video", "clip.mp4", "--view-sigma", "2"], ["view_sigma must be between 0 and 1"]),
  (["--prompt", "sea", "--output", "clip.mp4"], ["clip.mp4 is a file or lies below one"]),
])
def test_bad_input_is_one_sentence_and_makes_no_file(toy, capsys, home, words, parts):
  toy()
  (home / "camera.csv").write_text("frame,yaw\n0,0\n3,x\n")
  before = sorted(home.rglob("*"))
  assert generate(*words) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.count("\n") == 1 and all(part in err for part in parts), err
  assert sorted(home.rglob("*")) == before


def test_steps_are_reported_only_where_somebody_watches(toy, monkeypatch, capsys):
  """A program that reports is compiled anew by every run."""
  advanced, opened = [], toy()

  class Progress:
    def __init__(self, description, total, completed=0):
      advanced.append((total, completed))

    def __enter__(self):
      return lambda: advanced.append(1)

    def __exit__(self, *_):
      jax.effects_barrier()

  monkeypatch.setattr("panda_jax.cli.console.progress", Progress)
  assert generate("--prompt", "sea", "--frames", "7") == 0
  assert advanced == [(10, 0)]
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
  assert generate("--prompt", "sky", "--frames", "7") == 0
  assert advanced == [(10, 0)] * 2 + [1] * 10 and opened.opened[0].view_size == (VIEW, VIEW)
