"""The tiny systems learn on eight pretended devices what they learn on one; `meshes` has the way and more meshes."""

import functools
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(shape: str, *options: str) -> dict:
  """Mesh -> what `meshes.compare` says, of matrices of this shape; "sample" -> `meshes.compare_samples`."""
  child = subprocess.run(
      [sys.executable, "-m", "tests.parallel.meshes", "--shapes", shape, *options], cwd=ROOT,
      capture_output=True, text=True, timeout=900,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"})
  assert child.returncode == 0, child.stderr[-5000:]
  lines = [json.loads(line) for line in child.stdout.splitlines()]
  return functools.reduce(dict.__or__, [line.get(shape, line) for line in lines])


@pytest.fixture(scope="module")
def found():
  return run("4x2", "--meshes", "2x2x2,1x1x8", "--sample", "8x2,1x2x4")


@pytest.mark.parametrize("mesh", ["2x2x2", "1x1x8"])
def test_eight_devices_learn_what_one_learns(found, mesh):
  """Losses and parameters of five steps, to float32's rounding, with statistics over all frames in every norm."""
  assert found[mesh]["loss"] < 1e-5 and found[mesh]["parameters"] < 1e-5


def test_eight_devices_sample_what_one_samples(found):
  """Views and frames shared by four, clips by two: the same noise, the same panoramas to a level's rounding."""
  assert found["sample"]["latents"] < 1e-4 and found["sample"]["panorama"] <= 1


def test_nothing_is_exchanged_but_what_the_design_says(found):
  """Frames by all-to-all at the motion modules; keys and values of the multi-view layers where views are apart, too;
  parameters over fsdp; sums. No activation is gathered otherwise."""
  motion_modules, multiview_layers = 6, 4                      # of this network
  shared_views, split_frames = found["1x1x8"]["collectives"], found["2x2x2"]["collectives"]
  # Both ways through a motion module, forwards and backwards.
  assert shared_views["all-to-all"] == split_frames["all-to-all"] == 4 * motion_modules
  assert shared_views["all-gather"] == 2 * multiview_layers == shared_views["reduce-scatter"]
  assert split_frames["all-gather"] > 0 and split_frames["reduce-scatter"] > 0
  for collectives in (shared_views, split_frames):
    assert "collective-permute" not in collectives


def test_360dvd_learns_on_eight_devices_what_it_learns_on_one():
  """Frames are shared out, which the adapter looks along, too: it asks its neighbours for one frame each."""
  found = run("1x4", "--config", "configs/dvd360.py:size=tiny,runlocal", "--meshes", "2x2x2")
  assert found["2x2x2"]["loss"] < 1e-5 and found["2x2x2"]["parameters"] < 1e-5
  assert found["2x2x2"]["collectives"]["collective-permute"] > 0
