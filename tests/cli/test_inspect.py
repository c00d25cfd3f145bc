"""`panda inspect`, as it is typed: tables, JSON, a picture; one sentence for what is damaged."""

import functools
import json
import shutil

import cv2
import numpy as np
import pytest

from panda_jax.cli.main import main
from panda_jax.data import prepare
from panda_jax.data.records import Clip, write_records
from panda_jax.data.stores import Crops
from panda_jax.data.video import write_video
from panda_jax.geometry import VIDEOPANDA_RIG


def panorama(h=64):
  """Waves that join at the seam: uint8 [h 2h 3]."""
  y, x = np.mgrid[:h, :2 * h] * np.pi / h
  waves = sum(np.sin(k * x + k) * np.cos(k * y) / k for k in range(1, 7))
  return np.clip(127 + 50 * np.stack([waves, -waves, np.roll(waves, 9, axis=1)], axis=-1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A prepared dataset of one good film and one that is none, and crops of it."""
  folder = tmp_path_factory.mktemp("user")
  (folder / "films").mkdir()
  write_video(folder / "films" / "sphere.mp4", [np.roll(panorama(), -3 * k, axis=1) for k in range(32)], 8)
  (folder / "films" / "text.mp4").write_text("this is no film\n" * 20)
  assert main(["prepare", "--input", str(folder / "films"), "--output", str(folder / "clips"), "--height", "32",
               "--processes", "1"]) == 0
  options = prepare.Options(height=32, store="crops", view_size=16)
  prepare.prepare([folder / "clips"], folder / "crops", options, store=Crops(VIDEOPANDA_RIG, (16, 16)))
  return folder


@pytest.fixture
def copy(folder, tmp_path, monkeypatch):
  """The same to be damaged."""
  for name in ("clips", "crops"):
    shutil.copytree(folder / name, tmp_path / name)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def run(capfd, *words):
  capfd.readouterr()
  status = main(["inspect", *map(str, words)])
  return status, *capfd.readouterr()


def test_tables_say_what_there_is(folder, capfd):
  status, out, err = run(capfd, folder / "clips")
  assert status == 0 and err == ""
  for said in ("64x32", "jpeg, quality 95", "train", "validation", "0:00:03", "128x64", "rejected", "text.mp4",
               "'a 360 degree video'", "worth knowing: all 2 captions"):
    assert said in out, said
  lines = [line.split() for line in out.splitlines()]
  assert ["train", "1", "24", "0:00:03", "3.00", "3.00", "3.00", "8"] in [line[:8] for line in lines]
  assert ["unreadable", "1", "rejected"] in lines and ["all", "1", "1"] in lines


def test_tables_of_a_store_name_its_rig(folder, capfd):
  status, out, err = run(capfd, folder / "crops")
  assert status == 0 and err == ""
  assert "videopanda, 8 cameras" in out and "16x16 at 1 yaw of each clip" in out and "made of the dataset" in out


def test_json_is_one_object_and_nothing_else(folder, capfd, tmp_path):
  status, out, err = run(capfd, folder / "clips", "--json", "--split", "train", "--sheet", tmp_path / "sheet.png")
  about = json.loads(out)
  assert status == 0 and err == "" and (tmp_path / "sheet.png").exists()
  assert list(about) == ["path", "kind", "store", "size", "encoding", "quality", "metadata", "about", "rig", "splits",
                         "captions", "sources", "rules", "warnings"]
  assert about["rules"]["unreadable"]["count"] == 1 and about["splits"]["train"]["frames"] == 24


def test_a_sheet_is_drawn_only_when_asked_for(copy, capfd):
  before = set(copy.rglob("*"))
  assert run(capfd, "clips")[0] == 0 and set(copy.rglob("*")) == before
  status, out, _ = run(capfd, "crops", "--sheet", "new/sheet.png", "--records", "1")
  assert status == 0 and "new/sheet.png shows 1 clips" in out
  assert cv2.imread(str(copy / "new" / "sheet.png")).shape[1] == 1600


def test_latents_are_decoded_by_the_model_that_made_them(tmp_path, monkeypatch, capfd):
  """With the shipped tiny model, the sheet has the colours of the clips again."""
  from panda_jax.data.latents import ViewLatents
  from panda_jax.generate import load
  monkeypatch.setattr(load, "open_system", functools.cache(load.open_system))
  write_records(tmp_path / "red", {"train": [Clip("a", "red", 8.0, [np.full((32, 64, 3), (200, 30, 30), np.uint8)])]})
  system, params, _ = load.open_system(checkpoint="tiny")
  options = prepare.Options(height=32, store="latents", model="tiny")
  prepare.prepare([tmp_path / "red"], tmp_path / "latents", options, store=ViewLatents(system, params))
  monkeypatch.chdir(tmp_path)
  status, out, _ = run(capfd, "latents", "--sheet", "sheet.png", "--model", "tiny")
  sheet = cv2.imread("sheet.png")[..., ::-1].astype(int)
  assert status == 0 and "cosine" in out
  assert np.count_nonzero(np.abs(sheet - (200, 30, 30)).max(-1) < 12) > 100_000
  about = json.loads((tmp_path / "latents" / "metadata.json").read_text())
  about["about"]["codec"]["kind"] = "another"
  (tmp_path / "latents" / "metadata.json").write_text(json.dumps(about))
  status, out, err = run(capfd, "latents", "--sheet", "sheet.png", "--model", "tiny")
  assert status == 2 and err.count("\n") == 1 and "stale" in err


def cut(path):
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 255
  path.write_bytes(data)


def lose(path):
  path.unlink()


@pytest.mark.parametrize("file, damage", [
  *(("clips/folder360-train.array_record-00000-of-00001", damage) for damage in (cut, flip, lose)),
  *(("crops/clips-train.array_record-00000-of-00001", damage) for damage in (cut, flip, lose)),
  *(("crops/images-train.array_record-00000-of-00001", damage) for damage in (cut, lose)),
  *((f"clips/{name}.json", cut) for name in ("dataset_info", "metadata", "manifest"))])
def test_damage_is_one_sentence(copy, capfd, file, damage):
  damage(copy / file)
  status, out, err = run(capfd, file.partition("/")[0])
  assert status == 2 and out == "" and err.count("\n") == 1
  assert err.startswith("panda inspect: ") and ("again" in err or "is not a dataset of clips" in err)


@pytest.mark.parametrize("words, said", [
  (["nowhere"], "there is no dataset folder nowhere"),
  (["clips/manifest.json"], "is a file, not a dataset folder"),
  (["."], ". is not a dataset of clips"),
  (["clips", "--split", "test"], "has no split 'test'"),
  (["clips", "--sheet", "sheet.jpg"], "let it end in .png"),
  (["clips", "--sheet", "sheet.png", "--records", "0"], "--records must be at least 1"),
  (["clips", "--sheet", "sheet.png", "--seed", "-1"], "--seed must be 0 or more"),
  (["clips", "--model", "tiny"], "--model is for the pictures of --sheet"),
  (["clips", "--sheet", "sheet.png", "--model", "tiny"], "--model is for latents, and clips stores none"),
])
def test_bad_input_is_one_sentence(copy, capfd, words, said):
  status, out, err = run(capfd, *words)
  assert status == 2 and out == "" and err.count("\n") == 1 and said in err
  assert not (copy / "sheet.png").exists()
