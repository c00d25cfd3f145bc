import gc
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panda_jax.errors import InputError
from panda_jax.training.checkpoint import Checkpoints, load_average
from panda_jax.training.state import TrainState
from tests.training import eight_devices
from tests.training.toy import ToySystem, toy_config, toy_data


# After a refused restore orbax's threads meet a closed event loop: harmless, and kept out of later tests' warnings.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def no_leftovers():
  yield
  gc.collect()


def small_state(size=3):
  params = {"net": {"kernel": jnp.arange(float(size)), "gate": jnp.ones((), jnp.bfloat16)}}
  return TrainState(step=jnp.int32(5), params=params, frozen={"table": jnp.arange(4)}, ema=params,
                    opt_state=optax.adam(1e-3).init(params))


def abstract(state):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


@pytest.fixture
def batches():
  iterator = toy_data(toy_config(), None).train
  yield iterator
  iterator.close()


@pytest.fixture
def saved(tmp_path, batches):
  """A folder with one checkpoint, of step 2, and the batch that comes next."""
  next(batches), next(batches)
  checkpoints = Checkpoints(tmp_path, keep=2)
  checkpoints.save(2, small_state(), batches)
  checkpoints.close()
  return tmp_path, next(batches)


def test_state_and_place_in_the_data_come_back_together(saved):
  folder, coming = saved
  checkpoints, fresh = Checkpoints(folder, keep=2), toy_data(toy_config(), None).train
  state = checkpoints.restore(abstract(small_state()), fresh)
  jax.tree.map(np.testing.assert_array_equal, state, small_state())
  assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(lambda leaf: leaf.dtype, small_state())
  np.testing.assert_array_equal(next(fresh)["numbers"], coming["numbers"])
  checkpoints.close()
  fresh.close()


def test_another_number_of_processes_continues_at_the_same_batch(saved):
  """grain keeps one file per process; where this process has none, it starts at the checkpoint's step."""
  folder, coming = saved
  [mine] = (folder / "2" / "data").glob("process_0-of-1.json")
  mine.rename(mine.with_name("process_0-of-2.json"))
  checkpoints, fresh = Checkpoints(folder, keep=2), toy_data(toy_config(), None).train
  checkpoints.restore(abstract(small_state()), fresh)
  np.testing.assert_array_equal(next(fresh)["numbers"], coming["numbers"])
  checkpoints.close()
  fresh.close()


def test_only_the_newest_few_are_kept(tmp_path, batches):
  checkpoints = Checkpoints(tmp_path, keep=2)
  assert checkpoints.latest_step() is None
  for step in (1, 2, 3):
    checkpoints.save(step, small_state(), batches)
  checkpoints.close()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_save_that_was_killed_does_not_count(saved, batches):
  folder, _ = saved
  (folder / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
  checkpoints = Checkpoints(folder, keep=2)
  assert checkpoints.latest_step() == 2
  checkpoints.save(4, small_state(), batches)
  checkpoints.close()
  assert Checkpoints(folder, keep=2).latest_step() == 4


@pytest.mark.parametrize("other", [small_state(4), small_state().replace(frozen={}),
                                   small_state().replace(frozen={"name": jnp.arange(4)})])
def test_a_checkpoint_of_another_model_is_refused(saved, batches, other):
  """Never padded, cut or partly read."""
  checkpoints = Checkpoints(saved[0], keep=2)
  with pytest.raises(InputError, match="does not fit this model"):
    checkpoints.restore(abstract(other), batches)
  checkpoints.close()


def test_a_damaged_checkpoint_is_named(saved, batches):
  folder = saved[0]
  for path in (folder / "2" / "state").rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.write_bytes(path.read_bytes()[:20])
  checkpoints = Checkpoints(folder, keep=2)
  with pytest.raises(InputError, match="checkpoint .*2"):
    checkpoints.restore(abstract(small_state()), batches)
  checkpoints.close()


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, batches, monkeypatch):
  """The sentence says how much is wanted and which checkpoint is kept; nothing half-written is left."""
  checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
  checkpoints.save(1, small_state(), batches)
  monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=2**20))
  checkpoints._manager.wait_until_finished()
  with pytest.raises(InputError, match="3 MiB, 1 MiB are free, that of step 1 is kept"):
    checkpoints.save(2, small_state(100_000), batches)
  checkpoints.close()
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_the_average_of_a_run_on_eight_devices_is_read_on_one(on_eight_devices):
  """All that it holds, or what a config says that it holds; one of other sizes is refused."""
  system = ToySystem(width=eight_devices.WIDTH)
  expected = jax.jit(system.init)(jax.random.key(0))
  abstract = jax.eval_shape(system.init, jax.random.key(0))
  for params in (load_average(on_eight_devices["workdir"]), load_average(on_eight_devices["workdir"], abstract)):
    jax.tree.map(np.testing.assert_array_equal, params, expected)
  smaller = jax.eval_shape(ToySystem(width=8).init, jax.random.key(0))
  with pytest.raises(InputError, match=r"does not fit its config \(net/.* by the config\)"):
    load_average(on_eight_devices["workdir"], smaller)


def test_the_average_of_a_run_without_frozen_parameters(tmp_path, batches):
  checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
  checkpoints.save(2, small_state().replace(frozen={}), batches)
  checkpoints.close()
  params = load_average(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, params, small_state().ema)
  assert params["net"]["gate"].dtype == jnp.bfloat16
