"""The model that comes with the package: present, small, described, and what its card says."""

import hashlib

import jax
import numpy as np
import pytest

from panda_jax.generate.load import open_system, settings_of
from panda_jax.tree import flatten
from panda_jax.weights.shipped import ASSETS, SHIPPED, find_model
from tests.fast import jit


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_names_the_weights_that_are_shipped(name):
  weights = (ASSETS / name / "model.safetensors").read_bytes()
  assert len(weights) <= 10e6
  card = (ASSETS / name / "MODEL_CARD.md").read_text(encoding="utf-8")
  assert hashlib.sha256(weights).hexdigest() in card
  for word in ("steps", "seed", "hours", "PSNR", "panda train --config"):
    assert word in card


def test_without_a_name_the_tiny_model_is_opened_in_full_precision():
  system, params, config = open_system()
  assert config.system == "videopanda" and settings_of(config).steps == 25
  assert {leaf.dtype.name for leaf in flatten(params).values()} == {"float32"}
  assert jax.eval_shape(system.init, jax.random.key(0)).keys() == params.keys()


def test_bfloat16_computes_nearly_the_same():
  """All of the model in half the memory; the sampler's dtype follows its parameters."""
  outputs = []
  for dtype in ("float32", "bfloat16"):
    system, params, _ = open_system(dtype=dtype)
    assert {leaf.dtype.name for leaf in flatten(params).values()} == {dtype}
    request = {"text": system.tokenize("a calm sea")[None], "rays": system.rig.rays(system.rays_size)[None, :2],
               "mask": np.zeros((1, 2, 3), np.float32), "sigma": np.zeros((1, 2, 3), np.float32)}
    given = np.zeros((1, 2, 3, *system.rays_size, system.codec.channels), np.float32)
    sample = jit(lambda params: system.sample_latents(params, given, request, jax.random.key(0), steps=2, guidance=1.0))
    outputs.append(np.asarray(sample(params)))
  assert outputs[1].dtype == np.float32
  difference = np.sqrt(np.mean((outputs[1] - outputs[0]) ** 2) / np.mean(outputs[0] ** 2))
  assert 0 < difference < 0.05


def test_no_path_of_the_machine_it_was_trained_on_is_shipped():
  for file in ASSETS.rglob("*.json"):
    text = file.read_text(encoding="utf-8")
    assert "/tmp" not in text and "/home" not in text and "/root" not in text


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert find_model("tiny") == ASSETS / "tiny"
  (tmp_path / "tiny").mkdir()
  assert str(find_model("tiny")) == "tiny"
  assert str(find_model("runs/mine/model")) == "runs/mine/model"
