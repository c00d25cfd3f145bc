import jax
import ml_dtypes
from ml_collections import ConfigDict
import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.weights import check_params, load_model, save_model
from panda_jax.tree import flatten, unflatten

CONFIG = ConfigDict({"system": "videopanda", "matrix": {"shapes": ((3, 16), (8, 6))}, "rate": 1e-4, "init": ""})


@pytest.fixture
def params():
  return {"unet": {"conv_in": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
                               "bias": np.zeros(4, np.float32)},
                   "blocks": {"0": {"gate": np.float32(0.5)}, "10": {"gate": np.float32(2)}}},
          "text": {"embedding": np.ones((5, 2), ml_dtypes.bfloat16), "ids": np.arange(3)}}


def test_a_model_comes_back_as_it_was_written(tmp_path, params):
  """Values, shapes (zero-dimensional and transposed ones too), types, names and the config survive the disk."""
  save_model(tmp_path / "run" / "model", params, CONFIG, card="# A model\n")
  again, config = load_model(tmp_path / "run" / "model")
  before, after = flatten(params), flatten(again)
  assert list(before) == list(after)
  for path in before:
    assert after[path].dtype == np.asarray(before[path]).dtype and after[path].shape == np.shape(before[path])
    np.testing.assert_array_equal(after[path], before[path])
  assert config == CONFIG and config.matrix.shapes == ((3, 16), (8, 6))
  assert (tmp_path / "run" / "model" / "MODEL_CARD.md").read_text() == "# A model\n"


def test_writing_again_replaces_the_model_and_leaves_nothing_else(tmp_path, params):
  save_model(tmp_path / "model", params, CONFIG, card="old")
  save_model(tmp_path / "model", {"a": np.ones(1)}, CONFIG)
  assert list(load_model(tmp_path / "model")[0]) == ["a"]
  assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
  assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_things_in_it_is_never_replaced(tmp_path, params):
  (tmp_path / "thesis.tex").write_text("years of work")
  with pytest.raises(InputError, match="is not a model folder"):
    save_model(tmp_path, params, CONFIG)
  assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("damage, message", [
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is not readable JSON"),
    (lambda folder: (folder / "config.json").write_text("[1]"), "must hold one JSON object"),
    (lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-7]), "model.safetensors is cut short"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is empty"),
])
def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path, params, damage, message):
  save_model(tmp_path / "model", params, CONFIG)
  damage(tmp_path / "model")
  with pytest.raises(InputError, match=message):
    load_model(tmp_path / "model")


def test_a_folder_that_is_not_there_is_named(tmp_path):
  with pytest.raises(InputError, match="nowhere is not a folder"):
    load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_numbers_that_are_none_are_found_in_every_float_type(tmp_path, params, dtype):
  params["unet"]["conv_in"]["bias"] = np.array([0, np.nan, 1, np.inf], dtype)
  with pytest.raises(InputError, match="unet/conv_in/bias holds NaN or infinity"):
    save_model(tmp_path / "model", params, CONFIG)


def test_every_kind_of_misfit_is_named(params):
  """Missing, unexpected and mis-shaped tensors are listed in one message, many of a kind as one group."""
  abstract = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, {
      key: value for key, value in params.items() if key == "unet"}))
  check_params({"unet": params["unet"]}, abstract)
  del params["unet"]["blocks"]
  params["unet"]["conv_in"]["bias"] = np.zeros(7, np.float32)
  with pytest.raises(InputError) as error:
    check_params(params, abstract, source="the parameters of runs/a")
  message = str(error.value)
  assert "2 missing: unet/blocks/0/gate, unet/blocks/10/gate" in message
  assert "2 unexpected: text/embedding, text/ids" in message
  assert "unet/conv_in/bias is [7], the network has [4]" in message and "runs/a" in message


def test_a_thousand_missing_names_stay_readable():
  abstract = {"unet": {"down": {f"block_{index}": {"kernel": np.ones(1)} for index in range(1000)}}}
  with pytest.raises(InputError) as error:
    check_params({}, abstract)
  assert "1000 missing" in str(error.value) and len(str(error.value)) < 400


def test_a_model_that_could_not_be_written_leaves_nothing_and_spoils_nothing(tmp_path, params):
  save_model(tmp_path / "model", params, CONFIG)
  with pytest.raises(InputError, match="NaN"):
    save_model(tmp_path / "model", {"a": np.array([np.nan])}, CONFIG)
  assert [path.name for path in tmp_path.iterdir()] == ["model"]
  assert sorted(load_model(tmp_path / "model")[0]) == ["text", "unet"]


def test_a_model_folder_can_be_moved_with_its_tokenizer(tmp_path, params):
  (tmp_path / "words").mkdir()
  (tmp_path / "words" / "vocab.json").write_text("{}")
  save_model(tmp_path / "model", params, ConfigDict({"model": {"text": {"tokenizer": str(tmp_path / "words")}}}))
  (tmp_path / "model").rename(tmp_path / "moved")
  _, config = load_model(tmp_path / "moved")
  assert config.model.text.tokenizer == str(tmp_path / "moved" / "tokenizer")
  assert (tmp_path / "moved" / "tokenizer" / "vocab.json").read_text() == "{}"


def test_names_that_would_collide_are_refused():
  assert unflatten(flatten({"b": {"c": 1}, "a": 2})) == {"a": 2, "b": {"c": 1}}
  for bad in ({0: 1}, {"a/b": 1}, {"": 1}):
    with pytest.raises(ValueError, match="parameter names"):
      flatten({"x": bad})
  for bad in ({"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}):
    with pytest.raises(ValueError):
      unflatten(bad)
