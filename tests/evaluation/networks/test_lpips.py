"""LPIPS: the authors' distances, from every file that it is published as, and what a distance must be."""

import functools
from pathlib import Path
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.ndimage import gaussian_filter

from panda_jax.errors import InputError
from panda_jax.evaluation.networks.files import fill
from panda_jax.evaluation.networks.lpips import Lpips, LpipsConfig, read_lpips
from panda_jax.models.functional import Functional
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.layout import torch_shapes
from panda_jax.weights.tensors import LazyTensor
from tests.evaluation.networks.random_weights import draw, pixels
from tests.fast import jit
from tests.weights.archives import Archive, StateDict
from tests.weights.networks import assert_equal

GOLDEN = Path(__file__).with_name("golden_lpips.npz")
BACKBONES = pytest.mark.parametrize("backbone", ["alex", "vgg"])


@functools.cache
def functional(backbone, width=4):
  return Functional(lambda rngs: Lpips(LpipsConfig(backbone, width), rngs=rngs))


@functools.cache
def weights(backbone, width=4):
  """By the names in the authors' module."""
  return draw(torch_shapes(functional(backbone, width).abstract), 0)


@functools.cache
def network(backbone, width=4):
  return fill(functional(backbone, width), lazy(weights(backbone, width)), "weights", "LPIPS")


@functools.cache
def compiled(backbone):
  """A narrow network with heads as they are trained, which are not negative."""
  positive = {name: abs(values) if name.startswith("lin") else values for name, values in weights(backbone).items()}
  return jit(fill(functional(backbone), lazy(positive), "weights", "LPIPS"))


def lazy(tensors):
  return {name: LazyTensor.of(values, name) for name, values in tensors.items()}


def some(count=3, size=(35, 48), seed=1):
  return pixels((count, *size, 3), seed)


# --- the authors' numbers


@BACKBONES
def test_the_distances_equal_the_reference(backbone):
  """At the published sizes, with negative heads; 5e-7 away."""
  with np.load(GOLDEN) as golden:
    np.testing.assert_allclose(network(backbone, 64)(some(), some(seed=2)), golden[backbone], rtol=1e-5)


# --- files


def heads_of(tensors):
  return {name: values for name, values in tensors.items() if name.startswith("lin")}


def whole(backbone):
  """The state dict of the authors' module: its heads twice, its constants."""
  tensors = weights(backbone)
  constants = {"scaling_layer.shift": np.float32([-.030, -.088, -.188]).reshape(1, 3, 1, 1),
               "scaling_layer.scale": np.float32([.458, .448, .450]).reshape(1, 3, 1, 1)}
  return constants | tensors | {name.replace("lin", "lins."): values for name, values in heads_of(tensors).items()}


def torchvision(backbone):
  """The state dict of torchvision's module, which goes on after the last feature."""
  features = {"features." + name.split(".", 2)[2]: values for name, values in weights(backbone).items()
              if name.startswith("net.")}
  return features | {"classifier.1.weight": np.ones((5, 7), np.float32), "classifier.1.bias": np.ones(5, np.float32)}


def save(path, tensors):
  if path.suffix == ".npz":
    np.savez(path, **tensors)
  elif path.suffix == ".safetensors":
    save_file(tensors, path)
  else:
    archive = Archive()
    archive.zip(path, StateDict({name: archive.tensor(values) for name, values in tensors.items()}))
  return path


@pytest.mark.parametrize("ending", ["pth", "safetensors", "npz"])
@BACKBONES
def test_one_file_with_everything(tmp_path, backbone, ending):
  assert_equal(read_lpips(save(tmp_path / f"lpips.{ending}", whole(backbone))), network(backbone))


@BACKBONES
def test_heads_as_the_authors_publish_them_with_the_backbone_of_torchvision(tmp_path, backbone):
  heads = save(tmp_path / f"{backbone}.pth", heads_of(weights(backbone)))
  assert_equal(read_lpips(heads, save(tmp_path / "backbone.pth", torchvision(backbone))), network(backbone))


def test_shared_heads_may_be_kept_under_either_name_once(tmp_path):
  """Writers of safetensors leave out the second name of a tensor."""
  once = {name: values for name, values in whole("alex").items() if not name.startswith("lin0.")}
  assert_equal(read_lpips(save(tmp_path / "once.safetensors", once)), network("alex"))


def refusal(*paths):
  with pytest.raises(WeightsError) as caught:
    read_lpips(*paths)
  return str(caught.value)


@pytest.mark.parametrize("backbone, file", [("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")])
def test_heads_alone_say_which_file_to_add(tmp_path, backbone, file):
  message = refusal(save(tmp_path / "heads.pth", heads_of(weights(backbone))))
  assert f"heads of LPIPS ({backbone})" in message and f"add torchvision's file of it, {file}" in message


def test_what_does_not_belong_together_is_refused(tmp_path):
  heads, all_of_it = save(tmp_path / "heads.pth", heads_of(weights("alex"))), save(tmp_path / "all.npz", whole("alex"))
  right, wrong = (save(tmp_path / f"{backbone}.npz", torchvision(backbone)) for backbone in ("alex", "vgg"))
  assert f"{wrong} is not the AlexNet that the heads in {heads} are for" in refusal(heads, wrong)
  assert f"{all_of_it} holds its backbone already: give it without {right}" in refusal(all_of_it, right)
  assert f"{right} is a backbone without the heads of LPIPS" in refusal(right)
  assert f"{heads} is no backbone of torchvision" in refusal(heads, heads)


def test_other_networks_are_refused(tmp_path):
  squeeze = {f"lin{number}.model.1.weight": np.ones((1, channels, 1, 1), np.float32)
             for number, channels in enumerate((64, 128, 256, 384, 384, 512, 512))}
  assert "as LPIPS (squeeze) has, which is not here" in refusal(save(tmp_path / "squeeze.pth", squeeze))
  strange = save(tmp_path / "strange.npz", {"conv.weight": np.ones(3, np.float32)})
  assert "is no file of LPIPS" in refusal(strange) and "this has conv.weight" in refusal(strange)


@pytest.mark.parametrize("change, words", [
    (lambda tensors: tensors.pop("net.slice3.12.bias"), "1 missing: net.slice3.12.bias"),
    (lambda tensors: tensors.update(extra=np.ones(2, np.float32)), "1 unexpected: extra"),
    (lambda tensors: tensors.update({"net.slice2.5.bias": np.ones(9, np.float32)}),
     "1 of another shape: net.slice2.5.bias"),
    (lambda tensors: tensors.update({"net.slice1.0.bias": np.full(4, np.nan, np.float32)}), "holds NaN or infinity"),
    (lambda tensors: tensors.update({"lins.1.model.1.weight": np.ones((1, 8, 1, 1), np.float32)}),
     "one head under two names, lin1.model.1.weight and lins.1.model.1.weight"),
    (lambda tensors: tensors.update({"scaling_layer.scale": np.ones((1, 3, 1, 1), np.float32)}),
     "scaling_layer.scale is not 0.458, 0.448, 0.45"),
    (lambda tensors: [tensors.pop(f"{name}.model.1.weight") for name in ("lin2", "lins.2")],
     "1 missing: lin2.model.1.weight"),
    (lambda tensors: tensors.update({f"{name}.model.1.weight": np.ones((1, 9, 1, 1), np.float32)
                                     for name in ("lin2", "lins.2")}), r"has heads for \[4, 8, 9, 32, 32\] channels")])
def test_a_file_that_is_not_exactly_the_network_is_refused(tmp_path, change, words):
  tensors = whole("vgg")
  change(tensors)
  with pytest.raises(WeightsError, match=words):
    read_lpips(save(tmp_path / "lpips.npz", tensors))


@BACKBONES
def test_no_product_has_the_lower_precision_of_tpus(backbone):
  """There, products of float32 numbers are of bfloat16 ones unless a program asks for more."""
  program = jax.jit(lambda a, b: network(backbone)(a, b)).trace(some(), some()).lower(lowering_platforms=("tpu",))
  products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", program.as_text())
  assert len(products) >= 10 and all("HIGHEST" in product for product in products)


# --- what a distance is


@BACKBONES
def test_an_image_and_itself_are_exactly_0_apart(backbone):
  np.testing.assert_array_equal(compiled(backbone)(some(), some()), np.zeros(3))


@BACKBONES
def test_a_and_b_are_as_far_apart_as_b_and_a(backbone):
  a, b = some(), some(seed=2)
  np.testing.assert_array_equal(compiled(backbone)(a, b), compiled(backbone)(b, a))


@BACKBONES
def test_more_noise_and_more_blur_are_farther_away(backbone):
  image = some(1, seed=5) + np.random.default_rng(0).uniform(-0.2, 0.2, (1, 35, 48, 3)).astype(np.float32)
  noise = np.random.default_rng(1).normal(size=image.shape).astype(np.float32)
  for worse in (lambda amount: image + 0.1 * amount * noise,
                lambda amount: gaussian_filter(image, (0, amount, amount, 0)).astype(np.float32)):
    distances = [float(compiled(backbone)(image, worse(amount))[0]) for amount in (0, 0.5, 1, 2)]
    assert distances[0] < 1e-4 and distances == sorted(set(distances))


@BACKBONES
def test_a_distance_does_not_depend_on_the_batch(backbone):
  a, b = some(), some(seed=2)
  alone = [compiled(backbone)(a[index:index + 1], b[index:index + 1])[0] for index in range(3)]
  np.testing.assert_allclose(compiled(backbone)(a, b), alone, rtol=1e-5)


@pytest.mark.parametrize("a, b, words", [
    (some(), some(2), r"one shape, got \[3, 35, 48, 3\] and \[2, 35, 48, 3\]"),
    (some()[0], some()[0], r"a must be \[n h w 3\] .* got \[35, 48, 3\]"),
    (some(size=(30, 64)), some(size=(30, 64)), r"at least 31 x 31 pixels for LPIPS \(alex\), got \[3, 30, 64, 3\]"),
    (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32, 3), np.uint8), "floating-point .* got uint8")])
def test_images_that_do_not_fit_are_refused_in_words(a, b, words):
  with pytest.raises(InputError, match=words):
    network("alex")(a, b)


@BACKBONES
def test_the_least_size_has_one_pixel_of_the_last_feature(backbone):
  least = {"alex": 31, "vgg": 16}[backbone]
  assert np.isfinite(compiled(backbone)(some(1, (least, least)), some(1, (least, least), seed=2))).all()


@pytest.mark.parametrize("fields, words", [(dict(backbone="squeeze"), "backbone must be alex or vgg, got 'squeeze'"),
                                           (dict(width=0), "width must be 1 or more, got 0")])
def test_a_config_that_cannot_be_built_is_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    LpipsConfig(**fields)
