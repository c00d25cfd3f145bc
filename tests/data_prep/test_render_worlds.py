"""Rendered worlds are the same with and without their motion, their motion is what `panda prepare --flow` stores."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from panda_jax.data.flow import DISFlow, encode_flow
from panda_jax.data.records import dataset_info, decode_frame, decode_motion, open_records

SCRIPT = Path(__file__).resolve().parents[2] / "data_prep" / "render_worlds.py"


def run(*arguments) -> subprocess.CompletedProcess:
  environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
  return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True,
                        text=True, timeout=120)


def test_motion_is_beside_the_same_frames(tmp_path):
  small = ("--train", 1, "--validation", 1, "--frames", 3, "--height", 32)
  for name, flow in (("plain", ()), ("moving", ("--flow",))):
    done = run("--output", tmp_path / name, *small, *flow)
    assert done.returncode == 0, done.stderr
  plain, moving = (open_records(tmp_path / name, "train")[0] for name in ("plain", "moving"))
  frames = np.stack([decode_frame(data) for data in moving["frames"]])
  assert moving["frames"] == plain["frames"] and moving["caption"] == plain["caption"] and "motion" not in plain
  np.testing.assert_array_equal(decode_motion(moving, range(3)), encode_flow(DISFlow()(frames), 64))
  about = dataset_info(tmp_path / "moving")["about"]["motion"]
  assert about["estimator"] == "dis" and about["pixels of width"] == 1024


def test_an_estimator_that_there_is_not_is_one_sentence_and_leaves_nothing(tmp_path):
  done = run("--output", tmp_path / "worlds", "--flow", "no")
  assert done.returncode == 1 and done.stderr.startswith("render_worlds: there is no flow estimator 'no'")
  assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
