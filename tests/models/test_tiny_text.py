"""The tiny text encoder: every caption of the procedural worlds can be said in its words."""

import itertools

import numpy as np

from panda_jax.data import worlds
from panda_jax.models.functional import Functional
from panda_jax.models.tiny_text import (VOCABULARY, TinyText, TinyTextConfig, split_words, tokenize, unknown_words)
from tests.fast import draw, jit


def all_captions():
  """The caption of every time, place, terrain, cloud cover and motion, with nothing or three of anything in the air."""
  things = [worlds.Floater(kind, colour, 0.0, 0.0, 0.1, 0.1) for kind in worlds._OBJECTS for colour in worlds._COLOURS]
  skies = [(), *((thing,) * 3 for thing in things)]
  for time, place, terrain, clouds, motion, floaters in itertools.product(
      worlds._TIMES, worlds.PLACES, worlds._TERRAIN, worlds._CLOUDS, worlds._MOTIONS, skies):
    yield worlds.World(0, time, place, terrain, clouds, motion, 0.0, 0.0, floaters).caption


def test_every_caption_of_the_worlds_is_understood_and_fits():
  captions = list(all_captions())
  assert len(set(captions)) == 6 * 7 * 3 * 3 * 3 * 13
  assert unknown_words(" ".join(captions)) == []
  assert max(len(split_words(caption)) for caption in captions) <= TinyTextConfig().length


def test_different_captions_have_different_tokens():
  captions = list(all_captions())[::7]
  assert len({tokenize(caption, 32).tobytes() for caption in captions}) == len(captions)


def test_text_is_padded_or_cut_to_its_length():
  ids = tokenize("A red balloon", 5)
  assert ids.dtype == np.int32
  assert ids.tolist() == [*(VOCABULARY[word] for word in ("a", "red", "balloon")), 0, 0]
  assert tokenize("a red balloon over the sea", 3).tolist() == ids[:3].tolist()


def test_the_empty_text_is_all_empty_tokens():
  assert VOCABULARY["<empty>"] == 0
  assert tokenize("", 4).tolist() == tokenize(" ,. !", 4).tolist() == [0, 0, 0, 0]
  assert unknown_words("") == []


def test_unknown_words_are_reported_once_and_in_order():
  assert unknown_words("A zebra, a Purple giraffe and the zebra") == ["zebra", "giraffe"]
  assert tokenize("zebra", 2).tolist() == [VOCABULARY["<unknown>"], 0]


def test_capitals_and_punctuation_do_not_matter():
  np.testing.assert_array_equal(tokenize("360° Video: a RED balloon!", 8), tokenize("360 video a red balloon", 8))


def test_the_vocabulary_has_no_holes():
  assert sorted(VOCABULARY.values()) == list(range(len(VOCABULARY)))


def test_word_order_and_words_reach_the_embedding():
  encoder = Functional(lambda rngs: TinyText(TinyTextConfig(channels=8, length=6, heads=2), rngs=rngs))
  texts = ("a red bird and boat", "a red boat and bird", "a blue bird and boat", "")
  encoded = np.asarray(jit(encoder)(draw(encoder.abstract), np.stack([tokenize(text, 6) for text in texts])))
  assert encoded.shape == (4, 6, 8)
  for one, other in itertools.combinations(encoded, 2):
    assert np.abs(one - other).max() > 1e-2
