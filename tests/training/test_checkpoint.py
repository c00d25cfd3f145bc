import gc
from pathlib import Path
import shutil
import types

from etils import epath

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panda_jax.errors import InputError
from panda_jax.training.checkpoint import Checkpoints, load_average
from panda_jax.training.manifest import write_manifest
from panda_jax.training.optimizer import make_optimizer
from panda_jax.training.state import TrainState, create_state
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
  write_manifest(epath.Path(folder / "2"))
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


def test_every_so_many_steps_one_stays_for_good(tmp_path, batches):
  """And another session may keep others."""
  for first, keep, keep_every in ((1, 1, 3), (8, 2, 5)):
    checkpoints = Checkpoints(tmp_path, keep, keep_every)
    for step in range(first, first + 7):
      checkpoints.save(step, small_state(), batches)
    checkpoints.close()
    expected = {1: ["3", "6", "7"], 8: ["10", "13", "14"]}[first]
    assert sorted((path.name for path in tmp_path.iterdir()), key=int) == expected


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


# Damage


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def empty(path):
  path.write_bytes(b"")


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 8
  path.write_bytes(content)


def files_of(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory):
  """A workdir with the checkpoints of steps 2 and 4."""
  workdir = tmp_path_factory.mktemp("saves")
  iterator, checkpoints = toy_data(toy_config(), None).train, Checkpoints(workdir / "checkpoints", keep=2)
  for step in (2, 4):
    next(iterator), next(iterator)
    checkpoints.save(step, small_state().replace(step=jnp.int32(step)), iterator)
  checkpoints.close()
  iterator.close()
  return workdir


@pytest.fixture
def workdir(two_saves, tmp_path):
  return shutil.copytree(two_saves, tmp_path / "run")


def continued_from(workdir, iterator):
  checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
  state = checkpoints.restore(abstract(small_state()), iterator)
  assert int(state.step) == checkpoints.latest_step()
  checkpoints.save(6, small_state(), iterator)                 # a damaged one is in nobody's way
  checkpoints.close()
  return int(state.step)


def test_any_file_that_is_damaged_costs_one_checkpoint(workdir, two_saves, batches, capfd):
  """Cut short, emptied, deleted or flipped: one line names it, and the one before is used and kept."""
  newest = workdir / "checkpoints" / "4"
  names = [path.relative_to(newest) for path in files_of(newest)]
  unimportant = {"commit_success.txt"}                         # of a folder on a disk
  for index, name in enumerate(name for name in names if name.name not in unimportant):
    harm = (truncate, empty, Path.unlink, flip)[index % 4] if name.name != "_CHECKPOINT_METADATA" else truncate
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(two_saves / "checkpoints", workdir / "checkpoints")
    harm(newest / name)
    whole = name.name == "files.json" and harm is Path.unlink  # the rest is read instead
    assert continued_from(workdir, batches) == (4 if whole else 2), (name, harm)
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")] or [None]
    assert whole or f"checkpoints/4 is damaged ({name}" in line or "list of files" in line, line
    assert whole or "the run continues from that of step 2" in line
    assert (workdir / "checkpoints" / "4.damaged").is_dir() != whole
    assert (workdir / "checkpoints" / "6").is_dir()


@pytest.mark.parametrize("harm", [truncate, empty, Path.unlink])
def test_a_checkpoint_without_a_list_of_files_is_read_to_see_whether_it_can_be(workdir, batches, harm):
  """Those of earlier versions have none."""
  newest = workdir / "checkpoints" / "4"
  (newest / "files.json").unlink()
  for path in (newest / "state").rglob("d/*"):                 # not every one of them is read
    harm(path)
  assert continued_from(workdir, batches) == 2


def test_without_one_good_checkpoint_the_run_stops_in_one_sentence(workdir, batches):
  """Every time, and nothing is moved: a run must not begin anew in silence."""
  for step in (2, 4):
    truncate(workdir / "checkpoints" / str(step) / "state" / "_METADATA")
  for _ in range(2):
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read \(4: state/_METADATA has bytes \d+, and had "
                                         r"\d+ when it was written; 2: .*another --workdir"):
      Checkpoints(workdir / "checkpoints", keep=2)
  with pytest.raises(InputError, match="no checkpoint in"):
    load_average(workdir)


def test_the_average_of_a_damaged_run_is_the_one_before(workdir, capfd):
  """Its reader moves nothing: the run may still go on."""
  flip(workdir / "checkpoints" / "4" / "state" / "_METADATA")
  before = files_of(workdir)
  jax.tree.map(np.testing.assert_array_equal, load_average(workdir)["net"], small_state().ema["net"])
  assert files_of(workdir) == before
  assert "4 is damaged (state/_METADATA has crc32" in capfd.readouterr().err


# Other trained parameters


LEAVES = {"net": {"kernel": jnp.arange(3.0), "gate": jnp.full((), 2.0)}, "table": jnp.arange(4.0)}
ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def trained_state(trainable, steps=0):
  """After so many steps on an arbitrary gradient; the average lags behind."""
  state = create_state(LEAVES, trainable, ADAM)
  for _ in range(steps):
    updates, opt_state = ADAM.update(jax.tree.map(jnp.ones_like, state.params), state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(params=params, opt_state=opt_state, step=state.step + 1,
                          ema=jax.tree.map(lambda old, new: (old + new) / 2, state.ema, params))
  return state


def test_a_run_goes_on_with_other_parameters_trained(tmp_path, batches, capsys):
  """What stays trained keeps all; what is newly trained begins at its value without moments; what is frozen stays at
  its average."""
  before = trained_state(lambda path: path.startswith("net/"), steps=3)
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(3, before, batches)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path, keep=1)
  after = checkpoints.restore(abstract(trained_state(lambda path: path != "net/gate")), batches)
  checkpoints.close()
  assert "1 parameter arrays (0.00 M, table) that were frozen are trained" in capsys.readouterr().err
  assert int(after.step) == 3
  np.testing.assert_array_equal(after.frozen["net"]["gate"], before.ema["net"]["gate"])
  assert before.ema["net"]["gate"] != before.params["net"]["gate"]
  for part in ("params", "ema"):
    np.testing.assert_array_equal(getattr(after, part)["net"]["kernel"], getattr(before, part)["net"]["kernel"])
    np.testing.assert_array_equal(getattr(after, part)["table"], LEAVES["table"])
  [old], [new] = ([part for part in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu"))
                   if hasattr(part, "mu")] for state in (before, after))
  assert int(new.count) == 3 and "gate" not in new.mu["net"]
  for moment in ("mu", "nu"):
    np.testing.assert_array_equal(getattr(new, moment)["net"]["kernel"], getattr(old, moment)["net"]["kernel"])
    assert not np.any(getattr(new, moment)["table"])
  addresses = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after)]
  assert len(set(addresses)) == len(addresses)                 # the step donates them


# Place


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


def test_the_state_of_eight_devices_goes_on_on_one(on_eight_devices, batches):
  """What was split over them is whole here, the optimizer's state and the place in the data with it."""
  system, optimizer = ToySystem(width=eight_devices.WIDTH), make_optimizer(toy_config().optimizer, lambda step: 0.1)
  expected = jax.jit(lambda key: create_state(system.init(key), system.trainable, optimizer))(jax.random.key(0))
  checkpoints = Checkpoints(on_eight_devices["workdir"] / "checkpoints", keep=1)
  state = checkpoints.restore(abstract(expected), batches)
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert {leaf.sharding for leaf in jax.tree.leaves(state)} == {leaf.sharding for leaf in jax.tree.leaves(expected)}


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
