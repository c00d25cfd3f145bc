"""CLIP's text encoder against the reference, against NumPy, and in the words of its docstring."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import erf

from panda_jax.models.clip_text import CLIPText, CLIPTextConfig
from panda_jax.models.functional import Functional
from panda_jax.tree import flatten, unflatten
from tests.fast import draw, jit
from tests.paths import PARITY, SHARED, needs_parity

KEYS = SHARED / "specs" / "keys" / "diffusers_clip_text_l14.json"
SMALL = CLIPTextConfig(vocabulary=30, channels=8, layers=3, heads=2, mlp_channels=12, length=9)


@functools.cache
def network(config=SMALL):
  return Functional(lambda rngs: CLIPText(config, rngs=rngs))


@functools.cache
def compiled(config=SMALL, **options):
  return jit(functools.partial(network(config), **options))


def ids(batch=2, length=9):
  return np.random.default_rng(length).integers(0, SMALL.vocabulary, (batch, length), np.int32)


def cast(params, dtype):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def count(params):
  return sum(math.prod(leaf.shape) for leaf in flatten(params).values())


# --- at real size, from shapes alone


def test_clip_vit_l14_has_its_published_size():
  assert count(network(CLIPTextConfig()).abstract) == 123_060_480


def test_the_encoder_of_stable_diffusion_21_has_its_published_size():
  """OpenCLIP ViT-H/14 without its 24th layer, counted by hand."""
  attention = 4 * (1024 * 1024 + 1024)
  feed_forward = 1024 * 4096 + 4096 + 4096 * 1024 + 1024
  norm = 2 * 1024
  by_hand = 49408 * 1024 + 77 * 1024 + 23 * (attention + feed_forward + 2 * norm) + norm
  assert by_hand == 340_387_840
  assert count(network(CLIPTextConfig.sd21()).abstract) == by_hand


def reference_name(path):
  """Our path as transformers writes it."""
  *parents, name = path.split("/")
  return ".".join([*parents, "bias" if name == "bias" else "weight"])


@pytest.mark.skipif(not KEYS.is_file(), reason="the lists of keys are not beside this checkout")
def test_every_name_and_shape_is_that_of_the_reference():
  ours = {reference_name(path): list(leaf.shape[::-1] if path.endswith("kernel") else leaf.shape)
          for path, leaf in flatten(network(CLIPTextConfig()).abstract).items()}
  expected = json.loads(KEYS.read_text())
  assert len(ours) == expected["n_keys"] == 196
  assert ours == expected["keys"]


# --- parity


def load_encoder(name):
  """Network and parameters of a transformers folder."""
  folder = PARITY / "clip_text" / name
  config = json.loads((folder / "config.json").read_text())
  net = network(CLIPTextConfig(config["vocab_size"], config["hidden_size"], config["num_hidden_layers"],
                               config["num_attention_heads"], config["intermediate_size"],
                               config["max_position_embeddings"], config["hidden_act"]))
  tensors = {name.removeprefix("text_model."): value for name, value in load_file(folder / "model.safetensors").items()}
  flat = {path: tensors.pop(reference_name(path)) for path in flatten(net.abstract)}
  assert not tensors
  return net, unflatten({path: leaf.T if path.endswith("kernel") else leaf for path, leaf in flat.items()})


@functools.cache
def fixture():
  return dict(np.load(PARITY / "clip_text" / "io.npz"))


@needs_parity
@pytest.mark.parametrize("name, hidden, skip", [("sd15", "hidden_after_layer1_sd15", 3),
                                                ("sd21", "pre_final_norm_sd21", 0)])
def test_the_hidden_states_equal_the_reference(name, hidden, skip):
  """The last one, and one before the final layer norm; in bfloat16 torch itself is 2.3e-2 away for sd21."""
  net, params = load_encoder(f"text_encoder_{name}")
  run = jit(lambda params, ids: (net(params, ids), net(params, ids, skip=skip, normalise=False)))
  expected = [fixture()[f"last_hidden_state_{name}"], fixture()[hidden]]
  input_ids = fixture()[f"input_ids_{name}"][: len(expected[0])]
  for ours, theirs in zip(run(params, input_ids), expected, strict=True):
    np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=0, atol=2e-5)
  for ours, theirs in zip(run(cast(params, jnp.bfloat16), input_ids), expected, strict=True):
    assert np.abs(np.asarray(ours[: len(theirs)], np.float32) - theirs).max() <= 2e-2 * np.abs(theirs).max()


def encode_in_numpy(params, input_ids, config, layers, normalise=True):
  """The encoder again, in float64 and one token at a time, so that no token can see those after it."""
  params = jax.tree.map(np.float64, params)
  linear = lambda x, p: x @ p["kernel"] + p["bias"]
  act = {"quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)), "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2}

  def norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

  def attend(x, p):                                                       # [l c] -> [l c]
    split = lambda name: linear(x, p[name]).reshape(len(x), config.heads, -1)
    query, key, value = split("q_proj"), split("k_proj"), split("v_proj")
    rows = []
    for last in range(len(x)):
      scores = np.einsum("nd,lnd->nl", query[last], key[: last + 1]) / query.shape[-1] ** 0.5
      weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
      rows.append(np.einsum("nl,lnd->nd", weights, value[: last + 1]).ravel())
    return linear(np.stack(rows), p["out_proj"])

  out = []
  for row in input_ids:
    x = params["embeddings"]["token_embedding"]["embedding"][row]
    x = x + params["embeddings"]["position_embedding"]["embedding"][: len(row)]
    for p in [params["encoder"]["layers"][str(index)] for index in range(layers)]:
      x = x + attend(norm(x, p["layer_norm1"]), p["self_attn"])
      x = x + linear(act[config.activation](linear(norm(x, p["layer_norm2"]), p["mlp"]["fc1"])), p["mlp"]["fc2"])
    out.append(norm(x, params["final_layer_norm"]) if normalise else x)
  return np.stack(out)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_encoder_computes_what_its_formulas_say(activation):
  config = CLIPTextConfig(**(vars(SMALL) | {"activation": activation}))
  params = draw(network(config).abstract)
  np.testing.assert_allclose(compiled(config)(params, ids()), encode_in_numpy(params, ids(), config, 3), atol=5e-6)


def test_clip_skip_leaves_out_the_last_layers_and_still_normalises():
  params = draw(network().abstract)
  expected = encode_in_numpy(params, ids(), SMALL, layers=2)
  np.testing.assert_allclose(compiled(skip=1)(params, ids()), expected, atol=5e-6)
  embedded = encode_in_numpy(params, ids(), SMALL, layers=0, normalise=False)
  np.testing.assert_allclose(compiled(skip=3, normalise=False)(params, ids()), embedded, atol=1e-6)


# --- properties


def test_a_token_does_not_see_those_after_it():
  """So a text cut short keeps the features of what is left."""
  params = draw(network().abstract)
  np.testing.assert_allclose(compiled()(params, ids()[:, :4]), compiled()(params, ids())[:, :4], atol=2e-6)


def test_every_token_sees_the_first():
  params = draw(network().abstract)
  other = ids()
  other[:, 0] = (other[:, 0] + 1) % SMALL.vocabulary
  assert (np.abs(compiled()(params, other) - compiled()(params, ids())).max((0, 2)) > 1e-3).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_it_computes_in_the_type_of_its_weights(dtype):
  params = draw(network().abstract)
  expected = np.asarray(compiled()(params, ids()))
  half = compiled()(cast(params, dtype), ids())
  assert half.dtype == jnp.float32                                        # as everything that leaves a product
  assert np.abs(np.asarray(half, np.float32) - expected).max() <= 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize("wrong", [-1, SMALL.vocabulary])
def test_an_id_outside_the_vocabulary_makes_its_text_nan_and_no_other(wrong):
  input_ids = ids()
  input_ids[0, 3] = wrong
  out = np.asarray(compiled()(draw(network().abstract), input_ids))
  assert np.isnan(out[0]).all() and np.isfinite(out[1]).all()


@pytest.mark.parametrize("input_ids, message", [
    (np.zeros(9, np.int32), r"must be \[b l\], got shape \(9,\)"),
    (np.zeros((1, 9, 1), np.int32), r"must be \[b l\], got shape \(1, 9, 1\)"),
    (np.zeros((1, 9), np.float32), r"must be integers \[b l\], got float32"),
    (np.zeros((1, 9), bool), r"must be integers \[b l\], got bool"),
    (np.zeros((1, 10), np.int32), "l between 1 and 9 tokens, got l = 10"),
    (np.zeros((1, 0), np.int32), "l between 1 and 9 tokens, got l = 0")])
def test_wrong_ids_are_refused_in_words(input_ids, message):
  with pytest.raises(ValueError, match=message):
    compiled()(draw(network().abstract), input_ids)


@pytest.mark.parametrize("skip", [-1, 4])
def test_no_more_layers_can_be_skipped_than_there_are(skip):
  with pytest.raises(ValueError, match=f"skip must be between 0 and 3 layers, got {skip}"):
    compiled(skip=skip)(draw(network().abstract), ids())


@pytest.mark.parametrize("fields, message", [
    (dict(heads=3), "3 heads do not divide 8 channels"), (dict(layers=0), "layers must be 1 or more, got 0"),
    (dict(activation="relu"), "activation must be quick_gelu or gelu, got 'relu'")])
def test_a_config_that_cannot_be_built_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    CLIPTextConfig(**(vars(SMALL) | fields))
