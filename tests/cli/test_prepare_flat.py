"""`panda prepare --flat`, as it is typed: ordinary films become a dataset that the pipeline takes for what it is."""

import cv2
import numpy as np
import pytest

from panda_jax.cli.main import main
from panda_jax.data import video
from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import train_iterator
from panda_jax.errors import InputError
from panda_jax.geometry import VIDEOPANDA_RIG, Camera, RigViews, rays


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A film of 160x90 that moves slowly over a picture."""
  coarse = np.random.default_rng(0).integers(0, 256, (6, 12, 3), np.uint8)
  picture = cv2.resize(coarse, (200, 90), interpolation=cv2.INTER_CUBIC)
  video.write_video(tmp_path / "film.mp4", (picture[:, 2 * k:2 * k + 160] for k in range(16)), 8)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_a_film_becomes_batches_of_one_view(folder, capfd):
  assert main(["prepare", "--input", "film.mp4", "--output", "records", "--flat", "--height", "32"]) == 0
  out, err = capfd.readouterr()
  assert "1 of 1 files used" in out and "32x32 jpeg" in out and "Traceback" not in err
  settings = dict(shows=RigViews(VIDEOPANDA_RIG, (16, 16), (4, 4)), schedule=MatrixSchedule(((1, 4),)), fps=8,
                  batch_size=2, tokenize=lambda caption: np.array([len(caption)]), seed=0)
  batch = next(train_iterator("records", "train", kind="flat", **settings))
  assert batch["images"].shape == (2, 1, 4, 16, 16, 3) and batch["text"].tolist() == [[len("a video")]] * 2
  np.testing.assert_array_equal(batch["rays"], [[rays(Camera(0, 0, 90), (4, 4))]] * 2)
  with pytest.raises(InputError, match="records is a dataset of ordinary films"):
    train_iterator("records", "train", **settings)


def test_flat_and_allow_flat_are_refused_in_one_sentence(folder, capfd):
  assert main(["prepare", "--input", "film.mp4", "--output", "records", "--flat", "--allow-flat"]) == 2
  out, err = capfd.readouterr()
  assert out == "" and err.count("\n") == 1
  assert err.startswith("panda prepare: --flat and --allow-flat are two ways") and "give one of them" in err
  assert not (folder / "records").exists()


def test_a_film_given_as_a_panorama_is_told_about_flat(folder, capfd):
  assert main(["prepare", "--input", "film.mp4", "--output", "records"]) == 2
  assert "panda generate --video" in (sentence := capfd.readouterr().err) and "--flat" in sentence
