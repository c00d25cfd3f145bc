"""The training run, top to bottom: mesh, system, data, state, compile, loop, close."""

import contextlib
import dataclasses
import math
import os
from pathlib import Path
from typing import Any, Callable, Iterator

import jax
from ml_collections import ConfigDict
import numpy as np

from panda_jax.errors import InputError
from panda_jax.models.functional import flatten
from panda_jax.parallel import batch_shardings, global_batch, make_mesh, replicated, state_shardings
from panda_jax.training.checkpoint import Checkpoints
from panda_jax.training.config import check_batch_size, check_config, check_workdir, write_config
from panda_jax.training.errors import TrainingStopped
from panda_jax.training.init import complete_config, create_state_from
from panda_jax.training.log import Log, due
from panda_jax.training.metrics import METRICS_FILE, MetricWriter, Progress, read_metrics
from panda_jax.training.optimizer import make_optimizer, make_schedule, rate_scales
from panda_jax.training.programs import Programs
from panda_jax.training.state import TrainState, create_state, merge_params
from panda_jax.training.step import INIT_STREAM, PREVIEW_STREAM, make_train_step, stream
from panda_jax.training.validation import Validation, check_timesteps, make_validation_step
from panda_jax.weights.folder import save_model

__all__ = ["Data", "TrainingStopped", "train"]


@dataclasses.dataclass
class Data:
  """What a run reads.

  Attributes:
    train: grain DatasetIterator of this process's batches, one per step.
    validation: this process's fixed batches; may be empty.
  """
  train: Iterator[dict[str, np.ndarray]]
  validation: list[dict[str, np.ndarray]]


def train(config: ConfigDict, workdir: str | os.PathLike, system: Any = None,
          data: Callable[[ConfigDict, Any], Data] | None = None) -> None:
  """Trains until config.training.steps and exports workdir/model; resumes where an earlier call stopped.

  Args:
    config: see configs/tiny.py for the keys.
    workdir: config.json, checkpoints/, metrics.jsonl, samples/, tensorboard/ and model/ go here.
    system: default systems.build(config).
    data: (config, system) -> Data; default the ArrayRecord pipeline of config.data.

  Raises:
    InputError: for a config, dataset or workdir that cannot be used.
    TrainingStopped: when the loss or the gradient is not finite.
  """
  check_config(config)
  config = complete_config(config, workdir)
  workdir = _prepare_workdir(workdir, config)
  options = config.training

  # Mesh
  mesh = make_mesh(config.mesh.to_dict())
  check_batch_size(config, devices=mesh.size)                  # every device takes part in every part of a step

  # System
  system = _build_system(config) if system is None else system
  check_timesteps(options.validation_timesteps, system.timesteps)
  schedule = make_schedule(config.optimizer, options.steps)
  optimizer = make_optimizer(config.optimizer, schedule)

  # State, still abstract: shapes and shardings before any array exists
  init_key = stream(config.seed, INIT_STREAM)
  abstract = jax.eval_shape(lambda key: create_state(system.init(key), system.trainable, optimizer), init_key)
  shardings = state_shardings(mesh, abstract, optimizer)
  abstract = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                          abstract, shardings)
  rate_scales(config.optimizer.rate_scales, flatten(abstract.params))      # refuses a rule that has no effect

  with contextlib.ExitStack() as closing:
    checkpoints = Checkpoints(workdir / "checkpoints", options.keep)
    closing.callback(checkpoints.close)
    checkpoints.require_room(abstract)
    start = checkpoints.latest_step() or 0
    if system.pretrained and not start and not config.init:
      raise InputError(f"{' and '.join(system.pretrained)} of this system are pretrained and stay as they are, so a "
                       "run cannot begin without them: make a folder with `panda convert --init`, and give it with "
                       "--config.init=FOLDER")
    progress = Progress(start, options.steps)
    closing.callback(progress.close)
    progress.say(_overview(abstract, mesh))

    # Data
    data = (_open_data if data is None else data)(config, system)
    if hasattr(data.train, "close"):
      closing.callback(data.train.close)
    validation = [global_batch(mesh, batch) for batch in data.validation]

    # State, for real. Which parameters a run starts from:
    #   1. its own newest checkpoint, with optimizer, average, step and place in the data;
    #   2. config.init, a model folder, the name of a shipped model or another run: its parameters, and what the system
    #      adds to them; the rest as at step 0;
    #   3. system.init with the run's seed.
    if checkpoints.latest_step() is not None:
      state = checkpoints.restore(abstract, data.train)
      progress.say(f"continuing from the checkpoint of step {start}")
    elif config.init:
      state = create_state_from(config.init, config, system, optimizer, abstract, shardings, init_key)
      progress.say(f"starting from {config.init}")
    else:
      state = jax.jit(lambda key: create_state(system.init(key), system.trainable, optimizer),
                      out_shardings=shardings)(init_key)

    # Compile, every matrix shape ahead of time
    finished = start >= options.steps
    train_step = make_train_step(system, optimizer, schedule, seed=config.seed, ema_decay=config.optimizer.ema_decay,
                                 accumulate=options.accumulate)
    validation_step = make_validation_step(system)
    programs = Programs()
    for views, frames in () if finished else config.matrix.shapes:
      batch = dict(system.batch_spec((views, frames), config.batch_size))
      programs.add("step", batch, f"the step for {views} views x {frames} frames", jax.jit(
          train_step, in_shardings=(shardings, batch_shardings(mesh, batch)),
          out_shardings=(shardings, replicated(mesh)), donate_argnums=0).lower(abstract, batch))
    for batch in () if finished else validation:
      if not programs.has("validation", batch):
        programs.add("validation", batch, "validation", jax.jit(
            validation_step, out_shardings=replicated(mesh)).lower(abstract, batch, np.uint32(0), np.int32(0)))
    # The step of a full-size network takes up to 17 GiB of host memory to compile, and hosts should compile in one
    # order.
    programs.compile(progress.say, alone=_count(abstract.params) > 1e8 or jax.process_count() > 1)
    validate = Validation(programs, validation, options.validation_timesteps)

    # Loop. All that can be wrong with the config has been found: from here on the workdir belongs to it.
    if jax.process_index() == 0:
      write_config(workdir, config)
    metrics = MetricWriter(workdir, start)
    closing.callback(metrics.close)
    if start == 0 and validation:
      values = validate(state)
      metrics.write(0, values)
      progress.report(0, values)
    log = Log(metrics, progress, options, start, checkpoints)
    unread = None                                              # (step, its metrics), still on the device
    for step in range(start + 1, options.steps + 1):
      batch = global_batch(mesh, next(data.train))
      with jax.transfer_guard("disallow"):                     # nothing else may travel to the device unseen
        state, results = programs.find("step", batch)(state, batch)
      if unread:
        log(*unread)                                           # step n-1 is read while step n runs
      unread = (step, results)
      last = step == options.steps
      validates = bool(validation) and due(step, options.validate_every, last)
      samples = bool(validation) and hasattr(system, "preview") and due(step, options.sample_every)
      saves = due(step, options.checkpoint_every, last)
      if not (validates or samples or saves):
        continue
      # DO NOT CHANGE THE ORDER: numbers are checked before anything is saved, and written before the checkpoint that
      # counts them as done.
      log.check(*unread)
      with log.paused():
        extra = validate(state) if validates else {}
      log(*unread, extra)
      unread = None
      with log.paused():
        if samples:
          params, key = merge_params(state.ema, state.frozen), stream(config.seed, PREVIEW_STREAM)
          metrics.sample(step, np.asarray(system.preview(params, validation[0], key)))
        if saves:
          checkpoints.save(step, state, data.train)

    # Close
    if finished:
      progress.say(f"{workdir} has {start} finished steps and training.steps is {options.steps}: nothing left to train")
    _export(workdir, state, config)
    progress.say(f"the model is in {workdir / 'model'}")


def _prepare_workdir(workdir: str | os.PathLike, config: ConfigDict) -> Path:
  if "://" in str(workdir):
    raise InputError(f"--workdir {workdir}: only folders are written to; mount the bucket and give its path")
  workdir = Path(workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError, PermissionError) as error:
    raise InputError(f"--workdir {workdir} cannot be made a folder ({error.strerror}): choose another") from error
  check_workdir(workdir, config)
  return workdir


def _build_system(config: ConfigDict) -> Any:
  from panda_jax import systems                                # tests with a system of their own need no networks
  return systems.build(config)


def _open_data(config: ConfigDict, system: Any) -> Data:
  """The pipeline over config.data; validation_path "" means no validation."""
  from panda_jax.data.matrix import MatrixSchedule
  from panda_jax.data.pipeline import train_iterator, validation_batches
  processes = jax.process_count()
  if config.batch_size % processes:
    raise InputError(f"batch_size {config.batch_size} is not a multiple of the {processes} processes")
  shared = dict(rig=system.rig, view_size=system.view_size, rays_size=system.rays_size, tokenize=system.tokenize,
                given=system.given_cameras, kind=config.data.kind, fps=config.data.fps,
                panorama_height=config.data.panorama_height or None,
                batch_size=config.batch_size // processes, process_index=jax.process_index(), process_count=processes)
  schedule = MatrixSchedule(config.matrix.shapes, config.seed)
  batches = train_iterator(config.data.path, config.data.split, schedule=schedule, seed=config.seed, **shared)
  if not config.data.validation_path:
    return Data(batches, [])
  # The shape with most views: it shows best whether a whole panorama fits together.
  return Data(batches, validation_batches(
      config.data.validation_path, config.data.validation_split, shape=max(schedule.shapes),
      count=config.training.validation_batches, **shared))


def _count(tree: dict) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _overview(abstract: TrainState, mesh: jax.sharding.Mesh) -> str:
  axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  return (f"{_count(abstract.params) / 1e6:.2f} M parameters to train, {_count(abstract.frozen) / 1e6:.2f} M frozen; "
          f"{mesh.size} {jax.devices()[0].device_kind} device(s), mesh {axes}")


def _export(workdir: Path, state: TrainState, config: ConfigDict) -> None:
  """Writes the averaged parameters as workdir/model."""
  params = merge_params(state.ema, state.frozen)
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils
    params = multihost_utils.process_allgather(params, tiled=True)
  if jax.process_index() != 0:
    return
  latest = {}
  for line in read_metrics(workdir / METRICS_FILE):
    latest |= line
  lines = [f"# {config.system} model", "", f"- training steps: {int(state.step)}",
           f"- training data: {config.data.path} ({config.data.split})"]
  lines += [f"- {name.replace('_', ' ')}: {latest[name]:.5f}" for name in ("loss_mean", "validation_loss")
            if name in latest]
  lines += ["- the weights are the moving average of the run", "- config.json holds the full configuration"]
  save_model(workdir / "model", jax.device_get(params), config, card="\n".join(lines) + "\n")
