"""The rule table, and the trainer on eight pretended devices (in a process of its own: import fixes their number)."""

import json
import math
import os
from pathlib import Path
import re
import subprocess
import sys

import jax
from jax.sharding import AbstractMesh, PartitionSpec as P
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.parallel import batch_shardings, parameter_shardings
from panda_jax.parallel.sharding import PARAMETER_RULES, batch_specs, matrix_of
from panda_jax.training import loop
from panda_jax.training.config import load_config
from panda_jax.training.metrics import read_metrics
from panda_jax.tree import flatten, unflatten
from tests.training.toy import ToySystem, toy_config, toy_data

ROOT = Path(__file__).resolve().parents[2]
MESH = AbstractMesh((2, 4, 1), ("data", "fsdp", "context"))


def spec(shape, path=("net", "kernel"), small=0):
  abstract = jax.ShapeDtypeStruct(shape, np.float32)
  for name in reversed(path):
    abstract = {name: abstract}
  [sharding] = jax.tree.leaves(parameter_shardings(MESH, abstract, small=small))
  return sharding.spec


def test_kernels_are_split_by_output_channels_where_these_divide():
  assert spec((3, 3, 320, 640)) == P(None, None, None, "fsdp")
  assert spec((3, 3, 320, 6)) == P(None, None, "fsdp", None)   # an output convolution
  assert spec((3, 3, 9, 6)) == P()


def test_small_arrays_are_everywhere():
  assert spec((64, 64), small=64 * 64) == P(None, "fsdp")
  assert spec((64, 63), small=64 * 64) == P()
  assert spec((4096,), path=("net", "bias")) == P()


def test_a_parameter_without_a_rule_is_refused_by_name():
  with pytest.raises(ValueError, match=r"no sharding rule matches the parameter net/strange \[4, 4\]: add a row"):
    spec((4, 4), path=("net", "strange"))
  assert spec((4,), path=("net", "strange")) == P()            # a vector has nothing to split


@pytest.mark.parametrize("config, share", [("configs/tiny.py", 0), ("configs/videopanda.py:size=sd15", 0.97),
                                           ("configs/videopanda.py:size=sd21", 0.97)])
def test_every_parameter_of_every_system_has_its_place(config, share):
  """Each path is in the table, and of large networks nearly every number is split."""
  system = systems.build(load_config(config))
  leaves = flatten(jax.eval_shape(system.init, jax.random.key(0)))
  assert all(any(re.search(pattern, path) for pattern, _ in PARAMETER_RULES) for path in leaves)
  shardings = flatten(parameter_shardings(MESH, unflatten(leaves)))
  size = lambda paths: sum(math.prod(leaves[path].shape) for path in paths)
  assert size(path for path in leaves if shardings[path].spec) >= share * size(leaves)


def test_rules_match_whole_names():
  """A new kind of parameter that merely ends like an old one needs a row of its own."""
  with pytest.raises(ValueError, match="no sharding rule"):
    spec((4, 4), path=("net", "superkernel"))
  assert all(pattern.startswith("(^|/)") and pattern.endswith("$") for pattern, _ in PARAMETER_RULES)


def test_clips_that_cannot_be_shared_out_are_refused():
  with pytest.raises(InputError, match="12 clips .* 8 devices .* multiple of 8"):
    batch_shardings(MESH, {"images": jax.ShapeDtypeStruct((12, 3, 4), np.uint8)}, {"images": "b v f"})


def test_a_batch_is_split_by_the_letters_of_its_axes():
  """Clips by data and fsdp, views and frames by context; one number for each clip by clips; moving cameras by frame."""
  letters = {"images": "b v f h w c", "rays": "b v h w c", "text": "b l"}
  shapes = {"images": (8, 4, 6, 16, 16, 3), "rays": (8, 4, 2, 2, 3), "text": (8, 77), "timestep": (8,)}
  batch = {name: jax.ShapeDtypeStruct(shape, np.uint8) for name, shape in shapes.items()}
  clips = ("data", "fsdp")
  assert batch_specs(batch, letters) == {"images": P(clips, "view", "frame", None, None, None),
                                         "rays": P(clips, "view", None, None, None), "text": P(clips, None),
                                         "timestep": P(clips)}
  moving = {"rays": jax.ShapeDtypeStruct((8, 4, 6, 2, 2, 3), np.float32)}
  assert batch_specs(moving, letters)["rays"] == P(clips, "view", "frame", None, None, None)
  assert matrix_of(batch, letters) == (4, 6)


def toy_run(workdir, steps, **mesh):
  config = toy_config(steps=steps, checkpoint_every=4, validation_batches=0)
  config.mesh.update(mesh)
  loop.train(config, workdir, ToySystem(width=512), toy_data)


def losses(workdir):
  return np.array([[line["loss"], line["grad_norm"]] for line in read_metrics(Path(workdir) / "metrics.jsonl")])


def test_eight_devices_train_as_one_and_one_continues_what_eight_began(tmp_path):
  """Parameters born split over 2 x 4 devices learn what one device learns, and restore onto one device."""
  child = subprocess.run(
      [sys.executable, "-m", "tests.parallel.test_sharding", str(tmp_path / "eight")], cwd=ROOT, capture_output=True,
      text=True, timeout=120,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"})
  assert child.returncode == 0, child.stderr
  assert json.loads(child.stdout.splitlines()[-1]) == {
      "net/middle/kernel": [512, 128], "net/first/kernel": [4, 512], "net/middle/bias": [512],
      "moments": [[512, 128], [512, 128]]}
  toy_run(tmp_path / "one", steps=4)
  np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one"), rtol=1e-4)

  toy_run(tmp_path / "one", steps=6)
  toy_run(tmp_path / "eight", steps=6)                         # in this process there is one device
  np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one"), rtol=1e-3)
  assert len(losses(tmp_path / "eight")) == 6


def _eight(workdir):
  """Runs on eight devices and prints what one of them holds of a few parameters."""
  from panda_jax.parallel import make_mesh, state_shardings
  from panda_jax.training.optimizer import make_optimizer
  from panda_jax.training.state import create_state
  assert jax.device_count() == 8
  toy_run(workdir, steps=4, data=2, fsdp=4)

  mesh, system = make_mesh({"data": 2, "fsdp": 4}), ToySystem(width=512)
  optimizer = make_optimizer(toy_config().optimizer, lambda step: 0.1)
  create = lambda key: create_state(system.init(key), system.trainable, optimizer)
  abstract = jax.eval_shape(create, jax.random.key(0))
  state = jax.jit(create, out_shardings=state_shardings(mesh, abstract, optimizer))(jax.random.key(0))
  params = flatten(state.params)
  held = {path: params[path].addressable_shards[0].data.shape
          for path in ("net/middle/kernel", "net/first/kernel", "net/middle/bias")}
  held["moments"] = [leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(state.opt_state)
                     if leaf.shape == (512, 512)]
  print(json.dumps(held))


if __name__ == "__main__":
  _eight(sys.argv[1])
