"""The 360-Adapter: the published tensors and numbers, and what each feature may look at."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.models.adapter360 import Adapter360, Adapter360Config
from panda_jax.models.functional import Functional
from panda_jax.tree import flatten, unflatten
from panda_jax.weights.torch_file import read_torch_file
from tests.fast import draw, init_key, jit
from tests.paths import PARITY, SHARED, needs_parity

CONFIG = Adapter360Config(channels=(4, 4, 6, 6))
PARITY_CONFIG = Adapter360Config(channels=(32, 32, 64, 64))


@functools.cache
def network(config=CONFIG):
  return Functional(lambda rngs: Adapter360(config, rngs=rngs))


@functools.cache
def compiled(config=CONFIG):
  """(params, motion) -> features, as NumPy arrays."""
  program = jit(network(config))
  return lambda params, motion: [np.asarray(feature) for feature in program(params, motion)]


def motion(frames=3, batch=1, h=64, w=128, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (batch, frames, h, w, 3)).astype(np.float32)


# --- the published network


def test_the_defaults_are_the_published_adapter():
  leaves = flatten(network(Adapter360Config()).abstract)
  assert len(leaves) == 22
  assert sum(leaf.size for leaf in leaves.values()) == 47_051_840
  assert leaves["conv_in/kernel"].shape == (3, 3, 192, 320)
  assert leaves["body/1/in_conv/kernel"].shape == (1, 1, 320, 640)
  assert leaves["body/3/block1/kernel"].shape == (1, 3, 3, 1280, 1280)
  assert leaves["body/3/block2/kernel"].shape == (3, 1, 1, 1280, 1280)


def from_torch(name, shape):
  """A name and shape of a published file as a path and shape of ours."""
  path = name.replace(".", "/").replace("/weight", "/kernel")
  return path, tuple(shape) if len(shape) == 1 else (*shape[2:], shape[1], shape[0])


@needs_parity
@pytest.mark.parametrize("size", ["full", "small"])
def test_every_key_and_shape_is_that_of_360dvd(size):
  published = json.loads((SHARED / "specs" / "keys" / "dvd360_adapter.json").read_text())
  config = Adapter360Config() if size == "full" else Adapter360Config(channels=tuple(published["small_channels"]))
  assert dict(from_torch(name, shape) for name, shape in published[size].items()) == {
      path: leaf.shape for path, leaf in flatten(network(config).abstract).items()}


# --- parity with the reference


@functools.cache
def published():
  """Parameters and arrays of the fixture."""
  tensors = read_torch_file(PARITY / "dvd360" / "360Adapter.ckpt").tensors
  values = {name.removeprefix("module."): tensor.read() for name, tensor in tensors.items()}
  params = {from_torch(name, value.shape)[0]: value if value.ndim == 1 else np.moveaxis(value, (0, 1), (-1, -2))
            for name, value in values.items()}
  with np.load(PARITY / "dvd360" / "io.npz") as arrays:
    return unflatten(params), {name: arrays[name] for name in arrays if "feature" in name or name == "flow"}


def against(features, expected, name, **tolerance):
  assert len(features) == 4
  for level, feature in enumerate(features, start=1):
    want = np.moveaxis(expected[f"{name}{level}"], 1, -1)[None, None]
    np.testing.assert_allclose(feature[:, :, : want.shape[2]], want, **tolerance)


@needs_parity
def test_features_match_360dvd():
  params, expected = published()
  flow = np.moveaxis(expected["flow"], 2, -1)
  against(compiled(PARITY_CONFIG)(params, flow), expected, "feature", rtol=0, atol=2e-5)
  against(compiled(PARITY_CONFIG)(params, 0 * flow), expected, "zero_input_feature", rtol=0, atol=2e-5)


@needs_parity
def test_half_precision_stays_within_two_percent():
  params, expected = published()
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  for level, feature in enumerate(compiled(PARITY_CONFIG)(params, np.moveaxis(expected["flow"], 2, -1)), start=1):
    want = np.moveaxis(expected[f"feature{level}"], 1, -1)[None, None]
    assert feature.dtype == jnp.float32
    assert np.linalg.norm(feature - want) / np.linalg.norm(want) <= 2e-2


# --- what it does


@pytest.mark.parametrize("frames", [1, 5])
def test_one_feature_per_level_for_any_number_of_frames(frames):
  features = jax.eval_shape(network(), network().abstract, motion(frames, batch=2, w=192))
  assert [feature.shape for feature in features] == [
      (2, 1, frames, 4, 12, 4), (2, 1, frames, 2, 6, 4), (2, 1, frames, 1, 3, 6), (2, 1, frames, 1, 3, 6)]


def still(abstract):
  """Parameters with all residual blocks at zero."""
  leaves = flatten(draw(abstract))
  return leaves | {path: 0 * leaf for path, leaf in leaves.items() if "/block" in path}


def test_pixels_fold_into_channels_colour_by_colour_and_row_by_row():
  """Channel 64 c + 8 row + column of a cell, as torch's PixelUnshuffle; the features then average over cells."""
  x = motion(1)
  for colour, row, column in ((0, 0, 0), (1, 2, 5), (2, 7, 3)):
    kernel = np.zeros((3, 3, 192, 4), np.float32)
    kernel[1, 1, 64 * colour + 8 * row + column] = 1
    params = still(network().abstract) | {"conv_in/kernel": kernel, "conv_in/bias": np.zeros(4, np.float32)}
    first = compiled()(unflatten(params), x)[0]
    cells = x[:, None, :, row::8, column::8, colour]
    expected = (cells[..., ::2, ::2] + cells[..., 1::2, ::2] + cells[..., ::2, 1::2] + cells[..., 1::2, 1::2]) / 4
    np.testing.assert_allclose(first, expected[..., None].repeat(4, -1), atol=1e-6)


def test_a_block_adds_a_convolution_across_frames_after_one_within_them():
  """Two kernels that copy, the second from the frame before, show the order, the ReLU and the zeros before frame 0."""
  copy, before = np.zeros((1, 3, 3, 4, 4), np.float32), np.zeros((3, 1, 1, 4, 4), np.float32)
  copy[0, 1, 1] = before[0, 0, 0] = np.eye(4)
  params = still(network().abstract)
  plain = compiled()(unflatten(params), motion())[0]
  params |= {"body/0/block1/kernel": copy, "body/0/block2/kernel": before}
  expected = plain.copy()
  expected[:, :, 1:] += np.maximum(plain[:, :, :-1], 0)
  np.testing.assert_allclose(compiled()(unflatten(params), motion())[0], expected, atol=1e-6)


def test_each_level_looks_one_frame_further_and_clips_do_not_meet():
  params = draw(network().abstract)
  x = motion(6, batch=2)
  changed = x.copy()
  changed[1, 0] += 0.5
  for level, (before, after) in enumerate(zip(compiled()(params, x), compiled()(params, changed)), start=1):
    moved = np.abs(after - before).max((1, 3, 4, 5)) > 1e-6
    assert moved.tolist() == [[False] * 6, [frame <= level for frame in range(6)]]


def test_calling_by_hand_gives_what_jit_gives():
  """A fresh adapter's features are not zero, even those of no motion: it is no branch that starts as nothing."""
  params = jit(network().init)(init_key(0))
  for by_hand, expected in zip(network()(params, motion()), compiled()(params, motion())):
    np.testing.assert_allclose(by_hand, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


# --- what does not fit


@pytest.mark.parametrize("shape, dtype, words", [
    ((1, 2, 96, 128, 3), np.float32, "h and w of the motion must be multiples of 64, got 96 x 128"),
    ((1, 2, 64, 100, 3), np.float32, "h and w of the motion must be multiples of 64, got 64 x 100"),
    ((1, 2, 64, 128, 2), np.float32, r"motion must be \[b f h w 3\], got \(1, 2, 64, 128, 2\)"),
    ((2, 64, 128, 3), np.float32, r"motion must be \[b f h w 3\]"),
    ((1, 2, 64, 128, 3), np.uint8, "motion must be floating-point, got uint8")])
def test_wrong_shapes_and_types_are_named(shape, dtype, words):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(network(), network().abstract, np.zeros(shape, dtype))
