"""The trainer runs 360DVD as it runs any system: from converted weights, on records with motion, resumed to the bit."""

import numpy as np
import pytest

from panda_jax.data.flow import encode_flow
from panda_jax.data.records import Clip, write_records
from panda_jax.errors import InputError
from panda_jax.systems.starting_dvd360 import dvd360
from panda_jax.training import loop
from panda_jax.training.config import load_config
from panda_jax.tree import flatten, unflatten
from panda_jax.weights import load_model, save_model
from tests.systems import toy

pytestmark = pytest.mark.usefixtures("quick_to_compile")

SIZE = (16, 32)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """Of a run from toy weights in the published formats; five clips with motion."""
  folder = tmp_path_factory.mktemp("dvd360")
  tensors, start = dvd360(toy.networks(), toy.write_tokenizer(folder / "tokenizer"), panorama_size=SIZE)
  save_model(folder / "start", unflatten({path: tensor.read() for path, tensor in tensors.items()}), start)

  def clips():
    for index in range(5):
      rng = np.random.default_rng(index)
      frames = rng.integers(0, 256, (4, *SIZE, 3), np.uint8)
      yield Clip(f"clip{index}", "a red sea", 8.0, list(frames), list(encode_flow(rng.normal(size=(4, *SIZE, 2)))))

  write_records(folder / "records", {"train": clips()}, motion={"estimator": "random"})
  config = load_config("configs/dvd360.py:size=tiny,runlocal")
  with config.unlocked():
    config.model = start.model
  config.model.text.tokenizer = ""
  config.matrix.shapes = ((1, 2),)
  config.init = str(folder / "start")
  config.data.update(path=str(folder / "records"), validation_path="")
  config.training.update(steps=3, checkpoint_every=1, dtype="float32")
  return config


def test_only_the_adapter_is_trained_and_a_run_resumes_to_the_bit(config, tmp_path):
  loop.train(config, tmp_path / "whole")
  parts = config.copy_and_resolve_references()
  for steps in (2, 3):
    parts.training.steps = steps
    loop.train(parts, tmp_path / "parts")
  whole, parts, start = (flatten(load_model(folder)[0]) for folder in (
      tmp_path / "whole" / "model", tmp_path / "parts" / "model", config.init))
  for path, values in whole.items():
    np.testing.assert_array_equal(values, parts[path], err_msg=path)
    assert np.array_equal(values, start[path]) == (not path.startswith("adapter/")), path


def test_a_dataset_without_motion_is_refused_at_once(config, tmp_path):
  write_records(tmp_path / "still", {"train": [Clip("a", "a red sea", 8.0, [np.zeros((*SIZE, 3), np.uint8)] * 2)]})
  config = config.copy_and_resolve_references()
  config.data.path = str(tmp_path / "still")
  with pytest.raises(InputError, match="has no motion, .* prepare it again with --flow"):
    loop.train(config, tmp_path / "run")
