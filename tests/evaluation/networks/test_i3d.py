"""I3D of FVD: the authors' logits, from every file that it is published as."""

import functools
import re

import jax
import numpy as np
import pytest

from panda_jax.evaluation.networks.i3d import I3D, I3DConfig, read_i3d
from panda_jax.models.functional import Functional
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.layout import torch_shapes
from tests.evaluation.networks.random_weights import pixels
from tests.evaluation.networks.saving import save, save_program
from tests.evaluation.networks.small import Small
from tests.fast import jit
from tests.weights.networks import assert_equal

SMALL = I3DConfig(divisor=8)

GOLDEN = Small(lambda rngs: I3D(SMALL, rngs=rngs), "i3d")


# --- the network


@pytest.mark.parametrize("size", GOLDEN.outputs, ids=str)
def test_the_logits_are_those_of_pytorch_i3d(size):
  """Also where time is left for more than one step, whose logits are averaged; at full width: 9e-7 of the largest."""
  logits = np.asarray(jit(GOLDEN.network)(pixels(size, GOLDEN.seed)))
  assert logits.shape == (size[0], 400)
  np.testing.assert_allclose(logits, GOLDEN.outputs[size], atol=1e-5 * abs(GOLDEN.outputs[size]).max())


def test_the_published_network_has_the_published_size():
  shapes = torch_shapes(Functional(lambda rngs: I3D(I3DConfig(), rngs=rngs)).abstract)
  assert shapes["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)
  assert shapes["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
  assert shapes["Mixed_4f.b2b.conv3d.weight"] == (128, 32, 3, 3, 3)


def test_videos_that_are_too_short_are_refused():
  with pytest.raises(ValueError, match="at least 9 frames, got 8"):
    GOLDEN.network(np.zeros((1, 8, 224, 224, 3), np.float32))


@pytest.mark.parametrize("shape", [(1, 16, 224, 299, 3), (16, 224, 224, 3), (1, 3, 16, 224, 224)])
def test_what_are_no_videos_of_the_right_size_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[b f 224 224 3\], got .*resize them before"):
    GOLDEN.network(np.zeros(shape, np.float32))


def test_no_product_has_the_lower_precision_of_tpus():
  program = jax.jit(GOLDEN.network).trace(np.zeros((1, 9, 224, 224, 3), np.float32)).lower(lowering_platforms=("tpu",))
  products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", program.as_text())
  assert len(products) >= 58 and all("HIGHEST" in product for product in products)


# --- files


def without_factors():
  return {name: values for name, values in GOLDEN.weights.items() if not name.endswith("bn.weight")}


def magvit():
  """The weights as MAGVIT's file has them."""
  units = {"b0": "Branch_0.Conv3d_0a_1x1", "b1a": "Branch_1.Conv3d_0a_1x1", "b1b": "Branch_1.Conv3d_0b_3x3",
           "b2a": "Branch_2.Conv3d_0a_1x1", "b2b": "Branch_2.Conv3d_0b_3x3", "b3b": "Branch_3.Conv3d_0b_1x1",
           "logits": "Logits.Conv3d_0c_1x1"}
  leaves = {"conv3d.weight": "conv_3d/kernel", "conv3d.bias": "conv_3d/bias", "bn.bias": "batch_norm/beta",
            "bn.running_mean": "batch_norm/moving_mean", "bn.running_var": "batch_norm/moving_variance"}

  def renamed(name):
    *modules, layer, leaf = name.split(".")
    return "/".join(["params", *(units.get(module, module) for module in modules), leaves[f"{layer}.{leaf}"]])

  return {renamed(name): np.ascontiguousarray(values.transpose(2, 3, 4, 1, 0)) if values.ndim == 5 else values
          for name, values in without_factors().items()}


@functools.cache
def network_without_factors():
  ones = {name: np.ones_like(values) for name, values in GOLDEN.weights.items() if name.endswith("bn.weight")}
  return GOLDEN.filled({**GOLDEN.weights, **ones})


@pytest.mark.parametrize("ending", ["pt", "safetensors", "npz"])
def test_files_by_the_names_of_pytorch_i3d(tmp_path, ending):
  """The counters that torch adds to its normalisations change nothing."""
  counters = {name.replace("running_var", "num_batches_tracked"): np.array(0) for name in GOLDEN.weights
              if name.endswith("running_var")}
  assert_equal(read_i3d(save(tmp_path / f"i3d.{ending}", {**GOLDEN.weights, **counters}), SMALL), GOLDEN.network)


def test_magvits_file(tmp_path):
  assert_equal(read_i3d(save(tmp_path / "i3d_k400.flax", magvit()), SMALL), network_without_factors())


def test_a_state_dict_whose_normalisations_have_no_factors(tmp_path):
  assert_equal(read_i3d(save(tmp_path / "i3d.pt", without_factors()), SMALL), network_without_factors())


def test_a_program_with_other_names_says_what_to_give_instead(tmp_path):
  path = save_program(tmp_path / "i3d_torchscript.pt", {"conv.weight": np.ones((2, 3, 1, 1, 1), np.float32)})
  with pytest.raises(WeightsError, match="none of the names.*first is conv.weight.*give MAGVIT's i3d_k400.flax"):
    read_i3d(path)


BEGINNING = "params/Conv3d_1a_7x7"


@pytest.mark.parametrize("change, words", [
    ({f"{BEGINNING}/batch_norm/beta": None}, "1 missing: Conv3d_1a_7x7.bn.bias"),
    ({f"{BEGINNING}/batch_norm/gamma": np.ones(8)}, f"1 unexpected: {BEGINNING}/batch_norm/gamma"),
    ({f"{BEGINNING}/conv_3d/kernel": np.ones((7, 7, 3, 8, 7), np.float32)},
     f"1 of another shape: {BEGINNING}/conv_3d/kernel"),
    ({f"{BEGINNING}/batch_norm/moving_mean": np.full(8, np.nan, np.float32)}, "moving_mean holds NaN or infinity")])
def test_a_file_that_is_not_exactly_the_network_is_refused(tmp_path, change, words):
  tensors = {name: values for name, values in {**magvit(), **change}.items() if values is not None}
  with pytest.raises(WeightsError, match=words):
    read_i3d(save(tmp_path / "i3d.flax", tensors), SMALL)


def test_sizes_that_divide_no_layer_are_refused():
  with pytest.raises(ValueError, match="must be 1, 2, 4 or 8, got 3"):
    I3DConfig(divisor=3)
