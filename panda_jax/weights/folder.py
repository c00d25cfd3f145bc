"""A model folder: model.safetensors (flat, "/"-joined names), config.json beside it, and perhaps MODEL_CARD.md."""

import collections
import json
import os
from pathlib import Path
import shutil
from typing import Any

from ml_collections import ConfigDict
import numpy as np
import safetensors
import safetensors.numpy

from panda_jax.errors import InputError
from panda_jax.models.functional import compare_trees, flatten, unflatten

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "MODEL_CARD.md"


def name_groups(paths: list[str], limit: int = 4) -> str:
  """Many names in one readable line: counted by their first three parts, one example each."""
  groups = collections.defaultdict(list)
  for path in sorted(paths):
    groups["/".join(path.split("/")[:3])].append(path)
  shown = []
  for group, members in list(groups.items())[:limit]:
    shown.append(members[0] if len(members) == 1 else f"{group}/… ({len(members)}, such as {members[0]})")
  hidden = sum(len(members) for members in list(groups.values())[limit:])
  return ", ".join(shown) + (f" and {hidden} more" if hidden else "")


def save_model(folder: str | os.PathLike, params: dict, config: ConfigDict | dict, card: str | None = None) -> None:
  """Writes a model folder; a folder that is already there is replaced only once the new one is complete.

  Args:
    folder: where to; its parents are made.
    params: nested dict of arrays with string keys.
    config: the training configuration, everything `systems.build` needs.
    card: text of MODEL_CARD.md.

  Raises:
    InputError: if a tensor holds NaN or infinity, or the folder holds something else than a model.
  """
  folder = Path(folder)
  # np.array(order="C") keeps zero-dimensional tensors, np.ascontiguousarray would not; safetensors needs C order.
  flat = {path: np.array(leaf, order="C") for path, leaf in flatten(params).items()}
  _require_finite(flat, f"the parameters to be written to {folder}")
  if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG_FILE).exists())):
    raise InputError(f"{folder} exists and is not a model folder: give another one, or remove it")
  config = json.loads(config.to_json()) if isinstance(config, ConfigDict) else config

  folder.parent.mkdir(parents=True, exist_ok=True)
  fresh, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
  for leftover in (fresh, old):
    if leftover.exists():
      shutil.rmtree(leftover)
  fresh.mkdir()
  safetensors.numpy.save_file(flat, fresh / WEIGHTS_FILE)
  (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
  if card is not None:
    (fresh / CARD_FILE).write_text(card, encoding="utf-8")
  if folder.exists():
    folder.rename(old)
  fresh.rename(folder)
  if old.exists():
    shutil.rmtree(old)


def load_model(folder: str | os.PathLike) -> tuple[dict, ConfigDict]:
  """Reads a model folder.

  Returns:
    params: nested dict of NumPy arrays, in the types of the file.
    config: the configuration it was trained with; lists come back as tuples, as configs write them.

  Raises:
    InputError: if the folder or one of its files is absent, unreadable, or holds NaN or infinity.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(f"{folder} is not a folder: a model folder holds {WEIGHTS_FILE} and {CONFIG_FILE}")
  for name in (WEIGHTS_FILE, CONFIG_FILE):
    if not (folder / name).is_file():
      raise InputError(f"{folder} has no {name}: a model folder holds {WEIGHTS_FILE} and {CONFIG_FILE}")
  try:
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{folder / CONFIG_FILE} is not readable JSON ({error}): copy the model folder again") from error
  if not isinstance(config, dict):
    raise InputError(f"{folder / CONFIG_FILE} must hold one JSON object: copy the model folder again")
  try:
    flat = safetensors.numpy.load_file(folder / WEIGHTS_FILE)
    params = unflatten(flat)
  except (safetensors.SafetensorError, ValueError) as error:
    raise InputError(f"{folder / WEIGHTS_FILE} is damaged or not of this project ({error}): copy it again") from error
  _require_finite(flat, str(folder / WEIGHTS_FILE))
  return params, ConfigDict(_tuples(config))


def check_params(params: dict, abstract: dict, source: str = "the parameters") -> None:
  """Refuses parameters that are not exactly those the network asks for.

  Args:
    params: nested dict of arrays.
    abstract: nested dict of things with a shape, as jax.eval_shape(system.init, rng) returns.
    source: where they came from, for the message.

  Raises:
    InputError: naming, in groups, what is missing, unexpected, or of another shape.
  """
  missing, unexpected, reshaped = compare_trees(params, abstract)
  problems = []
  if missing:
    problems.append(f"{len(missing)} missing: {name_groups(missing)}")
  if unexpected:
    problems.append(f"{len(unexpected)} unexpected: {name_groups(unexpected)}")
  if reshaped:
    first, (have, want) = next(iter(reshaped.items()))
    problems.append(f"{len(reshaped)} of another shape: {name_groups(list(reshaped))} "
                    f"({first} is {list(have)}, the network has {list(want)})")
  if problems:
    raise InputError(f"{source} do not fit this model: {'; '.join(problems)}; use the model's own config.json")


def _require_finite(flat: dict[str, np.ndarray], where: str) -> None:
  bad = []
  for path, array in flat.items():
    # bfloat16 is no subtype of np.floating, so integers are named instead.
    if array.dtype.kind not in "iub" and not np.isfinite(array).all():
      bad.append(path)
  if bad:
    raise InputError(f"{where}: {len(bad)} tensors hold NaN or infinity: {name_groups(bad)}; use an earlier checkpoint")


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(item) for item in value)
  return value
