"""A model folder: model.safetensors (flat, "/"-joined names), config.json beside it, and perhaps MODEL_CARD.md."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from panda_jax.errors import InputError
from panda_jax.models.functional import compare_trees
from panda_jax.paths import as_path, is_remote, local_copy, upload
from panda_jax.tree import flatten, unflatten
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.files import cast, read_finite
from panda_jax.weights.layout import problems_sentence
from panda_jax.weights.safetensors_file import read_safetensors, write_safetensors
from panda_jax.weights.tensors import LazyTensor

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "MODEL_CARD.md"
PIPELINE_FILE = "model_index.json"
TOKENIZER = "tokenizer"
# All that is ever written into a folder, and so all that may be lost when it is written again.
_OURS = {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, TOKENIZER, PIPELINE_FILE, "diffusion_pytorch_model.safetensors", "unet",
         "vae", "text_encoder", ".DS_Store"}
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                    "added_tokens.json")


def save_model(folder: str | os.PathLike, params: dict, config: ConfigDict | dict, card: str | None = None) -> None:
  """Writes a model folder; a folder that is already there is replaced only once the new one is complete.

  In a bucket the new files take the places of the old ones, one by one.

  Args:
    folder: where to; its parents are made.
    params: nested dict with string keys of arrays, or of LazyTensors, which are read and written one by one.
    config: the training configuration, everything `systems.build` needs. The folder of a tokenizer that
      `config.model.text.tokenizer` names is copied, so that the model folder can be moved.
    card: text of MODEL_CARD.md.

  Raises:
    InputError: if a tensor holds NaN or infinity, or the folder holds something else than a model.
  """
  if is_remote(folder):
    with tempfile.TemporaryDirectory() as place:
      save_model(Path(place) / "model", params, config, card)
      upload(Path(place) / "model", as_path(folder))
    return
  folder = Path(folder)
  tensors = {path: cast(leaf if isinstance(leaf, LazyTensor) else LazyTensor.of(np.asarray(leaf), path))
             for path, leaf in flatten(params).items()}
  config = json.loads(config.to_json()) if isinstance(config, ConfigDict) else config
  with replaced_folder(folder) as fresh:
    tokenizer = _tokenizer(config)
    if tokenizer:
      copy_tokenizer(tokenizer["tokenizer"], fresh / TOKENIZER)
      tokenizer["tokenizer"] = TOKENIZER
    write_safetensors(fresh / WEIGHTS_FILE, tensors)
    (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if card is not None:
      (fresh / CARD_FILE).write_text(card, encoding="utf-8")


@contextlib.contextmanager
def replaced_folder(folder: str | os.PathLike) -> Iterator[Path]:
  """Gives a new folder to fill, which takes the place of `folder` once that has gone well; otherwise nothing is left.

  Args:
    folder: where to; its parents are made. What is there is replaced only if it is a model and nothing else.

  Raises:
    InputError: if something else is there.
  """
  folder = Path(os.path.abspath(folder))
  if folder.is_dir():
    names = {path.name for path in folder.iterdir()}
    others = sorted(names - _OURS if {CONFIG_FILE, PIPELINE_FILE} & names else names)
  else:
    others = ["it is a file"] if folder.exists() else []
  if others:
    raise InputError(f"{folder} exists and is not a model folder ({', '.join(others[:3])}): give another one, or "
                     "remove it")
  folder.parent.mkdir(parents=True, exist_ok=True)
  fresh, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
  for leftover in (fresh, old):
    if leftover.exists():
      shutil.rmtree(leftover)
  fresh.mkdir()
  try:
    yield fresh
  except BaseException:
    shutil.rmtree(fresh)
    raise
  if folder.exists():
    folder.rename(old)
  fresh.rename(folder)
  if old.exists():
    shutil.rmtree(old)


def copy_tokenizer(folder: str | os.PathLike, target: Path) -> None:
  """Copies the files of a tokenizer, not the weights that may lie beside them, nor who may write them.

  Raises:
    InputError: if there are none.
  """
  files = [file for name in _TOKENIZER_FILES if (file := as_path(folder) / name).is_file()]
  if not files:
    raise InputError(f"{folder} is no folder with a tokenizer: give one with vocab.json and merges.txt, or "
                     "tokenizer.json")
  target.mkdir()
  for file in files:
    (target / file.name).write_bytes(file.read_bytes())


def load_model(folder: str | os.PathLike) -> tuple[dict, ConfigDict]:
  """Reads a model folder.

  Returns:
    params: nested dict of NumPy arrays, in the types of the file.
    config: the configuration it was trained with; lists come back as tuples, as configs write them, and its tokenizer
      as a path that can be opened.

  Raises:
    InputError: if the folder or one of its files is absent, unreadable, or holds NaN or infinity.
  """
  if is_remote(folder) and as_path(folder).is_dir():
    with local_copy(folder) as copy:
      params, config = load_model(copy)
    tokenizer = _tokenizer(config)
    if tokenizer:
      tokenizer["tokenizer"] = str(as_path(folder) / TOKENIZER)
    return params, config
  folder = as_path(folder) if is_remote(folder) else Path(folder)
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
  tokenizer = _tokenizer(config)
  if tokenizer:
    tokenizer["tokenizer"] = str(folder / tokenizer["tokenizer"])
  tensors = read_safetensors(folder / WEIGHTS_FILE).tensors
  try:
    params = unflatten({path: np.array(read_finite(tensor)) for path, tensor in tensors.items()})
  except WeightsError:
    raise
  except ValueError as error:
    raise InputError(f"{folder / WEIGHTS_FILE} is not of this project ({error}): give a model folder") from error
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
  problems = problems_sentence(*compare_trees(params, abstract), separator="/")
  if problems:
    raise InputError(f"{source} do not fit this model: {problems}; use the model's own config.json")


def _tokenizer(config: Mapping) -> dict | None:
  """The part of a config that names the folder of a tokenizer."""
  model = config.get("model")
  text = model.get("text") if isinstance(model, dict) else None
  return text if isinstance(text, dict) and text.get("tokenizer") else None


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(item) for item in value)
  return value
