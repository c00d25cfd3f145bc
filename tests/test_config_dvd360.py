"""configs/dvd360.py: every size and preset is a system, and says what its preset does."""

import dataclasses

import pytest

from panda_jax import systems
from panda_jax.diffusion.enhancement import PRESETS
from panda_jax.errors import InputError
from panda_jax.geometry import WholePanoramas
from panda_jax.training.config import check_config, load_config
from tests.test_configs import differences


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", ["sd15", "tiny", "tiny,runlocal"])
def test_every_size_and_preset_is_a_system(size, preset):
  config = load_config(f"configs/dvd360.py:size={size},preset={preset}")
  check_config(config)
  system = systems.build(config)
  assert system.enhancement == PRESETS[preset] and system.prediction == ("epsilon" if size == "sd15" else "v")
  assert system.shows == WholePanoramas(tuple(config.model.panorama_size), True, preset == "paper")
  assert system.trainable("adapter/conv_in/kernel") and system.trainable("unet/conv_in/kernel") == (size != "sd15")
  views, frames = config.matrix.shapes[0]
  assert views == 1 and frames == config.model.sampling.frames <= system.most_frames


def test_presets_differ_in_the_switches_alone():
  official, paper = (load_config(f"configs/dvd360.py:preset={preset}") for preset in ("official", "paper"))
  names = {field.name for field in dataclasses.fields(PRESETS["paper"])}
  assert {key.rpartition(".")[2] for key in differences(official, paper)} <= names


def test_motion_can_be_done_without():
  config = load_config("configs/dvd360.py:size=tiny,motion=False")
  assert "motion" not in systems.build(config).batch_spec((1, 2), 1)


@pytest.mark.parametrize("source, words", [
  ("size=huge", "size is sd15 or tiny"), ("preset=best", "preset official or paper"), ("train=unet", "train adapter or all"),
  ("runlocal", "give size=tiny")])
def test_arguments_that_make_no_sense_are_refused_in_one_sentence(source, words):
  with pytest.raises(InputError, match=words):
    load_config(f"configs/dvd360.py:{source}")
