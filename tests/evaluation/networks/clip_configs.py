"""Small CLIPs, as config.json of transformers, and token ids for them."""

import numpy as np

_SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
# The vocabulary is that of tests/golden/pipeline/tokenizer, whose last id ends a text.
END = 554

CONFIGS = {
    # As OpenAI's: an end token that transformers once had wrong.
    "openai": {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 8,
        "text_config": _SMALL | dict(vocab_size=555, hidden_act="quick_gelu", max_position_embeddings=77,
                                     bos_token_id=0, eos_token_id=2, pad_token_id=1),
        "vision_config": _SMALL | dict(hidden_size=24, num_attention_heads=3, image_size=32, patch_size=8,
                                       hidden_act="quick_gelu")},
    # As OpenCLIP's: the exact GELU; and an image that patches do not cover.
    "openclip": {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 12,
        "text_config": _SMALL | dict(vocab_size=560, hidden_act="gelu", max_position_embeddings=20, bos_token_id=553,
                                     eos_token_id=END, pad_token_id=0),
        "vision_config": _SMALL | dict(num_hidden_layers=3, image_size=30, patch_size=7, hidden_act="gelu")}}


def ids(name: str) -> np.ndarray:
  """Four texts of several lengths, padded with the end token and with 0 ("!"): int32 [4 12]."""
  random = np.random.RandomState(3)
  padded = []
  for length, padding in ((3, END), (7, END), (5, 0), (10, 0)):
    # New tokens may follow the end token in the vocabulary, where the config names that.
    words = random.randint(1, END if name == "openai" else 560, length)
    padded.append([553, *np.where(words == END, 1, words), END, *[padding] * (10 - length)])
  return np.int32(padded)
