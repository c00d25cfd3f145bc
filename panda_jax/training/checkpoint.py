"""Checkpoints: train state and data iterator together, newest few kept. Everything orbax is in this file."""

import contextlib
import math
import os
from pathlib import Path
import shutil
from typing import Any

import grain
import jax
import numpy as np
from orbax.checkpoint import checkpoint_managers
import orbax.checkpoint as ocp

from panda_jax.errors import InputError
from panda_jax.models.functional import flatten, unflatten


class Checkpoints:
  """The checkpoints of one workdir. A save that was killed half-way leaves no checkpoint, only a folder to ignore."""

  def __init__(self, folder: str | os.PathLike, keep: int):
    self._folder = Path(folder).absolute()                     # orbax refuses relative paths
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(keep), enable_async_checkpointing=True,
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
      InputError: saying how much is wanted and how much is free.
    """
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
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(iterator)))

  def restore(self, abstract: Any, iterator: Any) -> Any:
    """Restores the newest checkpoint, onto whatever mesh `abstract` names.

    Args:
      abstract: TrainState of ShapeDtypeStructs with shardings.
      iterator: grain iterator, moved in place to where the checkpoint left it.

    Returns:
      the TrainState.
    """
    step = self.latest_step()
    items = {"state": ocp.args.StandardRestore(abstract)}
    # grain keeps one file per process. With another number of processes each continues at the same batch instead.
    mine = self._folder / str(step) / "data" / f"process_{jax.process_index()}-of-{jax.process_count()}.json"
    if mine.exists():
      items["data"] = grain.checkpoint.CheckpointRestore(iterator)
    else:
      iterator.set_state({"next_index": step})
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))["state"]
    except (ValueError, KeyError) as error:
      reason = str(error).strip().splitlines()[0]
      raise InputError(f"checkpoint {self._folder / str(step)} does not fit this model ({reason}): "
                       "use the config it was trained with, or another --workdir") from error

  def close(self) -> None:
    """Waits for a save under way and ends orbax's threads."""
    try:
      with self._disk_errors():
        self._manager.wait_until_finished()
    finally:
      self._manager.close()

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

  The optimizer's state, twice as large, is not read. The run may have had any number of devices.

  Args:
    workdir: a run's folder.
    abstract: nested dict of ShapeDtypeStruct, all parameters of the system; None: whatever the checkpoint holds.

  Returns:
    nested dict of NumPy arrays.

  Raises:
    InputError: if there is no complete checkpoint, or it does not fit.
  """
  folder = Path(workdir).absolute() / "checkpoints"
  steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
  if not steps:
    raise InputError(f"{workdir} has no complete checkpoint yet: train longer, or lower training.checkpoint_every")
  item = folder / str(max(steps)) / "state"
  with ocp.PyTreeCheckpointer() as checkpointer:
    stored = checkpointer.metadata(item).item_metadata.tree
    stored = {group: flatten(stored[group]) for group in ("ema", "frozen")}
    everything = stored["ema"] | stored["frozen"]
    whole = everything if abstract is None else flatten(abstract)
    for path in everything.keys() & whole.keys():
      if tuple(everything[path].shape) != tuple(whole[path].shape):
        raise InputError(f"checkpoint {item.parent} does not fit its config ({path} is {list(everything[path].shape)} "
                         f"there, and {list(whole[path].shape)} by the config): it was made by another version")
    targets = {group: unflatten({path: jax.ShapeDtypeStruct(whole[path].shape, whole[path].dtype)
                                 for path in leaves if path in whole}) for group, leaves in stored.items()}
    # As NumPy arrays: onto devices, orbax would look for those that the run had.
    as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), targets)
    try:
      restored = checkpointer.restore(item, args=ocp.args.PyTreeRestore(
          targets, restore_args=as_numpy, partial_restore=True))
    except (ValueError, KeyError) as error:
      reason = str(error).strip().splitlines()[0]
      raise InputError(f"checkpoint {item.parent} does not fit its config ({reason}): it was made by another "
                       "version") from error
  return unflatten({**flatten(restored["frozen"]), **flatten(restored["ema"])})
