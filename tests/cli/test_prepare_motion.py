"""`panda prepare --flow`, as it is typed, and what `panda inspect` shows of it."""

import json

import cv2
import numpy as np
import pytest

from panda_jax.cli.main import main
from panda_jax.data.records import dataset_info, open_records
from tests.data.prepare.killing import digests
from tests.data.test_prepare import make_video


@pytest.fixture(scope="module")
def films(tmp_path_factory):
  folder = tmp_path_factory.mktemp("films")
  for seed, name in enumerate(("beach", "wood")):
    make_video(folder / f"{name}.mp4", 24, seed)
  return folder


def prepare(films, output, *words) -> int:
  return main(["prepare", "--input", str(films), "--output", str(output), "--height", "64", "--holdout", "0", *words])


def test_motion_is_made_said_and_shown(films, tmp_path, capfd):
  """--flow alone is DIS; one process or two, the bytes are the same; latents and crops may be made of it."""
  assert prepare(films, tmp_path / "out", "--flow") == 0
  assert "2 clips (48 frames) to train; 128x64 jpeg with motion (dis)" in capfd.readouterr().out
  assert prepare(films, tmp_path / "again", "--flow", "dis", "--processes", "1") == 0
  assert digests(tmp_path / "again") == digests(tmp_path / "out")
  assert dataset_info(tmp_path / "out")["about"]["motion"]["estimator"] == "dis"
  assert len(open_records(tmp_path / "out", "train")[0]["motion"]) == 24
  capfd.readouterr()
  assert main(["inspect", str(tmp_path / "out"), "--sheet", str(tmp_path / "sheet.png")]) == 0
  assert "optical flow by dis, in the colours of the 360-Adapter" in capfd.readouterr().out
  sheet = cv2.imread(str(tmp_path / "sheet.png"))
  pan = (np.abs(sheet.astype(int) - (157, 28, 0)).max(-1) < 12).mean()      # BGR: 2 of 128 pixels to the left per frame
  assert 0.2 < pan < 0.5
  assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
  assert json.loads(capfd.readouterr().out)["about"]["motion"]["preset"] == "medium"
  assert main(["prepare", "--input", str(tmp_path / "out"), "--output", str(tmp_path / "crops"), "--store", "crops",
               "--view-size", "16"]) == 0
  assert dataset_info(tmp_path / "crops")["about"].get("motion") is None


def test_motion_comes_from_flow_videos(films, tmp_path, capfd):
  (tmp_path / "flows").mkdir()
  for name in ("beach", "wood"):
    writer = cv2.VideoWriter(str(tmp_path / "flows" / f"{name}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, (128, 64))
    for _ in range(23):
      writer.write(np.full((64, 128, 3), (200, 30, 0), np.uint8))
    writer.release()
  assert prepare(films, tmp_path / "videos", "--flow-videos", str(tmp_path / "flows")) == 0
  assert "with motion (flow videos)" in capfd.readouterr().out
  assert prepare(films, tmp_path / "dry", "--flow-videos", str(tmp_path / "flows"), "--dry-run") == 0
  (tmp_path / "flows" / "wood.mp4").unlink()
  assert prepare(films, tmp_path / "one", "--flow-videos", str(tmp_path / "flows")) == 0
  said = capfd.readouterr().err
  assert "1 of 2 files skipped" in said and "has no flow video: wood.mp4 is not in" in said


@pytest.mark.parametrize("words, sentence", [
  (("--flow", "raft"), "there is no flow estimator 'raft': give dis, dis-symmetric, or your own as module:function"),
  (("--flow", "nowhere:run"), "the flow estimator nowhere:run cannot be loaded"),
  (("--flow", "raft", "--dry-run"), "there is no flow estimator 'raft'"),
  (("--flow", "--flow-videos", "flows"), "give one of them"),
  (("--flow-videos", "flows"), "there is no folder flows of flow videos"),
  (("--flow", "--store", "crops"), "--flow is for --store pixels"),
  (("--flow", "--flat"), "--flow is for --store pixels")])
def test_what_cannot_be_done_is_said_in_one_sentence(films, tmp_path, capfd, words, sentence):
  assert prepare(films, tmp_path / "out", *words) == 2
  said = capfd.readouterr().err
  assert sentence in said and said.count("\n") == 1
  assert not (tmp_path / "out").exists() and not (tmp_path / "out.incomplete").exists()


def test_motion_is_not_added_to_a_dataset(films, tmp_path, capfd):
  assert prepare(films, tmp_path / "out") == 0
  assert main(["prepare", "--input", str(tmp_path / "out"), "--output", str(tmp_path / "more"), "--flow"]) == 2
  assert "is a dataset already" in (said := capfd.readouterr().err) and "the films again, with --flow" in said
