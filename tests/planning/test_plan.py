"""Requests are answered from the store, or by a process that compiles for chips that are not here."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import signal
import subprocess

import jax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from panda_jax.errors import InputError
from panda_jax.planning.plan import Planner, Request
from panda_jax.planning.programs import device_bytes
from panda_jax.planning.store import Store
from panda_jax.training.config import load_config, to_plain
from tests.planning.toy_reports import report

REQUEST = Request({"seed": 0}, "v5e:2x2", 1, "step", (8, 6))


def answering(answer, returncode=0):
  """A stand-in for subprocess.run whose process writes this answer."""
  def run(command, **_):
    if answer is not None:
      with open(command[3], "w") as file:
        json.dump(answer, file)
    return subprocess.CompletedProcess(command, returncode, stderr="libtpu says no\n")
  return run


def test_the_second_time_nothing_is_compiled(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(subprocess, "run", answering({"report": report()}))
  assert Planner(Store(tmp_path), said.append)(REQUEST) == report(kept=False)
  monkeypatch.setattr(subprocess, "run", None)
  assert Planner(Store(tmp_path), said.append)(REQUEST) == report(kept=True)
  assert said == ["compiling step 8x6 for v5e:2x2"]


def test_another_config_is_another_plan(tmp_path, monkeypatch):
  monkeypatch.setattr(subprocess, "run", answering({"report": report()}))
  planner = Planner(Store(tmp_path))
  planner(REQUEST)
  for change in ({"config": {"seed": 1}}, {"topology": "v5e:2x4"}, {"slices": 2}, {"shape": (3, 16)},
                 {"guidance": 1.0}):
    assert not planner(dataclasses.replace(REQUEST, **change))["kept"]


def test_bad_input_is_the_users_and_a_killed_compiler_is_explained(monkeypatch):
  monkeypatch.setattr(subprocess, "run", answering({"error": "batch_size 3 cannot be shared"}))
  with pytest.raises(InputError, match="batch_size 3"):
    Planner(Store(None))(REQUEST)
  monkeypatch.setattr(subprocess, "run", answering(None, -signal.SIGKILL))
  with pytest.raises(InputError, match="memory runs out"):
    Planner(Store(None))(REQUEST)


def test_a_compiler_that_crashes_is_named_with_what_it_said(monkeypatch):
  said = "loading\nF1127 x.cc:12] Check failed: Unimplemented DMA from hbm to hbm\n*** stack trace ***\n  @ 0x1\n"
  monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, -6, stderr=said))
  monkeypatch.setattr(importlib.metadata, "version", {"libtpu": "0.0.52"}.get)
  with pytest.raises(InputError, match=r"libtpu 0.0.52 failed to compile step 8x6 for v5e:2x2 \(F1127 .* hbm\): its"):
    Planner(Store(None))(REQUEST)


def test_any_other_end_is_a_bug_with_what_was_said(monkeypatch):
  monkeypatch.setattr(subprocess, "run", answering(None, 1))
  with pytest.raises(RuntimeError, match="libtpu says no"):
    Planner(Store(None))(REQUEST)


def test_bytes_that_one_device_holds():
  mesh = AbstractMesh((2, 4), ("data", "fsdp"))
  tree = {"split": jax.ShapeDtypeStruct((8, 16), "float32", sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp"))),
          "whole": jax.ShapeDtypeStruct((8, 16), "bfloat16", sharding=NamedSharding(mesh, PartitionSpec()))}
  assert device_bytes(tree) == 8 * 4 * 4 + 8 * 16 * 2


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_real_worker():
  """What the state takes of a real config, and a config that cannot be; nothing is compiled."""
  config = to_plain(load_config("configs/tiny.py"))
  config["mesh"] = {"data": -1, "fsdp": 2, "context": 2}
  request = Request(config, "v5e:2x2", 2, "step", (4, 6), clips_per_chip=3, state_alone=True)
  report = Planner(Store(None))(request)
  assert report["mesh"] == {"data": 2, "fsdp": 2, "context": 2} and report["clips"] == 12
  assert 2**20 < report["state"] < 2**30
  config["training"]["remat"] = "nonsense"
  with pytest.raises(InputError, match="training.remat must be one of"):
    Planner(Store(None))(dataclasses.replace(request, config=config))
