import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image
import pytest

from panda_jax.cli import train as train_command
from panda_jax.data import records
from panda_jax.data.records import Clip, write_records
from panda_jax.errors import InputError
from panda_jax.geometry import VIDEOPANDA_RIG, RigViews
from panda_jax.training import config as config_lib
from panda_jax.training import loop, setup
from panda_jax.training.log import Log
from panda_jax.training.metrics import read_metrics
from panda_jax.training.programs import Program
from panda_jax.training.setup import Setup
from panda_jax.training.step import INIT_STREAM, stream
from panda_jax.weights import load_model, save_model
from tests.training.toy import ToySystem, toy_config, toy_data

ROOT = Path(__file__).resolve().parents[2]
CLOCKS = {"wall_seconds", "steps_per_second", "step_seconds", "images_per_second", "data_wait",
          "tflops_per_second_per_chip", "mfu"}


@pytest.fixture(scope="module", autouse=True)
def programs(shared_programs):
  """The tests share their compiled steps: the trainer is tested here, not the compiler."""
  return shared_programs


def saved_state(workdir, step):
  return ocp.StandardCheckpointer().restore(Path(workdir).absolute() / "checkpoints" / str(step) / "state")


def numbers_of(workdir):
  """Everything in metrics.jsonl but the clocks."""
  return [{name: value for name, value in line.items() if name not in CLOCKS}
          for line in read_metrics(Path(workdir) / "metrics.jsonl")]


def assert_same_run(one, other, step):
  """Bit for bit: parameters, averages, optimizer, losses, exported weights."""
  jax.tree.map(np.testing.assert_array_equal, saved_state(one, step), saved_state(other, step))
  assert numbers_of(one) == numbers_of(other)
  weights = [(Path(workdir) / "model" / "model.safetensors").read_bytes() for workdir in (one, other)]
  assert weights[0] == weights[1]


def train(workdir, config=None, system=None, data=toy_data):
  loop.train(config or toy_config(), workdir, system or ToySystem(), data)


def test_training_lowers_the_validation_loss_and_leaves_a_model(tmp_path):
  """One command gives falling validation losses, one line per step, two checkpoints, and a model folder."""
  train(tmp_path, toy_config(steps=80, validate_every=40, checkpoint_every=30, log_every=10))
  lines = read_metrics(tmp_path / "metrics.jsonl")
  validation = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
  assert list(validation) == [0, 40, 80] and validation[80] < 0.5 * validation[0]
  assert [line["step"] for line in lines] == [0, 10, 20, 30, 40, 50, 60, 70, 80]
  assert {"loss", "loss_mean", "grad_norm", "learning_rate", "mean_prediction", *CLOCKS - {"mfu"},
          "validation_loss_t0100", "validation_loss_t0900"} <= lines[-1].keys()
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["60", "80"]
  assert list((tmp_path / "tensorboard").glob("events*"))
  params, config = load_model(tmp_path / "model")
  assert config.system == "toy"
  jax.tree.map(np.testing.assert_array_equal, params["net"], saved_state(tmp_path, 80)["ema"]["net"])
  np.testing.assert_array_equal(params["codec"]["kernel"], np.eye(4))


def test_a_step_is_dispatched_before_the_numbers_of_the_one_before_are_read(tmp_path, monkeypatch):
  """The devices have the next step before the host looks at the last one."""
  events, call, check = [], Program.__call__, Log.check

  def dispatch(self, *arguments):
    events.append("dispatch")
    return call(self, *arguments)

  def read(self, step, results):
    events.append(step)
    return check(self, step, results)

  monkeypatch.setattr(Program, "__call__", dispatch)
  monkeypatch.setattr(Log, "check", read)
  train(tmp_path, toy_config(steps=4, validation_batches=0, checkpoint_every=100))
  assert events[:-2] == ["dispatch", "dispatch", 1, "dispatch", 2, "dispatch", 3]
  assert events[-2:] == [4, 4]                                 # checked, and written before the last checkpoint


def test_a_copy_that_nobody_asked_for_is_an_error(tmp_path, monkeypatch):
  """A batch that is still the host's when the step takes it; on a CPU, copies the other way are not noticed."""
  monkeypatch.setattr(Setup, "place", lambda self, batch: batch)
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    train(tmp_path, toy_config(validation_batches=0))


def test_a_checkpoint_has_the_place_of_the_batches_that_were_trained_on(tmp_path):
  """The one that was read ahead is read again."""
  train(tmp_path)
  for step in (4, 8):
    place = tmp_path / "checkpoints" / str(step) / "data" / "process_0-of-1.json"
    assert json.loads(place.read_text()) == {"next_index": step}


def test_an_error_of_the_data_ends_the_run_at_its_step(tmp_path):
  """It happens in a thread that reads ahead; the steps before it are done."""
  class Broken(grain.DatasetIterator):
    def __init__(self, batches):
      super().__init__()
      self._batches = batches

    def __next__(self):
      if self.get_state() == {"next_index": 6}:
        raise OSError("the disk is gone")
      return next(self._batches)

    def get_state(self):
      return self._batches.get_state()

    def set_state(self, state):
      self._batches.set_state(state)

  def data(config, system):
    made = toy_data(config, system)
    return loop.Data(Broken(made.train), made.validation)

  with pytest.raises(OSError, match="the disk is gone"):
    train(tmp_path, data=data)
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 5
  train(tmp_path)
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 8


def test_a_profile_is_written_also_where_the_session_ends_in_its_window(tmp_path):
  loop.train(toy_config(steps=4), tmp_path, ToySystem(), toy_data, profile=(3, 10))
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_frozen_parameters_never_move_and_cost_no_optimizer_state(tmp_path):
  train(tmp_path)
  state = saved_state(tmp_path, 8)
  np.testing.assert_array_equal(state["frozen"]["codec"]["kernel"], np.eye(4))
  assert "codec" not in state["params"] and "codec" not in state["ema"]
  assert "codec" not in json.dumps(jax.tree.map(lambda _: 0, state["opt_state"]))


def test_half_a_run_and_the_rest_later_is_the_same_run(tmp_path):
  """4 steps, a new start, and the other 4 give the parameters and the losses of 8 steps at once."""
  train(tmp_path / "whole")
  train(tmp_path / "parts", toy_config(steps=4))
  train(tmp_path / "parts")
  assert_same_run(tmp_path / "whole", tmp_path / "parts", 8)


def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path, programs):
  """kill -9 in the middle, the same command again: the same run to the last bit, no step twice in the metrics."""
  def run(*args):
    environment = os.environ | programs | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-m", "tests.training.toy", *args], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=120)

  killed = run(str(tmp_path / "killed"), "killed")
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert not (tmp_path / "killed" / "model").exists()
  again = run(str(tmp_path / "killed"))
  assert again.returncode == 0, again.stderr
  assert "continuing from the checkpoint of step" in again.stderr
  train(tmp_path / "whole", toy_config(shapes=((2, 3), (3, 2)), steps=12, sample_every=3))
  assert_same_run(tmp_path / "whole", tmp_path / "killed", 12)
  assert [line["step"] for line in read_metrics(tmp_path / "killed" / "metrics.jsonl")] == list(range(13))


def test_a_finished_run_is_left_alone(tmp_path, capsys):
  """The same command after the end trains nothing, and writes the model again if it was deleted."""
  train(tmp_path)
  before = read_metrics(tmp_path / "metrics.jsonl")
  (tmp_path / "model" / "model.safetensors").unlink()
  train(tmp_path)
  assert read_metrics(tmp_path / "metrics.jsonl") == before
  assert "nothing left to train" in capsys.readouterr().err
  load_model(tmp_path / "model")


def test_a_loss_that_is_no_number_ends_the_run_and_is_never_saved(tmp_path, monkeypatch, capsys):
  """Step 8 is poisoned and a checkpoint is due there: step 4 stays the newest, the command exits with 1."""
  def poisoned(config, system):
    return toy_data(config, system, poisoned_step=8)

  with pytest.raises(loop.TrainingStopped, match="became nan at step 8; the checkpoint of step 4 is good"):
    train(tmp_path, toy_config(steps=12), data=poisoned)
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["4"]
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 7
  assert not (tmp_path / "model").exists()

  monkeypatch.setattr(config_lib, "load_config", lambda *_: toy_config(steps=12))
  monkeypatch.setattr(setup, "_build_system", lambda config: ToySystem())
  monkeypatch.setattr(loop, "_open_data", lambda setup: poisoned(setup.config, setup.system))
  monkeypatch.setattr(records, "open_records", lambda path, split: None)
  with pytest.raises(SystemExit) as stopped:
    train_command.run(SimpleNamespace(config="toy.py", workdir=str(tmp_path), overrides=[], profile=None,
                                      coordinator=None, processes=None, process=None))
  assert stopped.value.code == 1
  assert "panda train: " in capsys.readouterr().err


def test_a_run_can_start_from_a_model_folder(tmp_path):
  """config.init gives the parameters of step 0; a folder of another architecture is refused by name."""
  train(tmp_path / "first")
  config = toy_config()
  config.init = str(tmp_path / "first" / "model")
  train(tmp_path / "second", config)
  first, second = (numbers_of(tmp_path / name) for name in ("first", "second"))
  assert second[0]["validation_loss"] == first[-1]["validation_loss"]

  params, model_config = load_model(config.init)
  del params["net"]["middle"]
  save_model(tmp_path / "cut", params, model_config)
  config.init = str(tmp_path / "cut")
  with pytest.raises(InputError, match="2 missing.*net/middle"):
    train(tmp_path / "third", config)


def test_a_second_stage_starts_from_the_first_ones_workdir(tmp_path):
  """One flag: its newest checkpoint's average, to which the system adds what is its own; step and optimizer are new."""
  train(tmp_path / "one")
  config = toy_config(checkpoint_every=1)
  config.init = str(tmp_path / "one")
  train(tmp_path / "two", config, ToySystem(added=True))
  first, second = (numbers_of(tmp_path / name) for name in ("one", "two"))
  assert second[0]["validation_loss"] == pytest.approx(first[-1]["validation_loss"], rel=1e-6)
  assert second[0]["step"] == 0 and second[1]["learning_rate"] == first[1]["learning_rate"]
  assert np.any(load_model(tmp_path / "two" / "model")[0]["net"]["added"]["kernel"])

  shutil.rmtree(tmp_path / "one")                              # a run that was begun needs it no longer
  config.training.steps = 10
  train(tmp_path / "two", config, ToySystem(added=True))
  assert numbers_of(tmp_path / "two")[-1]["step"] == 10


def test_a_step_in_parts_learns_what_the_whole_one_learns(tmp_path):
  """training.accumulate may change within a run: it is the same step in less memory."""
  train(tmp_path / "whole")
  train(tmp_path / "parts", toy_config(steps=4))
  train(tmp_path / "parts", toy_config(accumulate=4))
  whole, parts = (numbers_of(tmp_path / name) for name in ("whole", "parts"))
  assert [line.keys() for line in whole] == [line.keys() for line in parts]
  for one, other in zip(whole, parts):
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("change, message", [
    (lambda config: config.training.update(validation_timesteps=(1000,)), "validation_timesteps has 1000"),
    (lambda config: config.optimizer.update(rate_scales=(("nets/", 0.1),)), "rate_scales: 'nets/' matches no param"),
    (lambda config: config.optimizer.update(rate_scales=(("codec/", 0.1),)), "rate_scales: 'codec/' matches no param"),
    (lambda config: config.training.update(accumulate=5), "batch_size 8 .* multiple of 5"),
])
def test_settings_without_a_meaning_here_are_refused_before_the_run_begins(tmp_path, change, message):
  config = toy_config()
  change(config)
  with pytest.raises(InputError, match=message):
    train(tmp_path, config)
  assert not (tmp_path / "config.json").exists()


def test_a_scaled_rate_trains_only_as_fast(tmp_path):
  """A factor of 0 leaves a parameter where it was; the others go on."""
  config = toy_config(steps=4)
  config.optimizer.rate_scales = (("net/middle/", 0.0),)
  train(tmp_path, config)
  before = jax.jit(ToySystem().init)(stream(config.seed, INIT_STREAM))
  params = saved_state(tmp_path, 4)["params"]
  np.testing.assert_array_equal(params["net"]["middle"]["kernel"], before["net"]["middle"]["kernel"])
  assert np.all(params["net"]["first"]["kernel"] != before["net"]["first"]["kernel"])


def test_a_run_never_begins_with_random_values_where_pretrained_ones_belong(tmp_path, monkeypatch):
  """They are never trained, so nothing would ever come of it."""
  monkeypatch.setattr(ToySystem, "pretrained", ("codec",))
  with pytest.raises(InputError, match="codec of this system are pretrained.*config.init"):
    train(tmp_path / "run")


def test_validation_meets_the_same_noise_at_any_step(tmp_path):
  """With a learning rate of next to nothing the validation losses stay where they were."""
  config = toy_config()
  config.optimizer.learning_rate = 1e-30
  train(tmp_path, config)
  losses = [[value for name, value in line.items() if name.startswith("validation_loss")]
            for line in numbers_of(tmp_path) if "validation_loss" in line]
  assert np.shape(losses) == (3, 3)                            # steps 0, 4 and 8; the mean and two timesteps
  np.testing.assert_allclose(losses, losses[:1] * 3, rtol=1e-6)                  # averaging rounds, too


def test_sample_images_show_the_first_clip_with_the_same_noise_every_time(tmp_path):
  """A system that can draw a preview is asked for one every sample_every steps."""
  class Previewing(ToySystem):
    def preview(self, params, batch, rng):
      assert params.keys() == {"net", "codec"}
      b, v, f, _ = batch["numbers"].shape
      noise = jax.random.uniform(rng, (b, 1, v, f, 4, 8, 3))
      shown = 100 * noise + 50 * jnp.abs(jnp.tanh(batch["numbers"])).sum(-1)[:, None, :, :, None, None, None] / 4
      return shown.astype(jnp.uint8)

  train(tmp_path, toy_config(sample_every=4), Previewing())
  [events] = (tmp_path / "tensorboard").iterdir()
  assert events.read_bytes().count(b"PNG") == 2
  pictures = sorted((tmp_path / "samples").iterdir())
  assert [path.name for path in pictures] == ["step_000004.png", "step_000008.png"]
  first, second = (np.asarray(Image.open(path)) for path in pictures)
  assert first.shape == (2 * 4, 2 * 8, 3) and first.std() > 10                 # 2 frames of 2 views
  np.testing.assert_array_equal(first, second)


def test_a_batch_of_another_shape_than_announced_is_refused(tmp_path):
  def transposed(config, system):
    config = config.copy_and_resolve_references()
    config.matrix.shapes = ((5, 1),)
    return toy_data(config, system)

  with pytest.raises(ValueError, match=r"no step was compiled for.*numbers \[8, 5, 1, 4\]"):
    train(tmp_path, data=transposed)


class PixelSystem(ToySystem):
  """Learns to copy pixels: what a system must show so that records can be read for it."""
  shows = RigViews(VIDEOPANDA_RIG, (8, 8), (2, 2))
  letters = {"images": "b v f h w c", "rays": "b v h w c", "text": "b l"}

  def tokenize(self, text):
    return np.arange(4, dtype=np.int32)

  def init(self, rng):
    return {"kernel": jnp.zeros((3, 3))}

  def batch_spec(self, shape, batch_size):
    return {"images": jax.ShapeDtypeStruct((batch_size, *shape, 8, 8, 3), jnp.uint8),
            "rays": jax.ShapeDtypeStruct((batch_size, shape[0], 2, 2, 3), jnp.float32),
            "text": jax.ShapeDtypeStruct((batch_size, 4), jnp.int32)}

  def draw(self, rng, batch, timestep=None):
    return batch

  def loss(self, params, batch, rng):
    pixels = batch["images"] / 127.5 - 1
    return jnp.mean((pixels @ params["kernel"] - pixels)**2), {}


def test_records_on_disk_train_a_model_and_resume_exactly(tmp_path):
  """config.data alone names the data; views x frames follow the schedule, validation reads its own split."""
  def clips(count):
    for index in range(count):
      frames = np.random.default_rng(index).integers(0, 256, (4, 16, 32, 3), np.uint8)
      yield Clip(id=f"clip{index}", caption="A view of noise.", fps=8.0, frames=list(frames))

  write_records(tmp_path / "records", {"train": clips(5), "validation": clips(1)}, metadata={})
  config = toy_config(shapes=((2, 3), (3, 2)))
  config.data.update(path=str(tmp_path / "records"), validation_path=str(tmp_path / "records"),
                     validation_split="validation")
  train(tmp_path / "whole", config, PixelSystem(), data=None)
  config.training.steps = 4
  train(tmp_path / "parts", config, PixelSystem(), data=None)
  config.training.steps = 8
  train(tmp_path / "parts", config, PixelSystem(), data=None)
  assert_same_run(tmp_path / "whole", tmp_path / "parts", 8)
  assert numbers_of(tmp_path / "whole")[-1]["validation_loss"] < numbers_of(tmp_path / "whole")[0]["validation_loss"]


@pytest.mark.parametrize("change, message", [
    (lambda config: config.optimizer.update(learning_rate=1.0), "optimizer.learning_rate was 0.003, is now 1.0"),
    (lambda config: config.data.update(path="elsewhere"), "data.path.*another --workdir"),
    (lambda config: config.matrix.update(shapes=((1, 1),)), "matrix.shapes"),
])
def test_a_workdir_is_tied_to_its_config(tmp_path, change, message):
  train(tmp_path, toy_config(steps=4))
  config = toy_config()
  change(config)
  with pytest.raises(InputError, match=message):
    train(tmp_path, config)


def test_a_run_that_never_began_does_not_tie_the_workdir(tmp_path):
  """After a wrong config.init the same workdir takes the mended config."""
  config = toy_config()
  config.init = str(tmp_path / "nowhere")
  with pytest.raises(InputError, match="nowhere is not a folder"):
    train(tmp_path / "run", config)
  train(tmp_path / "run")


def test_bad_places_and_lengths_are_said_in_one_sentence(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot be made a folder"):
    train(tmp_path / "file")
  with pytest.raises(InputError, match="give a folder of this machine, or gs://bucket/folder"):
    train("s3://bucket/run")
  with pytest.raises(InputError, match="training.log_every must be 1 or more"):
    train(tmp_path, toy_config(log_every=0))
