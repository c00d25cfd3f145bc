"""The training run, top to bottom: mesh, system, data, state, compile, loop, close."""

import contextlib
import dataclasses
import functools
import gc
import os
from typing import Any, Callable, Iterator

from etils import epath
import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np

from panda_jax.errors import InputError
from panda_jax.parallel import data_shard
from panda_jax.parallel.topology import peak_flops
from panda_jax.paths import as_path, bucket_of, is_remote
from panda_jax.training.checkpoint import Checkpoints
from panda_jax.training.config import check_config, check_workdir, write_config
from panda_jax.training.errors import TrainingStopped
from panda_jax.training.feed import Feed
from panda_jax.training.init import complete_config, create_state_from
from panda_jax.training.log import Log, due
from panda_jax.training.metrics import METRICS_FILE, MetricWriter, preview_picture, read_metrics
from panda_jax.training.preemption import Preempted, Preemption
from panda_jax.training.profiler import Profiler
from panda_jax.training.programs import Programs
from panda_jax.training.progress import Progress
from panda_jax.training.setup import Setup, count
from panda_jax.training.state import TrainState, merge_params
from panda_jax.training.validation import Validation
from panda_jax.weights.folder import save_model

__all__ = ["Data", "Preempted", "TrainingStopped", "train"]


@dataclasses.dataclass
class Data:
  """What a run reads.

  Attributes:
    train: grain DatasetIterator of this process's batches, one per step.
    validation: this process's fixed batches; may be empty.
    stored: what the training data have in place of images and text, as arguments of `System.batch_spec`.
    made_with: dataset -> what it says of the networks that made what it stores; they must be those of this run.
  """
  train: Iterator[dict[str, np.ndarray]]
  validation: list[dict[str, np.ndarray]]
  stored: dict[str, bool] = dataclasses.field(default_factory=dict)
  made_with: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def train(config: ConfigDict, workdir: str | os.PathLike, system: Any = None,
          data: Callable[[ConfigDict, Any], Data] | None = None, profile: tuple[int, int] | None = None) -> None:
  """Trains until config.training.steps and exports workdir/model; resumes where an earlier call stopped.

  Args:
    config: see configs/tiny.py for the keys.
    workdir: config.json, checkpoints/, metrics.jsonl, samples/, tensorboard/ and model/ go here.
    system: default systems.build(config).
    data: (config, system) -> Data; default the ArrayRecord pipeline of config.data.
    profile: (start, stop): the steps of this session from number `start`, counted from 0, to the one before `stop` are
      traced by JAX's profiler, into workdir/profile.

  Compiled programs are kept for the next run where jax.config.jax_compilation_cache_dir says; `panda` sets that, other
  callers set it themselves.

  Raises:
    InputError: for a config, dataset or workdir that cannot be used.
    TrainingStopped: when the loss or the gradient is not finite.
    Preempted: after SIGTERM, when the present step is saved.
  """
  check_config(config)
  config = complete_config(config, workdir)
  workdir = _prepare_workdir(workdir, config)
  options = config.training

  # System, mesh, optimizer, and where the state will lie, before any array exists
  setup = Setup.make(config, system=system)
  system, abstract = setup.system, setup.abstract

  with contextlib.ExitStack() as closing:
    checkpoints = Checkpoints(workdir / "checkpoints", options.keep, options.keep_every)
    closing.callback(checkpoints.close)
    checkpoints.require_room(abstract)
    start = checkpoints.latest_step() or 0
    if system.pretrained and not start and not config.init:
      raise InputError(f"{' and '.join(system.pretrained)} of this system are pretrained and stay as they are, so a "
                       "run cannot begin without them: make a folder with `panda convert --init`, and give it with "
                       "--config.init=FOLDER")
    progress = Progress(start, options.steps)
    closing.callback(progress.close)
    progress.say(setup.overview())

    # Data
    data = (functools.partial(_open_data, setup) if data is None else functools.partial(data, config, system))()
    setup = dataclasses.replace(setup, stored=data.stored)
    if hasattr(data.train, "close"):
      closing.callback(data.train.close)
    validation = [setup.place(batch) for batch in data.validation]

    # State, for real. Which parameters a run starts from:
    #   1. its own newest checkpoint, with optimizer, average, step and place in the data;
    #   2. config.init, a model folder, the name of a shipped model or another run: its parameters, and what the system
    #      adds to them; the rest as at step 0;
    #   3. system.init with the run's seed.
    if checkpoints.latest_step() is not None:
      state = checkpoints.restore(abstract, data.train, progress.say)
      progress.say(f"continuing from the checkpoint of step {start}")
    elif config.init:
      state = create_state_from(config.init, setup)
      progress.say(f"starting from {config.init}")
    else:
      state = setup.fresh_state()
    _check_made_with(data, system, merge_params(state.params, state.frozen))

    # Compile, every matrix shape ahead of time
    finished = start >= options.steps
    programs = Programs()
    for views, frames in () if finished else config.matrix.shapes:
      programs.add("step", setup.batch((views, frames)), f"the step for {views} views x {frames} frames",
                   setup.trace_step((views, frames)), images=config.batch_size * views * frames)
    for batch in () if finished else validation:
      if not programs.has("validation", batch):
        programs.add("validation", batch, "validation", setup.trace_validation(batch))
    draws = bool(validation) and hasattr(system, "preview") and 0 < options.sample_every <= options.steps
    if draws and not finished:
      programs.add("preview", validation[0], "the preview", setup.trace_preview(validation[0]))
    # The step of a full-size network takes 9 GiB of host memory to compile, and hosts should compile in one order.
    programs.compile(progress.say, alone=count(abstract.params) > 1e8 or jax.process_count() > 1)
    if jax.process_count() > 1:                                # one may have found its programs in the cache
      multihost_utils.sync_global_devices("compiled")
    validate = Validation(programs, validation, options.validation_timesteps)

    # Loop. All that can be wrong with the config has been found: from here on the workdir belongs to it.
    if jax.process_index() == 0:
      write_config(workdir, config)
    metrics = MetricWriter(workdir, start)
    closing.callback(metrics.close)
    feed = Feed(data.train, setup.place)
    closing.callback(feed.close)
    if not finished:
      feed.start_prefetch()
    profiler = Profiler(workdir / "profile", profile, progress.say)
    closing.callback(profiler.close)
    if start == 0 and validation:
      values = validate(state)
      metrics.write(0, values)
      progress.report(0, values)
    # Garbage collections need not look at what tracing and compiling left: 10 ms per step for a full-size network.
    gc.collect()
    gc.freeze()
    closing.callback(gc.unfreeze)
    log = Log(metrics, progress, options, checkpoints, feed, peak_flops(jax.devices()[0].device_kind))
    unread = None                                              # (step, its metrics, its program), still on the device
    preemption = closing.enter_context(Preemption())
    for step in range(start + 1, options.steps + 1):
      profiler(step - start - 1, feed.running)
      # Nothing travels unseen, neither way, and nothing is compiled that was not compiled before.
      with jax.transfer_guard("disallow"), jax.no_tracing(True):
        batch = next(feed)                                     # its copy was made while earlier steps ran
        program = programs.find("step", batch)
        state, results = program(state, batch)
        feed.running = results
        if unread:
          log(*unread)                                         # step n-1 is read while step n runs
      unread = (step, results, program)
      last = step == options.steps
      stops = preemption.requested(step) and not last          # then there is no time for pictures
      validates = bool(validation) and due(step, options.validate_every, last) and not stops
      samples = draws and due(step, options.sample_every) and not stops
      saves = due(step, options.checkpoint_every, last) or stops
      if not (validates or samples or saves):
        continue
      # DO NOT CHANGE THE ORDER: numbers are checked before anything is saved, and written before the checkpoint that
      # counts them as done.
      log.check(step, results)
      with log.paused():
        extra = validate(state) if validates else {}
      log(*unread, extra)
      unread = None
      with log.paused():
        if samples:
          preview = programs.find("preview", validation[0])
          metrics.sample(step, preview_picture(np.asarray(preview(state, validation[0]))))
        if saves:
          checkpoints.save(step, state, feed)
      if stops:
        raise Preempted(f"stopped by SIGTERM after step {step}, which is saved: the same command goes on from there")

    # Close
    if finished:
      progress.say(f"{workdir} has {start} finished steps and training.steps is {options.steps}: nothing left to train")
    _export(workdir, state, config)
    progress.say(f"the model is in {workdir / 'model'}")


def _prepare_workdir(workdir: str | os.PathLike, config: ConfigDict) -> epath.Path:
  workdir = as_path(workdir)
  if is_remote(workdir) and not bucket_of(workdir).exists():
    raise InputError(f"--workdir {workdir}: the bucket is not there or may not be read; check its name and your "
                     "credentials (gcloud auth application-default login)")
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError, PermissionError) as error:
    raise InputError(f"--workdir {workdir} cannot be made a folder ({error.strerror}): choose another") from error
  check_workdir(workdir, config)
  return workdir


def _open_data(setup: Setup) -> Data:
  """The pipeline over config.data; validation_path "" means no validation."""
  from panda_jax.data.matrix import MatrixSchedule
  from panda_jax.data.pipeline import train_iterator, validation_batches
  from panda_jax.data.records import dataset_info
  config, system = setup.config, setup.system
  info = dataset_info(config.data.path)
  if info["store"] == "panorama_latents":
    raise InputError(f"{config.data.path} stores latents of whole panoramas, on which {config.system} does not train: "
                     "give a dataset of pixels")
  stored = {"latents": info["store"] == "latents", "text_states": info["about"].get("text") is not None}
  stored = {name: True for name, given in stored.items() if given}      # systems that read pixels need know of no other
  part, parts = data_shard(setup.mesh)
  shared = dict(shows=system.shows, tokenize=system.tokenize, kind=config.data.kind, fps=config.data.fps,
                panorama_height=config.data.panorama_height or None,
                batch_size=config.batch_size // parts, process_index=part, process_count=parts)
  schedule = MatrixSchedule(config.matrix.shapes, config.seed)
  batches = train_iterator(config.data.path, config.data.split, schedule=schedule, seed=config.seed,
                           flip=config.data.flip, **shared)
  paths = list(dict.fromkeys(filter(None, (config.data.path, config.data.validation_path))))
  made_with = {path: about for path in paths if (about := dataset_info(path)["about"]).get("codec") is not None}
  if not config.data.validation_path:
    return Data(batches, [], stored, made_with)
  # The shape with most views: it shows best whether a whole panorama fits together.
  return Data(batches, validation_batches(
      config.data.validation_path, config.data.validation_split, shape=max(schedule.shapes),
      count=config.training.validation_batches, **shared), stored, made_with)


def _check_made_with(data: Data, system: Any, params: dict) -> None:
  """Refuses latents and text states that other networks than those of this run have made."""
  if data.made_with:
    from panda_jax.data.stores import check_fresh
    key = system.stored_key(system.key_params(params))
    for path, about in data.made_with.items():
      check_fresh(path, about, key)


def _export(workdir: epath.Path, state: TrainState, config: ConfigDict) -> None:
  """Writes the averaged parameters as workdir/model."""
  params = merge_params(state.ema, state.frozen)
  if jax.process_count() > 1:
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
