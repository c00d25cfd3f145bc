"""The tokenizer: ids of a small vocabulary by hand, ids of the reference, and what a user hears of a bad folder."""

import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.tokenizer import load_tokenizer
from tests.paths import PARITY, needs_parity

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ("l o", "lo w", "lo w</w>", "e r</w>", "low er</w>", "s e", "se a</w>", "Ã ©</w>")


def byte_letters():
  """The letter for each byte in byte-level vocabularies: itself where it can be printed, else one from 256 on."""
  printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in printed]
  return [chr(byte) for byte in printed] + [chr(256 + index) for index in range(len(hidden))]


VOCABULARY = {token: index for index, token in enumerate((
    *byte_letters(), *(letter + "</w>" for letter in byte_letters()), *(merge.replace(" ", "") for merge in MERGES),
    START, END))}


def write(folder, *, vocabulary=VOCABULARY, merges=MERGES, **settings):
  """A tokenizer folder; `settings` are further JSON files by name."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "vocab.json").write_text(json.dumps(vocabulary))
  (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges, "")), encoding="utf-8")
  for name, content in settings.items():
    (folder / f"{name}.json").write_text(json.dumps(content))
  return folder


def write_json(folder, **changes):
  """The same as one tokenizer.json, as transformers 5 writes it."""
  folder.mkdir(parents=True, exist_ok=True)
  model = dict(type="BPE", dropout=None, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>",
               fuse_unk=False, byte_fallback=False, vocab=VOCABULARY, merges=[merge.split() for merge in MERGES])
  document = dict(version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=None, pre_tokenizer=None,
                  post_processor=None, decoder=None, model=model | changes)
  (folder / "tokenizer.json").write_text(json.dumps(document))
  return folder


def expected(*tokens, length=77, pad=END):
  ids = [VOCABULARY[token] for token in (START, *tokens, END)]
  return ids + [VOCABULARY[pad]] * (length - len(ids))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return load_tokenizer(write(tmp_path_factory.mktemp("tokenizer")))


# --- ids


@needs_parity
@pytest.mark.parametrize("name, ids", [("tokenizer", "input_ids"), ("tokenizer_sd21", "input_ids_sd21")])
def test_the_ids_equal_the_reference(tmp_path, name, ids):
  """From the files as the hub has them, and from the one file that transformers 5 writes."""
  prompts = json.loads((PARITY / "clip_text" / "prompts.json").read_text())
  from_tables = load_tokenizer(PARITY / "clip_text" / name)
  from_tables._reference.save_pretrained(tmp_path)
  assert (tmp_path / "tokenizer.json").exists() and not (tmp_path / "vocab.json").exists()
  for loaded in (from_tables, load_tokenizer(tmp_path)):
    assert (loaded.length, loaded.vocabulary) == (77, 634)
    for prompt, row in zip(prompts["prompts"], prompts[ids], strict=True):
      assert loaded(prompt).tolist() == row, prompt


@pytest.mark.parametrize("text, tokens", [
    ("", ()), (" \t\n ", ()),
    ("low lower", ("low</w>", "lower</w>")),
    ("LOW Lower", ("low</w>", "lower</w>")),
    ("  low\t\nlower\u00a0low ", ("low</w>", "lower</w>", "low</w>")),
    ("low,lower!?", ("low</w>", ",</w>", "lower</w>", "!", "?</w>")),
    ("sea's 36", ("sea</w>", "'", "s</w>", "3</w>", "6</w>")),
    ("é", ("Ã©</w>",)), ("e\u0301", ("Ã©</w>",)), ("É", ("Ã©</w>",)),
    ("海", ("æ", "µ", "·</w>")),
    ("🌊", ("ð", "Ł", "Į", "Ĭ</w>")),
    (f"{START}low{END}", (START, "low</w>", END))])
def test_text_becomes_tokens(tokenizer, text, tokens):
  ids = tokenizer(text)
  assert ids.dtype == np.int32 and ids.shape == (77,)
  assert ids.tolist() == expected(*tokens)


def test_a_long_text_keeps_its_first_75_tokens_and_its_end(tokenizer):
  assert tokenizer("low " * 75).tolist() == expected(*["low</w>"] * 75)
  assert tokenizer("low " * 74 + "sea lower").tolist() == expected(*["low</w>"] * 74, "sea</w>")
  assert tokenizer("l" * 500).tolist() == expected(*["l"] * 75)


def test_the_length_and_the_vocabulary_are_those_of_the_folder(tokenizer, tmp_path):
  assert (tokenizer.length, tokenizer.vocabulary) == (77, len(VOCABULARY))
  short = load_tokenizer(write(tmp_path, tokenizer_config={"model_max_length": 5}))
  assert short.length == 5
  assert short("low low low low").tolist() == expected(*["low</w>"] * 3, length=5)


def test_stable_diffusion_21_pads_with_an_exclamation_mark(tmp_path):
  """Its published folder says so in one file and contradicts itself in the other."""
  loaded = load_tokenizer(write(tmp_path, tokenizer_config={"pad_token": END, "model_max_length": 77},
                                special_tokens_map={"pad_token": "!"}))
  assert VOCABULARY["!"] == 0
  assert loaded("low").tolist() == expected("low</w>", pad="!")
  assert loaded("low!!").tolist() == expected("low</w>", "!", "!", pad="!")


def test_a_pipeline_folder_stands_for_its_tokenizer(tmp_path):
  write(tmp_path / "tokenizer", tokenizer_config={"model_max_length": 7})
  (tmp_path / "model_index.json").write_text("{}")
  (tmp_path / "model.safetensors").touch()
  assert load_tokenizer(str(tmp_path)).length == 7


def test_tokenizer_json_is_enough_and_wins(tokenizer, tmp_path):
  texts = ("", "Low lower", "é! 3", "low " * 90)
  write_json(tmp_path)
  for loaded in (load_tokenizer(tmp_path), load_tokenizer(write(tmp_path, vocabulary={}, merges=()))):
    assert [loaded(text).tolist() for text in texts] == [tokenizer(text).tolist() for text in texts]


def test_what_is_no_text_is_refused(tokenizer):
  with pytest.raises(ValueError, match="one text at a time, a str, got list"):
    tokenizer(["low", "lower"])
  with pytest.raises(InputError, match=r"'\\udcff', which is no character"):
    tokenizer(os.fsdecode(b"low \xff"))


# --- folders


def damage(**files):
  """A good folder with some files replaced; None removes one."""
  def make(folder):
    write(folder)
    for name, content in files.items():
      path = folder / name.replace("_json", ".json").replace("_txt", ".txt")
      path.unlink(missing_ok=True)
      if content is not None:
        path.write_bytes(content)
  return make


def weights_folder(folder):
  write(folder.parent / "tokenizer")
  folder.mkdir()
  (folder / "config.json").write_text('{"model_type": "clip_text_model"}')
  (folder / "model.safetensors").touch()


def without(*tokens):
  return {token: index for token, index in VOCABULARY.items() if token not in tokens}


BAD = {
    "absent": (lambda folder: None, "there is no .*: give the folder of a CLIP tokenizer"),
    "empty folder": (lambda folder: folder.mkdir(), "holds no tokenizer: give the folder of a CLIP tokenizer"),
    "empty tokenizer/": (lambda folder: (folder / "tokenizer").mkdir(parents=True),
                         "tokenizer holds neither vocab.json and merges.txt nor tokenizer.json"),
    "text encoder": (weights_folder, r"holds weights \(model.safetensors\) and no tokenizer: give the folder beside"),
    "no merges": (damage(merges_txt=None), "has vocab.json and no merges.txt"),
    "no vocabulary": (damage(vocab_json=None), "has merges.txt and no vocab.json"),
    "garbled": (damage(vocab_json=b"version https://git-lfs"), "vocab.json is not readable JSON"),
    "cut off": (damage(vocab_json=json.dumps(VOCABULARY).encode()[:300]), "vocab.json is not readable JSON"),
    "not UTF-8": (damage(vocab_json=b"\xff\xfe"), "vocab.json is not readable JSON"),
    "a list": (damage(vocab_json=b"[1, 2]"), "vocab.json must hold one JSON object, and holds a list"),
    "empty vocabulary": (damage(vocab_json=b"{}"), "the vocabulary is empty"),
    "names, not ids": (damage(vocab_json=b'{"low</w>": "low"}'), "not a table of tokens and their ids"),
    "one id twice": (damage(vocab_json=b'{"l</w>": 1, "o</w>": 1}'), "not a table of tokens and their ids"),
    "another network's": (damage(vocab_json=b'{"low": 0}', merges_txt=b""), "of another network, not of CLIP"),
    "merges of another": (lambda folder: write(folder, merges=(*MERGES, "x y")),
                          "merge 9 names 'xy', which the vocabulary lacks"),
    "merges cut off": (lambda folder: write(folder, merges=MERGES[:5]),
                       "no merge makes 3 of the .* tokens, such as 'se': the merges are cut off"),
    "merges cut within a line": (lambda folder: write(folder, merges=(*MERGES[:6], "se")), "merge 7 is not two tokens"),
    "merges not text": (damage(merges_txt=b"\xff\xfe"), "merges.txt is not readable text"),
    "no first token": (lambda folder: write(folder, vocabulary=without(START)),
                       r"lacks '<\|startoftext\|>', the bos token"),
    "unknown padding": (lambda folder: write(folder, special_tokens_map={"pad_token": "[PAD]"}),
                        r"lacks '\[PAD\]', the pad token"),
    "no padding": (lambda folder: write(folder, tokenizer_config={"pad_token": None}), "pad_token is null"),
    "settings garbled": (damage(tokenizer_config_json=b"{"), "tokenizer_config.json is not readable JSON"),
    "settings a list": (damage(special_tokens_map_json=b"[]"), "special_tokens_map.json must hold one JSON object, and holds a list"),
    "settings unusable": (lambda folder: write(folder, tokenizer_config={"added_tokens_decoder": {"0": 1}}),
                          "cannot be read as a CLIP tokenizer"),
    "length a word": (lambda folder: write(folder, tokenizer_config={"model_max_length": "long"}),
                      "model_max_length is 'long'"),
    "length too short": (lambda folder: write(folder, tokenizer_config={"model_max_length": 2}),
                         "model_max_length is 2"),
    "tokenizer.json cut off": (damage(tokenizer_json=b'{"model": {'), "tokenizer.json is not readable JSON"),
    "tokenizer.json of T5": (lambda folder: write_json(folder, type="Unigram"), "of another network, not of CLIP"),
    "tokenizer.json without merges": (lambda folder: write_json(folder, merges=None), "another network, not of CLIP"),
    "tokenizer.json, merges of numbers": (lambda folder: write_json(folder, merges=[1]), "merge 1 is not two tokens"),
    "tokenizer.json, vocabulary a list": (lambda folder: write_json(folder, vocab=[["a", 0]]), "not a table of tokens"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, name):
  make, message = BAD[name]
  folder = tmp_path / "text_encoder"
  make(folder)
  with pytest.raises(WeightsError, match=message) as error:
    load_tokenizer(folder)
  assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_file_is_answered_with_its_folder(tmp_path):
  write(tmp_path)
  with pytest.raises(WeightsError, match=f"vocab.json is a file, .* give the folder that it lies in, {tmp_path}"):
    load_tokenizer(tmp_path / "vocab.json")


def test_loading_is_silent_offline_and_only_on_demand(tmp_path):
  """In a fresh process: transformers would say that it misses torch. Its other messages are not held back."""
  script = """
import logging, os, socket, sys
from panda_jax.weights.tokenizer import load_tokenizer
assert "transformers" not in sys.modules
def refuse(*arguments):
  raise AssertionError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refuse
before = dict(os.environ)
load_tokenizer(sys.argv[1])("low")
assert dict(os.environ) == before
logging.getLogger("transformers").warning("something else")
"""
  # `panda` asks transformers for errors only, and another test of this process may have run it.
  plain = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
  done = subprocess.run([sys.executable, "-c", script, write(tmp_path)], capture_output=True, text=True, check=False,
                        cwd=Path(__file__).parents[2], env=plain | {"JAX_PLATFORMS": "cpu"})
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "[transformers] something else\n")
