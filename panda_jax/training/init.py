"""config.init: the parameters a run starts from, out of a model folder, a shipped model, or another run's workdir."""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
import json
import os
from pathlib import Path
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from panda_jax.errors import InputError
from panda_jax.paths import absolute, as_path
from panda_jax.training.checkpoint import load_average
from panda_jax.training.config import CONFIG_FILE, read_config, to_plain
from panda_jax.training.setup import Setup
from panda_jax.training.state import TrainState, create_state, merge_params
from panda_jax.weights.folder import WEIGHTS_FILE, check_params, load_model
from panda_jax.weights.shipped import SHIPPED, find_model

# Settings of config.model that may differ between a model and the run that starts from it. What `multiview` and
# `view_conditions` add, the system adds to the parameters; the channels follow from the codec and the text encoder.
# The same holds for the motion modules, with the settings that are theirs alone, where an image model has none.
_MAY_DIFFER = {
    "unet": ("multiview", "view_conditions", "in_channels", "out_channels", "text_channels"),
    "codec": ("images_per_batch",),
    "text": ("tokenizer",),
}
_OF_MOTION = ("temporal", "motion_mid", "motion_heads", "motion_norm", "motion_norm_groups", "max_frames",
              "learned_positions")


@dataclasses.dataclass(frozen=True)
class Source:
  """What config.init names.

  Attributes:
    name: as the config has it.
    folder: where it is.
    is_run: whether it is the workdir of a run, whose newest checkpoint counts, and not a model folder.
    config: its config, plain JSON.
  """
  name: str
  folder: Path | epath.Path
  is_run: bool
  config: dict


def find_source(name: str) -> Source:
  """Finds a model folder, a shipped model or a run, and reads its config; no weights are read.

  Raises:
    InputError: if it is none of them.
  """
  folder = find_model(name)
  if not folder.is_dir():
    what = "is not a folder" if folder.exists() else "is not a folder, nor a model that comes with panda_jax"
    raise InputError(f"config.init: {name} {what}: give a model folder, the workdir of a run, or "
                     f"{' or '.join(SHIPPED)}")
  is_run = not (folder / WEIGHTS_FILE).is_file() and (folder / "checkpoints").is_dir()
  if not is_run:
    for file in (WEIGHTS_FILE, CONFIG_FILE):
      if not (folder / file).is_file():
        raise InputError(f"config.init: {name} has no {file}: a model folder holds {WEIGHTS_FILE} and {CONFIG_FILE}, "
                         f"the workdir of a run {CONFIG_FILE} and checkpoints/")
  return Source(name, folder, is_run, to_plain(read_config(folder)))


def complete_config(config: ConfigDict, workdir: str | os.PathLike) -> ConfigDict:
  """Holds a new run's config against that of config.init, and takes from it the tokenizer where ours names none.

  A run that was begun has done so before: it keeps what it then took, and needs config.init no longer.

  Args:
    config: of the run.
    workdir: of the run; need not exist.

  Returns:
    the config, or a copy of it with config.model.text.tokenizer filled in.

  Raises:
    InputError: if config.init is nothing to start from, or its weights mean something else.
  """
  workdir = as_path(workdir)
  if (workdir / CONFIG_FILE).is_file():
    begun = to_plain(read_config(workdir))
  elif config.init:
    source = find_source(config.init)
    check_same_networks(config, source)
    begun = source.config
  else:
    return config
  text = config.model.get("text", {})
  if text.get("tokenizer") != "":
    return config
  tokenizer = _group(begun, "text").get("tokenizer")
  if not tokenizer:
    return config
  if not (workdir / CONFIG_FILE).is_file():
    # A run names a folder as it was typed, a model folder one that lies in it.
    tokenizer = str(absolute(as_path(tokenizer if source.is_run else source.folder / tokenizer)))
  config = config.copy_and_resolve_references()
  config.model.text.tokenizer = tokenizer
  return config


def check_same_networks(config: ConfigDict, source: Source) -> None:
  """Refuses weights that would mean something else in this run's networks than in those they were trained in.

  Shapes alone would let many of these pass: other heads, other norms, another scale of the latents.

  Args:
    config: of the run; a key that it or the source lacks has its default.
    source: from `find_source`.

  Raises:
    InputError: naming the keys, and both values of the first.
  """
  ours, theirs = to_plain(config), source.config
  differing = []
  for group, ignored in _MAY_DIFFER.items():
    if not (_group(ours, group) or _group(theirs, group)):
      continue
    here, there = (_with_defaults(group, _group(plain, group)) for plain in (ours, theirs))
    if group == "unet" and here["temporal"] and not there["temporal"]:
      ignored += _OF_MOTION
    keys = ["kind"] if here.get("kind") != there.get("kind") else sorted((here.keys() | there.keys()) - {*ignored})
    absent = object()
    differing += [(f"config.model.{group}.{key}", there.get(key), here.get(key)) for key in keys
                  if here.get(key, absent) != there.get(key, absent)]
  if differing:
    key, there, here = differing[0]
    more = f" (and {', '.join(key for key, *_ in differing[1:])})" if len(differing) > 1 else ""
    raise InputError(f"{key} is {json.dumps(there)} in {source.name} (config.init) and {json.dumps(here)} in this "
                     f"config{more}: its weights mean something else here; give these keys the values of "
                     f"{source.folder / CONFIG_FILE}")


def load_params(source: Source, system: Any, abstract: dict, rng: jax.Array) -> dict:
  """The parameters of a source, with what the system adds to them.

  Args:
    source: from `find_source`.
    system: of the run; `adopt` adds to a model that lacks only what it adds.
    abstract: nested dict of ShapeDtypeStruct, all parameters of the system.
    rng: of what is added.

  Returns:
    nested dict of NumPy arrays in the types of `abstract`.

  Raises:
    InputError: if they are unreadable, or are not exactly the system's.
  """
  params = load_average(source.folder) if source.is_run else load_model(source.folder)[0]
  what = f"the parameters of {source.name} (config.init)"
  if abstract.keys() - params.keys():
    check_params(params, abstract, source=what)                 # a whole network is absent: nothing could be added
  try:
    params = system.adopt(params, rng)
  except InputError as error:
    raise InputError(f"{what} do not fit this model: {error}") from error
  check_params(params, abstract, source=what)
  return jax.tree.map(lambda leaf, like: np.asarray(leaf, like.dtype), params, abstract)


def create_state_from(name: str, setup: Setup) -> TrainState:
  """The state before the first step of a run that starts from `name`: its parameters, and nothing else of it.

  Args:
    name: config.init.
    setup: of the run; parameters that the source has not begin with its `init_key`.

  Raises:
    InputError: see `find_source`, `check_same_networks` and `load_params`.
  """
  source = find_source(name)
  check_same_networks(setup.config, source)
  system, abstract, shardings = setup.system, setup.abstract, setup.shardings
  params = load_params(source, system, merge_params(abstract.params, abstract.frozen), setup.init_key)
  where = merge_params(shardings.params, shardings.frozen)
  # Under jit, so that parameters and average are separate buffers.
  return jax.jit(lambda params: create_state(params, system.trainable, setup.optimizer),
                 in_shardings=(where,), out_shardings=shardings)(jax.device_put(params, where))


def _group(plain: Mapping, group: str) -> dict:
  """config.model.<group> of a plain config; {} where there is none."""
  return (plain.get("model") or {}).get(group) or {}


def _with_defaults(group: str, options: dict) -> dict:
  """The options with every default written out, as JSON has them."""
  defaults = json.loads(json.dumps(_defaults(group, options.get("kind"))))
  options = defaults | options
  if options.get("kind") == "clip" and options["empty"] is None:
    last = options["vocabulary"] - 1
    options["empty"] = [last - 1, last, last]                   # as `systems.networks.CLIPWords` has it
  return options


def _defaults(group: str, kind: str | None) -> dict:
  """What a group of config.model says where it says nothing; {} for a kind that does not exist."""
  # Only here: tests with a system of their own need no networks.
  from panda_jax.models.clip_text import CLIPTextConfig
  from panda_jax.models.codec import CosineCodec
  from panda_jax.models.tiny_text import TinyTextConfig
  from panda_jax.models.unet import UNetConfig
  from panda_jax.models.vae import VAEConfig
  if group == "unet":
    return _fields(UNetConfig)
  if group == "codec":
    return {None: {"kind": "cosine"} | _fields(CosineCodec), "cosine": _fields(CosineCodec),
            "stable_diffusion": _fields(VAEConfig)}.get(kind, {})
  return {None: {"kind": "tiny"} | _fields(TinyTextConfig), "tiny": _fields(TinyTextConfig),
          "clip": {"empty": None} | _fields(CLIPTextConfig)}.get(kind, {})


def _fields(make: Callable) -> dict:
  """The arguments of a constructor that have a default."""
  return {name: parameter.default for name, parameter in inspect.signature(make).parameters.items()
          if parameter.default is not inspect.Parameter.empty}
