"""Checkpoints: train state and data iterator together, in a folder or a bucket. Everything orbax is in this file."""

from collections.abc import Callable
import contextlib
import json
import math
import os
import shutil
import sys
from typing import Any

from etils import epath
import grain
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import checkpoint_managers
import orbax.checkpoint as ocp

from panda_jax.errors import InputError
from panda_jax.paths import absolute, as_path, is_remote
from panda_jax.training.manifest import find_damage, has_manifest, write_manifest
from panda_jax.tree import flatten, unflatten


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


class Checkpoints:
  """The checkpoints of one workdir.

  A save that was killed half-way leaves no checkpoint, only a folder to ignore. A newest checkpoint that was damaged
  later is renamed to STEP.damaged, and the one before counts.
  """

  def __init__(self, folder: str | os.PathLike, keep: int, keep_every: int = 0, say: Callable[[str], None] = _say):
    """
    Args:
      folder: of this machine or of a bucket; the same for all processes.
      keep: how many of the newest stay.
      keep_every: those of every so many steps stay for good, too; 0: none.
      say: takes a line of news, on the first process.

    Raises:
      InputError: if there are checkpoints and none can be read.
    """
    self._folder, self._saving = absolute(as_path(folder)), None           # orbax refuses relative paths
    _first_process_alone(lambda: _set_damaged_aside(self._folder, say))
    policies = [checkpoint_managers.LatestN(keep)]
    if keep_every:
      policies.append(checkpoint_managers.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies), enable_async_checkpointing=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=self._list_files),
        cleanup_tmp_directories=True)                          # what a kill in the middle of a save left behind
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def latest_step(self) -> int | None:
    """The newest complete checkpoint's step, or None."""
    return self._manager.latest_step()

  def require_room(self, state: Any) -> None:
    """Refuses a disk that could not hold one more checkpoint of this state, before anything is half-written.

    Args:
      state: TrainState of arrays or ShapeDtypeStructs.

    Raises:
      InputError: saying how much is wanted and how much is free. A bucket has room.
    """
    if is_remote(self._folder):
      return
    wanted = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) * 1.05 + 2**20
    free = shutil.disk_usage(self._folder).free
    if free < wanted:
      newest = self.latest_step()
      kept = "none is there yet" if newest is None else f"that of step {newest} is kept"
      raise InputError(f"no space left on the disk for a checkpoint in {self._folder}: it takes "
                       f"{wanted / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free, {kept}; free some space and give "
                       "the same command again")

  def save(self, step: int, state: Any, iterator: Any) -> None:
    """Starts to save; returns once the arrays are copied off the device, so the next step may donate them."""
    self.require_room(state)
    with self._disk_errors():
      self._manager.wait_until_finished()                      # of the save before, whose files are being listed
      self._saving = step
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(iterator)))

  def restore(self, abstract: Any, iterator: Any, say: Callable[[str], None] = _say) -> Any:
    """Restores the newest checkpoint, onto whatever mesh and into whatever set of trained parameters `abstract` names.

    What is trained now and was not before begins with its value, that value as its average, and no moments. What is
    trained no longer stays at its average: that is what the run exports, and what another run would start from. Adam
    counts its steps for all parameters together, so moments that begin late begin uncorrected: the first hundred or so
    steps of those parameters are up to 1 / sqrt(1 - b2) times too long, which optimizer.rate_scales can take back.

    Args:
      abstract: TrainState of ShapeDtypeStructs with shardings.
      iterator: grain iterator, moved in place to where the checkpoint left it.
      say: takes a line of news, if the set of trained parameters has changed.

    Returns:
      the TrainState.

    Raises:
      InputError: if the checkpoint has other parameters than this model, or another optimizer.
    """
    step = self.latest_step()
    folder = self._folder / str(step)
    stored, wanted = _stored(folder), _by_name(abstract)
    sources = _sources(wanted, stored, folder)
    # A stored leaf that two leaves begin from is read once.
    read = _read(folder, {source: wanted[name] for name, source in sources.items() if source})
    # grain keeps one file per process. With another number of processes each continues at the same batch instead.
    mine = folder / "data" / f"process_{jax.process_index()}-of-{jax.process_count()}.json"
    iterator.set_state(json.loads(mine.read_text()) if mine.exists() else {"next_index": step})

    structure = jax.tree.structure(abstract)
    if all(name == source for name, source in sources.items()):
      return structure.unflatten([read[name] for name in wanted])
    say(_moved(wanted, stored))
    # Under jit, so that no two leaves share a buffer.
    return jax.jit(lambda read: structure.unflatten([
        read[sources[name]] if sources[name] else jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in wanted.items()]),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract), donate_argnums=0)(read)

  def close(self) -> None:
    """Waits for a save under way and ends orbax's threads."""
    try:
      with self._disk_errors():
        self._manager.wait_until_finished()
    finally:
      self._manager.close()

  def _list_files(self) -> None:
    """Called by orbax on the first process, when everything is written and the checkpoint does not count yet."""
    name = str(self._saving)
    write_manifest(self._folder / (name if is_remote(self._folder) else name + ocp.utils.TMP_DIR_SUFFIX))

  @contextlib.contextmanager
  def _disk_errors(self):
    """A full disk shows as a ValueError of the storage layer, at the save after the one it spoiled."""
    try:
      yield
    except (OSError, ValueError) as error:
      if "No space left on device" not in str(error):
        raise
      newest = self.latest_step()
      kept = "there is no complete one yet" if newest is None else f"step {newest} is the newest complete one"
      raise InputError(f"no space left on device for a checkpoint in {self._folder}; {kept}: free some space and give "
                       "the same command again") from error


def load_average(workdir: str | os.PathLike, abstract: dict | None = None) -> dict:
  """The parameters that a run would export now: the moving average and the frozen ones of its newest checkpoint.

  The optimizer's state, twice as large, is not read. The run may have had any number of devices, and may still go on:
  its files are left as they are, and a damaged checkpoint is passed over with a warning.

  Args:
    workdir: a run's folder.
    abstract: nested dict of ShapeDtypeStruct, all parameters of the system; None: whatever the checkpoint holds.

  Returns:
    nested dict of NumPy arrays.

  Raises:
    InputError: if there is no complete checkpoint, none can be read, or the newest does not fit.
  """
  checkpoints = absolute(as_path(workdir)) / "checkpoints"
  damaged, step = _find_damaged(checkpoints)
  if step is None:
    raise InputError(f"{workdir} has no complete checkpoint yet: train longer, or lower training.checkpoint_every")
  for bad, damage in damaged.items():
    _say(f"warning: {checkpoints / str(bad)} is damaged ({damage}): that of step {step} is used")
  folder = checkpoints / str(step)
  stored = {name: leaf for name, leaf in _stored(folder).items() if name.startswith(("ema/", "frozen/"))}
  of = lambda name: name.partition("/")[2]
  everything = {of(name): leaf for name, leaf in stored.items()}
  whole = everything if abstract is None else flatten(abstract)
  for path in sorted(everything.keys() & whole.keys()):
    if tuple(everything[path].shape) != tuple(whole[path].shape):
      raise InputError(f"checkpoint {folder} does not fit its config ({path} is {list(everything[path].shape)} there, "
                       f"and {list(whole[path].shape)} by the config): it was made by another version")
  # As NumPy arrays: onto devices, orbax would look for those that the run had.
  read = _read(folder, {name: jax.ShapeDtypeStruct(whole[of(name)].shape, whole[of(name)].dtype)
                        for name in stored if of(name) in whole}, as_numpy=True)
  return unflatten({of(name): leaf for name, leaf in read.items()})


# Damage


def _find_damaged(folder: epath.Path) -> tuple[dict[int, str], int | None]:
  """The damaged checkpoints that are newer than the newest sound one, with what is wrong, and that one's step.

  Raises:
    InputError: if there are checkpoints and none is sound.
  """
  steps = []
  if folder.exists():
    steps = sorted(int(path.name) for path in folder.iterdir()
                   if path.name.isdigit() and ocp.utils.is_checkpoint_finalized(path))
  damaged = {}
  for step in reversed(steps):
    damage = _damage(folder / str(step))
    if damage is None:
      return damaged, step
    damaged[step] = damage
  if damaged:
    raise InputError(f"no checkpoint in {folder} can be read ("
                     f"{'; '.join(f'{step}: {damage}' for step, damage in damaged.items())}): bring back a copy, or "
                     "use another --workdir")
  return {}, None


def _damage(folder: epath.Path) -> str | None:
  """What is wrong with a checkpoint, or None."""
  if has_manifest(folder):
    return find_damage(folder)
  try:                                                         # of a version without lists of files, or it was lost
    _read(folder, dict.fromkeys(_stored(folder)), as_numpy=True, alone=True)
  except Exception as error:                                   # the layers below raise anything over damaged files
    return f"{type(error).__name__} while it was read"
  return None


def _set_damaged_aside(folder: epath.Path, say: Callable[[str], None]) -> None:
  """Renames what would be taken for the newest checkpoint and is damaged, so that it is saved again."""
  damaged, newest = _find_damaged(folder)
  for step, damage in damaged.items():
    aside = folder / f"{step}.damaged"
    aside.rmtree(missing_ok=True)
    (folder / str(step)).rename(aside)
    say(f"warning: checkpoint {folder / str(step)} is damaged ({damage}): the run continues from that of step {newest};"
        f" what is left of it is in {aside.name}")


def _first_process_alone(work: Callable[[], None]) -> None:
  """Does it on the first process while the others wait, and fails on all if it fails."""
  failure = None
  if jax.process_index() == 0:
    try:
      work()
    except InputError as error:
      failure = error
  if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(failure is not None)):
    failure = failure or InputError("no checkpoint can be read; the first process says why")
  if failure:
    raise failure


# Leaves by name: "params/net/kernel", "opt_state/0/mu/net/kernel"


def _by_name(tree: Any) -> dict[str, Any]:
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _checkpointer(alone: bool) -> ocp.Checkpointer:
  """`alone`: this process waits for no other."""
  options = ocp.options.MultiprocessingOptions()
  if alone:
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix="alone")
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options)


def _stored_tree(folder: epath.Path) -> Any:
  handler = ocp.PyTreeCheckpointHandler()
  try:
    return handler.metadata(folder / "state").tree
  finally:
    handler.close()


def _stored(folder: epath.Path) -> dict[str, Any]:
  """What a checkpoint holds: shape and dtype of every leaf."""
  return _by_name(_stored_tree(folder))


def _read(folder: epath.Path, targets: dict[str, jax.ShapeDtypeStruct | None], as_numpy: bool = False,
          alone: bool = False) -> dict[str, Any]:
  """Reads some of the leaves, each in the dtype and onto the devices that its target names; None: as it is stored."""
  tree = _stored_tree(folder)
  structure, leaves = jax.tree.structure(tree), _by_name(tree)

  def how(name: str) -> ocp.RestoreArgs:
    if name not in targets:
      return ocp.RestoreArgs(restore_type=type(ocp.PLACEHOLDER))
    target = targets[name]
    if as_numpy:
      return ocp.RestoreArgs(restore_type=np.ndarray, dtype=getattr(target, "dtype", None))
    return ocp.ArrayRestoreArgs(sharding=target.sharding, global_shape=target.shape, dtype=target.dtype)

  with _checkpointer(alone) as checkpointer:
    restored = checkpointer.restore(folder / "state", args=ocp.args.PyTreeRestore(
        structure.unflatten([leaf if name in targets else ocp.PLACEHOLDER for name, leaf in leaves.items()]),
        restore_args=structure.unflatten([how(name) for name in leaves])))
  return {name: leaf for name, leaf in _by_name(restored).items() if name in targets}


# Another set of trained parameters


def _sources(wanted: dict, stored: dict, folder: epath.Path) -> dict[str, str | None]:
  """For every leaf of the state the stored leaf that it begins from; None: zeros, the moments of what was frozen.

  Raises:
    InputError: if parameters or the optimizer differ in more than which of them are trained.
  """
  def misfit(what: str) -> InputError:
    return InputError(f"checkpoint {folder} does not fit this model ({what}): use the config it was trained with, or "
                      "another --workdir")

  now, then = ({group: {name.removeprefix(f"{group}/") for name in names if name.startswith(f"{group}/")}
                for group in ("params", "frozen")} for names in (wanted, stored))
  unknown = (then["params"] | then["frozen"]) ^ (now["params"] | now["frozen"])
  if unknown:
    path = min(unknown)
    raise misfit(f"{path} is {'only there' if path in then['params'] | then['frozen'] else 'not there'}")

  changed = tuple(f"/{path}" for path in now["params"] ^ then["params"])
  for name in stored.keys() - wanted.keys():
    if not name.endswith(changed):
      raise misfit(f"{name} is only there")
  sources = {}
  for name, leaf in wanted.items():
    group, _, path = name.partition("/")
    other = {"params": f"frozen/{path}", "ema": f"frozen/{path}", "frozen": f"ema/{path}"}.get(group)
    source = name if name in stored else other
    if source is None and not name.endswith(changed):
      raise misfit(f"{name} is not there")
    if source and tuple(stored[source].shape) != tuple(leaf.shape):
      raise misfit(f"{path} is {list(stored[source].shape)} there and {list(leaf.shape)} here")
    sources[name] = source
  return sources


def _moved(wanted: dict, stored: dict) -> str:
  """One line on which parameters are trained from here on that were not before, and the reverse."""
  def sentence(names: set[str], what: str) -> list[str]:
    count = sum(math.prod(stored[name].shape) for name in names) / 1e6
    first = min(names, default="").partition("/")[2]
    return [f"{len(names)} parameter arrays ({count:.2f} M, {first}{' …' * (len(names) > 1)}) {what}"] * bool(names)

  frozen = {name for name in stored if name.startswith("frozen/") and name not in wanted}
  trained = {name for name in stored if name.startswith("params/") and name not in wanted}
  return "from here on " + " and ".join(
      sentence(frozen, "that were frozen are trained, with no moments yet")
      + sentence(trained, "that were trained are frozen, at their averages"))
