"""`panda generate --batch` from its words to its files, with a toy system: what is printed, counted and refused."""

import os

import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from panda_jax.cli.main import main
from panda_jax.data.video import probe, read_frames, write_video
from panda_jax.geometry import Camera
from tests.cli.test_generate import CONFIG, PARAMS, Toy

BATCH = ["generate", "--batch", "clips/master.csv", "--output", "made"]


class SmallToy(Toy):
  """Also knows, as real configs do, how tall panoramas were for training."""

  def __call__(self, *arguments, **options):
    config = ConfigDict(CONFIG)
    config.data.panorama_height = 16
    return (*super().__call__(*arguments, **options)[:2], config)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
  """The command line is used from a folder with three clips: one with prompt and video, one with each of them."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PANDA_CACHE", "off")
  verbosity = logging.get_verbosity()
  (tmp_path / "clips").mkdir()
  for name in ("sea", "sky"):
    write_video(f"clips/{name}.mp4", [np.full((32, 64, 3), 100 + k, np.uint8) for k in range(9)], 8, crf=1)
  (tmp_path / "clips/master.csv").write_text(
      "clip_id,prompt,video_path\na::sea,the sea,sea.mp4\na::land,the land,\na::sky,,sky.mp4\n")
  yield tmp_path
  logging.set_verbosity(verbosity)


@pytest.fixture
def toy(monkeypatch):
  def use(**options):
    toy = SmallToy(**options)
    monkeypatch.setattr("panda_jax.generate.load.open_system", toy)
    return toy
  return use


def run(*words):
  """The exit status."""
  try:
    return main([*BATCH, *words])
  except SystemExit as stop:
    return stop.code


def names():
  return sorted(os.listdir("made"))


def levels(path):
  return [round(float(frame.mean())) for frame in read_frames(path)]


def test_by_prompt_alone(toy, capsys):
  opened = toy()
  assert run() == 1
  out, err = capsys.readouterr()
  assert out.split() == ["made/a__sea.mp4", "made/a__land.mp4"]
  said = err.splitlines()
  assert len(opened.opened) == 1 and err.count("compiled the sampler") == 1
  assert said[-2].startswith("panda generate: clip a::sky: it has no prompt") and "--given view" in said[-2]
  assert said[-1] == "2 of 3 clips made, 1 failed: see made/failed.csv"
  assert names() == ["a__land.mp4", "a__sea.mp4", "failed.csv"]
  np.testing.assert_allclose(levels("made/a__land.mp4"), range(50, 54), atol=1)


def test_from_the_view_of_the_truth(toy, capsys):
  opened = toy(own_view=True)
  assert run("--given", "view", "--yaw", "-40", "--pitch", "10", "--fov", "80", "--frames", "7") == 1
  said = capsys.readouterr().err.splitlines()
  assert "clip a::land: it has no video" in said[-2] and said[-1].startswith("2 of 3 clips made, 1 failed")
  np.testing.assert_allclose(levels("made/a__sky.mp4"), range(100, 107), atol=2)
  assert {seen["rays"].shape for seen in opened.seen} == {(1, 7, 4, 2, 2, 3)}
  forward = Camera(-40, 10, 80).rotation()[:, 2]
  front = opened.seen[0]["rays"][0, 1, 0].reshape(4, 3).mean(0)        # the rig's first camera, in the given one's eyes
  assert front @ [0, 0, 1] / np.linalg.norm(front) == pytest.approx(forward[2], abs=1e-3)


def test_all_made_is_status_0_and_made_again_is_kept(toy, capsys, home):
  toy()
  (home / "clips/master.csv").write_text("clip_id,caption,video_path\nsea,the sea,sea.mp4\nsky,,sky.mp4\n")
  assert run("--given", "view", "--views") == 0
  assert capsys.readouterr().err.splitlines()[-1] == "2 of 2 clips made"
  assert names() == ["sea.mp4", "sea_views.mp4", "sky.mp4", "sky_views.mp4"]
  assert probe("made/sea_views.mp4").width == 6 * 4
  assert run("--given", "view", "--views") == 0
  out, err = capsys.readouterr()
  assert err.splitlines() == ["2 of 2 clips made (2 before)"] and len(out.split()) == 4
  assert run("--given", "view", "--seed", "1") == 2
  err = capsys.readouterr().err
  assert err.count("is from another request") == 2 and "none of 2 clips could be made: see made/failed.csv" in err
  assert run("--given", "view", "--seed", "1", "--overwrite") == 0 and names() == ["sea.mp4", "sky.mp4"]


def test_shards_write_into_one_folder_and_count_their_own(toy, capsys):
  toy()
  assert run("--shard", "0/2") == 1 and run("--shard", "1/2") == 0
  assert [line for line in capsys.readouterr().err.splitlines() if " of " in line and "compiled" not in line] == [
    "1 of 2 clips made, 1 failed: see made/failed_0_of_2.csv", "1 of 1 clips made"]
  assert names() == ["a__land.mp4", "a__sea.mp4", "failed_0_of_2.csv"]
  assert run("--shard", "3/4") == 0 and "0 of 0 clips made" in capsys.readouterr().err


def test_the_views_of_a_single_video(toy, capsys):
  toy()
  assert main(["generate", "--prompt", "sea", "--views", "--no-viewer", "--output", "made"]) == 0
  assert capsys.readouterr().out.split() == ["made/sea_360.mp4", "made/sea_views.mp4"]


@pytest.mark.parametrize("words, said", [
  (["--prompt", "sea"], "--prompt is not for --batch, the table has the prompts"),
  (["--camera", "a.csv"], "--camera is not for --batch"),
  (["--yaw", "20"], "--yaw says where the given view looks, and there is none: add --given view"),
  (["--given", "view", "--pitch", "20"], "a pitch of 20°"),
  (["--given", "view", "--fov", "200"], "--fov 200 is no field of view"),
  (["--shard", "2/2"], "--shard 2/2: give I/N"),
  (["--frames", "0"], "--frames 0: give 1 or more"),
  (["--batch", "nowhere.csv"], "nowhere.csv"),
])
def test_bad_input_is_one_sentence_and_makes_no_folder(toy, capsys, words, said):
  toy()
  assert run(*words) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.count("\n") == 1 and said in err, err
  assert not os.path.exists("made")


def test_a_table_of_videos_alone_says_how_to_use_them(toy, capsys, home):
  toy()
  (home / "clips/master.csv").write_text("clip_id,video_path\nsea,sea.mp4\nsky,sky.mp4\n")
  assert run() == 2
  assert "no clip of clips/master.csv has a prompt: give --given view" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--given", "view"], ["--shard", "0/2"]])
def test_what_is_for_batches_is_refused_without_one(toy, capsys, words):
  toy()
  assert main(["generate", "--prompt", "sea", *words]) == 2
  assert f"{words[0]} is for a table of clips: give it with --batch FILE.csv" in capsys.readouterr().err
