import json

import pytest

from panda_jax.errors import InputError
from panda_jax.training.config import check_batch_size, check_config, check_workdir, load_config, write_config
from tests.training.toy import toy_config

FILE = '''
from ml_collections import ConfigDict

def get_config(arg=None):
  if arg == "broken":
    raise KeyError("no such size")
  return ConfigDict(dict(name=arg or "plain", seed=0, flag=False, size=None, matrix=dict(shapes=((3, 16), (8, 6))),
                         optimizer=dict(learning_rate=1e-3, warmup_steps=10)))
'''


@pytest.fixture
def source(tmp_path):
  (tmp_path / "mine.py").write_text(FILE)
  return str(tmp_path / "mine.py")


def test_a_config_file_runs_with_its_argument(source):
  assert load_config(source).name == "plain"
  assert load_config(f"{source}:stage=2,size=tiny").name == "stage=2,size=tiny"


def test_overrides_take_the_type_of_the_value_they_replace(source):
  config = load_config(source, [
      "--config.optimizer.learning_rate=1", "--config.seed=7", "--config.name=a=b", "--config.flag=True",
      "--config.matrix.shapes=((1, 2),)", "--config.size=3"])
  assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
  assert (config.seed, config.name, config.flag, config.matrix.shapes, config.size) == (7, "a=b", True, ((1, 2),), 3)


@pytest.mark.parametrize("override, message", [
    ("--config.optimizer.learning_rat=1", "did you mean optimizer.learning_rate?"),
    ("--config.learning_rate=1", "did you mean optimizer.learning_rate?"),
    ("--config.optimizer.learning_rate.x=1", "has no key"),
    ("--config.optimizer=1", "optimizer is a group of keys"),
    ("--config.seed=1.5", "such as 0 (int), got '1.5'"),
    ("--config.flag=maybe", "such as False (bool), got 'maybe'"),
    ("--config.matrix.shapes=3", "such as ((3, 16), (8, 6)) (tuple), got"),
    ("--config.matrix.shapes=((3", "such as ((3, 16), (8, 6)) (tuple), got"),
    ("--config.seed", "an override looks like"),
    ("--seed=3", "an override looks like"),
])
def test_a_wrong_override_is_answered_with_the_right_one(source, override, message):
  with pytest.raises(InputError) as error:
    load_config(source, [override])
  assert message in str(error.value)


def test_a_config_file_that_fails_or_is_absent_is_named(source, tmp_path):
  with pytest.raises(InputError, match="mine.py:broken: KeyError: 'no such size'"):
    load_config(f"{source}:broken")
  (tmp_path / "wrong.py").write_text("def get_config(:\n")
  with pytest.raises(InputError, match="wrong.py: SyntaxError"):
    load_config(str(tmp_path / "wrong.py"))
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(InputError, match="get_config"):
    load_config(str(tmp_path / "empty.py"))
  with pytest.raises(InputError, match="there is no config file"):
    load_config("configs/tini.py")
  with pytest.raises(InputError, match="is not a .py file"):
    load_config("tiny")


def test_a_workdir_accepts_its_own_config_and_a_longer_run(tmp_path):
  config = toy_config()
  check_workdir(tmp_path, config)                              # nothing begun yet
  write_config(tmp_path, config)
  config.training.steps, config.training.log_every, config.mesh.fsdp = 10**6, 100, 4
  config.training.accumulate = 2                               # the same step in less memory
  config.training.keep, config.training.keep_every = 5, 8
  config.model.freeze_spatial = True                           # checkpoints are restored into other trained parameters
  check_workdir(tmp_path, config)


def test_a_workdir_from_before_samples_could_be_mirrored_is_continued_without(tmp_path):
  """config.json has no data.flip there: that was 0."""
  write_config(tmp_path, toy_config())
  begun = json.loads((tmp_path / "config.json").read_text())
  del begun["data"]["flip"]
  (tmp_path / "config.json").write_text(json.dumps(begun))
  config = toy_config()
  check_workdir(tmp_path, config)
  config.data.flip = 0.5
  with pytest.raises(InputError, match="data.flip was 0.0, is now 0.5"):
    check_workdir(tmp_path, config)


def test_a_workdir_names_everything_that_differs(tmp_path):
  write_config(tmp_path, toy_config())
  config = toy_config()
  config.seed, config.optimizer.learning_rate, config.model.depth = 4, 0.1, 2
  with pytest.raises(InputError) as error:
    check_workdir(tmp_path, config)
  message = str(error.value)
  assert "model.depth was absent, is now 2, and optimizer.learning_rate, seed" in message
  assert "another --workdir" in message


def test_a_workdir_with_a_torn_config_is_named(tmp_path):
  (tmp_path / "config.json").write_text('{"seed"')
  with pytest.raises(InputError, match="config.json is not readable JSON"):
    check_workdir(tmp_path, toy_config())


def test_a_config_without_a_key_is_told_which(tmp_path):
  config = toy_config()
  check_config(config)
  with config.unlocked():
    del config.optimizer.b2
    del config.mesh
  with pytest.raises(InputError, match="the config lacks optimizer.b2, mesh"):
    check_config(config)
  for key, value in (("seed", -1), ("seed", 2**32), ("batch_size", 0)):
    config = toy_config()
    config[key] = value
    with pytest.raises(InputError, match=key):
      check_config(config)


@pytest.mark.parametrize("group, name", [("data", "kind"), ("data", "flip"), ("training", "accumulate"),
                                         ("training", "validation_timesteps"), ("optimizer", "rate_scales")])
def test_a_config_from_before_a_key_is_told_which_it_lacks(group, name):
  config = toy_config()
  with config.unlocked():
    del config[group][name]
  with pytest.raises(InputError, match=f"the config lacks {group}.{name}: configs/tiny.py shows every key"):
    check_config(config)


def test_clips_must_fit_the_parts_of_a_step_and_the_devices():
  config = toy_config(accumulate=4)                            # of 8 clips
  check_config(config)
  check_batch_size(config, devices=2)
  with pytest.raises(InputError, match="batch_size 8 .* among 4 devices and the 4 parts .* a multiple of 16"):
    check_batch_size(config, devices=4)
  with pytest.raises(InputError, match="among the 3 parts of training.accumulate: set batch_size to a multiple of 3"):
    check_config(toy_config(accumulate=3))
  with pytest.raises(InputError, match="training.accumulate must be 1 or more, got 0"):
    check_config(toy_config(accumulate=0))


def test_what_is_kept_for_good_must_be_saved():
  check_config(toy_config(checkpoint_every=4, keep_every=12))
  for every in (6, -4):
    with pytest.raises(InputError, match=f"keep_every must be 0 .* or a multiple of checkpoint_every, 4, got {every}"):
      check_config(toy_config(checkpoint_every=4, keep_every=every))


def test_a_chance_to_be_mirrored_is_a_probability():
  config = toy_config()
  for flip in (-0.5, 1.5):
    config.data.flip = flip
    with pytest.raises(InputError, match=f"data.flip is a probability, from 0 to 1, got {flip}"):
      check_config(config)


def test_a_kind_of_data_that_there_is_not_is_refused():
  config = toy_config()
  config.data.kind = "flats"
  with pytest.raises(InputError, match="data.kind must be 'panorama' or 'flat', got 'flats'"):
    check_config(config)
