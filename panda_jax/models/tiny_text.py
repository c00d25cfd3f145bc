"""A small text encoder with its vocabulary built in, so that the demo needs no download. It trains with the network."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from panda_jax.models.attention import Attention
from panda_jax.models.blocks import FeedForward
from panda_jax.models.layers import LayerNorm
from panda_jax.parallel import exchange

_WORDS = """
  a an the of over in on with and at under above near by to into through around its is are it
  dawn noon afternoon sunset dusk night morning evening day sunrise
  green sandy snowy open red brown lavender blue yellow white black grey orange purple pink golden dark bright
  meadow desert plain sea canyon moor field fields forest city street beach lake river mountain mountains valley road
  park garden room building buildings house houses tree trees grass sand snow water rock rocks tunnel bridge
  flat hilly mountainous land clear few many clouds cloud cloudy sky sun moon stars light
  balloon balloons bird birds kite kites boat car cars people person man woman
  camera stands still slow fast moving moves turning slowly walking driving flying standing
  360 degree video view panorama photograph panoramic wide one two three
""".split()

VOCABULARY = {word: index for index, word in enumerate(("<empty>", "<unknown>", *dict.fromkeys(_WORDS)))}


def split_words(text: str) -> list[str]:
  """Lower-case words and numbers, in order."""
  return re.findall(r"[a-z]+|[0-9]+", text.lower())


def unknown_words(text: str) -> list[str]:
  """The words that the encoder cannot tell from each other; a caller that has a user should name them."""
  return [word for word in dict.fromkeys(split_words(text)) if word not in VOCABULARY]


def tokenize(text: str, length: int) -> np.ndarray:
  """int32 [l]: words as vocabulary indices, cut or padded with <empty>. The empty text is all <empty>."""
  ids = [VOCABULARY.get(word, VOCABULARY["<unknown>"]) for word in split_words(text)][:length]
  return np.asarray(ids + [VOCABULARY["<empty>"]] * (length - len(ids)), np.int32)


@dataclasses.dataclass(frozen=True)
class TinyTextConfig:
  """Width and length of the encoder's output."""

  channels: int = 64
  length: int = 32
  heads: int = 4


class TinyText(nnx.Module):
  """Word and position embeddings and one transformer layer."""

  def __init__(self, config: TinyTextConfig, *, rngs: nnx.Rngs):
    self.shapes = (len(VOCABULARY), config.channels), (config.length, config.channels)
    self.token_embedding = nnx.Embed(len(VOCABULARY), config.channels, rngs=rngs)
    self.position_embedding = nnx.Embed(config.length, config.channels, rngs=rngs)
    self.norm1 = LayerNorm(config.channels, epsilon=1e-6, rngs=rngs)
    self.attn1 = Attention(config.channels, config.heads, rngs=rngs)
    self.norm2 = LayerNorm(config.channels, epsilon=1e-6, rngs=rngs)
    self.ff = FeedForward(config.channels, rngs=rngs)
    self.final_norm = LayerNorm(config.channels, epsilon=1e-6, rngs=rngs)

  def __call__(self, ids: jax.Array) -> jax.Array:
    """ids: int32 [b l] -> [b l c]."""
    words = exchange.whole(self.token_embedding.embedding[...], self.shapes[0])
    positions = exchange.whole(self.position_embedding.embedding[...], self.shapes[1])
    x = jnp.take(words, ids, axis=0) + positions[None, : ids.shape[1]]
    x = x + self.attn1(self.norm1(x))
    x = x + self.ff(self.norm2(x))
    return self.final_norm(x)
