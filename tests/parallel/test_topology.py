"""Names of chips and topologies, and libtpu's devices where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from panda_jax.errors import InputError
from panda_jax.parallel import topology

NO_LIBTPU = importlib.util.find_spec("libtpu") is None


@pytest.mark.parametrize("kind, flops", [
    ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v5p", 459e12), ("TPU v6 lite", 918e12),
    ("NVIDIA H200", 989.4e12), ("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA A100-SXM4-80GB", 312e12), ("cpu", None), ("TPU v1", None)])
def test_the_peak_of_a_device(kind, flops):
  assert topology.peak_flops(kind) == flops


def test_clocks_and_peaks_belong_together():
  """A matrix unit takes a row per cycle: the peak is a whole number of units' products, at the clock."""
  for chip in topology.CHIPS.values():
    units = chip.peak_flops / chip.clock / 2 / 128**2
    assert units == pytest.approx(round(units), rel=0.01)


@pytest.mark.parametrize("name, words", [
    ("v5p-512", "256 chips, such as v5p:4x8x8"), ("v4-8", "4 chips, such as v4:2x2x1"),
    ("v6e-256", "256 chips, such as v6e:16x16"), ("v5litepod-16", "16 chips, such as v5e:4x4"),
    ("v5e-8", "8 chips, such as v5e:2x4"), ("v5p", "such as v5p:4x4x4"), ("h100:8", "no chip is named 'h100'"),
    ("v5p:4x4", "3 dimensions"), ("v6e:4x4x4", "2 dimensions"), ("v5e:4x0", "2 dimensions"),
    ("v5e:axb", "2 dimensions")])
def test_names_that_are_no_topology(name, words):
  with pytest.raises(InputError, match=words):
    topology.parse(name)


def test_without_libtpu_one_is_told_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match="pip install libtpu"):
    topology.devices("v5e:2x2")


def test_no_slices():
  with pytest.raises(InputError, match="1 or more"):
    topology.devices("v5e:2x2", slices=0)


@pytest.mark.skipif(NO_LIBTPU, reason="libtpu is not installed")
def test_devices_that_are_not_here():
  """In a process of its own: libtpu reads its environment once."""
  script = """
import json
from panda_jax.errors import InputError
from panda_jax.parallel import topology
found = {}
for name, slices in (("v4:2x2x1", 1), ("v5e:1x1", 1), ("v5p:2x2x2", 1), ("v6e:4x4", 2), ("tpu7x:2x2x1", 1)):
  devices = topology.devices(name, slices)
  chip, _ = topology.parse(name)
  found[name] = [len(devices), devices[0].device_kind in chip.kinds, getattr(devices[-1], "slice_index", 0)]
try:
  topology.devices("v5e:3x3")
except InputError as error:
  found["error"] = str(error)
print(json.dumps(found))
"""
  done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **topology.ENVIRONMENT}, text=True,
                        capture_output=True, timeout=120)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert "v5e:3x3 does not exist" in found.pop("error")
  assert found == {"v4:2x2x1": [4, True, 0], "v5e:1x1": [1, True, 0], "v5p:2x2x2": [8, True, 0],
                   "v6e:4x4": [32, True, 1], "tpu7x:2x2x1": [8, True, 0]}
