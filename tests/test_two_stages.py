"""Stage one, stage two and a long video through the command line: the whole method at its smallest."""

import json

import numpy as np
import pytest

from panda_jax.cli.main import main
from panda_jax.data.records import Clip, write_records
from panda_jax.data.video import probe
from panda_jax.data.worlds import draw_world, render
from panda_jax.systems.videopanda import copied_from, is_spatial
from panda_jax.training.metrics import read_metrics
from panda_jax.tree import flatten
from panda_jax.weights import load_model

QUICK = ["--config.training.steps=2", "--config.training.checkpoint_every=2", "--config.training.validate_every=2",
         "--config.data.path=worlds", "--config.matrix.shapes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """one/ and two/: two steps of stage one, and two of stage two that begin from it."""
  folder = tmp_path_factory.mktemp("stages")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PANDA_CACHE", "off")
    patch.chdir(folder)
    clips = [Clip(f"w{seed}", draw_world(seed).caption, 8.0, list(render(draw_world(seed), 8, (64, 128))))
             for seed in range(2)]
    write_records("worlds", {"train": clips, "validation": clips}, encoding="png")
    for stage, shapes, more in ((1, "((1, 3),)", []), (2, "((2, 3),)", ["--config.init=one"])):
      assert main(["train", "--config", f"configs/videopanda.py:stage={stage},size=tiny,runlocal",
                   "--workdir", {1: "one", 2: "two"}[stage], *QUICK[:-1], f"{QUICK[-1]}={shapes}", *more]) == 0
    yield folder


def leaves(folder):
  return {path: np.asarray(leaf) for path, leaf in flatten(load_model(folder / "model")[0]["unet"]).items()}


def test_stage_two_begins_as_stage_one_ended_and_leaves_the_spatial_layers_bit_for_bit(folder):
  one, two = leaves(folder / "one"), leaves(folder / "two")
  assert one.keys() < two.keys()
  spatial = [path for path in one if is_spatial(path)]
  moved = [path for path in two if not is_spatial(path) and path in one and (one[path] != two[path]).any()]
  assert spatial and moved
  for path in spatial:
    np.testing.assert_array_equal(two[path], one[path], err_msg=path)
  for path in two.keys() - one.keys():                          # close to the attention that it was copied from
    if "attn_multiview/attention" in path:
      np.testing.assert_allclose(two[path], one[copied_from(path)], atol=0.02)


def test_frozen_layers_take_no_room_in_the_optimizer(folder):
  """Nothing of the optimizer's state has the name of a spatial layer."""
  step = next(path for path in (folder / "two" / "checkpoints").iterdir() if path.name.isdigit())
  names = (step / "state" / "_METADATA").read_text()
  moments = [key for key in json.loads(names)["tree_metadata"] if "opt_state" in key]
  assert any("motion_modules" in key for key in moments) and not any("'resnets'" in key for key in moments)


def test_validation_losses_stand_in_the_metrics_by_timestep(folder):
  line = {key: value for line in read_metrics(folder / "two" / "metrics.jsonl") for key, value in line.items()}
  by_timestep = [line[f"validation_loss_t{timestep:04d}"] for timestep in (200, 800)]
  assert line["validation_loss"] == pytest.approx(np.mean(by_timestep))


def test_a_long_video_comes_out_of_stage_two(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  assert main(["generate", "--workdir", "two", "--prompt", "dawn over the open sea", "--frames", "9", "--name", "long",
               "--steps", "2", "--no-viewer"]) == 0
  assert capsys.readouterr().out.split() == ["samples/long_360.mp4"]
  info = probe("samples/long_360.mp4")
  assert (info.width, info.height, info.frames) == (64, 32, 9)


def test_stage_two_without_stage_one_is_refused(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  assert main(["train", "--config", "configs/videopanda.py:stage=2,size=tiny,runlocal", "--workdir", "three",
               "--config.data.path=worlds"]) == 2
  assert "the spatial layers of this system are pretrained" in capsys.readouterr().err
