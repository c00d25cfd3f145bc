"""Reading configs/*.py, overriding them from the command line, and tying a workdir to one of them."""

import ast
import difflib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import panda_jax
from panda_jax.errors import InputError
from panda_jax.paths import as_path, write_text

CONFIG_FILE = "config.json"

# Beside the package in a checkout, inside it when installed.
_PACKAGE = Path(panda_jax.__file__).resolve().parent
_CONFIG_FOLDERS = (_PACKAGE.parent / "configs", _PACKAGE / "configs")

# What may change between the sessions of one run: its length (a cosine schedule then follows the new one), how often
# it speaks and what it keeps, the devices it runs on, how it fits a step into their memory, and what is trained.
_MAY_DIFFER = frozenset(("mesh.data", "mesh.fsdp", "mesh.context", "model.freeze_spatial", *(
    f"training.{name}" for name in ("steps", "accumulate", "remat", "log_every", "checkpoint_every", "keep",
                                    "keep_every", "validate_every", "sample_every"))))

# How a system samples is no part of what is trained; a system that trains on such a value keeps it elsewhere.
_SAMPLING = "model.sampling."

# Keys that runs were begun without, and what they did then.
_ADDED = {"data.flip": 0.0}

DATA_KINDS = ("panorama", "flat")

# What the trainer reads. `model` belongs to the system alone.
_REQUIRED = {
    "": ("system", "seed", "batch_size", "init"),
    "data": ("kind", "path", "split", "validation_path", "validation_split", "fps", "panorama_height", "flip"),
    "matrix": ("shapes",),
    "optimizer": ("learning_rate", "warmup_steps", "schedule", "b1", "b2", "weight_decay", "clip_norm", "ema_decay",
                  "rate_scales"),
    "training": ("steps", "accumulate", "log_every", "checkpoint_every", "keep", "keep_every", "validate_every",
                 "validation_batches", "validation_timesteps", "sample_every", "remat", "dtype"),
    "mesh": (),
}


def load_config(source: str, overrides: list[str] | tuple[str, ...] = ()) -> ConfigDict:
  """Runs get_config of a config file and applies overrides.

  Args:
    source: "configs/tiny.py" or "configs/tiny.py:argument". Looked up as given, then in the project's own configs.
    overrides: "--config.optimizer.learning_rate=1e-4" and the like, the value in Python's spelling.

  Returns:
    the ConfigDict, types as in the file.

  Raises:
    InputError: for a file that is absent or fails, an unknown key (the nearest valid one is named), or a value of the
      wrong type.
  """
  name, _, arg = source.partition(":")
  path = find_config(name)
  spec = importlib.util.spec_from_file_location(f"panda_config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(arg) if arg else module.get_config()
  except InputError:
    raise
  except Exception as error:                                   # a config file may do anything; say it in one sentence
    raise InputError(f"config {source}: {type(error).__name__}: {error}") from error
  for override in overrides:
    _override(config, override)
  return config


def find_config(name: str) -> Path:
  """The file behind the name: as given, or among the configs that come with panda_jax."""
  if not name.endswith(".py"):
    raise InputError(f"config {name!r} is not a .py file: give one such as configs/tiny.py")
  given = Path(name)
  candidates = [given] if given.is_absolute() else [given, *(folder / part for folder in _CONFIG_FOLDERS
                                                             for part in (_below_configs(given), given.name))]
  for candidate in candidates:
    if candidate.is_file():
      return candidate
  shipped = sorted(f"configs/{path.name}" for folder in _CONFIG_FOLDERS for path in folder.glob("*.py")
                   if path.name != "__init__.py")
  near = difflib.get_close_matches(f"configs/{given.name}", shipped, n=1, cutoff=0.0) or shipped[:1]
  hint = f": did you mean {near[0]}?" if near else ""
  raise InputError(f"there is no config file {name}{hint}")


def check_workdir(workdir: str | os.PathLike, config: ConfigDict) -> None:
  """Refuses a config that would compute something else than the one this workdir was begun with, if it was.

  Raises:
    InputError: naming the keys that differ.
  """
  path = as_path(workdir) / CONFIG_FILE
  if not path.exists():
    return
  try:
    begun = json.loads(path.read_text())
  except ValueError as error:
    raise InputError(f"{path} is not readable JSON ({error}): use another --workdir") from error
  begun, ours = _ADDED | _flat(begun), _ADDED | _flat(to_plain(config))
  absent = object()
  differing = [key for key in sorted(ours.keys() | begun.keys())
               if key not in _MAY_DIFFER and not key.startswith(_SAMPLING)
               and ours.get(key, absent) != begun.get(key, absent)]
  if differing:
    first = differing[0]
    then, now = (json.dumps(flat[first]) if first in flat else "absent" for flat in (begun, ours))
    more = f", and {', '.join(differing[1:])}" if len(differing) > 1 else ""
    raise InputError(f"{workdir} was begun with another config ({first} was {then}, is now {now}{more}): "
                     "use another --workdir, or the old values")


def read_config(workdir: str | os.PathLike) -> ConfigDict:
  """The config that a run was begun with.

  Raises:
    InputError: if the folder holds none.
  """
  path = as_path(workdir) / CONFIG_FILE
  try:
    plain = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise InputError(f"{workdir} holds no {CONFIG_FILE}: give the --workdir of a `panda train` run") from error
  except ValueError as error:
    raise InputError(f"{path} is not readable JSON ({error}): the run's folder is damaged") from error
  if not isinstance(plain, dict):
    raise InputError(f"{path} must hold one JSON object: the run's folder is damaged")
  return ConfigDict(plain)


def write_config(workdir: str | os.PathLike, config: ConfigDict) -> None:
  """Writes workdir/config.json, which ties the workdir to this config from here on."""
  write_text(as_path(workdir) / CONFIG_FILE, json.dumps(to_plain(config), indent=2, sort_keys=True) + "\n")


def check_config(config: ConfigDict) -> None:
  """Refuses a config that lacks a key the trainer reads, or whose run lengths make no sense.

  Raises:
    InputError: naming the key.
  """
  missing = [f"{group}.{name}".strip(".") for group, names in _REQUIRED.items()
             for name in names if name not in (config.get(group, {}) if group else config)]
  missing += [group for group in _REQUIRED if group and group not in config and not _REQUIRED[group]]
  if missing:
    raise InputError(f"the config lacks {', '.join(missing)}: configs/tiny.py shows every key")
  for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep"):
    if config.training[name] < 1:
      raise InputError(f"training.{name} must be 1 or more, got {config.training[name]}")
  keep_every, checkpoint_every = config.training.keep_every, config.training.checkpoint_every
  if keep_every < 0 or keep_every % checkpoint_every:
    raise InputError(f"training.keep_every must be 0 (none is kept for good) or a multiple of checkpoint_every, "
                     f"{checkpoint_every}, got {keep_every}")
  if config.batch_size < 1:
    raise InputError(f"batch_size must be 1 or more clips, got {config.batch_size}")
  check_batch_size(config)
  if config.data.kind not in DATA_KINDS:
    raise InputError(f"data.kind must be {' or '.join(map(repr, DATA_KINDS))}, got {config.data.kind!r}")
  if not 0 <= config.data.flip <= 1:
    raise InputError(f"data.flip is a probability, from 0 to 1, got {config.data.flip}")
  if not 0 <= config.seed < 2**32:
    raise InputError(f"seed must be between 0 and 2**32 - 1, got {config.seed}")


def check_batch_size(config: ConfigDict, devices: int = 1) -> None:
  """Refuses clips that cannot be shared evenly by the devices, in each part of an accumulated step.

  Args:
    config: batch_size and training.accumulate.
    devices: among which clips are shared.

  Raises:
    InputError: naming the multiple that batch_size must be.
  """
  parts = config.training.accumulate
  if config.batch_size % (parts * devices):
    among = [f"{devices} devices"] * (devices > 1) + [f"the {parts} parts of training.accumulate"] * (parts > 1)
    raise InputError(f"batch_size {config.batch_size} cannot be shared out evenly among {' and '.join(among)}: set "
                     f"batch_size to a multiple of {parts * devices}")


def to_plain(config: ConfigDict) -> dict:
  """The config as JSON has it: dicts, lists, strings, numbers.

  Raises:
    InputError: if it holds something JSON has no word for.
  """
  try:
    return json.loads(config.to_json())
  except (TypeError, ValueError) as error:
    raise InputError(f"the config holds a value that cannot be written as JSON ({error})") from error


def _below_configs(path: Path) -> Path:
  return Path(*path.parts[1:]) if path.parts[0] == "configs" and len(path.parts) > 1 else path


def _override(config: ConfigDict, text: str) -> None:
  head, equals, value = text.partition("=")
  if not head.startswith("--config.") or not equals:
    raise InputError(f"cannot read {text!r}: an override looks like --config.optimizer.learning_rate=1e-4")
  key = head.removeprefix("--config.")
  *parents, name = key.split(".")
  node = config
  for parent in parents:
    node = node.get(parent) if isinstance(node, ConfigDict) else None
  if not isinstance(node, ConfigDict) or name not in node:
    near = _nearest(key, list(_flat(config.to_dict())))
    hint = f"did you mean {near}?" if near else f"it has {', '.join(config)}"
    raise InputError(f"the config has no key {key}: {hint}")
  if isinstance(node[name], ConfigDict):
    raise InputError(f"{key} is a group of keys: set one of them, such as --config.{key}.{next(iter(node[name]))}=…")
  try:
    node[name] = _parse(value, node[name])
  except (ValueError, SyntaxError, TypeError) as error:
    kind = "tuple" if isinstance(node[name], (tuple, list)) else type(node[name]).__name__
    raise InputError(f"--config.{key} takes a value such as {node[name]!r} ({kind}), got {value!r}") from error


def _nearest(key: str, known: list[str]) -> str | None:
  """The known key whose last part is most like this one's, by preference in the same group; None if none is like it."""
  group, _, name = key.rpartition(".")

  def likeness(other: str) -> tuple[float, float]:
    others, _, other_name = other.rpartition(".")
    alike = difflib.SequenceMatcher(None, name, other_name).ratio() + 0.1 * (group == others)
    return alike, difflib.SequenceMatcher(None, key, other).ratio()

  best = max(known, key=likeness)
  return best if likeness(best)[0] >= 0.5 else None


def _parse(text: str, current: Any) -> Any:
  """The text as a value of the current one's type; ml_collections checks it again on assignment."""
  if isinstance(current, bool):
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
      raise ValueError(text)
    return words[text.lower()]
  if isinstance(current, str):
    return text
  if isinstance(current, (int, float)):
    return type(current)(text)
  value = ast.literal_eval(text)
  if isinstance(current, (tuple, list)):
    if not isinstance(value, (tuple, list)):
      raise ValueError(text)
    return type(current)(value)
  return value


def _flat(plain: dict, prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in plain.items():
    flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
  return flat
