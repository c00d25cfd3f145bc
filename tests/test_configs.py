"""configs/videopanda.py and configs/ablations.py: what each sets, and that its steps can be traced."""

import importlib
import re

import jax
import pytest

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.training.config import check_config, load_config, to_plain
from tests.fast import init_key

ablations = importlib.import_module("configs.ablations")
videopanda = importlib.import_module("configs.videopanda")
SIZES = tuple(videopanda.SIZES)


def flat(config) -> dict:
  def walk(tree, prefix):
    for key, value in tree.items():
      if isinstance(value, dict):
        yield from walk(value, f"{prefix}{key}.")
      else:
        yield f"{prefix}{key}", value
  return dict(walk(to_plain(config), ""))


def differences(a, b) -> dict:
  """{key: value in b} where two configs differ."""
  a, b = flat(a), flat(b)
  return {key: b.get(key) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def trace_loss(config, shape, batch_size=1):
  """The loss by shapes alone: nothing is computed."""
  system = systems.build(config)
  params = jax.eval_shape(system.init, init_key(0))
  batch = dict(system.batch_spec(shape, batch_size))
  loss, _ = jax.eval_shape(lambda params, batch, rng: system.loss(params, batch, rng), params, batch, jax.random.key(0))
  return loss


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("camera", ["rig", "free"])
def test_every_stage_and_size_is_a_system(stage, size, camera):
  config = load_config(f"configs/videopanda.py:stage={stage},size={size},camera={camera}")
  check_config(config)
  system = systems.build(config)
  assert system.own_view == (stage == 2 and camera == "free")
  views = {views for views, _ in config.matrix.shapes}
  assert max(views) <= len(system.rig) + system.own_view
  assert (config.model.freeze_spatial, config.model.unet.multiview) == ((stage == 2,) * 2)
  if stage == 1:
    assert config.matrix.shapes == ((1, 16),) and config.model.conditioning.regimes == ("text",)
  else:
    assert config.matrix.shapes == ((3, 16), (4, 12), (6, 8), (8, 6))


@pytest.mark.parametrize("source, shape", [
  ("configs/videopanda.py:stage=1,size=sd15", (1, 16)), ("configs/videopanda.py:size=sd21", (8, 6))])
def test_full_size_losses_can_be_traced(source, shape):
  """At full size nothing else can be checked on a small machine."""
  assert trace_loss(load_config(source), shape).shape == ()


def test_stage_two_has_the_architecture_of_stage_one_but_for_what_it_adds():
  for size in SIZES:
    one, two = (load_config(f"configs/videopanda.py:stage={stage},size={size}") for stage in (1, 2))
    differing = differences(one, two)
    assert {key for key in differing if key.startswith(("model.unet", "model.codec", "model.text"))} == {
      "model.unet.multiview", "model.unet.view_conditions"}


@pytest.mark.parametrize("rig, shapes", [
  ("horizontal4", ((3, 16), (4, 12))), ("cubemap", ((3, 16), (4, 12), (6, 8))), ("horizontal8", videopanda.SHAPES),
  ("icosahedron", videopanda.SHAPES)])
def test_other_rigs_train_on_the_matrices_that_they_have_views_for(rig, shapes):
  config = load_config(f"configs/videopanda.py:size=tiny,rig={rig}")
  assert config.matrix.shapes == shapes and systems.build(config).rig.name == rig


TABLE_3 = {"full": {}, "single_task": {"model.conditioning.regimes": ["video"]},
           "fixed_matrix": {"matrix.shapes": [[8, 6]]},
           "single_task_fixed_matrix": {"matrix.shapes": [[8, 6]], "model.conditioning.regimes": ["video"]}}
APPENDIX = {
  "no_shift": {"model.snr_shift": 1.0}, "uniform_shift": {"model.snr_shift_mode": "uniform"},
  "epsilon": {"model.prediction": "epsilon"},
  "epsilon_no_shift": {"model.prediction": "epsilon", "model.snr_shift": 1.0},
  "no_noise_augmentation": {"model.conditioning.max_view_sigma": 0.0, "model.conditioning.max_row_sigma": 0.0,
                            "model.sampling.row_sigma": 0.0},
  "clean_view": {"model.conditioning.max_view_sigma": 0.0},
  "freeze": {}, "no_freeze": {"model.freeze_spatial": False},
  "four_views": {"model.rig": "horizontal4", "matrix.shapes": [[3, 16], [4, 12]]},
  "six_views": {"model.rig": "horizontal6", "matrix.shapes": [[3, 16], [4, 12], [6, 8]]}}


@pytest.mark.parametrize("row", ablations.ROWS)
def test_an_ablation_changes_what_it_is_named_after_and_nothing_else(row):
  full, changed = (load_config(f"configs/ablations.py:row={name},size=sd15") for name in ("full", row))
  assert differences(full, changed) == (TABLE_3 | APPENDIX)[row]


@pytest.mark.parametrize("row", ablations.ROWS)
def test_an_ablation_runs_at_laptop_size_with_the_argument_that_its_docstring_names(row):
  named = re.search(r"`(:row=\S+?size=tiny)( --config.init=\w+)?`", ablations.ROWS[row].__doc__)
  assert named, ablations.ROWS[row].__doc__
  config = load_config(f"configs/ablations.py{named[1]},runlocal")
  assert bool(named[2]) == (row in ablations.NEED_STAGE_ONE)
  assert config.model.freeze_spatial == (row == "freeze")
  check_config(config)
  systems.build(config)


@pytest.mark.parametrize("source, words", [
  ("configs/videopanda.py:stage=3", "stage is 1 or 2"), ("configs/videopanda.py:size=huge", "size one of tiny"),
  ("configs/videopanda.py:camera=phone", "camera rig or free"),
  ("configs/videopanda.py:stage=1,scratch", "leave out stage=1 or scratch"),
  ("configs/videopanda.py:runlocal", "give size=tiny"),
  ("configs/videopanda.py:rig=horizontal2", "horizontal3 or more"),
  ("configs/ablations.py:row=nothing", "the rows are full, single_task")])
def test_arguments_that_make_no_sense_are_refused_in_one_sentence(source, words):
  with pytest.raises(InputError, match=words):
    load_config(source)


@pytest.mark.parametrize("source", ["configs/tiny.py", "configs/videopanda.py"])
@pytest.mark.parametrize("overrides, path, validation_path", [
  (["--config.data.path=mine"], "mine", "mine"), (["--config.data.validation_path="], "worlds", ""),
  (["--config.data.path=mine", "--config.data.validation_path=other"], "mine", "other")])
def test_validation_follows_the_training_data_until_it_is_told_otherwise(source, overrides, path, validation_path):
  data = load_config(source, overrides).data
  assert (data.path, data.validation_path) == (path, validation_path)
