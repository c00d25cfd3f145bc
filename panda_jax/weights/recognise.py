"""What a path is: which file of weights lies behind it, and what to call it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
import re
from typing import Iterable

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.files import open_sharded, open_tensors
from panda_jax.weights.names import describe_recognised, recognise
from panda_jax.weights.tensors import TensorFile

COMPONENTS = ("unet", "vae", "text_encoder", "motion_adapter")        # of a pipeline; each has a network here
_HARMLESS = ("tokenizer", "scheduler", "safety_checker", "feature_extractor", "image_encoder")

# Classes named in a config.json -> the kind of network.
CLASSES = {"UNet2DConditionModel": "unet", "UNetMotionModel": "unet", "AutoencoderKL": "vae",
           "MotionAdapter": "motion", "CLIPTextModel": "text_encoder", "CLIPTextModelWithProjection": "text_encoder",
           "CLIPModel": "text_encoder"}
_CLASS_WORDS = {"UNet2DConditionModel": "UNet", "AutoencoderKL": "VAE"}
_MODEL_TYPES = {"clip_text_model": "text_encoder", "clip": "text_encoder"}

# diffusers and transformers name their files so; a variant stands before the ending, or before .json of an index.
_STANDARD = re.compile(r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(\.(?P<variant>[A-Za-z0-9_]+))?"
                       r"\.(?P<ending>safetensors|bin)(?P<index>\.index(\.(?P<late_variant>[A-Za-z0-9_]+))?\.json)?")
_INDEX = re.compile(r"\.index(\.[A-Za-z0-9_]+)?\.json$")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\b")
_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")           # in the order of preference
_TRAINING_LEFTOVERS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt",
                       "rng_state.pth", "scaler.pt")
# What folders without weights are known by.
_FOLDERS = {"scheduler_config.json": "a scheduler folder", "tokenizer_config.json": "a tokenizer folder",
            "tokenizer.json": "a tokenizer folder", "vocab.json": "a tokenizer folder",
            "merges.txt": "a tokenizer folder", "preprocessor_config.json": "a feature extractor folder",
            **dict.fromkeys(_TRAINING_LEFTOVERS, "a folder with the state of a training run"),
            "config.json": "a folder with a config.json and without weights"}


@dataclasses.dataclass(frozen=True)
class Found:
  """Where the weights behind a path lie.

  Attributes:
    path: as it was given.
    description: what the path is, with an article: "a diffusers UNet folder".
    weights: the file of weights, or the index of its shards; None for a pipeline.
    config: the config.json that belongs to it; empty if there is none.
    components: of a pipeline: "unet", "vae", "text_encoder", "motion_adapter" -> where they lie.
  """

  path: Path
  description: str
  weights: Path | None = None
  config: dict = dataclasses.field(default_factory=dict)
  components: dict[str, Found] = dataclasses.field(default_factory=dict)

  def open(self) -> TensorFile:
    """The tensors; for a pipeline, open its components."""
    if self.weights is None:
      raise WeightsError(f"{self.path} is {self.description}: give one of its folders {', '.join(self.components)}")
    return open_sharded(self.weights) if _INDEX.search(self.weights.name) else open_tensors(self.weights)


def find_weights(path: str | os.PathLike, variant: str | None = None) -> Found:
  """Finds the weights behind a file or folder; nothing but JSON is read.

  Args:
    path: a file of weights, the index of a sharded one, a folder of diffusers or transformers, a pipeline folder, or
      a folder with a single file.
    variant: "fp16" and the like: the files that carry this word in their names. Without it, full precision is
      preferred, and fp16 taken if there is nothing else. Safetensors come before pickles.

  Raises:
    WeightsError: if there is nothing there, or nothing with weights, or more than one thing; or a config.json or
      model_index.json is garbled.
  """
  path = Path(path)
  try:
    return _find(path, variant)
  except OSError as error:
    raise WeightsError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error


def describe(path: str | os.PathLike) -> str:
  """What a path is, in words with an article, for sentences about it: "a diffusers UNet folder", "a LoRA (kohya)".

  Raises:
    WeightsError: if it is absent, or cannot be read.
  """
  path = Path(path)
  try:
    return _describe(path)
  except OSError as error:
    raise WeightsError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error


def config_kind(config: dict) -> str | None:
  """The kind of network that a config.json of diffusers or transformers is for; None if it does not say."""
  for name in _class_names(config):
    if name in CLASSES:
      return CLASSES[name]
  model_type = config.get("model_type")
  return _MODEL_TYPES.get(model_type) if isinstance(model_type, str) else None


def read_json(path: Path) -> dict:
  """A file that holds one JSON object.

  Raises:
    WeightsError: if it does not.
  """
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise WeightsError(f"{path} is not readable JSON ({error}): copy it again") from error
  if not isinstance(content, dict):
    raise WeightsError(f"{path} must hold one JSON object, and holds a {type(content).__name__}: copy it again")
  return content


def _find(path: Path, variant: str | None) -> Found:
  if path.is_file():
    if path.suffix == ".json" and not _INDEX.search(path.name):
      raise WeightsError(f"{path} describes a model and holds no weights: give its folder, {path.parent}")
    return Found(path, f"the file {path.name}", path, _config_beside(path))
  if not path.is_dir():
    raise WeightsError(f"{path} does not exist: give a file of weights or a folder that is on this machine "
                       "(nothing is downloaded)")
  if _is_pipeline(path):
    return _pipeline(path, variant)
  weights = _standard_file(path, variant) or _single_file(path)
  if weights is None:
    raise WeightsError(f"{path} is {_without_weights(path)}: it holds no weights; give the folder or file that does")
  config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
  return Found(path, _model_folder(weights, config), weights, config)


def _describe(path: Path) -> str:
  if path.is_dir() and _is_pipeline(path):
    return _pipeline_description(path)
  if path.is_dir() and not _standard_files(path):
    files = _other_files(path)
    if not files:
      return _without_weights(path)
    if len({_stem(file)[0] for file in files}) > 1:
      return f"a folder with {len(files)} files of weights ({_listing(files)})"
  found = find_weights(path)
  file = found.open()
  recognised = recognise(file)
  words = describe_recognised(file, recognised)
  if path.is_file():
    return words
  kinds = {section.format.kind for section in recognised if section.format}
  return found.description if kinds == {config_kind(found.config)} else f"a folder with {words}"


def _class_names(config: dict) -> list[str]:
  architectures = config.get("architectures")
  names = [config.get("_class_name"), *(architectures if isinstance(architectures, list) else [])]
  return [name for name in names if isinstance(name, str)]


def _config_beside(path: Path) -> dict:
  """The config.json in a file's folder, if it is one of a network that can be read here."""
  config = path.parent / "config.json"
  content = read_json(config) if config.is_file() else {}
  return content if config_kind(content) else {}


def _standard_files(folder: Path) -> list[tuple[re.Match, Path]]:
  """The files that diffusers and transformers write."""
  if not folder.is_dir():
    return []
  return [(match, path) for path in sorted(folder.iterdir())
          if path.is_file() and (match := _STANDARD.fullmatch(path.name))]


def _other_files(folder: Path) -> list[Path]:
  """Other files of weights, and the indices of sharded ones."""
  files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
  return [path for path in files if _stem(path)[1] in _ENDINGS and path.name not in _TRAINING_LEFTOVERS]


def _standard_file(folder: Path, variant: str | None) -> Path | None:
  """The best of the files that diffusers and transformers write; None if there are none."""
  found = _standard_files(folder)
  if not found:
    return None
  wanted = [variant] if variant else [None, "fp16"]
  usable = [(match, path) for match, path in found if _variant(match) in wanted]
  if not usable:
    raise WeightsError(f"{folder} has no weights {f'of the variant {variant}' if variant else 'without a variant'} "
                       f"(it has {_listing(path for _, path in found)}): ask for another variant")
  if len({match["stem"] == "diffusion_pytorch_model" for match, _ in usable}) > 1:
    raise WeightsError(f"{folder} holds weights of diffusers and of transformers "
                       f"({_listing(path for _, path in usable)}): give the file that is meant")
  return min(usable, key=lambda item: (wanted.index(_variant(item[0])), item[0]["ending"] == "bin",
                                       bool(item[0]["index"])))[1]


def _variant(match: re.Match) -> str | None:
  return match["variant"] or match["late_variant"]


def _single_file(folder: Path) -> Path | None:
  """The only file of weights in a folder, or the index of its shards; None if there is none."""
  files = _other_files(folder)
  whole = [path for path in files if not _SHARD.search(path.name)]
  if files and not whole:
    raise WeightsError(f"{folder} holds parts of a sharded file ({_listing(files)}) without their index: copy the file "
                       "that ends in .index.json as well")
  if len({_stem(path)[0] for path in whole}) > 1:
    raise WeightsError(f"{folder} holds {len(whole)} files of weights ({_listing(whole)}): give the one that is meant")
  return min(whole, key=lambda path: _ENDINGS.index(_stem(path)[1]), default=None)


def _stem(path: Path) -> tuple[str, str]:
  """Name and ending of a file of weights, or of what an index is of."""
  return os.path.splitext(_INDEX.sub("", path.name))


def _is_pipeline(folder: Path) -> bool:
  """With a model_index.json, or with the folders that it would list and no weights of its own."""
  if (folder / "model_index.json").is_file():
    return True
  return not _standard_files(folder) and any(_standard_files(folder / name) for name in COMPONENTS)


def _listed(folder: Path) -> tuple[str, list[str]]:
  """The class of a pipeline, "" if there is no model_index.json, and the components it has."""
  if not (folder / "model_index.json").is_file():
    return "", [name for name in COMPONENTS if (folder / name).is_dir()]
  index = read_json(folder / "model_index.json")
  return str(index.get("_class_name", "")), [name for name, entry in index.items()
                                             if isinstance(entry, list) and any(entry)]


def _pipeline_description(folder: Path) -> str:
  name, listed = _listed(folder)
  components = ", ".join(component for component in listed if component not in _HARMLESS)
  return f"a pipeline folder{f' of {name}' if name else ''} ({components or 'without networks'})"


def _pipeline(folder: Path, variant: str | None) -> Found:
  name, listed = _listed(folder)
  description = _pipeline_description(folder)
  if not name and _other_files(folder):
    raise WeightsError(f"{folder} holds files of weights ({_listing(_other_files(folder))}) and the folders "
                       f"{' and '.join(listed)}: give the one that is meant")
  unknown = [name for name in listed if name not in COMPONENTS + _HARMLESS]
  if unknown:
    raise WeightsError(f"{folder} is {description}, and there is no network here for its {' and '.join(unknown)}: give "
                       "one of its other folders alone, or a Stable Diffusion 1.x or 2.x pipeline")
  names = [name for name in COMPONENTS if name in listed]
  if not names:
    raise WeightsError(f"{folder} is {description}: give a pipeline that lists one of {', '.join(COMPONENTS)}")
  absent = [name for name in names if not (folder / name).is_dir()]
  if absent:
    raise WeightsError(f"{folder} is {description}, but has no folder {' and '.join(absent)}: copy it as a whole, or "
                       "give one of its folders alone")
  return Found(folder, description, components={name: find_weights(folder / name, variant) for name in names})


def _model_folder(weights: Path, config: dict) -> str:
  """What a folder with weights is called, as far as its config.json tells."""
  names = _class_names(config)
  if not names:
    return f"a folder with {weights.name}"
  library = "diffusers" if "_class_name" in config else "transformers"
  return f"a {library} {_CLASS_WORDS.get(names[0], names[0])} folder"


def _without_weights(folder: Path) -> str:
  """What a folder is that holds no weights."""
  names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
  if not names:
    return "an empty folder"
  if {"blobs", "snapshots"} <= names:
    return "a folder of the Hugging Face cache (the files are in one of the folders below its snapshots)"
  known = next((words for name, words in _FOLDERS.items() if name in names), None)
  if known:
    return known
  return f"a folder of other things ({_listing(sorted(folder / name for name in names))})"


def _listing(paths: Iterable[Path], limit: int = 4) -> str:
  names = [path.name for path in paths]
  hidden = len(names) - limit
  return ", ".join(names[:limit]) + (f" and {hidden} more" if hidden > 0 else "")
