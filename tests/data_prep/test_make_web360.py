"""The made WEB360 has the layout of the distributed one, goes on after an interruption, and joins at its edges."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from panda_jax.data import video
from panda_jax.data.sources import find_sources
from panda_jax.data.worlds import draw_world, render

SCRIPT = Path(__file__).resolve().parents[2] / "data_prep" / "make_web360.py"
SMALL = ("--clips", "3", "--frames", "5", "--height", "32", "--render-height", "16", "--processes", "1")


@pytest.fixture(scope="module")
def script():
  spec = importlib.util.spec_from_file_location("make_web360", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def run(*arguments) -> subprocess.CompletedProcess:
  environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
  return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True,
                        text=True, timeout=120)


def test_it_has_the_layout_of_web360_and_goes_on_where_it_was(tmp_path):
  first = run("--output", tmp_path / "a", *SMALL)
  assert first.returncode == 0, first.stderr
  with open(tmp_path / "a" / "WEB360_360TF_train.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.reader(file))
  assert rows[0] == ["videoid", "name"] and len(rows) == 4
  videos = tmp_path / "a" / "videos_32x64x5"
  for seed, (number, caption) in enumerate(rows[1:]):
    assert int(number) and caption == draw_world(seed).caption and "," in caption
    frames = np.stack(list(video.read_frames(videos / f"{number}.mp4")))
    assert frames.shape == (5, 32, 64, 3) and video.probe(videos / f"{number}.mp4").fps == 20
  found = find_sources([tmp_path / "a"])
  assert found.dataset == "web360" and [source.caption for source in found.sources] == [row[1] for row in rows[1:]]

  before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in videos.iterdir()}
  lost = videos / f"{rows[2][0]}.mp4"
  lost.unlink()
  assert run("--output", tmp_path / "a", *SMALL).returncode == 0
  after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in videos.iterdir()}
  assert {name: data for name, (_, data) in after.items()} == {name: data for name, (_, data) in before.items()}
  assert [name for name in after if after[name] != before[name]] == [lost.name]


def test_enlarging_leaves_no_seam_and_moves_nothing(script):
  """A turned panorama enlarges to the enlarged panorama, turned."""
  [small] = render(draw_world(3), 1, (32, 64))
  large = script.enlarge(small, 128)
  assert large.shape == (128, 256, 3)
  np.testing.assert_array_equal(script.enlarge(np.roll(small, 5, axis=1), 128), np.roll(large, 20, axis=1))
  back = cv2.resize(large, (64, 32), interpolation=cv2.INTER_AREA)
  assert np.abs(back.astype(int) - small).mean() < 1
  assert script.enlarge(small, 32) is small


@pytest.mark.parametrize("arguments, words", [
  (("--height", "33"), "must be even"), (("--render-height", "100"), "must divide"), (("--clips", "0"), "must be above 0"),
  (("--output", "file"), "choose another folder"),
])
def test_what_cannot_be_made_is_refused_in_one_sentence(script, tmp_path, monkeypatch, capsys, arguments, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "file").write_text("")
  monkeypatch.setattr(sys, "argv", ["make_web360.py", "--output", "a", *SMALL, *arguments])
  with pytest.raises(SystemExit) as caught:
    script.main()
  assert words in f"{caught.value.code} {capsys.readouterr().err}"
  assert os.listdir(tmp_path) == ["file"]
