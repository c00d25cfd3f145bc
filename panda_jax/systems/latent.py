"""What systems that denoise latents have in common: a codec, a text encoder, and what datasets may store of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from panda_jax.checksum import checksum
from panda_jax.diffusion import Schedule
from panda_jax.systems.base import Batch, Params
from panda_jax.systems.networks import (
    LearnedCodec, describe_codec, describe_words, make_codec, make_words, to_float, to_uint8)


class LatentSystem:
  """Part of a `panda_jax.systems.base.System`.

  Attributes:
    options: config.model, of which `codec` and `text` are read here.
    codec, words: see `systems.networks`.
    networks: name -> Functional, of the text encoder and the VAE, if there is one; a system adds its own.
    schedule: of the noise; the system sets it.
  """

  schedule: Schedule

  def __init__(self, model: ConfigDict):
    """Raises ValueError or TypeError if there is no such codec or text encoder."""
    self.options = model
    self.codec = make_codec(model.codec)
    self.words = make_words(model.text)
    self.text = self.words.network
    self.vae = self.codec if isinstance(self.codec, LearnedCodec) else None
    self.networks = {"text": self.text} | ({"vae": self.vae.network} if self.vae else {})
    self._from_elsewhere = ("text",) * self.words.pretrained + ("vae",) * (self.vae is not None)

  def tokenize(self, text: str) -> np.ndarray:
    """int32 [l]."""
    return self.words.tokenize(text)

  def unknown_words(self, text: str) -> list[str]:
    """Words of a prompt that the text encoder has never seen."""
    return self.words.unknown_words(text)

  def _images_spec(self, shape: tuple[int, int, int], size: tuple[int, int],
                   latents: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Images [b v f] of this size (h, w), or the latents that are stored of them."""
    if not latents:
      return {"images": jax.ShapeDtypeStruct((*shape, *size, 3), jnp.uint8)}
    size = tuple(side // self.codec.factor for side in size)
    channels = self.codec.channels * (1 if self.vae is None else 2)
    return {"latents": jax.ShapeDtypeStruct((*shape, *size, channels), jnp.bfloat16)}

  def _text_spec(self, batch_size: int, states: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Texts, or the states that are stored of them."""
    tokens = batch_size, self.words.length
    return {"text_states": jax.ShapeDtypeStruct((*tokens, self.words.channels), jnp.bfloat16)} if states else {
        "text": jax.ShapeDtypeStruct(tokens, jnp.int32)}

  def encode_images(self, params: Params, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """uint8 [b v f h w 3] -> latents [b v f h' w' c]; where the codec gives their distribution, drawn with keys [b]."""
    if self.vae is None:
      return self.codec.encode(to_float(images))
    return self.vae.encode(params["vae"], images, keys)

  def encode_stored(self, params: Params, images: jax.Array, circular: bool = False) -> jax.Array:
    """What a dataset stores of images, so that training need not encode them.

    Args:
      params: those of `key_params` are enough.
      images: uint8 [b v f h w 3]; of any size that the codec takes.
      circular: whether left and right edges join, for panoramas; only a learned codec looks across them.

    Returns:
      float32 [b v f h' w' c]: latents, or of a learned codec their mean, then their log-variance, not scaled.
    """
    if self.vae is None:
      return self.codec.encode(to_float(images))
    return self.vae.moments(params["vae"], images, circular)

  def decode(self, params: Params, latents: jax.Array, circular: bool = False) -> jax.Array:
    """Latents [b v f h' w' c] -> uint8 [b v f h w 3]; `circular` as for `encode_stored`."""
    if self.vae is None:
      return to_uint8(self.codec.decode(latents))
    return self.vae.decode(params["vae"], latents, circular)

  def encode_text(self, params: Params, ids: jax.Array, keep: jax.Array) -> jax.Array:
    """ids int32 [b l], keep [b]: 0 replaces the text by the empty one -> [b l c]."""
    return self.text(params["text"], jnp.where(keep[:, None] > 0, ids, self.words.empty))

  def _clean(self, params: Params, batch: Batch, keys: jax.Array | None = None) -> jax.Array:
    """The latents of a batch [b v f h' w' c], as `encode_images` gives them."""
    if "latents" not in batch:
      return self.encode_images(params, batch["images"], keys)
    stored = batch["latents"]
    return stored.astype(jnp.float32) if self.vae is None else self.vae.latents(stored, keys)

  def _text(self, params: Params, batch: Batch, keep: jax.Array) -> jax.Array:
    """The text of a batch [b l c], as `encode_text` gives it."""
    if "text_states" not in batch:
      return self.encode_text(params, batch["text"], keep)
    states = batch["text_states"].astype(jnp.float32)
    empty = self.text(params["text"], jnp.asarray(self.words.empty)[None])
    return jnp.where(keep[:, None, None] > 0, states, empty)

  def _draw_timestep(self, rng: jax.Array, count: int, timestep: jax.Array | int | None) -> jax.Array:
    """int32 [b]: this one for all clips, or one for each, spread evenly over the batch."""
    if timestep is None:
      timestep = (jnp.arange(count) + jax.random.uniform(rng, (count,))) / count * len(self.schedule)
    # The largest float below 1 can be rounded up to it.
    timestep = jnp.minimum(jnp.asarray(timestep).astype(jnp.int32), len(self.schedule) - 1)
    return jnp.broadcast_to(timestep, (count,))

  # What datasets may store

  def key_params(self, params: Params) -> Params:
    """The parameters of the networks whose results can be stored: none of them is ever trained."""
    return {name: params[name] for name in self._from_elsewhere}

  def stored_key(self, params: Params) -> dict[str, Any]:
    """JSON: what stored latents and text states depend on. Weights enter by their `checksum`."""
    key = {"codec": describe_codec(self.codec), "codec weights": None}
    if self.vae is not None:
      key["codec weights"] = checksum(params["vae"])
    if self.words.pretrained:
      key |= {"text": describe_words(self.words), "text weights": checksum(params["text"]),
              "tokenizer": self.tokenize(_PROBE).tolist()[:_PROBE_TOKENS]}
    return key


# Tells tokenizers apart; a tokenizer spells what it does not know.
_PROBE, _PROBE_TOKENS = "A 360 degree video of Zürich's waterfront, filmed by a whirligig.", 40
