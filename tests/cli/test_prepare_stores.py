"""`panda prepare --store`, as it is typed: from films, and from a dataset of panoramas."""

import shutil

import numpy as np
import pytest

from panda_jax.cli.main import main
from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import train_iterator
from panda_jax.data.records import dataset_info, open_records
from panda_jax.geometry import VIDEOPANDA_RIG, RigViews
from tests.data.prepare.killing import digests
from tests.data.test_prepare import make_video


@pytest.fixture(scope="module")
def films(tmp_path_factory):
  """Two films, and the panoramas of them."""
  folder = tmp_path_factory.mktemp("films")
  for seed, name in enumerate(("beach", "wood")):
    make_video(folder / f"{name}.mp4", 24, seed)
  assert main(["prepare", "--input", str(folder), "--output", str(folder / "records"), "--height", "64",
               "--encoding", "png", "--holdout", "0"]) == 0
  return folder


def prepare(films, tmp_path, *words, source="records", output="out") -> int:
  return main(["prepare", "--input", str(films / source), "--output", str(tmp_path / output), *words])


def batch(path) -> dict:
  return next(train_iterator(path, "train", shows=RigViews(VIDEOPANDA_RIG, (32, 32), (8, 8)), fps=24, seed=0,
                             schedule=MatrixSchedule(((3, 4),)), batch_size=2, tokenize=lambda text: np.zeros(2)))


@pytest.mark.parametrize("words, array, shape, dtype", [
  (("--store", "crops", "--view-size", "32", "--yaws", "2"), "images", (2, 3, 4, 32, 32, 3), "uint8"),
  (("--store", "latents", "--model", "tiny", "--yaws", "2", "--flips"), "latents", (2, 3, 4, 8, 8, 24), "bfloat16")])
def test_a_dataset_of_panoramas_becomes_one_of_views(films, tmp_path, capfd, words, array, shape, dtype):
  """Its clips, captions and splits stay; batches come from it; films give the same as their panoramas."""
  assert prepare(films, tmp_path, *words) == 0
  assert "2 clips (48 frames) to train; 128x64" in capfd.readouterr().out
  info = dataset_info(tmp_path / "out")
  assert (info["store"], info["about"]["yaws"]) == (words[1], 2)
  assert [clip["id"] for clip in open_records(tmp_path / "out", "train")] == ["beach_000", "wood_000"]
  made = batch(tmp_path / "out")
  assert made[array].shape == shape and made[array].dtype == dtype
  shutil.copytree(films, tmp_path / "films", ignore=shutil.ignore_patterns("records"))
  assert main(["prepare", "--input", str(tmp_path / "films"), "--output", str(tmp_path / "direct"), "--height", "64",
               "--holdout", "0", *words]) == 0
  theirs, ours = ({name: digest for name, digest in digests(folder).items() if name.startswith("images-")}
                  for folder in (tmp_path / "direct", tmp_path / "out"))
  assert theirs == ours and len(ours) == 1


@pytest.mark.parametrize("words, sentence", [
  (("--store", "latents"), "--store latents needs the networks that make latents: give --model"),
  (("--store", "crops", "--model", "tiny"), "--model is for --store latents"),
  (("--yaws", "2"), "--yaws is for --store crops and latents"),
  (("--store", "crops", "--flips"), "--flips is for latents"),
  (("--flat", "--store", "crops"), "--flat clips are no panoramas"),
  ((), "records is a dataset already"),
  (("--dry-run",), "records is a dataset already"),
  (("--dry-run", "--store", "crops"), "records is a dataset, whose clips were judged when it was made"),
  (("--store", "crops", "--captions", "table.csv"), "has its captions already"),
  (("--store", "panorama_latents", "--model", "tiny"), "are for learned codecs")])
def test_what_cannot_be_stored_is_said_in_one_sentence(films, tmp_path, capfd, words, sentence):
  assert prepare(films, tmp_path, *words) == 2
  said = capfd.readouterr().err
  assert sentence in said and said.count("\n") == 1
  assert not (tmp_path / "out").exists() and not (tmp_path / "out.incomplete").exists()


def test_views_are_not_made_of_views(films, tmp_path, capfd):
  assert prepare(films, tmp_path, "--store", "crops", "--view-size", "16") == 0
  assert main(["prepare", "--input", str(tmp_path / "out"), "--output", str(tmp_path / "again"), "--store", "crops"]) == 2
  assert "holds crops already: give the dataset of panoramas" in capfd.readouterr().err
