"""Stable Diffusion's VAE and CLIP in the places of the cosine codec and the tiny text encoder."""

from concurrent import futures
import os
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.models.codec import CosineCodec
from panda_jax.systems.networks import (
  CLIPWords, LearnedCodec, TinyWords, make_codec, make_words, open_tokenizer, to_float, to_uint8)
from panda_jax.systems.starting_point import videopanda
from panda_jax.weights import WeightsError
from tests.fast import draw, jit
from tests.systems import toy

VAE = dict(latent_channels=4, block_out_channels=(8, 8), layers_per_block=1, norm_groups=4)
CLIP = dict(vocabulary=len(toy.TOKENS), channels=8, layers=1, heads=2, mlp_channels=8)
START, END = (toy.TOKENS.index(token) for token in (toy.START, toy.END))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return toy.write_tokenizer(tmp_path_factory.mktemp("networks") / "tokenizer")


@pytest.fixture(scope="module")
def images():
  """uint8 [b v f h w 3] that differ in every axis."""
  return np.random.default_rng(0).integers(0, 256, (2, 3, 5, 8, 4, 3)).astype(np.uint8)


# --- the codec


@pytest.fixture(scope="module")
def vae():
  return draw(LearnedCodec(**VAE).network.abstract)


@pytest.fixture(scope="module")
def whole(images, vae):
  """The mean of the latents, unscaled, and the images that they decode to, of all at once."""
  module = LearnedCodec(**VAE).network.bind(jax.tree.map(jnp.asarray, vae))
  mean, _ = jit(module.encode)(to_float(jnp.asarray(images)))
  return mean, np.asarray(to_uint8(jit(module.decode)(mean)))


@pytest.mark.parametrize("images_per_batch", [1, 6, 100])
def test_images_are_coded_alike_however_many_at_a_time(images, vae, whole, images_per_batch):
  """15 of each clip: one by one, in fives, and all at once."""
  codec = LearnedCodec(**VAE, images_per_batch=images_per_batch, scaling_factor=0.5)
  latents = np.asarray(jit(codec.encode)(vae, images))
  assert latents.shape == (2, 3, 5, 4, 2, 4) and codec.factor == 2 and codec.channels == 4
  np.testing.assert_allclose(latents, 0.5 * whole[0], atol=1e-5)
  decoded = np.asarray(jit(codec.decode)(vae, latents))
  assert decoded.dtype == np.uint8 and decoded.shape == images.shape
  assert np.abs(decoded.astype(int) - whole[1]).max() <= 1


def test_in_training_latents_are_drawn_from_their_distribution(vae):
  """Per latent the mean and the deviation that the VAE gives, scaled."""
  image = np.random.default_rng(1).integers(0, 256, (1, 1, 1, 4, 4, 3)).astype(np.uint8)
  codec = LearnedCodec(**VAE, scaling_factor=0.5)
  mean, logvar = (np.asarray(x) for x in jit(codec.network.bind(vae).encode)(to_float(jnp.asarray(image))))
  one, two = (jit(codec.encode)(vae, np.repeat(image, b, 0), jax.random.split(jax.random.key(0), 2)[:b]) for b in (1, 2))
  np.testing.assert_allclose(one[0], two[0], atol=1e-5)          # a clip's draw is its own, whatever is beside it
  assert np.abs(two[1] - two[0]).max() > 0.01
  draws = np.asarray(jit(codec.encode)(vae, np.repeat(image, 4000, 1), jax.random.split(jax.random.key(1), 1)))[:, :, 0]
  deviation = 0.5 * np.exp(0.5 * logvar)[0, 0, 0]
  np.testing.assert_allclose(draws.mean((0, 1)), 0.5 * mean[0, 0, 0], atol=0.08 * deviation.max())
  np.testing.assert_allclose(draws.std((0, 1)) / deviation, 1, atol=0.06)


def test_the_images_of_a_matrix_are_never_all_at_once_in_memory(vae):
  """Eight times the images take a little more memory, not eight times as much."""
  codec = LearnedCodec(**VAE, images_per_batch=2)

  def working_memory(function, shape, dtype):
    compiled = jit(function).lower(vae, jax.ShapeDtypeStruct(shape, dtype)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  for function, shape, dtype in ((codec.encode, (32, 32, 3), np.uint8), (codec.decode, (16, 16, 4), np.float32)):
    few, many = (working_memory(function, (1, 1, frames, *shape), dtype) for frames in (4, 32))
    everything = 32 * 32 * 32 * 8 * 4                                        # one layer of 8 channels of every image
    assert many - few < everything / 2


# In a process of its own: the number of devices is fixed by the import.
_ON_TWO_DEVICES = """
import jax
from jax.sharding import NamedSharding, PartitionSpec
from panda_jax.parallel import make_mesh, replicated
from panda_jax.systems.networks import LearnedCodec

codec = LearnedCodec(latent_channels=4, block_out_channels=(8,), layers_per_block=1, norm_groups=4, images_per_batch=3)
mesh = make_mesh({"data": 2, "fsdp": 1})
images = jax.ShapeDtypeStruct((2, 2, 3, 8, 8, 3), "uint8")
latents = jax.ShapeDtypeStruct((2, 2, 3, 8, 8, 4), "float32")
for function, x in (codec.encode, images), (codec.decode, latents):
  where = replicated(mesh), NamedSharding(mesh, PartitionSpec("data"))
  print(jax.jit(function, in_shardings=where).lower(codec.network.abstract, x).compile().as_text())
"""


def test_clips_on_several_devices_are_coded_where_they_lie():
  """No image goes from one device to another."""
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  process = subprocess.run([sys.executable, "-c", _ON_TWO_DEVICES], cwd=Path(__file__).resolve().parents[2],
                           env=environment, capture_output=True, text=True, timeout=120)
  assert process.returncode == 0, process.stderr
  assert process.stdout.count("num_partitions=2") == 2 and "while(" in process.stdout
  for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert exchange not in process.stdout


# --- texts


def test_clip_reads_its_tokenizer_only_for_the_first_text(tokenizer):
  words = CLIPWords(tokenizer=str(tokenizer), **CLIP)
  CLIPWords(tokenizer="no/such/folder", **CLIP)                              # a plan, a count: no files needed
  sea = toy.TOKENS.index("sea</w>")
  np.testing.assert_array_equal(words.tokenize("Sea"), [START, sea, END] + [END] * 74)
  assert words.tokenize("").dtype == np.int32 and (words.length, words.channels) == (77, 8)
  assert words.unknown_words("qwertz zeppelin") == []                        # it spells what it does not know
  with pytest.raises(WeightsError, match="there is no no/such/folder"):
    CLIPWords(tokenizer="no/such/folder", **CLIP).tokenize("sea")


@pytest.mark.parametrize("padding, stated", [(toy.END, None), ("!", (START, END, toy.TOKENS.index("!")))])
def test_the_empty_text_is_that_of_the_tokenizer(tmp_path, padding, stated):
  """Two tokens and padding, of Stable Diffusion 1 and of 2."""
  words = CLIPWords(tokenizer=str(toy.write_tokenizer(tmp_path / "tokenizer", padding)), empty=stated, **CLIP)
  np.testing.assert_array_equal(words.empty, words.tokenize(""))
  assert words.empty.shape == (77,) and words.empty.dtype == np.int32


def test_a_tokenizer_that_pads_otherwise_is_refused_with_the_right_value(tmp_path):
  padding = toy.TOKENS.index("!")
  words = CLIPWords(tokenizer=str(toy.write_tokenizer(tmp_path / "tokenizer", "!")), **CLIP)
  with pytest.raises(WeightsError, match=rf"the tokens \({START}, {END}, {padding}\), and .*empty is .*: set that"):
    words.tokenize("sea")


@pytest.mark.parametrize("sizes", [dict(vocabulary=99), dict(length=64)])
def test_a_tokenizer_of_another_encoder_is_refused(tokenizer, sizes):
  config = CLIPWords(tokenizer=str(tokenizer), **CLIP | sizes).config
  with pytest.raises(WeightsError, match="give the tokenizer that belongs to it"):
    open_tokenizer(tokenizer, config)


def test_many_threads_may_ask_for_the_first_text(tokenizer):
  """As the threads of the data pipeline do."""
  texts = [f"sea {'se' * index}" for index in range(16)]
  expected = [CLIPWords(tokenizer=str(tokenizer), **CLIP).tokenize(text) for text in texts]
  words = CLIPWords(tokenizer=str(tokenizer), **CLIP)
  with futures.ThreadPoolExecutor(16) as pool:
    np.testing.assert_array_equal(list(pool.map(words.tokenize, texts)), expected)


# --- what a config names


def test_without_a_kind_the_codec_and_the_words_are_the_small_ones():
  """Configs from before there were others."""
  assert type(make_codec({"chroma_size": 1})) is CosineCodec is type(make_codec({"kind": "cosine", "chroma_size": 1}))
  assert type(make_words({"channels": 8})) is TinyWords is type(make_words({"kind": "tiny", "channels": 8}))
  assert type(make_codec({"kind": "stable_diffusion", **VAE, "block_out_channels": [8, 8]})) is LearnedCodec


@pytest.mark.parametrize("group, options, words", [
    ("codec", dict(kind="jpeg"), "codec.kind is 'jpeg'; it may be cosine or stable_diffusion"),
    ("text", dict(kind="bert"), "text.kind is 'bert'; it may be tiny or clip"),
    ("codec", dict(kind="stable_diffusion", image_channels=4), "codec.image_channels must be 3"),
    ("codec", dict(kind="stable_diffusion", images_per_batch=0), "codec.images_per_batch must be 1 or more"),
    ("codec", dict(kind="stable_diffusion", no_such_size=1), "no_such_size"),
    ("text", dict(kind="clip", channels=8, heads=2), "tokenizer"),
    ("text", dict(kind="clip", tokenizer="there", channels=9, heads=2), "2 heads do not divide 9"),
    ("unet", dict(in_channels=8), "unet.in_channels is 8, and the codec's latents have 4 channels"),
    ("unet", dict(out_channels=8), "unet.out_channels is 8, and the codec's latents have 4 channels"),
    ("unet", dict(text_channels=16), "unet.text_channels is 16, and the text encoder's tokens have 8 channels"),
])
def test_what_does_not_fit_together_is_refused_in_one_sentence(tokenizer, group, options, words):
  _, config = videopanda(toy.networks(), tokenizer, view_size=toy.VIEW_SIZE)
  with config.unlocked():
    config.model[group] = {**(config.model.unet if group == "unet" else {}), **options}
  with pytest.raises(InputError, match=f"config.model does not describe a network: .*{words}"):
    systems.build(config)
