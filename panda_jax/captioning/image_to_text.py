"""Sentences for pictures, by an image-to-text model in a folder on this machine: BLIP, BLIP-2, GIT, LLaVA and others.

Needs torch, which nothing else of this package does: pip install "panda_jax[captions]".
"""

import hashlib
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panda_jax.captioning.fusion import tidy
from panda_jax.errors import InputError

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUESTION = "Describe this picture in one short sentence. Name what is in it and where it is; do not mention a picture."
"""For models that talk, where no other prompt is given."""

_BLOCK, _BLOCKS = 1 << 16, 64


def fingerprint(folder: str | Path) -> str:
  """Tells one model folder from another: a digest of all its files, of large ones by 64 blocks spread over them.

  Raises:
    InputError: if the folder is missing.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(f"there is no model folder {folder}: give the folder of an image-to-text model with its "
                     "config.json, such as a copy of BLIP")
  digest = hashlib.sha256()
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    name = path.relative_to(folder)
    if any(part.startswith(".") for part in name.parts):      # a download tool's own notes
      continue
    size = path.stat().st_size
    digest.update(f"{name.as_posix()}\0{size}\0".encode())
    with open(path, "rb") as file:
      for index in range(_BLOCKS if size > _BLOCK * _BLOCKS else 1):
        file.seek((size - _BLOCK) * index // (_BLOCKS - 1) if index else 0)
        digest.update(file.read(_BLOCK if size > _BLOCK * _BLOCKS else -1))
  return digest.hexdigest()[:16]


class ImageToText:
  """A model of a folder. The same pictures give the same sentences: nothing is drawn at random.

  Args:
    folder: model and processor, as transformers saves them; nothing is downloaded and no code of the folder is run.
    prompt: for BLIP and its like the beginning of the sentence, for models that talk the question; None: for BLIP
      `begin`, for models that talk `QUESTION`, for others nothing.
    begin: how the sentence should begin, where that is a matter of course.
    device: "auto" (the first GPU if there is one), "cpu", "cuda", "cuda:1" …
    dtype: of the weights: "auto" (as stored, on a CPU float32), "float32", "bfloat16" or "float16".
    beams: of the search for the likeliest sentence.
    longest: most new tokens of a sentence.

  Raises:
    InputError: if torch is missing, or the folder holds no such model.
  """

  def __init__(self, folder: str | Path, prompt: str | None = None, begin: str = "", device: str = "auto",
               dtype: str = "auto", beams: int = 3, longest: int = 40):
    self._torch = torch = _import_torch()
    self.folder, self.beams, self.longest = Path(folder), beams, longest
    self.device = _device(torch, device)
    self.model, self.processor = _load(torch, self.folder, self.device, dtype)
    tokenizer = getattr(self.processor, "tokenizer", self.processor)
    tokenizer.padding_side = "left"                   # what is generated must follow the prompt
    if tokenizer.pad_token is None:
      tokenizer.pad_token = tokenizer.eos_token
    self._kind = self.model.config.model_type
    self._talks = bool(getattr(self.processor, "chat_template", None))
    self.prompt = prompt
    if prompt is None:
      self.prompt = QUESTION if self._talks else begin if self._kind == "blip" else ""

  def __call__(self, images: Sequence[np.ndarray]) -> list[str]:
    """One sentence per picture, which may be empty.

    Args:
      images: uint8 [h w 3], all of one size.

    Raises:
      InputError: if the GPU's memory is too small for so many pictures.
    """
    try:
      with self._torch.inference_mode():
        return self._sentences(images)
    except self._torch.OutOfMemoryError as error:
      raise InputError(f"the memory of {self.device} is too small for {len(images)} pictures at once: lower "
                       "--batch-size, or take --dtype bfloat16") from error

  def _sentences(self, images: Sequence[np.ndarray]) -> list[str]:
    from PIL import Image
    inputs = self._inputs([Image.fromarray(image) for image in images]).to(self.device, self.model.dtype)
    produced = self.model.generate(**inputs, do_sample=False, num_beams=self.beams, max_new_tokens=self.longest)
    given = inputs.get("input_ids")
    if given is not None and self._talks and produced.shape[1] >= given.shape[1] and (
        produced[:, :given.shape[1]] == given).all():
      produced = produced[:, given.shape[1]:]
    texts = self.processor.batch_decode(produced, skip_special_tokens=True)
    return [_after_prompt(tidy(text), self.prompt) for text in texts]

  def _inputs(self, pictures: list):
    if self._talks:
      question = {"type": "text", "text": self.prompt}
      talks = [[{"role": "user", "content": [{"type": "image", "image": picture}, question]}] for picture in pictures]
      return self.processor.apply_chat_template(talks, add_generation_prompt=True, tokenize=True, return_dict=True,
                                                return_tensors="pt", padding=True)
    options = {}
    if self.prompt:
      options["text"] = [self.prompt] * len(pictures)
    if self.prompt and self._kind == "git":           # its tokenizer would end the sentence behind the prompt
      cls = self.processor.tokenizer.cls_token
      options |= {"text": [f"{cls} {self.prompt}"] * len(pictures), "add_special_tokens": False}
    inputs = self.processor(images=pictures, return_tensors="pt", **options)
    if "token_type_ids" not in inspect.signature(self.model.forward).parameters:
      inputs.pop("token_type_ids", None)
    return inputs


def _import_torch():
  try:
    import torch
  except ImportError as error:
    raise InputError('captioning with a model needs torch, which is not installed: pip install "panda_jax[captions]", '
                     "or give sentences that were written elsewhere with --sentences") from error
  return torch


def _device(torch, name: str):
  if name == "auto":
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
  try:
    device = torch.device(name)
  except RuntimeError as error:
    raise InputError(f"--device {name} is no device: give auto, cpu, cuda or cuda:N") from error
  if device.type == "cuda" and not torch.cuda.is_available():
    raise InputError(f"--device {name}: torch sees no GPU here; leave --device out, or install a build of torch for it")
  return device


def _load(torch, folder: Path, device, dtype: str):
  """(model, processor); InputError for whatever the folder lacks."""
  if not (folder / "config.json").is_file():
    raise InputError(f"{folder} is not a model folder, it has no config.json: give the folder of an image-to-text "
                     "model as transformers saves it, such as a copy of BLIP")
  from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, utils
  from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
  utils.logging.disable_progress_bar()                # ours is on the screen
  here = {"local_files_only": True, "trust_remote_code": False}
  if dtype == "auto" and device.type == "cpu":
    dtype = "float32"
  try:
    config = AutoConfig.from_pretrained(folder, **here)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
      kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "unknown")
      raise InputError(f"{folder} holds a model of the kind {kind!r}, which does not describe pictures: give an "
                       "image-to-text model, such as BLIP, BLIP-2, GIT or LLaVA")
    processor = AutoProcessor.from_pretrained(folder, **here)
    model, loaded = AutoModelForImageTextToText.from_pretrained(
      folder, dtype=dtype if dtype == "auto" else getattr(torch, dtype), output_loading_info=True, **here)
  except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
    if isinstance(error, InputError):
      raise
    reason = tidy(str(error))[:300]
    raise InputError(f"the model in {folder} cannot be loaded ({type(error).__name__}: {reason}): get a whole copy of "
                     "it, with the files of its processor") from error
  if missing := sorted(loaded["missing_keys"]):       # transformers would make them up
    raise InputError(f"the model in {folder} lacks {len(missing)} of its tensors, such as {missing[0]}: get a whole "
                     "copy")
  tokenizer = getattr(processor, "tokenizer", processor)
  if len(tokenizer) < config.get_text_config().vocab_size / 2:      # transformers makes up an empty one, too
    raise InputError(f"the tokenizer in {folder} knows {len(tokenizer)} words of the model's "
                     f"{config.get_text_config().vocab_size}: get a whole copy, with the files of its tokenizer")
  return model.to(device).eval(), processor


def _after_prompt(text: str, prompt: str) -> str:
  """The text without the prompt that some models repeat, whatever their tokenizer made of its capitals and blanks."""
  words = re.findall(r"\w+|[^\w\s]", prompt)
  start = re.match(r"\s*" + r"\s*".join(map(re.escape, words)), text, re.IGNORECASE) if words else None
  return text[start.end():].strip() if start else text
