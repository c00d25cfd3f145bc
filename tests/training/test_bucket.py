"""A whole run in a bucket: what lands there, what comes back, and that nothing is left in a folder called "gs:"."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.training import loop
from panda_jax.training.checkpoint import load_average
from panda_jax.training.init import find_source
from panda_jax.training.metrics import read_metrics
from panda_jax.weights import load_model
from tests import fake_bucket
from tests.training.toy import ToySystem, toy_config, toy_data


@pytest.fixture(scope="module")
def bucket():
  with pytest.MonkeyPatch.context() as environment, fake_bucket.bucket(environment) as address:
    yield address


@pytest.fixture(scope="module")
def finished(bucket, shared_programs, tmp_path_factory):
  """A run in the bucket in two sessions, the second after the newest checkpoint was damaged, and the same on a disk."""
  local = tmp_path_factory.mktemp("local")
  with pytest.MonkeyPatch.context() as place:
    place.chdir(local)
    for workdir in (f"{bucket}/runs/one", "one"):
      loop.train(toy_config(steps=8, sample_every=4), workdir, Painting(), toy_data)
    victim = max((name for name in fake_bucket.objects() if name.startswith("runs/one/checkpoints/8/state/")), key=len)
    fake_bucket.put(victim, fake_bucket.objects()[victim][:-3])
    for workdir in (f"{bucket}/runs/one", "one"):
      loop.train(toy_config(steps=12, sample_every=4), workdir, Painting(), toy_data)
    assert not Path("gs:").exists()
  return f"{bucket}/runs/one", local / "one"


class Painting(ToySystem):
  def preview(self, params, batch, rng):
    b, v, f, _ = batch["numbers"].shape
    return jnp.zeros((b, 1, v, f, 4, 8, 3), jnp.uint8)


def test_a_run_in_a_bucket_is_the_same_run(finished):
  """To the last bit, over a restart and a damaged checkpoint, with the files of one on a disk."""
  remote, local = finished
  jax.tree.map(np.testing.assert_array_equal, load_average(remote), load_average(local))
  jax.tree.map(np.testing.assert_array_equal, load_model(f"{remote}/model")[0], load_model(local / "model")[0])
  assert [line.get("loss") for line in read_metrics(f"{remote}/metrics.jsonl")] == [
      line.get("loss") for line in read_metrics(local / "metrics.jsonl")]
  there = {name.removeprefix("runs/one/") for name in fake_bucket.objects()}
  here = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
  apart = ("checkpoints/", "tensorboard/")
  assert {name for name in there if not name.startswith(apart)} == {name for name in here if not name.startswith(apart)}
  assert {name.split("/")[1] for name in there if name.startswith("checkpoints/")} == {"8", "8.damaged", "12"}
  assert any(name.startswith("tensorboard/events") for name in there)


def test_another_run_starts_from_one_in_a_bucket(finished, tmp_path):
  """From its checkpoints, and from its model folder."""
  remote, _ = finished
  assert find_source(remote).is_run and not find_source(f"{remote}/model").is_run
  for index, source in enumerate((remote, f"{remote}/model")):
    config = toy_config(steps=4)
    config.init = source
    loop.train(config, tmp_path / str(index), ToySystem(), toy_data)
    assert json.loads((tmp_path / str(index) / "config.json").read_text())["init"] == source


def test_a_run_in_a_bucket_is_tied_to_its_config(finished):
  config = toy_config(steps=12)
  config.seed = 7
  with pytest.raises(InputError, match="gs://bucket/runs/one was begun with another config .*seed was 3, is now 7"):
    loop.train(config, finished[0], ToySystem(), toy_data)
