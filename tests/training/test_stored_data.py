"""Training on stored crops and latents: the whole loop, and refusing what another model has made."""

import json
import shutil

import numpy as np
import pytest

from configs import tiny
from panda_jax import systems
from panda_jax.data.latents import ViewLatents
from panda_jax.data.stores import Crops
from panda_jax.errors import InputError
from panda_jax.systems.starting_point import videopanda
from panda_jax.training import loop
from panda_jax.training.metrics import read_metrics
from panda_jax.tree import unflatten
from panda_jax.weights import save_model
from tests.data.stored import clips, write_store
from tests.systems import toy

pytestmark = pytest.mark.usefixtures("quick_to_compile")

SIZE = (16, 32)


def small_config():
  """configs/tiny.py with views of 8 pixels, one level of eight channels and the layers that are quick to compile."""
  config = tiny.get_config("runlocal")
  config.model.view_size, config.matrix.shapes = 8, ((2, 2),)
  config.model.text = dict(channels=8, length=8, heads=2)
  config.model.unet.update(block_out_channels=(8,), attention=(True,), heads=(2,), norm_groups=4,
                           temporal=False, multiview=False)
  config.data.validation_path = ""
  config.training.update(steps=3, checkpoint_every=2, validate_every=3, validation_timesteps=(500,), sample_every=0)
  return config


def write(path, store):
  members = clips(3, frames=3, caption="a red balloon over the sea {}")
  return write_store(path, {"train": members, "validation": members[:2]}, store, SIZE)


@pytest.mark.parametrize("make", [
  lambda system: Crops(system.rig, system.view_size, 2, "jpeg"),
  lambda system: ViewLatents(system, {}, yaws=2, flips=True)],
  ids=["crops", "latents"])
def test_the_tiny_model_trains_on_every_store_of_views(tmp_path, make):
  config = small_config()
  path = str(write(tmp_path / "set", make(systems.build(config))))
  config.data.update(path=path, validation_path=path, flip=0.5)
  loop.train(config, tmp_path / "run")
  lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
  assert [line["step"] for line in lines] == [0, 1, 2, 3] and all(np.isfinite(line["loss"]) for line in lines[1:])
  assert "validation_loss" in lines[-1]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
  """(dataset of latents and text states, config of a run of the model that made it)."""
  folder = tmp_path_factory.mktemp("learned")
  tensors, config = videopanda(toy.networks(block_out_channels=(8,), attention=(True,), temporal=False),
                               toy.write_tokenizer(folder / "tokenizer"), view_size=toy.VIEW_SIZE, frames=3, stage=1)
  params = unflatten({path: tensor.read() for path, tensor in tensors.items()})
  save_model(folder / "model", params, config)
  run = small_config()
  run.model, run.init, run.matrix.shapes = config.model, str(folder / "model"), ((1, 2),)
  return write(folder / "set", ViewLatents(systems.build(run), params)), run


def run_on(learned, path):
  config = learned[1].copy_and_resolve_references()
  config.data.path = str(path)
  return config


def changed(path, folder, **about):
  """A copy of a dataset that says something else of itself."""
  shutil.copytree(path, folder)
  metadata = json.loads((folder / "metadata.json").read_text())
  metadata["about"].update(about)
  metadata["store"] = metadata["about"]["store"]
  (folder / "metadata.json").write_text(json.dumps(metadata))
  return folder


def test_a_model_on_a_vae_and_clip_trains_on_latents_and_text_states(learned, tmp_path):
  loop.train(run_on(learned, learned[0]), tmp_path / "run")
  assert np.isfinite(read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["loss"])


@pytest.mark.parametrize("about, words", [
  ({"codec weights": "sums:0"}, "it stores latents of other codec weights"),
  ({"text weights": "sums:0"}, "it stores texts of other text encoder weights"),
  ({"codec": {"kind": "cosine", "chroma_size": 2}}, "it stores latents of another codec"),
  ({"tokenizer": [1, 2, 3]}, "it stores texts of another tokenizer")])
def test_what_another_model_has_made_is_refused_before_the_first_step(learned, tmp_path, about, words):
  path = changed(learned[0], tmp_path / "set", **about)
  with pytest.raises(InputError, match=f"set is stale: {words} .*prepare the dataset again"):
    loop.train(run_on(learned, path), tmp_path / "run")
  assert not (tmp_path / "run" / "config.json").exists()


def test_validation_data_are_looked_at_as_well(learned, tmp_path):
  config = run_on(learned, learned[0])
  config.data.validation_path = str(changed(learned[0], tmp_path / "other", **{"codec weights": "sums:0"}))
  with pytest.raises(InputError, match="other is stale: it stores latents of other codec weights"):
    loop.train(config, tmp_path / "run")


def test_whole_panoramas_are_refused_by_a_system_of_views(learned, tmp_path):
  path = changed(learned[0], tmp_path / "set", store="panorama_latents")
  with pytest.raises(InputError, match="stores latents of whole panoramas, on which videopanda does not train"):
    loop.train(run_on(learned, path), tmp_path / "run")
