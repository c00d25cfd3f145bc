import json
import os
from pathlib import Path
import subprocess
import sys

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
