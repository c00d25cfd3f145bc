"""Training on stored crops and latents: the whole loop, and refusing what another model has made."""

import json

import jax
import numpy as np
import pytest

from configs import tiny
from panda_jax import systems
from panda_jax.data.latents import PanoramaLatents, ViewLatents
from panda_jax.data.stores import Crops
from panda_jax.errors import InputError
from panda_jax.systems.starting_point import videopanda
from panda_jax.training import loop
from panda_jax.training.metrics import read_metrics
from panda_jax.tree import unflatten
from panda_jax.weights import save_model
from tests.data.stored import clips, write_store
from tests.systems import toy

SIZE = (16, 32)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile(shared_programs):
  """The loop is tested here, not the compiler."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def small_config(steps=3):
  """configs/tiny.py with one level of eight channels and views of 8 pixels."""
  config = tiny.get_config("runlocal")
  config.model.view_size, config.matrix.shapes = 8, ((2, 2),)
  config.model.text = dict(channels=8, length=8, heads=2)
  config.model.unet.update(block_out_channels=(8,), attention=(True,), heads=(2,), norm_groups=4)
  config.model.sampling.steps = 2
  config.training.update(steps=steps, checkpoint_every=2, validate_every=3, validation_timesteps=(500,), sample_every=0)
  return config


def write(path, store):
  members = clips(3, frames=3, caption="a red balloon over the sea {}")
  return write_store(path, {"train": members, "validation": members[:2]}, store, SIZE)


@pytest.mark.parametrize("make", [
  lambda system: Crops(system.rig, system.view_size, 2, "jpeg"), lambda system: ViewLatents(system, {}, yaws=2, flips=True)],
  ids=["crops", "latents"])
def test_the_tiny_model_trains_on_every_store_of_views_and_resumes(tmp_path, make):
  config = small_config()
  path = str(write(tmp_path / "set", make(systems.build(config))))
  config.data.update(path=path, validation_path=path, flip=0.5)
  config.training.sample_every = 3
  loop.train(config, tmp_path / "run")
  lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
  assert [line["step"] for line in lines] == [0, 1, 2, 3] and all(np.isfinite(line["loss"]) for line in lines[1:])
  assert "validation_loss" in lines[-1]
  assert (tmp_path / "run" / "samples" / "step_000003.png").is_file()

  other = config.copy_and_resolve_references()                 # in two parts it is the same run
  for steps in (2, 3):
    other.training.steps = steps
    loop.train(other, tmp_path / "parts")
  assert read_metrics(tmp_path / "parts" / "metrics.jsonl")[-1]["loss"] == lines[-1]["loss"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
  """(folder of a model on a VAE and CLIP, config of a run of it, system, params)."""
  folder = tmp_path_factory.mktemp("learned")
  tensors, config = videopanda(toy.networks(block_out_channels=(8,), attention=(True,)),
                               toy.write_tokenizer(folder / "tokenizer"), view_size=toy.VIEW_SIZE, frames=3)
  params = unflatten({path: tensor.read() for path, tensor in tensors.items()})
  save_model(folder / "model", params, config)
  run = small_config()
  run.model, run.init = config.model, str(folder / "model")
  return run, systems.build(run), params


def test_a_model_on_a_vae_and_clip_trains_on_latents_and_text_states(learned, tmp_path):
  config, system, params = learned
  config = config.copy_and_resolve_references()
  config.data.path = config.data.validation_path = str(write(tmp_path / "set", ViewLatents(system, params)))
  loop.train(config, tmp_path / "run")
  assert np.isfinite(read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["loss"])


@pytest.mark.parametrize("network, words", [
  ("vae", "is stale: it stores latents of other codec weights"),
  ("text", "is stale: it stores texts of other text encoder weights")])
def test_latents_and_texts_of_another_model_are_refused_before_the_first_step(learned, tmp_path, network, words):
  config, system, params = learned
  config = config.copy_and_resolve_references()
  path = write(tmp_path / "set", ViewLatents(system, params))
  about = json.loads((path / "metadata.json").read_text())
  about["about"][{"vae": "codec weights", "text": "text weights"}[network]] = "sums:0"
  (path / "metadata.json").write_text(json.dumps(about))
  config.data.path = str(path)
  with pytest.raises(InputError, match=f"{words} .*prepare the dataset again"):
    loop.train(config, tmp_path / "run")
  assert not (tmp_path / "run" / "config.json").exists()


def test_whole_panoramas_are_refused_by_a_system_of_views(learned, tmp_path):
  config, system, params = learned
  config = config.copy_and_resolve_references()
  config.data.path = str(write(tmp_path / "set", PanoramaLatents(system, params, SIZE)))
  with pytest.raises(InputError, match="stores latents of whole panoramas, and videopanda trains on views"):
    loop.train(config, tmp_path / "run")
