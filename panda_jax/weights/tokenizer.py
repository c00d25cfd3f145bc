"""CLIP's tokenizer from a folder: text to the ids that the text encoder reads."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panda_jax.errors import InputError
from panda_jax.paths import local_copy
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.recognise import read_json

if TYPE_CHECKING:
  import transformers

_VOCABULARY, _MERGES, _BOTH = "vocab.json", "merges.txt", "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_WANTED = f"the folder of a CLIP tokenizer ({_VOCABULARY} and {_MERGES}, or {_BOTH}), or of a pipeline that holds one"
_WORD_END = "</w>"
_LENGTH = 77


class CLIPTokenizer:
  """Text to ids, as `load_tokenizer` made it.

  Attributes:
    length: ids of each text, the first and the last token included.
    vocabulary: how many ids there are; the text encoder needs as many embeddings, or more.
  """

  def __init__(self, reference: transformers.CLIPTokenizer, length: int):
    self._reference = reference
    self.length = length
    self.vocabulary = max(reference.get_vocab().values()) + 1

  def __call__(self, text: str) -> np.ndarray:
    """The ids of one text: first token, as many of its tokens as fit, last token, padding.

    Args:
      text: any text; the empty one is a first and a last token alone.

    Returns:
      int32 [l], l = `length`.

    Raises:
      ValueError: if `text` is not a str.
      InputError: if it holds something that is no character, as file names in another encoding do.
    """
    if not isinstance(text, str):
      raise ValueError(f"the tokenizer takes one text at a time, a str, got {type(text).__name__}")
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise InputError(f"the text holds {text[error.start]!r}, which is no character: write it in UTF-8") from error
    ids = self._reference(text, padding="max_length", truncation=True, max_length=self.length)["input_ids"]
    return np.asarray(ids, np.int32)


def load_tokenizer(folder: str | os.PathLike) -> CLIPTokenizer:
  """Reads a tokenizer; nothing is ever fetched from a network.

  Args:
    folder: holds vocab.json and merges.txt, or tokenizer.json, which wins where both lie; beside them perhaps
      tokenizer_config.json and special_tokens_map.json, which name the padding token ("<|endoftext|>" for Stable
      Diffusion 1.5, "!" for 2.1) and the length, 77 where no file says. Or a pipeline folder with such a tokenizer/.

  Returns:
    The tokenizer; its ids equal those of transformers' `CLIPTokenizer`.

  Raises:
    WeightsError: if there is no tokenizer, a file is absent, unreadable or cut off, or it is not one of CLIP's.
  """
  with local_copy(folder) as here:
    return _load(here)


def _load(folder: Path) -> CLIPTokenizer:
  folder = _find(folder)
  source, vocabulary, merges = _read_tables(folder)
  _check_vocabulary(source, vocabulary, merges)
  for name in _SETTINGS:
    if (folder / name).is_file():
      read_json(folder / name)
  with _without_pytorch_notice():
    import transformers                                                   # a second or more, only for who needs it
    reference_class = transformers.CLIPTokenizer
  try:
    reference = reference_class.from_pretrained(folder, local_files_only=True)
  except Exception as error:                                              # its Rust half raises no narrower type
    raise WeightsError(f"{folder} cannot be read as a CLIP tokenizer ({' '.join(str(error).split())}): fetch the "
                       "folder again") from error
  _check_reference(reference, folder, source, vocabulary, merges)
  return CLIPTokenizer(reference, _length(reference, folder))


@contextlib.contextmanager
def _without_pytorch_notice() -> Iterator[None]:
  """Drops the one line that transformers logs when it is imported where torch is not; all others are kept."""
  logger = logging.getLogger("transformers")
  keep = lambda record: "Models won't be available" not in record.getMessage()
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)


def _find(path: Path) -> Path:
  """The folder that holds the tables: the one given, or its tokenizer/."""
  holds = lambda folder: any((folder / name).is_file() for name in (_VOCABULARY, _MERGES, _BOTH))
  if not path.exists():
    raise WeightsError(f"there is no {path}: give {_WANTED}")
  if path.is_file():
    hint = f"the folder that it lies in, {path.parent}" if holds(path.parent) else _WANTED
    raise WeightsError(f"{path} is a file, and a tokenizer is a folder: give {hint}")
  for folder in (path, path / "tokenizer"):
    if holds(folder):
      return folder
  if (path / "tokenizer").is_dir():
    raise WeightsError(f"{path / 'tokenizer'} holds neither {_VOCABULARY} and {_MERGES} nor {_BOTH}: fetch it again")
  weights = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
  if weights:
    beside = path.parent / "tokenizer"
    hint = f"the folder beside it, {beside}" if holds(beside) else _WANTED
    raise WeightsError(f"{path} holds weights ({weights[0].name}) and no tokenizer: give {hint}")
  raise WeightsError(f"{path} holds no tokenizer: give {_WANTED}")


def _read_tables(folder: Path) -> tuple[str, dict, list[list[str]]]:
  """What to call the files in messages, {token: id}, and the pairs of tokens that merge, in order."""
  if (folder / _BOTH).is_file():
    model = read_json(folder / _BOTH).get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
      raise WeightsError(f"{folder / _BOTH} is the tokenizer of another network, not of CLIP, which has a BPE model "
                         f"with merges: give {_WANTED}")
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return str(folder / _BOTH), model.get("vocab"), merges
  for name, other in ((_VOCABULARY, _MERGES), (_MERGES, _VOCABULARY)):
    if not (folder / name).is_file():
      raise WeightsError(f"{folder} has {other} and no {name}: copy that from where the tokenizer came from")
  try:
    lines = (folder / _MERGES).read_text(encoding="utf-8").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise WeightsError(f"{folder / _MERGES} is not readable text ({error}): fetch it again") from error
  merges = [line.removesuffix("\r").split(" ") for line in lines if line and not line.startswith("#version")]
  return f"{folder / _VOCABULARY} with {_MERGES}", read_json(folder / _VOCABULARY), merges


def _check_vocabulary(source: str, vocabulary: dict, merges: list[list[str]]) -> None:
  """transformers takes any table, and spells what is not in it with the unknown token."""
  if not vocabulary:
    raise WeightsError(f"{source}: the vocabulary is empty: fetch it again")
  ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
  if not all(type(index) is int and index >= 0 for index in ids) or len(set(ids)) < len(ids) or not ids:
    raise WeightsError(f"{source}: the vocabulary is not a table of tokens and their ids, each id once: give {_WANTED}")
  if not any(token.endswith(_WORD_END) for token in vocabulary):
    raise WeightsError(f"{source}: this is the tokenizer of another network, not of CLIP, whose tokens mark the end of "
                       f"a word by {_WORD_END}: give {_WANTED}")
  for number, pair in enumerate(merges, start=1):
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
      raise WeightsError(f"{source}: merge {number} is not two tokens but {pair!r:.80}: fetch the file again")
    for token in (*pair, "".join(pair)):
      if token not in vocabulary:
        raise WeightsError(f"{source}: merge {number} names {token!r}, which the vocabulary lacks: they are not of one "
                           "tokenizer, or the vocabulary is cut off")


def _check_reference(reference: transformers.CLIPTokenizer, folder: Path, source: str, vocabulary: dict,
                     merges: list[list[str]]) -> None:
  """What transformers makes of the folder must be all that is there, and no more."""
  for role in ("bos", "eos", "unk", "pad"):
    token = getattr(reference, f"{role}_token")
    if token is None:
      raise WeightsError(f"{folder}: {role}_token is null: name one in {_SETTINGS[0]}")
    if token not in vocabulary:                                           # transformers would make up an id for it
      raise WeightsError(f"{source}: the vocabulary lacks {token!r}, the {role} token that {folder} asks for: they are "
                         "not of one tokenizer, or the vocabulary is cut off")
  made = {"".join(pair) for pair in merges} | reference.get_added_vocab().keys()
  unmade = [token for token in vocabulary if len(token.removesuffix(_WORD_END)) > 1 and token not in made]
  if unmade:
    raise WeightsError(f"{source}: no merge makes {len(unmade)} of the {len(vocabulary)} tokens, such as {unmade[0]!r}"
                       ": the merges are cut off, or not of this vocabulary")


def _length(reference: transformers.CLIPTokenizer, folder: Path) -> int:
  length = reference.model_max_length
  if isinstance(length, int | float) and length > 10**9:                  # transformers' word for "no file says"
    return _LENGTH
  if type(length) is not int or length < 3:
    raise WeightsError(f"{folder / _SETTINGS[0]}: model_max_length is {length!r}, where a number of tokens, 3 or more, "
                       f"belongs: set it to {_LENGTH}")
  return length
