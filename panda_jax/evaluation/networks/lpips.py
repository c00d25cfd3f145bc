"""LPIPS: how different two images look, by the features of a network that was trained to name what is in them.

Version 0.1 of the metric, as its authors' package computes it. Distances of its two backbones are not comparable: those
of "vgg" are several times those of "alex".

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018, §3.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
import re
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.errors import InputError
from panda_jax.evaluation.networks.files import fill, open_weights, renamed
from panda_jax.models.functional import Functional, compiled
from panda_jax.models.layers import Conv
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.files import read_finite
from panda_jax.weights.tensors import LazyTensor, TensorFile

# What the reference subtracts from and divides pixels in [-1, 1] by, and what it adds to the length of a feature.
_SHIFT = np.float32([-0.030, -0.088, -0.188])
_SCALE = np.float32([0.458, 0.448, 0.450])
_EPSILON = 1e-10


@dataclasses.dataclass(frozen=True)
class _Level:
  """The layers of torchvision's `features` from one compared feature to the next.

  Attributes:
    convs: their numbers in `features`; a ReLU follows each.
    width: channels of the feature, in multiples of those of the first level.
    size, stride, padding: of each convolution.
    pool: rows and columns of the max-pooling of stride 2 before them; 0 for none.
  """

  convs: tuple[int, ...]
  width: int
  size: int = 3
  stride: int = 1
  padding: int = 1
  pool: int = 0


_LEVELS = {
    "alex": (_Level((0,), 1, size=11, stride=4, padding=2), _Level((3,), 3, size=5, padding=2, pool=3),
             _Level((6,), 6, pool=3), _Level((8,), 4), _Level((10,), 4)),
    "vgg": (_Level((0, 2), 1), _Level((5, 7), 2, pool=2), _Level((10, 12, 14), 4, pool=2),
            _Level((17, 19, 21), 8, pool=2), _Level((24, 26, 28), 8, pool=2))}
# Pixels of an edge from which the last feature has one.
_LEAST = {"alex": 31, "vgg": 16}
_BACKBONES = {"alex": "AlexNet", "vgg": "VGG16"}
_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


@dataclasses.dataclass(frozen=True)
class LpipsConfig:
  """Which LPIPS; the defaults are the published one that its authors advise for measuring.

  Attributes:
    backbone: "alex" or "vgg".
    width: channels of the first level, which those of the others are multiples of.
  """

  backbone: Literal["alex", "vgg"] = "alex"
  width: int = 64

  def __post_init__(self):
    if self.backbone not in _LEVELS:
      raise ValueError(f"backbone must be {' or '.join(_LEVELS)}, got {self.backbone!r}")
    if self.width < 1:
      raise ValueError(f"width must be 1 or more, got {self.width}")

  @property
  def channels(self) -> tuple[int, ...]:
    """Of the features that are compared, from the first level on."""
    return tuple(self.width * level.width for level in _LEVELS[self.backbone])


class Lpips(nnx.Module):
  """Two batches of images to their distances; attribute paths are those of the authors' `lpips.LPIPS`."""

  def __init__(self, config: LpipsConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.net = nnx.Dict({})
    inputs = 3
    for number, (level, channels) in enumerate(zip(_LEVELS[config.backbone], config.channels)):
      lin = Conv(channels, 1, 1, use_bias=False, rngs=rngs)
      convs = nnx.Dict({})
      for conv in level.convs:
        convs[str(conv)] = Conv(inputs, channels, level.size, level.stride, (level.padding, level.padding), rngs=rngs)
        inputs = channels
      self.net[f"slice{number + 1}"] = convs
      # The authors' dropout is number 0; it has no weights, and is inactive outside of training.
      setattr(self, f"lin{number}", nnx.Dict({"model": nnx.Dict({"1": lin})}))

  @compiled
  def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """Distances, averaged over the pixels of each image.

    An image and itself are exactly 0 apart, and a and b as far as b and a. Products are of float32 on every device.

    Args:
      a, b: floating-point [n h w 3] in [-1, 1], of one shape; h and w at least 31 for "alex", 16 for "vgg".

    Returns:
      [n] float32. Published heads are not negative, so neither are their distances.

    Raises:
      InputError: if a shape or a type does not fit.
    """
    _check(a, b, self.config.backbone)
    # By default TPUs round the operands of products to bfloat16, and GPUs to TF32.
    with jax.default_matmul_precision("highest"):
      # One program for both, so that equal images have equal features to the bit.
      features = jax.lax.map(self._features, jnp.stack([a, b]))
      distances = [getattr(self, f"lin{number}").model["1"](jnp.square(of_a - of_b)).mean((1, 2, 3))
                   for number, (of_a, of_b) in enumerate(features)]
    return sum(distances)

  def _features(self, images):                                 # [n h w 3] -> 5 of [n h' w' c], each pixel of length 1
    x = (images.astype(jnp.float32) - _SHIFT) / _SCALE
    features = []
    for number, level in enumerate(_LEVELS[self.config.backbone], start=1):
      if level.pool:
        x = nnx.max_pool(x, (level.pool, level.pool), strides=(2, 2))
      for conv in level.convs:
        x = jax.nn.relu(self.net[f"slice{number}"][str(conv)](x))
      features.append(x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + _EPSILON))
    return features


def _check(a, b, backbone):
  least = _LEAST[backbone]
  for name, images in (("a", a), ("b", b)):
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < least:
      raise InputError(f"{name} must be [n h w 3] with at least {least} x {least} pixels for LPIPS ({backbone}), got "
                       f"{list(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise InputError(f"{name} must be floating-point in [-1, 1], got {images.dtype}: scale the pixels first")
  if a.shape != b.shape:
    raise InputError(f"a and b must have one shape, got {list(a.shape)} and {list(b.shape)}")


# --- its weights


def read_lpips(path: str | os.PathLike, backbone_path: str | os.PathLike | None = None) -> Lpips:
  """Reads LPIPS from public files: safetensors, .pth or .npz.

  Which backbone it is follows from the shapes. Versions 0.0 and 0.1 have the same names and shapes, so nothing here can
  notice heads of version 0.0: take them from the authors' weights/v0.1.

  Args:
    path: the state dict of the authors' `lpips.LPIPS`, with everything; or the heads alone, as the authors publish them
      (weights/v0.1/alex.pth, weights/v0.1/vgg.pth).
    backbone_path: for heads alone, torchvision's file of the backbone (alexnet-owt-*.pth, vgg16-*.pth). Its
      classifier.* comes after the last feature that is compared, and is left out.

  Returns:
    the network; `config.backbone` says which it is.

  Raises:
    WeightsError: one sentence that says what is missing, left over, of another shape or not finite.
  """
  file = open_weights(path)
  tensors, origins = _own_names(file)
  config = _config(file.path, {name: tensor.shape for name, tensor in tensors.items()})
  network, source, unused = f"LPIPS ({config.backbone})", file.path, ()
  has_backbone = any(name.startswith("net.") for name in tensors)
  if has_backbone and backbone_path is not None:
    raise WeightsError(f"{file.path} holds its backbone already: give it without {backbone_path}")
  if not has_backbone:
    if backbone_path is None:
      raise WeightsError(f"{file.path} holds the heads of {network} and not their {_BACKBONES[config.backbone]}: add "
                         f"torchvision's file of it, {_FILES[config.backbone]}, as the backbone")
    backbone = open_weights(backbone_path)
    added, their_origins = _torchvision_names(backbone, config.backbone, file.path)
    tensors, origins = tensors | added, origins | their_origins
    source, unused = f"{file.path} with {backbone.path}", ("classifier.*",)
  return fill(Functional(lambda rngs: Lpips(config, rngs=rngs)), tensors, source, network, origins, unused)


def _own_names(file: TensorFile) -> tuple[dict[str, LazyTensor], dict[str, str]]:
  """Tensors by the network's names, and what these are called in the file."""
  tensors, origins = {}, {}
  for name, tensor in file.tensors.items():
    constants = {"scaling_layer.shift": _SHIFT, "scaling_layer.scale": _SCALE}.get(name)
    if constants is not None:
      # A file in half precision has rounded ones.
      if tensor.size != 3 or not np.allclose(read_finite(tensor).astype(np.float32).ravel(), constants, atol=1e-3):
        raise WeightsError(f"{tensor.name} is not {', '.join(map(str, constants))}, by which LPIPS scales images: give "
                           "a file of its version 0.1")
      continue
    own = re.sub(r"^lins\.(\d+)\.", r"lin\1.", name)           # the authors' module has its heads under two names
    if own not in tensors:
      tensors[own], origins[own] = tensor, name
    elif tensor.shape != tensors[own].shape or not np.array_equal(tensor.read(), tensors[own].read()):
      raise WeightsError(f"{file.path} holds one head under two names, {origins[own]} and {name}, with other values: "
                         "save the file again")
  return tensors, origins


def _config(path: str, shapes: Mapping[str, tuple[int, ...]]) -> LpipsConfig:
  heads = {int(match[1]): math.prod(shape) for name, shape in shapes.items()
           if (match := re.fullmatch(r"lin(\d+)\.model\.1\.weight", name))}
  if not heads:
    if any(name.startswith(("features.", "net.")) for name in shapes):
      raise WeightsError(f"{path} is a backbone without the heads of LPIPS: give the authors' weights/v0.1/alex.pth or "
                         "vgg.pth, and this file as the backbone")
    some = ", ".join(list(shapes)[:3])
    raise WeightsError(f"{path} is no file of LPIPS, which has heads lin0.model.1.weight to lin4.model.1.weight (this "
                       f"has {some or 'no tensors'}): give the authors' weights/v0.1/alex.pth or vgg.pth")
  # A head that is missing is named later, among everything that does not fit.
  configs = [LpipsConfig(backbone, max(heads.get(0, 0), 1)) for backbone in _LEVELS]
  fitting = [config for config in configs
             if all(number < len(config.channels) and channels == config.channels[number]
                    for number, channels in heads.items())]
  if len(fitting) == 1:
    return fitting[0]
  squeeze = ", as LPIPS (squeeze) has, which is not here" if len(heads) == 7 else ""
  published = " or ".join(f"{list(LpipsConfig(backbone).channels)} ({backbone})" for backbone in _LEVELS)
  raise WeightsError(f"{path} has heads for {[heads[number] for number in sorted(heads)]} channels{squeeze}; LPIPS has "
                     f"{published}: give the authors' weights/v0.1/alex.pth or vgg.pth")


def _torchvision_names(file: TensorFile, backbone: str, heads: str) -> tuple[dict[str, LazyTensor], dict[str, str]]:
  """A torchvision backbone by the network's names, and what these are called in the file."""
  slices = {str(conv): f"net.slice{number}." for number, level in enumerate(_LEVELS[backbone], start=1)
            for conv in level.convs}
  first = file.tensors.get("features.0.weight")
  if first is None:
    raise WeightsError(f"{file.path} is no backbone of torchvision, which begins with features.0.weight: give "
                       f"{_FILES[backbone]}")
  size = _LEVELS[backbone][0].size
  if first.shape[2:] != (size, size):
    raise WeightsError(f"{file.path} is not the {_BACKBONES[backbone]} that the heads in {heads} are for: give "
                       f"{_FILES[backbone]}")

  def own(name):
    match = re.match(r"features\.(\d+)\.", name)
    return slices[match[1]] + name.removeprefix("features.") if match and match[1] in slices else name

  return renamed(file, own)
