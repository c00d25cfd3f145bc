"""The argument behind a config's colon, and the configs that read one."""

import numpy as np
import pytest

from configs import tiny
from panda_jax import systems
from panda_jax.config_arg import parse_arg
from panda_jax.errors import InputError

DEFAULTS = dict(steps=100, size="sd15", rate=1e-3, runlocal=False)


@pytest.mark.parametrize("arg, changes", [
  (None, {}), ("", {}), (",", {}),
  ("steps=7", dict(steps=7)), ("steps=1_000", dict(steps=1000)), ("steps=-1", dict(steps=-1)),
  ("runlocal", dict(runlocal=True)), ("runlocal=True", dict(runlocal=True)), ("runlocal=False", {}),
  ("size=sd21", dict(size="sd21")), ("size=", dict(size="")),
  ("rate=0.5", dict(rate=0.5)), ("rate=1", dict(rate=1.0)),
  ("steps=7, size=a=b ,runlocal", dict(steps=7, size="a=b", runlocal=True)),
  ("steps=7,steps=8", dict(steps=8)),
])
def test_values_are_read_as_the_type_of_their_default(arg, changes):
  parsed = parse_arg(arg, **DEFAULTS)
  assert parsed.to_dict() == DEFAULTS | changes
  assert all(type(parsed[name]) is type(default) for name, default in DEFAULTS.items())


@pytest.mark.parametrize("arg", [
  "steps", "steps=", "steps=many", "steps=1.5", "steps=True", "steps=None", "steps=(", "rate", "rate=fast", "rate=[1]",
  "rate=True", "runlocal=3", "runlocal=true", "runlocal=None", "size"])
def test_a_value_of_another_type_is_refused_by_its_name(arg):
  with pytest.raises(InputError, match=f"argument {arg.partition('=')[0]}"):
    parse_arg(arg, **DEFAULTS)


def test_an_unknown_argument_is_refused_with_those_that_exist():
  with pytest.raises(InputError, match="no argument 'stpes'; it takes steps, size, rate, runlocal"):
    parse_arg("stpes=7", **DEFAULTS)


# --- configs/tiny.py


@pytest.mark.parametrize("arg", [None, "runlocal"])
def test_the_tiny_config_describes_a_system(arg):
  config = tiny.get_config(arg)
  system = systems.build(config)
  assert len(system.rig) == 8 and system.view_size == (32, 32) and system.rays_size == (8, 8)
  most_views, most_frames = np.max(config.matrix.shapes, axis=0)
  assert most_views <= len(system.rig) and most_frames <= config.model.unet.max_frames
  assert config.model.sampling.frames <= config.model.unet.max_frames
  images = {views * frames for views, frames in config.matrix.shapes}
  assert len(images) == 1                                            # every step costs the same
  if arg == "runlocal":
    spec = {name: (value.shape, value.dtype) for name, value in system.batch_spec((2, 3), config.batch_size).items()}
    assert spec == {"images": ((2, 2, 3, 32, 32, 3), np.uint8), "rays": ((2, 2, 8, 8, 3), np.float32),
                    "text": ((2, 32), np.int32)}


def test_the_number_of_steps_is_an_argument():
  assert tiny.get_config("steps=123").training.steps == 123
  assert tiny.get_config("steps=5,runlocal").training.steps == 5
  assert tiny.get_config("runlocal").training.steps == 8
  with pytest.raises(InputError, match="it takes steps, runlocal"):
    tiny.get_config("size=sd15")


def test_validation_follows_the_training_data_unless_it_is_given():
  config = tiny.get_config()
  config.data.path = "elsewhere"
  assert config.data.validation_path == "elsewhere"
