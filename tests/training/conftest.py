import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def on_eight_devices(tmp_path_factory):
  """What `tests.training.eight_devices` prints, and "workdir", where it saved a checkpoint."""
  workdir = tmp_path_factory.mktemp("eight")
  child = subprocess.run(
      [sys.executable, "-m", "tests.training.eight_devices", str(workdir)], cwd=ROOT, capture_output=True, text=True,
      timeout=120, env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"})
  assert child.returncode == 0, child.stderr
  return json.loads(child.stdout.splitlines()[-1]) | {"workdir": workdir}


@pytest.fixture(scope="session")
def programs_folder(tmp_path_factory):
  return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def shared_programs(programs_folder):
  """Runs of one process and their children share compiled steps; gives the environment of such children."""
  settings = {"jax_compilation_cache_dir": str(programs_folder), "jax_persistent_cache_min_compile_time_secs": 0.0,
              "jax_persistent_cache_min_entry_size_bytes": -1}
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  yield {name.upper(): str(value) for name, value in settings.items()}
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture(scope="module")
def quick_to_compile(shared_programs):
  """For modules that test the loop and not the compiler."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
