"""Sentences by a model on this machine: real networks of random weights, made by the tests. They need torch."""

import argparse
import csv
import importlib.util
import json
import sys

import numpy as np
import pytest

from panda_jax.captioning import image_to_text
from panda_jax.captioning.image_to_text import QUESTION, ImageToText, fingerprint
from panda_jax.cli import caption as command
from panda_jax.errors import InputError
from tests.captioning import tiny_models
from tests.captioning.stub import answer, make_stills, make_video, panorama, serving
from tests.paths import REAL, needs_real


def caption(capsys, *arguments) -> str:
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  command.run(parser.parse_args([str(argument) for argument in arguments]))
  return capsys.readouterr().out


def captions(path) -> dict[str, str]:
  with open(path, encoding="utf-8", newline="") as file:
    return dict(list(csv.reader(file))[1:])


@pytest.fixture(scope="module")
def pictures():
  return [np.ascontiguousarray(panorama(48, seed)[:, :48]) for seed in range(5)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
  """Threads of tiny networks only wait for each other where cores are shared."""
  if "torch" in sys.modules or importlib.util.find_spec("torch"):
    import torch
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
  pytest.importorskip("torch")
  return tiny_models.make_blip(tmp_path_factory.mktemp("models") / "blip")


@pytest.mark.parametrize("kind", ["blip", "blip2", "llava", "git"])
def test_models_of_several_kinds_say_the_same_about_a_picture_whatever_is_beside_it(kind, tmp_path, pictures):
  pytest.importorskip("torch")
  folder = getattr(tiny_models, f"make_{kind}")(tmp_path / "model")
  for prompt in (None, "a view of"):
    model = ImageToText(folder, prompt, longest=8)
    together = model(pictures)
    assert together == [sentence for picture in pictures for sentence in model([picture])] == model(pictures)
    assert len(set(together)) > 1 and not any(sentence.startswith("a view of") for sentence in together)
    assert not any(mark in " ".join(together) for mark in ("[", "<", "USER", "ASSISTANT"))


def test_the_prompt_that_suits_the_model(blip, tmp_path):
  assert ImageToText(blip).prompt == "" and ImageToText(blip, begin="a view of").prompt == "a view of"
  assert ImageToText(blip, "a photo of", begin="a view of").prompt == "a photo of"
  assert ImageToText(tiny_models.make_llava(tmp_path / "llava")).prompt == QUESTION


def test_views_of_videos_and_stills_get_sentences_and_are_fused(blip, tmp_path, capsys):
  make_stills(tmp_path / "in", 3)
  make_video(tmp_path / "in" / "walk.mp4", 8)
  line = ["--input", tmp_path / "in", "--model", blip, "--output", tmp_path / "c.csv", "--view-size", 64, "--export",
          tmp_path / "out", "--longest-sentence", 8]
  assert "4 captioned, 0 reused" in caption(capsys, *line, "--batch-size", 4)
  first = captions(tmp_path / "c.csv")
  assert list(first) == ["p00.png", "p01.png", "p02.png", "walk.mp4"] and len(set(first.values())) > 1
  with open(tmp_path / "out" / "views.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 16 and all(row["sentence"] and (tmp_path / "out" / row["picture"]).is_file() for row in rows)
  (tmp_path / "out" / "p01" / "yaw_-90.jpg").unlink()
  assert "0 captioned, 4 reused" in caption(capsys, *line)
  assert (tmp_path / "out" / "p01" / "yaw_-90.jpg").is_file()      # exported again, without the model
  assert captions(tmp_path / "c.csv") == first


def test_the_size_of_a_batch_changes_no_caption(blip, tmp_path, capsys):
  make_stills(tmp_path / "in", 3)
  for size in (1, 4, 16):
    caption(capsys, "--input", tmp_path / "in", "--model", blip, "--output", tmp_path / f"{size}.csv",
            "--view-size", 64, "--batch-size", size, "--longest-sentence", 8)
  assert captions(tmp_path / "1.csv") == captions(tmp_path / "4.csv") == captions(tmp_path / "16.csv")


def test_one_view_in_the_form_of_videopanda(blip, tmp_path, capsys):
  make_stills(tmp_path / "in", 2)
  caption(capsys, "--input", tmp_path / "in", "--style", "view", "--model", blip, "--output", tmp_path / "c.csv",
          "--view-size", 64)
  assert all(text.startswith("A view of ") for text in captions(tmp_path / "c.csv").values())


def test_a_server_s_failure_does_not_cost_the_sentences(blip, tmp_path, capsys, monkeypatch):
  """They are kept before anybody is asked: the second run does not load the model."""
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  make_stills(tmp_path / "in", 2)
  with serving(lambda number, request: (401, {}, b"")) as stub:
    line = ["--input", tmp_path / "in", "--model", blip, "--output", tmp_path / "c.csv", "--view-size", 64,
            "--fuse", stub.url, "--model-name", "m", "--batch-size", 64]
    with pytest.raises(InputError, match="401"):
      caption(capsys, *line)
    monkeypatch.setattr("panda_jax.captioning.run.ImageToText", lambda *_: pytest.fail("the model is not needed"))
    stub.reply = lambda number, request: answer(request["messages"][1]["content"].splitlines()[0])
    assert "2 captioned, 0 reused" in caption(capsys, *line)


def test_another_model_does_not_mix_into_older_captions(blip, tmp_path, capsys):
  make_stills(tmp_path / "in", 1)
  line = ["--input", tmp_path / "in", "--output", tmp_path / "c.csv", "--view-size", 64, "--model"]
  caption(capsys, *line, blip)
  with pytest.raises(InputError, match="other settings"):
    caption(capsys, *line, tiny_models.make_blip(tmp_path / "other", seed=1))


@needs_real
def test_real_photographs_and_clips(blip, tmp_path, capsys):
  assert "18 captioned" in caption(capsys, "--input", REAL, "--model", blip, "--output", tmp_path / "c.csv",
                                   "--view-size", 64, "--longest-sentence", 6)
  assert len(captions(tmp_path / "c.csv")) == 18


# What is no model; these need no torch


def test_folders_that_are_no_model(tmp_path):
  with pytest.raises(InputError, match="no model folder"):
    fingerprint(tmp_path / "nowhere")
  pytest.importorskip("torch")
  with pytest.raises(InputError, match="no config.json"):
    ImageToText(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
  with pytest.raises(InputError, match="'bert', which does not describe pictures"):
    ImageToText(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(InputError, match="cannot be loaded"):
    ImageToText(tmp_path)


@pytest.mark.parametrize("gone", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_copy_that_lacks_a_file(blip, tmp_path, gone):
  folder = tmp_path / "model"
  folder.mkdir()
  for path in blip.iterdir():
    if path.name != gone and not (gone.startswith("tokenizer") and path.name == "vocab.txt"):
      (folder / path.name).write_bytes(path.read_bytes())
  with pytest.raises(InputError, match="cannot be loaded|whole copy"):
    ImageToText(folder)


def test_weights_that_are_not_all_there_are_not_made_up(blip, tmp_path):
  from safetensors.numpy import load_file, save_file
  folder = tmp_path / "model"
  folder.mkdir()
  for path in blip.iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  tensors = load_file(folder / "model.safetensors")
  name = next(name for name in tensors if "vision_model.encoder.layers.1" in name)
  del tensors[name]
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  with pytest.raises(InputError, match="lacks 1 of its tensors"):
    ImageToText(folder)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(blip, device):
  with pytest.raises(InputError, match=f"--device {device}"):
    ImageToText(blip, device=device)


def test_without_torch_the_sentence_names_the_extra(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)      # what Python does for a module that is not to be found
  make_stills(tmp_path / "in", 1)
  (tmp_path / "model").mkdir()
  with pytest.raises(InputError, match=r"panda_jax\[captions\]"):
    caption(capsys, "--input", tmp_path / "in", "--model", tmp_path / "model", "--output", tmp_path / "c.csv")
  assert not list(tmp_path.glob("c.csv*"))


def test_fingerprints_tell_models_apart(tmp_path):
  """Whatever byte of a small file changed; of a large one its size, ends and 62 blocks between."""
  (tmp_path / "config.json").write_text("{}")
  large = bytearray(8 << 20)
  (tmp_path / "weights").write_bytes(large)
  plain = fingerprint(tmp_path)
  assert fingerprint(tmp_path) == plain
  for place in (0, len(large) - 1):
    changed = bytearray(large)
    changed[place] = 1
    (tmp_path / "weights").write_bytes(changed)
    assert fingerprint(tmp_path) != plain
  (tmp_path / "weights").write_bytes(large)
  (tmp_path / "config.json").write_text("{ }")
  assert fingerprint(tmp_path) != plain
  assert image_to_text.DTYPES[0] == "auto"
