"""The codec and the text encoder that a config names, small ones that need no download or Stable Diffusion's, and the
sizes of the UNet between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.models import tiny_text
from panda_jax.models.clip_text import CLIPText, CLIPTextConfig
from panda_jax.models.codec import CosineCodec
from panda_jax.models.functional import Functional, Params
from panda_jax.models.unet import UNetConfig
from panda_jax.models.vae import StableDiffusionVAE, VAEConfig
from panda_jax.parallel import exchange
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.tokenizer import CLIPTokenizer, load_tokenizer


class LearnedCodec:
  """Stable Diffusion's VAE: uint8 images to latents of about unit variance, and back.

  Few images are coded at a time: those of a whole matrix would not fit into memory together. Clips are coded side by
  side, so that those on different devices stay where they are.

  Attributes:
    network: the VAE, as a function of its parameters.
    config: its sizes.
    factor: pixels per latent in h and in w.
    channels: latent channels.
  """

  def __init__(self, *, images_per_batch: int = 8, **sizes):
    """`images_per_batch`: of each clip, the most that are coded at a time; `sizes`: fields of `VAEConfig`.

    Raises:
      ValueError: if they are not images in colour, or none at a time.
    """
    config = VAEConfig(**sizes)
    if config.image_channels != 3:
      raise ValueError(f"codec.image_channels must be 3, images in colour, got {config.image_channels}")
    if images_per_batch < 1:
      raise ValueError(f"codec.images_per_batch must be 1 or more, got {images_per_batch}")
    self.network = Functional(lambda rngs: StableDiffusionVAE(config, rngs=rngs))
    self.factor, self.channels = config.factor, config.latent_channels
    self.config, self._images_per_batch = config, images_per_batch
    self._scaling_factor = config.scaling_factor

  def encode(self, params: Params, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """Images to scaled latents.

    Args:
      params: of the VAE.
      images: uint8 [b v f h w 3].
      keys: [b], draw each clip's latents from their distribution, as diffusion models are trained; None: its mean.

    Returns:
      float32 [b v f h/factor w/factor channels].
    """
    return self.latents(self.moments(params, images), keys)

  def moments(self, params: Params, images: jax.Array, circular: bool = False) -> jax.Array:
    """The distribution of the latents of images, which is what datasets store.

    Args:
      params: of the VAE.
      images: uint8 [b v f h w 3].
      circular: whether the left and right edges join, as those of a panorama do.

    Returns:
      float32 [b v f h/factor w/factor 2*channels]: mean, then log-variance, not scaled.
    """
    vae = self.network.bind(self.network.whole(params))
    return self._map(lambda part: jnp.concatenate(vae.encode(to_float(part), circular=circular), -1), images)

  def latents(self, moments: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """Scaled latents out of `moments`, [b v f h w 2*channels] of any floating type; `keys` as for `encode`."""
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    if keys is not None:
      mean = mean + jnp.exp(0.5 * logvar) * normal(keys, mean.shape)
    return self._scaling_factor * mean

  def decode(self, params: Params, latents: jax.Array, circular: bool = False) -> jax.Array:
    """Scaled latents [b v f h w channels] -> uint8 [b v f h*factor w*factor 3]; `circular` as for `moments`."""
    vae = self.network.bind(self.network.whole(params))
    return self._map(lambda part: to_uint8(vae.decode(part / self._scaling_factor, circular=circular)), latents)

  def _map(self, function: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """Applies `function` to [b n …] of every clip at a time: [b v f …] -> [b v f …], or several of these."""
    b, v, f, *rest = x.shape
    n = max(size for size in range(1, self._images_per_batch + 1) if v * f % size == 0)
    parts = jnp.moveaxis(x.reshape(b, -1, n, *rest), 1, 0)
    mapped = jax.lax.map(function, parts)
    return jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1).reshape(b, v, f, *y.shape[3:]), mapped)


class TinyWords:
  """The text encoder with its vocabulary built in; it trains with the rest.

  Attributes:
    network: the encoder, as a function of its parameters: ids int32 [b l] -> [b l channels].
    config: its sizes.
    channels, length: width and number of the tokens that come out.
    empty: int32 [l], the ids of the empty text.
    pretrained: whether it comes from elsewhere, and stays as it came.
  """

  pretrained = False

  def __init__(self, **sizes):
    """`sizes`: fields of `TinyTextConfig`."""
    self.config = config = tiny_text.TinyTextConfig(**sizes)
    self.network = Functional(lambda rngs: tiny_text.TinyText(config, rngs=rngs))
    self.channels, self.length = config.channels, config.length
    self.empty = self.tokenize("")

  def tokenize(self, text: str) -> np.ndarray:
    """int32 [l]."""
    return tiny_text.tokenize(text, self.length)

  def unknown_words(self, text: str) -> list[str]:
    """Words that the encoder has never seen."""
    return tiny_text.unknown_words(text)


class CLIPWords:
  """CLIP's text encoder with its tokenizer; attributes as those of `TinyWords`.

  The tokenizer is opened for the first text: what has none, such as a plan or a count of parameters, needs no files.
  """

  pretrained = True

  def __init__(self, *, tokenizer: str, empty: tuple[int, int, int] | None = None, **sizes):
    """Sizes are checked; nothing is read.

    Args:
      tokenizer: its folder.
      empty: ids of the first, the last and the padding token; None: as in Stable Diffusion 1, the last two of the
        vocabulary, and padding like the last. Every tokenizer is held against them.
      sizes: fields of `CLIPTextConfig`.
    """
    self.config = config = CLIPTextConfig(**sizes)
    self.network = Functional(lambda rngs: CLIPText(config, rngs=rngs))
    self.channels, self.length = config.channels, config.length
    first, last, padding = empty or (config.vocabulary - 2, config.vocabulary - 1, config.vocabulary - 1)
    self.empty = np.asarray([first, last] + [padding] * (self.length - 2), np.int32)
    self._folder = tokenizer

  def tokenize(self, text: str) -> np.ndarray:
    """int32 [l].

    Raises:
      WeightsError: if the tokenizer's folder cannot be used.
    """
    return self._tokenizer(text)

  def unknown_words(self, text: str) -> list[str]:
    """None: whatever is no word is spelt in letters."""
    return []

  # Threads that come here at once may each open one. Its first text is read in here, before another thread can have it:
  # the reference behind it sets itself up with the first text, and must be alone then.
  @functools.cached_property
  def _tokenizer(self) -> CLIPTokenizer:
    tokenizer, empty = open_tokenizer(self._folder, self.config)
    stated = tuple(self.empty[:3].tolist())
    if empty != stated:
      raise WeightsError(f"the tokenizer in {self._folder} begins, ends and pads a text with the tokens {empty}, and "
                         f"config.model.text.empty is {stated}: set that, or give the tokenizer of this model")
    return tokenizer


def open_tokenizer(folder: str | os.PathLike, config: CLIPTextConfig) -> tuple[CLIPTokenizer, tuple[int, int, int]]:
  """The tokenizer of a text encoder, and the ids of its first, last and padding token.

  Raises:
    WeightsError: if there is none in the folder, or it is not one for this encoder.
  """
  tokenizer = load_tokenizer(folder)
  if tokenizer.length != config.length or tokenizer.vocabulary > config.vocabulary:
    raise WeightsError(f"the tokenizer in {folder} makes texts of {tokenizer.length} tokens out of "
                       f"{tokenizer.vocabulary}, and the text encoder reads {config.length} out of "
                       f"{config.vocabulary}: give the tokenizer that belongs to it")
  first, last, padding = tokenizer("")[:3].tolist()
  return tokenizer, (first, last, padding)


def make_codec(options: Mapping[str, Any]) -> CosineCodec | LearnedCodec:
  """The codec of config.model.codec: `kind` "cosine" (also where there is none) or "stable_diffusion".

  Raises:
    ValueError, TypeError: if it describes no codec.
  """
  return _make("codec", {"cosine": CosineCodec, "stable_diffusion": LearnedCodec}, options)


def make_words(options: Mapping[str, Any]) -> TinyWords | CLIPWords:
  """The text encoder of config.model.text: `kind` "tiny" (also where there is none) or "clip".

  Raises:
    ValueError, TypeError: if it describes no text encoder.
  """
  return _make("text", {"tiny": TinyWords, "clip": CLIPWords}, options)


def _make(group: str, classes: dict[str, type], options: Mapping[str, Any]) -> Any:
  fields = as_fields(options)
  kind = fields.pop("kind", next(iter(classes)))
  if kind not in classes:
    raise ValueError(f"{group}.kind is {kind!r}; it may be {' or '.join(classes)}")
  return classes[kind](**fields)


def make_unet_config(sizes: dict, latent_channels: int, text_channels: int) -> UNetConfig:
  """The network between a codec and a text encoder; `sizes` may repeat what follows from those.

  Raises:
    ValueError: if they say something else, or make no network.
  """
  for name, channels, source in (("in_channels", latent_channels, "the codec's latents"),
                                 ("out_channels", latent_channels, "the codec's latents"),
                                 ("text_channels", text_channels, "the text encoder's tokens")):
    if sizes.get(name) not in (None, channels):
      raise ValueError(f"unet.{name} is {sizes[name]}, and {source} have {channels} channels")
  return UNetConfig(**sizes | dict(in_channels=latent_channels, out_channels=None, text_channels=text_channels))


def describe_codec(codec: CosineCodec | LearnedCodec) -> dict[str, Any]:
  """JSON: all but its weights that decides the latents which datasets store of it; how they are scaled does not."""
  if isinstance(codec, CosineCodec):
    return {"kind": "cosine", "chroma_size": codec.chroma_size}
  sizes = dataclasses.asdict(codec.config)
  del sizes["scaling_factor"]
  return json.loads(json.dumps({"kind": "stable_diffusion", **sizes}))


def describe_words(words: TinyWords | CLIPWords) -> dict[str, Any]:
  """JSON: all but its weights and its tokenizer that decides the states of a text encoder."""
  kind = "clip" if isinstance(words, CLIPWords) else "tiny"
  return {"kind": kind, **dataclasses.asdict(words.config), "empty": np.asarray(words.empty).tolist()}


def as_fields(options: Mapping[str, Any]) -> dict[str, Any]:
  """A group of a config as fields of a dataclass: lists, which JSON makes of tuples, are tuples again."""
  return {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in options.items()}


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Unit Gaussian noise [b v f …] of which each clip has its own key: it is the same in any part of the batch.

  Devices that share a clip's matrix each take their part of it.
  """
  whole = exchange.whole_shape(shape)
  return exchange.own_part(jax.vmap(lambda key: jax.random.normal(key, whole[1:]))(keys), clips=False)


def to_float(images: jax.Array) -> jax.Array:
  """uint8 -> float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(pixels: jax.Array) -> jax.Array:
  """float in [-1, 1], clipped -> uint8."""
  return jnp.clip(jnp.round((pixels + 1) * 127.5), 0, 255).astype(jnp.uint8)
