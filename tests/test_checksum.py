"""One checksum for the same weights, wherever they lie."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.checksum import checksum

ROOT = Path(__file__).resolve().parents[1]


def params(seed=0):
  rng = np.random.default_rng(seed)
  return {"a": {"kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32),
                "bias": rng.normal(size=8).astype(np.float32)},
          "b": {"scale": np.float32(rng.normal()), "embedding": rng.normal(size=(40, 16)).astype(np.float32)}}


def test_on_the_host_and_on_a_device_it_is_the_same():
  assert checksum(params()) == checksum(jax.tree.map(jnp.asarray, params())) == checksum(params())


def test_half_precision_counts_as_the_numbers_it_stands_for():
  half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), params())
  single = jax.tree.map(lambda leaf: leaf.astype(np.float32), half)
  assert checksum(half) == checksum(single) == checksum(jax.tree.map(jnp.asarray, half)) != checksum(params())


@pytest.mark.parametrize("change", [
  lambda tree: tree["a"]["bias"].__setitem__(3, np.nextafter(tree["a"]["bias"][3], np.float32(9))),
  lambda tree: tree["a"]["kernel"].__setitem__(Ellipsis, tree["a"]["kernel"][:, ::-1].copy()),
  lambda tree: tree["b"].update(embedding=tree["b"]["embedding"].reshape(16, 40)),
  lambda tree: tree["b"].update(other=tree["b"].pop("embedding")),
  lambda tree: tree["a"]["bias"].__setitem__(slice(0, 2), tree["a"]["bias"][[1, 0]]),
], ids=["one bit", "another order", "another shape", "another name", "two exchanged"])
def test_any_change_is_seen(change):
  changed = params()
  change(changed)
  assert checksum(changed) != checksum(params())


def test_large_arrays_are_summed_in_parts_to_the_same_sum(monkeypatch):
  from panda_jax import checksum as module
  whole = checksum(params())
  monkeypatch.setattr(module, "_PART", 7)
  assert checksum(params()) == whole


def test_in_parts_on_eight_devices_it_is_the_same_and_nothing_is_gathered():
  code = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from panda_jax import checksum
from tests.test_checksum import params
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
lies = {"a": {"kernel": P(None, None, "fsdp", "data"), "bias": P("fsdp")}, "b": {"scale": P(), "embedding": P("fsdp")}}
put = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))
placed = jax.tree.map(put, params(), lies)
text = jax.jit(checksum._sums, out_shardings=NamedSharding(mesh, P())).lower(placed["a"]["kernel"]).compile().as_text()
print(len(jax.devices()), checksum.checksum(placed), "all-gather" in text)
"""
  child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
                         env=os.environ | {"JAX_PLATFORMS": "cpu",
                                           "XLA_FLAGS": "--xla_force_host_platform_device_count=8"})
  assert child.returncode == 0, child.stderr
  assert child.stdout.split() == ["8", checksum(params()), "False"]
