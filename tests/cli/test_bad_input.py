"""Bad input gets one sentence that says what, where and how to mend it, and exit status 2; nothing is lost by it."""

import functools
import hashlib
import shlex
import shutil
import types
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from absl import logging

from panda_jax import systems
from panda_jax.cli.main import main
from panda_jax.data.video import resize, write_video
from panda_jax.training.config import load_config, write_config
from panda_jax.weights import save_model
from tests.small_disk import small_disk

TINY = "configs/tiny.py:runlocal"
# The smallest network there is: only its shapes are looked at.
SMALL = ["--config.data.path=records", "--config.model.unet.block_out_channels=(8, 8)",
         "--config.model.unet.attention=(False, False)", "--config.model.unet.temporal=False",
         "--config.model.unet.multiview=False"]


def panorama(h: int = 64) -> np.ndarray:
  """Waves that join at the seam: uint8 [h 2h 3]."""
  y, x = np.mgrid[:h, :2 * h] * np.pi / h
  waves = sum(np.sin(k * x + k) * np.cos(k * y) / k for k in range(1, 7))
  return np.clip(127 + 50 * np.stack([waves, -waves, np.roll(waves, 9, axis=1)], axis=-1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A user's folder with all kinds of good and bad things in it."""
  folder = tmp_path_factory.mktemp("user")
  frames = [np.roll(panorama(), -3 * k, axis=1) for k in range(24)]
  write_video(folder / "sphere.mp4", frames, 24)
  write_video(folder / "film.mp4", [resize(frame[10:55, 10:90], (90, 160)) for frame in frames], 24)
  whole = (folder / "sphere.mp4").read_bytes()
  (folder / "cut.mp4").write_bytes(whole[:len(whole) // 2])
  (folder / "text.mp4").write_text("this is no film\n" * 20)
  cv2.imwrite(str(folder / "cut.jpg"), panorama(128))
  (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:4000])
  (folder / "text.jpg").write_text("this is no picture\n")
  (folder / "empty").mkdir()
  (folder / "captions.csv").write_text("clip,words\nsphere.mp4,waves\n")
  prepare = ["prepare", "--input", str(folder / "sphere.mp4"), "--output", str(folder / "records"), "--height", "32"]
  assert main(prepare) == 0

  config = load_config(TINY, SMALL)
  (folder / "run" / "checkpoints").mkdir(parents=True)
  write_config(folder / "run", config)
  (folder / "run" / "metrics.jsonl").write_text('{"step": 0}\n')
  _, params, _ = opened_model()
  save_model(folder / "wordless", {name: group for name, group in params.items() if name != "text"}, config)
  return folder


@functools.cache
def opened_model() -> tuple:
  """What `open_system` gives for a good model; tracing a network takes a second each time."""
  config = load_config(TINY, SMALL)
  system = systems.build(config)
  shapes = jax.eval_shape(system.init, jax.random.key(0))
  return system, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), config


@pytest.fixture(autouse=True)
def at_home(monkeypatch, folder):
  """The command line is used from that folder; what it does to the process's logging is undone."""
  monkeypatch.chdir(folder)
  monkeypatch.setenv("PANDA_CACHE", "off")
  verbosity = logging.get_verbosity()
  yield
  logging.set_verbosity(verbosity)


def contents(folder: Path) -> dict:
  return {path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None for path in folder.rglob("*")}


def refused(capfd, folder: Path, words: list[str]) -> str:
  """Runs `panda WORDS` and returns its sentence, having seen that it was only that and changed nothing in `folder`."""
  before = contents(folder)
  capfd.readouterr()
  assert main(words) == 2
  out, err = capfd.readouterr()
  assert out == "" and err.count("\n") == 1 and err.startswith(f"panda {words[0]}: ") and "Traceback" not in err, err
  assert contents(folder) == before
  return err


def says(*parts: str):
  """The parts that a sentence must have: what and where first, how to mend it last."""
  return parts


@pytest.mark.parametrize("line, parts", [
  ("--input text.mp4", says("text.mp4 cannot be read as a video", "damaged or something else")),
  ("--input cut.mp4", says("cut.mp4 is damaged", "get a whole copy")),
  ("--input film.mp4", says("film.mp4 is 160x90", "edges do not join", "panda generate --video", "--allow-flat")),
  ("--input text.jpg", says("text.jpg cannot be read as an image", "damaged or something else")),
  ("--input cut.jpg", says("cut.jpg is cut off", "get a whole copy")),
  ("--input empty", says("empty holds no video or still", "give a folder with mp4")),
  ("--input nowhere", says("there is no file or folder nowhere", "give a folder of 360° videos")),
  ("--input captions.csv", says("captions.csv is neither a video nor a still", "give mp4")),
  ("--input sphere.mp4 --captions nowhere.csv", says("no captions file nowhere.csv", "give a csv file")),
  ("--input sphere.mp4 --captions captions.csv", says("captions.csv lack a header", "file,caption", "has clip, words")),
  ("--input sphere.mp4 --output run", says("run exists", "choose another --output")),
  ("--input sphere.mp4 --output text.mp4", says("text.mp4 exists", "choose another --output")),
])
def test_prepare_refuses(capfd, folder, line, parts):
  words = ["prepare", *shlex.split(line)]
  sentence = refused(capfd, folder, words if "--output" in words else [*words, "--output", "out"])
  assert all(part in sentence for part in parts), sentence


def test_prepare_names_every_file_when_none_is_of_use(capfd, folder):
  assert main(["prepare", "--input", "text.mp4", "cut.jpg", "--output", "out"]) == 2
  first, *others = capfd.readouterr().err.splitlines()
  assert "none of the 2 files" in first and not (folder / "out").exists()
  assert [line.split()[0] for line in others] == ["text.mp4", "cut.jpg"]


@pytest.mark.parametrize("line, parts", [
  ("--config.optimizer.learning_rat=1", says("no key optimizer.learning_rat", "did you mean optimizer.learning_rate?")),
  ("--config.learning_rate=1", says("no key learning_rate", "did you mean optimizer.learning_rate?")),
  ("--config.data.hight=64", says("no key data.hight", "did you mean data.panorama_height?")),
  ("--config.qqq=1", says("no key qqq", "it has", "optimizer")),
  ("--config.batch_size=two", says("--config.batch_size takes a value such as 2 (int)", "'two'")),
  ("--config.matrix.shapes=3", says("--config.matrix.shapes takes a value such as ((2, 3), (3, 2)) (tuple)", "'3'")),
  ("--config.training.steps=0", says("training.steps must be 1 or more", "got 0")),
  ("--config nowhere.py", says("there is no config file nowhere.py", "did you mean configs/tiny.py?")),
  ("--config sphere.mp4", says("'sphere.mp4' is not a .py file", "configs/tiny.py")),
  ("--config configs/tiny.py:stepps=5", says("no argument 'stepps'", "it takes steps, runlocal")),
  ("--config.data.path=nowhere", says("no dataset folder nowhere", "make one with `panda prepare")),
  ("--config.data.path=sphere.mp4", says("sphere.mp4 is a file", "panda prepare --input sphere.mp4")),
  ("--config.data.path=empty", says("empty is not a dataset", "`panda prepare --output` made")),
  ("--config.data.path=wordless", says("wordless is not a dataset", "`panda prepare --output` made")),
  ("--config.data.split=tests", says("no split 'tests'", "it has train, validation")),
  ("--config.data.validation_path=nowhere", says("no dataset folder nowhere", "make one with `panda prepare")),
  ("--workdir run --config.seed=7", says("run was begun with another config", "seed was 0, is now 7",
                                         "use another --workdir, or the old values")),
  ("--workdir sphere.mp4", says("--workdir sphere.mp4 cannot be made a folder", "choose another")),
  ("--workdir s3://bucket/run", says("s3://bucket/run", "gs://bucket/folder")),
])
def test_train_refuses(capfd, folder, line, parts):
  words = shlex.split(line)
  defaults = [] if "--config" in words else ["--config", TINY, *SMALL]
  defaults += [] if "--workdir" in words else ["--workdir", "new"]
  sentence = refused(capfd, folder, ["train", *defaults, *words])
  assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize("line, parts", [
  ("", says("nothing to go by", "--prompt TEXT, --video FILE")),
  ("--prompt sea --workdir nowhere", says("--workdir nowhere does not exist", "give the folder of a training run")),
  ("--prompt sea --workdir sphere.mp4", says("--workdir sphere.mp4 is a file", "give the folder of a training run")),
  ("--prompt sea --workdir empty", says("empty holds no config.json", "`panda train` run")),
  ("--prompt sea --workdir run", says("run has no complete checkpoint yet", "train longer")),
  ("--prompt sea --workdir run --checkpoint wordless", says("--workdir and --checkpoint were both given", "not both")),
  ("--prompt sea --checkpoint nowhere", says("nowhere is not a folder", "a model folder holds model.safetensors")),
  ("--prompt sea --checkpoint empty", says("empty has no model.safetensors", "a model folder holds")),
  ("--prompt sea --checkpoint wordless", says("the weights of wordless have no text encoder", "no prompt can be read",
                                              "give a model folder that holds one")),
  ("--checkpoint good --video nowhere.mp4", says("there is no video file nowhere.mp4", "give the path of an mp4")),
  ("--checkpoint good --video text.mp4", says("text.mp4 cannot be read as a video", "damaged or something else")),
  ("--checkpoint good --video sphere.mp4", says("sphere.mp4 is twice as wide as high", "as a 360° video's do",
                                               "wants an ordinary perspective clip")),
  ("--checkpoint good --prompt sea --frames 0", says("--frames 0", "give 1 or more")),
  ("--checkpoint good --prompt sea --steps 0", says("steps must be at least 1", "got 0")),
  ("--checkpoint good --prompt sea --steps 2000", says("--steps 2000", "1000 timesteps", "give no more")),
  ("--checkpoint good --prompt sea --height 33", says("height must be an even number", "got 33")),
  ("--checkpoint good --prompt sea --guidance nan", says("guidance must be a number", "got nan")),
  ("--checkpoint good --prompt sea --seed -1", says("--seed -1", "between 0 and")),
])
def test_generate_refuses(capfd, monkeypatch, folder, line, parts):
  if "--checkpoint good" in line:
    monkeypatch.setattr("panda_jax.generate.load.open_system", lambda *_: opened_model())
  sentence = refused(capfd, folder, ["generate", "--output", "out", *shlex.split(line)])
  assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize("line, parts", [
  ("nowhere.mp4", says("there is no video file nowhere.mp4", "give the path of an mp4")),
  ("text.mp4", says("text.mp4 cannot be read as a video", "damaged or something else")),
  ("film.mp4", says("film.mp4 is 160x90, not 2:1", "--stretch")),
  ("sphere.mp4 --output page.txt", says("page.txt is not the name of a page", "end in .html")),
  ("sphere.mp4 --output text.mp4/page.html", says("cannot write text.mp4/page.html", "choose another place")),
])
def test_view_refuses(capfd, folder, line, parts):
  sentence = refused(capfd, folder, ["view", *shlex.split(line)])
  assert all(part in sentence for part in parts), sentence


@pytest.fixture
def disk(tmp_path):
  with small_disk(tmp_path / "disk", 100) as place:
    yield place


@pytest.fixture(scope="module")
def noise(folder, tmp_path_factory):
  """A noisy 360° video that is larger than the disk."""
  draw = np.random.default_rng(0)
  path = tmp_path_factory.mktemp("noise") / "noise.mp4"
  turned = (np.roll(panorama(128), 4 * k, axis=1) for k in range(16))
  write_video(path, (frame // 2 + draw.integers(0, 30, (128, 256, 3), np.uint8) for frame in turned), 8, crf=8)
  assert path.stat().st_size > 100 << 10
  return path


@pytest.mark.parametrize("command", ["prepare", "view", "generate"])
def test_a_full_disk_is_named_and_nothing_half_made_stays_on_it(capfd, monkeypatch, folder, disk, noise, command):
  frames = [np.random.default_rng(k).integers(0, 255, (64, 128, 3), np.uint8) for k in range(24)]
  monkeypatch.setattr("panda_jax.generate.load.open_system", lambda *_: opened_model())
  window = types.SimpleNamespace(number=0, frames=frames, row=np.zeros(1), views=None)
  monkeypatch.setattr("panda_jax.generate.load.make_generator", lambda system, params, settings, _: types.SimpleNamespace(
    system=system, settings=settings, check=lambda request: None, row_spec=lambda request: np.zeros(1),
    plan=lambda request: [None], windows=lambda *_: [window]))
  words, named = {
    "prepare": (["--input", str(noise), "--output", f"{disk}/records"], disk / "records"),
    "view": ([str(noise), "--output", f"{disk}/page.html"], disk / "page.html"),
    "generate": (["--prompt", "sea", "--output", str(disk), "--name", "sea"], disk / "sea_360.mp4"),
  }[command]
  sentence = refused(capfd, folder, [command, *words])
  assert f"no space left on the disk while writing {named}" in sentence and "free some space" in sentence, sentence
  if command == "prepare":                            # what is known of the files stays for the next attempt
    assert list(disk.iterdir()) == [disk / "records.incomplete"] and not list(disk.rglob("unit-*"))
    shutil.rmtree(disk / "records.incomplete")
  assert list(disk.iterdir()) == [] and noise.exists()
