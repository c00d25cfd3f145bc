"""InceptionV3 of FID: pytorch-fid's features, from every file that it is published as, and from no other network's."""

import re

import jax
import numpy as np
import pytest

from panda_jax.evaluation.networks.inception import InceptionConfig, InceptionV3, read_inception
from panda_jax.models.functional import Functional
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.layout import torch_shapes
from tests.evaluation.networks.random_weights import pixels
from tests.evaluation.networks.saving import save, save_program
from tests.evaluation.networks.small import Small
from tests.fast import jit
from tests.weights.networks import assert_equal

SMALL = InceptionConfig(divisor=8)
CLASSES = {"fc.weight": np.ones((1008, 5), np.float32), "fc.bias": np.ones(1008, np.float32)}

GOLDEN = Small(lambda rngs: InceptionV3(SMALL, rngs=rngs), "inception")


# --- the network


@pytest.mark.parametrize("size", GOLDEN.outputs, ids=str)
def test_the_features_are_those_of_pytorch_fid(size):
  """At full width and 299 x 299 pixels: 5e-7 of the largest feature."""
  features = np.asarray(jit(GOLDEN.network)(pixels(size, GOLDEN.seed)))
  assert features.shape == (size[0], 256)
  np.testing.assert_allclose(features, GOLDEN.outputs[size], atol=1e-5 * abs(GOLDEN.outputs[size]).max())


def test_the_published_network_has_2048_features():
  """And as many weights as torchvision's without its classes: 21,785,568 and two statistics per channel."""
  shapes = torch_shapes(Functional(lambda rngs: InceptionV3(InceptionConfig(), rngs=rngs)).abstract)
  assert InceptionConfig().features == 2048
  assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
  statistics = sum(shape[0] for name, shape in shapes.items() if name.endswith("running_mean"))
  assert sum(int(np.prod(shape)) for shape in shapes.values()) == 21_785_568 + 2 * statistics


@pytest.mark.parametrize("shape", [(1, 74, 299, 3), (1, 299, 299, 1), (299, 299, 3), (1, 3, 299, 299)])
def test_what_are_no_images_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[n h w 3\] with h and w of at least 75 pixels"):
    GOLDEN.network(np.zeros(shape, np.float32))


def test_no_product_has_the_lower_precision_of_tpus():
  program = jax.jit(GOLDEN.network).trace(pixels((1, 75, 75, 3), 0)).lower(lowering_platforms=("tpu",))
  products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", program.as_text())
  assert len(products) >= 94 and all("HIGHEST" in product for product in products)


# --- files


def stylegan():
  """The weights as StyleGAN's file has them, which has no factors of normalisations: they are one."""
  sides = {"branch1x1": "conv", "branch_pool": "tower_2"}
  blocks = {"Mixed_5": {**sides, "branch5x5_": "tower", "branch3x3dbl_": "tower_1"},
            "Mixed_6": {**sides, "branch7x7_": "tower", "branch7x7dbl_": "tower_1"},
            "Mixed_6a": {"branch3x3.": "conv", "branch3x3dbl_": "tower"},
            "Mixed_7a": {"branch3x3_": "tower", "branch7x7x3_": "tower_1"}}
  forks = {"branch1x1": "conv", "branch3x3_1": "tower_conv", "branch3x3_2a": "tower_mixed_conv",
           "branch3x3_2b": "tower_mixed_conv_1", "branch3x3dbl_1": "tower_1_conv", "branch3x3dbl_2": "tower_1_conv_1",
           "branch3x3dbl_3a": "tower_1_mixed_conv", "branch3x3dbl_3b": "tower_1_mixed_conv_1",
           "branch_pool": "tower_2_conv"}
  stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
  order = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
  numbered = lambda name, number: f"{name}_{number}" if number else name

  def renamed(name):
    module, *rest = name.split(".")
    leaf = {"conv.weight": "weight", "bn.bias": "beta", "bn.running_mean": "mean", "bn.running_var": "var"}[
        ".".join(rest[-2:])]
    if module in stem:
      return f"layers.{numbered('conv', stem.index(module))}.{leaf}"
    block = numbered("mixed", order.index(module.removeprefix("Mixed_")))
    if module in ("Mixed_7b", "Mixed_7c"):
      return f"layers.{block}.{forks[rest[0]]}.{leaf}"
    towers = blocks.get(module) or blocks[module[:-1]]
    tower = next(tower for start, tower in towers.items() if f"{rest[0]}.".startswith(start))
    number = re.search(r"_(\d)$", rest[0])
    convolution = tower if tower == "conv" else f"{tower}.{numbered('conv', int(number[1]) - 1 if number else 0)}"
    return f"layers.{block}.{convolution}.{leaf}"

  tensors = {renamed(name): values for name, values in GOLDEN.weights.items() if not name.endswith("bn.weight")}
  return {**tensors, "output.weight": CLASSES["fc.weight"], "output.bias": CLASSES["fc.bias"]}


@pytest.mark.parametrize("ending", ["pth", "safetensors", "npz"])
def test_files_by_the_names_of_pytorch_fid(tmp_path, ending):
  """The counters that torch adds to its normalisations change nothing."""
  counters = {name.replace("running_var", "num_batches_tracked"): np.array(0) for name in GOLDEN.weights
              if name.endswith("running_var")}
  path = save(tmp_path / f"inception.{ending}", {**GOLDEN.weights, **counters, **CLASSES})
  assert_equal(read_inception(path, SMALL), GOLDEN.network)


def test_stylegans_file(tmp_path):
  ones = {name: np.ones_like(values) for name, values in GOLDEN.weights.items() if name.endswith("bn.weight")}
  ours = read_inception(save_program(tmp_path / "inception-2015-12-05.pt", stylegan()), SMALL)
  assert_equal(ours, GOLDEN.filled({**GOLDEN.weights, **ones}))


@pytest.mark.parametrize("extra", [{"AuxLogits.conv0.conv.weight": np.ones((2, 2, 1, 1), np.float32)},
                                   {"fc.weight": np.ones((1000, 5), np.float32), "fc.bias": np.ones(1000, np.float32)}])
def test_torchvisions_network_is_refused(tmp_path, extra):
  path = save(tmp_path / "inception_v3_google.pth", {**GOLDEN.weights, **CLASSES, **extra})
  with pytest.raises(WeightsError, match="is an InceptionV3 of torchvision.*could not be compared"):
    read_inception(path, SMALL)


@pytest.mark.parametrize("change, words", [
    ({"Mixed_6a.branch3x3.bn.bias": None}, "1 missing: Mixed_6a.branch3x3.bn.bias"),
    ({"Mixed_6a.branch3x3.bn.weight": None}, "1 missing: Mixed_6a.branch3x3.bn.weight"),
    ({"Mixed_8a.conv.weight": np.ones(2, np.float32)}, "1 unexpected: Mixed_8a.conv.weight"),
    ({"Conv2d_1a_3x3.conv.weight": np.ones((4, 3, 3, 1), np.float32)}, "1 of another shape: Conv2d_1a_3x3.conv.weight"),
    ({"Conv2d_1a_3x3.bn.bias": np.full(4, np.inf, np.float32)}, "Conv2d_1a_3x3.bn.bias holds NaN or infinity")])
def test_a_file_that_is_not_exactly_the_network_is_refused(tmp_path, change, words):
  tensors = {name: values for name, values in {**GOLDEN.weights, **CLASSES, **change}.items() if values is not None}
  with pytest.raises(WeightsError, match=words):
    read_inception(save(tmp_path / "inception.npz", tensors), SMALL)


def test_sizes_that_divide_no_layer_are_refused():
  with pytest.raises(ValueError, match="must be 1, 2, 4, 8 or 16, got 3"):
    InceptionConfig(divisor=3)
