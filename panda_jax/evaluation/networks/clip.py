"""CLIP with both of its towers: how well images show what a text says (CLIP score).

The score's factor is 100, so that it is a percentage of the cosine; Hessel's own is 2.5.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, §2; Hessel et al.,
CLIPScore: A Reference-free Evaluation Metric for Image Captioning, 2021, §3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from panda_jax.errors import InputError
from panda_jax.evaluation.networks.files import fill
from panda_jax.models.clip_text import CLIPLayer, CLIPText, CLIPTextConfig, check_tower
from panda_jax.models.functional import Functional, compiled
from panda_jax.models.layers import Conv, LayerNorm, Linear
from panda_jax.weights.configs import clip_config
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.recognise import Found, find_weights, read_json
from panda_jax.weights.tokenizer import CLIPTokenizer, load_tokenizer

# The mean and standard deviation that OpenAI normalised pixels in [0, 1] by, and everyone after them.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
# An `eos_token_id` that transformers' configs had by mistake: it stands for the largest id of each text.
_LARGEST_ID = 2


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
  """Sizes of the image tower; the defaults are those of CLIP ViT-B/32.

  Attributes:
    channels: width.
    layers: number of layers.
    heads: attention heads of each layer.
    mlp_channels: width inside each feed-forward.
    image_size: rows and columns of pixels.
    patch_size: rows and columns of the pixels that make one token.
    activation: "quick_gelu" (OpenAI's CLIP) or "gelu", the exact one (OpenCLIP).
  """

  channels: int = 768
  layers: int = 12
  heads: int = 12
  mlp_channels: int = 3072
  image_size: int = 224
  patch_size: int = 32
  activation: Literal["quick_gelu", "gelu"] = "quick_gelu"

  def __post_init__(self):
    check_tower(self)
    if self.patch_size > self.image_size:
      raise ValueError(f"patches of {self.patch_size} pixels are larger than images of {self.image_size}")


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Sizes of CLIP; the defaults are those of ViT-B/32.

  Attributes:
    text, vision: of the towers.
    projection: channels of the features of both.
    end_token: id of the token whose feature is that of the text, or 2 for the largest id of each text, as the older
      configs of transformers have it.
    mean, std: which pixels in [0, 1] are normalised by.
  """

  text: CLIPTextConfig = CLIPTextConfig(channels=512, heads=8, mlp_channels=2048)
  vision: ClipVisionConfig = ClipVisionConfig()
  projection: int = 512
  end_token: int = _LARGEST_ID
  mean: tuple[float, float, float] = _MEAN
  std: tuple[float, float, float] = _STD

  @property
  def image_size(self) -> int:
    """Rows and columns of pixels."""
    return self.vision.image_size


class _Embeddings(nnx.Module):
  """What is seen in each patch, behind a token that gathers it, and where they lie."""

  def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
    c, p = config.channels, config.patch_size
    self.class_embedding = nnx.Param(nnx.initializers.normal(c**-0.5)(rngs.params(), (c,)))
    self.patch_embedding = Conv(3, c, p, p, (0, 0), use_bias=False, rngs=rngs)
    self.position_embedding = nnx.Embed((config.image_size // p)**2 + 1, c, rngs=rngs)

  def __call__(self, x):                                                  # [n h w 3] -> [n s c]
    patches = rearrange(self.patch_embedding(x), "n h w c -> n (h w) c")
    first = jnp.broadcast_to(self.class_embedding[...], (len(patches), 1, patches.shape[-1]))
    return jnp.concatenate([first, patches], axis=1) + self.position_embedding.embedding[...]


class _Vision(nnx.Module):
  """A vision transformer; the feature of an image is that of its first token."""

  def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
    self.embeddings = _Embeddings(config, rngs=rngs)
    self.pre_layrnorm = LayerNorm(config.channels, rngs=rngs)             # the name in every published file
    layers = [CLIPLayer(config, causal=False, rngs=rngs) for _ in range(config.layers)]
    self.encoder = nnx.Dict({"layers": nnx.List(layers)})
    self.post_layernorm = LayerNorm(config.channels, rngs=rngs)

  def __call__(self, x):                                                  # [n h w 3] -> [n c]
    x = self.pre_layrnorm(self.embeddings(x))
    for layer in self.encoder.layers:
      x = layer(x)
    return self.post_layernorm(x[:, 0])


class Clip(nnx.Module):
  """Images and texts to features of one space; attribute paths are those of transformers' `CLIPModel`.

  Products are of float32 on every device.
  """

  def __init__(self, config: ClipConfig, tokenizer: CLIPTokenizer | None = None, source: str = "this CLIP", *,
               rngs: nnx.Rngs):
    """`tokenizer`: for `tokenize`, of at most `config.text.length` tokens; `source`: what has none, for its message."""
    self.config, self.tokenizer, self.source = config, tokenizer, source
    self.text_model = CLIPText(config.text, rngs=rngs)
    self.vision_model = _Vision(config.vision, rngs=rngs)
    self.text_projection = Linear(config.text.channels, config.projection, use_bias=False, rngs=rngs)
    self.visual_projection = Linear(config.vision.channels, config.projection, use_bias=False, rngs=rngs)

  @compiled
  def images(self, pixels: jax.Array) -> jax.Array:
    """Features of images.

    Args:
      pixels: floating-point [n h w 3] in [0, 1], h and w equal to `config.image_size`, see `prepare_images`.

    Returns:
      [n d] float32 of length 1.

    Raises:
      InputError: if the shape or the type does not fit.
    """
    size = self.config.image_size
    if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
      raise InputError(f"images for this CLIP must be [n {size} {size} 3], got {list(pixels.shape)}: prepare them")
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
      raise InputError(f"images for CLIP must be floating-point in [0, 1], got {pixels.dtype}: prepare them")
    # By default TPUs round the operands of products to bfloat16, and GPUs to TF32.
    with jax.default_matmul_precision("highest"):
      x = (pixels.astype(jnp.float32) - np.float32(self.config.mean)) / np.float32(self.config.std)
      return _normalised(self.visual_projection(self.vision_model(x)))

  @compiled
  def texts(self, input_ids: jax.Array) -> jax.Array:
    """Features of texts: those of their end-of-text tokens, which see all before them and none of the padding.

    Args:
      input_ids: integers [n l], see `tokenize`; l at most `config.text.length`.

    Returns:
      [n d] float32 of length 1; NaN for a text without the end token.

    Raises:
      ValueError: if the ids are not integers [n l], or too many.
    """
    with jax.default_matmul_precision("highest"):
      tokens = self.text_model(input_ids)                                 # [n l c]; checks the ids
      if self.config.end_token == _LARGEST_ID:
        last, ended = jnp.argmax(input_ids, axis=1), True
      else:
        ends = jnp.asarray(input_ids) == self.config.end_token
        last, ended = jnp.argmax(ends, axis=1), ends.any(1, keepdims=True)        # padding may be of the same token
      pooled = jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
      return jnp.where(ended, _normalised(self.text_projection(pooled)), jnp.nan)

  def tokenize(self, prompts: Sequence[str]) -> np.ndarray:
    """Texts to ids: first token, as many of the text's as fit, end token, padding.

    Args:
      prompts: texts, of any length.

    Returns:
      int32 [n l], l = 77 in every published CLIP.

    Raises:
      WeightsError: if the folder that this was read from holds no tokenizer.
      InputError: if the prompts are one text instead of a list, or hold something that is no character.
    """
    if self.tokenizer is None:
      raise WeightsError(f"{self.source} has no tokenizer: copy vocab.json and merges.txt, or tokenizer.json, of the "
                         "same model into it")
    if isinstance(prompts, str):
      raise InputError("prompts must be a list of texts, and this is one: put it into a list")
    return np.stack([self.tokenizer(prompt) for prompt in prompts])


def _normalised(x):
  return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True))


# --- the score


def prepare_images(frames: np.ndarray, size: int) -> np.ndarray:
  """Pixels as CLIP saw them in training: the shortest edge resized, the middle cut out.

  Equal to transformers' `CLIPImageProcessorPil`: Pillow's bicubic filter, which averages where it shrinks, on uint8.
  Its sibling on torchvision rounds otherwise, by up to two grey levels.

  Args:
    frames: uint8 [n H W 3].
    size: rows and columns afterwards, `config.image_size`.

  Returns:
    float32 [n size size 3] in [0, 1].

  Raises:
    InputError: if the frames are something else.
  """
  if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape[1:]:
    raise InputError(f"frames must be uint8 [n H W 3], got {frames.dtype} {list(frames.shape)}")
  height, width = frames.shape[1:3]
  short = min(height, width)
  rows, columns = int(size * height / short), int(size * width / short)
  top, left = (rows - size) // 2, (columns - size) // 2
  prepared = np.empty((len(frames), size, size, 3), np.float32)
  for index, frame in enumerate(frames):
    resized = np.asarray(Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC))
    prepared[index] = resized[top:top + size, left:left + size] * (1 / 255)
  return prepared


def clip_score(image_features: np.ndarray, text_feature: np.ndarray) -> np.ndarray:
  """How well images show what a text says: 100 times the cosine of their features, or 0 if that is negative.

  Args:
    image_features: [n d], of `Clip.images`.
    text_feature: [d], of `Clip.texts`.

  Returns:
    [n] float64 in [0, 100].

  Raises:
    ValueError: if the shapes do not fit.
  """
  images, text = np.asarray(image_features, np.float64), np.asarray(text_feature, np.float64)
  if images.ndim != 2 or text.shape != images.shape[1:]:
    raise ValueError(f"features must be [n d] and [d], got {list(images.shape)} and {list(text.shape)}")
  cosines = (images * text).sum(1) / (np.linalg.norm(images, axis=1) * np.linalg.norm(text))
  return 100 * np.clip(cosines, 0, 1)


# --- its weights


def read_clip(path: str | os.PathLike) -> Clip:
  """Reads CLIP from a folder as transformers writes it of a `CLIPModel`.

  Args:
    path: holds config.json and model.safetensors or pytorch_model.bin (or their parts and index); beside them the files
      of the tokenizer, without which `Clip.tokenize` refuses, and perhaps preprocessor_config.json, whose mean and
      standard deviation are used; without it, OpenAI's are.

  Returns:
    the network. logit_scale, the temperature of training, and position_ids, which only count, are left out.

  Raises:
    WeightsError: one sentence that says what is missing, left over, of another size or kind.
  """
  found = find_weights(path)
  folder = found.path if found.path.is_dir() else found.path.parent
  config = _config(found, folder)
  tokenizer = None
  if any((folder / name).is_file() for name in ("vocab.json", "merges.txt", "tokenizer.json")):
    tokenizer = _tokenizer(folder, config)
  tensors = dict(found.open().tensors)
  for name in ("logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"):
    tensors.pop(name, None)
  build = lambda rngs: Clip(config, tokenizer, str(folder), rngs=rngs)
  return fill(Functional(build), tensors, str(found.weights), "CLIP")


def _config(found: Found, folder: Path) -> ClipConfig:
  settings, source = found.config, f"{folder / 'config.json'}"
  towers = {}
  for tower in ("text", "vision"):
    # A dict of the second name wins in transformers, with defaults for what it leaves open: OpenAI's ViT-L/14 has one.
    stated = settings.get(f"{tower}_config_dict")
    towers[tower] = settings.get(f"{tower}_config") if stated is None else stated
  if settings.get("model_type") != "clip" or not all(isinstance(tower, dict) for tower in towers.values()):
    raise WeightsError(f"{found.path} is not a whole CLIP, whose config.json has the model_type clip, a text_config "
                       "and a vision_config: give the folder of a CLIPModel of transformers")
  mean, std = _normalisation(folder, _integer(towers["vision"], "image_size", 224, source))
  try:
    return ClipConfig(clip_config(towers["text"], source), _vision_config(towers["vision"], source),
                      _integer(settings, "projection_dim", 512, source),
                      _integer(towers["text"], "eos_token_id", 49407, source), mean, std)
  except WeightsError:
    raise
  except ValueError as error:
    raise WeightsError(f"{source} has sizes that make no CLIP ({error}): copy it again") from error


def _vision_config(settings: Mapping[str, Any], source: str) -> ClipVisionConfig:
  for key, value in (("layer_norm_eps", 1e-5), ("num_channels", 3)):
    if settings.get(key, value) != value:
      raise WeightsError(f"{source} has {key} {settings[key]!r} in its vision_config, where CLIP has {value}: give a "
                         "CLIP of OpenAI's or OpenCLIP's kind")
  number = lambda key, default, most=2**16: _integer(settings, key, default, source, most)
  return ClipVisionConfig(
      channels=number("hidden_size", 768), layers=number("num_hidden_layers", 12, 256),
      heads=number("num_attention_heads", 12), mlp_channels=number("intermediate_size", 3072),
      image_size=number("image_size", 224), patch_size=number("patch_size", 32),
      activation=settings.get("hidden_act", "quick_gelu"))


def _integer(settings: Mapping[str, Any], key: str, default: int, source: str, most: int = 2**20) -> int:
  value = settings.get(key, default)
  if type(value) is not int or not 1 <= value <= most:
    raise WeightsError(f"{source} has {key} {value!r}, where a number from 1 to {most} belongs: copy it again")
  return value


def _normalisation(folder: Path, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of the image processor, whose other settings must be those of `prepare_images`."""
  settings = {}
  path = folder / "preprocessor_config.json"
  if path.is_file():
    settings = read_json(path)
  elif (folder / "processor_config.json").is_file():                      # transformers 5 keeps all processors in one
    path = folder / "processor_config.json"
    settings = read_json(path).get("image_processor") or {}
  ours = {"do_resize": (True,), "do_center_crop": (True,), "do_rescale": (True,), "do_normalize": (True,),
          "resample": (int(Image.Resampling.BICUBIC),), "rescale_factor": (1 / 255,),
          "size": (size, {"shortest_edge": size}), "crop_size": (size, {"height": size, "width": size})}
  other = [f"{key} {settings[key]!r}" for key, values in ours.items() if settings.get(key, values[0]) not in values]
  if other:
    raise WeightsError(f"{path} prepares images in a way that is not done here ({', '.join(other)}): give a CLIP for "
                       f"which the shortest edge is resized to {size} pixels by a bicubic filter")
  mean, std = (settings.get(key, default) for key, default in (("image_mean", _MEAN), ("image_std", _STD)))
  for values in (mean, std):
    if not isinstance(values, list | tuple) or [type(value) for value in values] != [float] * 3:
      raise WeightsError(f"{path} has {values!r} where three numbers belong (image_mean, image_std): copy it again")
  if min(std) <= 0:
    raise WeightsError(f"{path} has the image_std {list(std)}, where positive numbers belong: copy it again")
  return tuple(mean), tuple(std)


def _tokenizer(folder: Path, config: ClipConfig) -> CLIPTokenizer:
  tokenizer = load_tokenizer(folder)
  tokenizer.length = min(tokenizer.length, config.text.length)
  end = int(tokenizer("")[1])
  if tokenizer.vocabulary > config.text.vocabulary:
    raise WeightsError(f"the tokenizer in {folder} has {tokenizer.vocabulary} ids, and the network "
                       f"{config.text.vocabulary}: copy both from one place")
  if config.end_token not in (end, _LARGEST_ID):
    raise WeightsError(f"the tokenizer in {folder} ends texts by the id {end}, and config.json says {config.end_token} "
                       "(eos_token_id): copy both from one place")
  return tokenizer
