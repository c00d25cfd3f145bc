"""InceptionV3 of the Fréchet Inception Distance, and how its published weights are read.

FID is defined by one network: TensorFlow's graph of 2015-12-05, in the TTUR code of Heusel et al. 2017. It differs from
torchvision's InceptionV3 in its weights, in average pools that do not count their padding, and in a max pool in the
last block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import os

from flax import nnx
import jax
import jax.numpy as jnp

from panda_jax.evaluation.networks.files import fill, open_weights, renamed, with_factors
from panda_jax.evaluation.networks.layers import BatchNorm
from panda_jax.models.functional import Functional, compiled
from panda_jax.models.products import convolve
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.tensors import LazyTensor, TensorFile

MIN_SIZE = 75                     # of an image, in pixels: smaller ones leave nothing to pool
CLASSES = 1008                    # of the 2015 network; torchvision's has 1000
EPSILON = 1e-3                    # of all batch normalisations

_max_pool = functools.partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2))
_same_max_pool = functools.partial(nnx.max_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME")
_same_mean_pool = functools.partial(nnx.avg_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME",
                                    count_include_pad=False)


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
  """Sizes of an InceptionV3.

  Attributes:
    divisor: every number of channels is the published one divided by this: 1, 2, 4, 8 or 16.
  """
  divisor: int = 1

  def __post_init__(self):
    if self.divisor not in (1, 2, 4, 8, 16):
      raise ValueError(f"divisor of an InceptionV3's channels must be 1, 2, 4, 8 or 16, got {self.divisor}")

  @property
  def features(self) -> int:
    """Length of the feature vector of an image."""
    return 2048 // self.divisor


@dataclasses.dataclass(frozen=True)
class _Unit:
  """A convolution as the tables below have it; `outputs` is the published number of channels."""
  name: str
  outputs: int
  size: tuple[int, int] = (1, 1)
  stride: int = 1
  padded: bool = True             # so that a stride of 1 keeps h and w


# The blocks: chains side by side, whose results are joined; a chain's last step may be a tuple, which forks it.


def _block_a(pooled: int) -> tuple:
  return ((_Unit("branch1x1", 64),),
          (_Unit("branch5x5_1", 48), _Unit("branch5x5_2", 64, (5, 5))),
          (_Unit("branch3x3dbl_1", 64), _Unit("branch3x3dbl_2", 96, (3, 3)), _Unit("branch3x3dbl_3", 96, (3, 3))),
          (_same_mean_pool, _Unit("branch_pool", pooled)))


def _block_b() -> tuple:
  return ((_Unit("branch3x3", 384, (3, 3), 2, False),),
          (_Unit("branch3x3dbl_1", 64), _Unit("branch3x3dbl_2", 96, (3, 3)),
           _Unit("branch3x3dbl_3", 96, (3, 3), 2, False)),
          (_max_pool,))


def _block_c(inner: int) -> tuple:
  return ((_Unit("branch1x1", 192),),
          (_Unit("branch7x7_1", inner), _Unit("branch7x7_2", inner, (1, 7)), _Unit("branch7x7_3", 192, (7, 1))),
          (_Unit("branch7x7dbl_1", inner), _Unit("branch7x7dbl_2", inner, (7, 1)),
           _Unit("branch7x7dbl_3", inner, (1, 7)), _Unit("branch7x7dbl_4", inner, (7, 1)),
           _Unit("branch7x7dbl_5", 192, (1, 7))),
          (_same_mean_pool, _Unit("branch_pool", 192)))


def _block_d() -> tuple:
  return ((_Unit("branch3x3_1", 192), _Unit("branch3x3_2", 320, (3, 3), 2, False)),
          (_Unit("branch7x7x3_1", 192), _Unit("branch7x7x3_2", 192, (1, 7)), _Unit("branch7x7x3_3", 192, (7, 1)),
           _Unit("branch7x7x3_4", 192, (3, 3), 2, False)),
          (_max_pool,))


def _block_e(pool: Callable) -> tuple:
  return ((_Unit("branch1x1", 320),),
          (_Unit("branch3x3_1", 384), (_Unit("branch3x3_2a", 384, (1, 3)), _Unit("branch3x3_2b", 384, (3, 1)))),
          (_Unit("branch3x3dbl_1", 448), _Unit("branch3x3dbl_2", 384, (3, 3)),
           (_Unit("branch3x3dbl_3a", 384, (1, 3)), _Unit("branch3x3dbl_3b", 384, (3, 1)))),
          (pool, _Unit("branch_pool", 192)))


# The network: convolutions, pools and blocks by name, in order.
_STEM = (_Unit("Conv2d_1a_3x3", 32, (3, 3), 2, False), _Unit("Conv2d_2a_3x3", 32, (3, 3), 1, False),
         _Unit("Conv2d_2b_3x3", 64, (3, 3)), _max_pool,
         _Unit("Conv2d_3b_1x1", 80), _Unit("Conv2d_4a_3x3", 192, (3, 3), 1, False), _max_pool)
_BLOCKS = {"Mixed_5b": _block_a(32), "Mixed_5c": _block_a(64), "Mixed_5d": _block_a(64), "Mixed_6a": _block_b(),
           "Mixed_6b": _block_c(128), "Mixed_6c": _block_c(160), "Mixed_6d": _block_c(160), "Mixed_6e": _block_c(192),
           "Mixed_7a": _block_d(), "Mixed_7b": _block_e(_same_mean_pool), "Mixed_7c": _block_e(_same_max_pool)}


class _Kernel(nnx.Module):
  """A convolution without a bias."""

  def __init__(self, inputs: int, unit: _Unit, outputs: int, rngs: nnx.Rngs):
    self.unit = unit
    self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (*unit.size, inputs, outputs)))

  def __call__(self, x):                                             # x: [n h w c]
    rows, columns = ((size // 2,) * 2 if self.unit.padded else (0, 0) for size in self.unit.size)
    return convolve(x, self.kernel[...], self.unit.stride, rows, columns)


class _Convolution(nnx.Module):
  """Convolution, batch normalisation, ReLU."""

  def __init__(self, inputs: int, unit: _Unit, divisor: int, rngs: nnx.Rngs):
    self.outputs = unit.outputs // divisor
    self.conv = _Kernel(inputs, unit, self.outputs, rngs)
    self.bn = BatchNorm(self.outputs, EPSILON)

  def __call__(self, x):                                             # x: [n h w c]
    return jax.nn.relu(self.bn(self.conv(x)))


class _Chains(nnx.Module):
  """Chains of steps side by side, joined; the convolutions among the steps are attributes by their names."""

  def __init__(self, inputs: int, chains: tuple, divisor: int, rngs: nnx.Rngs):
    self.chains = chains
    self.outputs = 0
    for chain in chains:
      channels = inputs
      for step in chain:
        forks = step if isinstance(step, tuple) else (step,)
        convolutions = {fork.name: _Convolution(channels, fork, divisor, rngs)
                        for fork in forks if isinstance(fork, _Unit)}
        for name, convolution in convolutions.items():
          setattr(self, name, convolution)
        channels = sum(convolution.outputs for convolution in convolutions.values()) or channels
      self.outputs += channels

  def __call__(self, x):                                             # x: [n h w c]
    return jnp.concatenate([functools.reduce(self._step, chain, x) for chain in self.chains], axis=-1)

  def _step(self, x, step):
    if isinstance(step, tuple):
      return jnp.concatenate([self._step(x, fork) for fork in step], axis=-1)
    return getattr(self, step.name)(x) if isinstance(step, _Unit) else step(x)


class InceptionV3(_Chains):
  """Images to the features of FID, its layer "pool3": the mean over the last feature map.

  Attribute paths are pytorch-fid's names. Products are float32, on every accelerator.

  Source: Szegedy et al. 2016, "Rethinking the Inception Architecture"; Heusel et al. 2017 for its use.
  """

  def __init__(self, config: InceptionConfig = InceptionConfig(), *, rngs: nnx.Rngs):
    super().__init__(3, (_STEM,), config.divisor, rngs)
    self.config = config
    for name, chains in _BLOCKS.items():
      block = _Chains(self.outputs, chains, config.divisor, rngs)
      self.outputs = block.outputs
      setattr(self, name, block)

  @compiled
  def __call__(self, images: jax.Array) -> jax.Array:
    """Features of images.

    Args:
      images: [n h w 3] float32 in [-1, 1]; h and w at least 75. FID is defined at 299 x 299: resize before.

    Returns:
      [n 2048] float32.

    Raises:
      ValueError: if the images have another shape or are too small.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < MIN_SIZE:
      raise ValueError(f"images must be [n h w 3] with h and w of at least {MIN_SIZE} pixels, got {list(images.shape)}")
    # By default TPUs round the operands of products to bfloat16, and GPUs to TF32.
    with jax.default_matmul_precision("highest"):
      x = super().__call__(images.astype(jnp.float32))
      for name in _BLOCKS:
        x = getattr(self, name)(x)
      return x.mean((1, 2))


def read_inception(path: str | os.PathLike, config: InceptionConfig = InceptionConfig()) -> InceptionV3:
  """Reads the network of FID from its published weights.

  Args:
    path: pytorch-fid's file (`pt_inception-2015-12-05-6726825d.pth`), tensors by the same names as safetensors or .npz,
      or StyleGAN's TorchScript file (`inception-2015-12-05.pt`). The layer of the classes ("fc") is left out.
    config: sizes, for a network that is not the published one.

  Raises:
    WeightsError: one sentence that says what the file is and what is wrong with it; torchvision's is refused.
  """
  file = open_weights(path)
  tensors, origins = renamed(file, lambda name: _STYLEGAN.get(name, name))
  _refuse_torchvision(file, tensors)
  return fill(Functional(lambda rngs: InceptionV3(config, rngs=rngs)), with_factors(tensors), file.path,
              "InceptionV3 of FID", origins, unused=("fc.weight", "fc.bias", "*.bn.num_batches_tracked"))


def _refuse_torchvision(file: TensorFile, tensors: Mapping[str, LazyTensor]) -> None:
  classes = tensors["fc.bias"].size if "fc.bias" in tensors else CLASSES
  if classes != CLASSES or any(name.startswith("AuxLogits.") for name in tensors):
    raise WeightsError(f"{file.path} is an InceptionV3 of torchvision ({classes} classes), not the network of FID: its "
                       "distances could not be compared with anybody's; give pytorch-fid's "
                       "pt_inception-2015-12-05-6726825d.pth")


# StyleGAN's file keeps the names of TensorFlow's graph: ours for each, by kind of block.
_TOWERS_A = {"conv": "branch1x1", "tower.conv": "branch5x5_1", "tower.conv_1": "branch5x5_2",
             "tower_1.conv": "branch3x3dbl_1", "tower_1.conv_1": "branch3x3dbl_2", "tower_1.conv_2": "branch3x3dbl_3",
             "tower_2.conv": "branch_pool"}
_TOWERS_B = {"conv": "branch3x3", "tower.conv": "branch3x3dbl_1", "tower.conv_1": "branch3x3dbl_2",
             "tower.conv_2": "branch3x3dbl_3"}
_TOWERS_C = {"conv": "branch1x1", "tower.conv": "branch7x7_1", "tower.conv_1": "branch7x7_2",
             "tower.conv_2": "branch7x7_3", "tower_1.conv": "branch7x7dbl_1", "tower_1.conv_1": "branch7x7dbl_2",
             "tower_1.conv_2": "branch7x7dbl_3", "tower_1.conv_3": "branch7x7dbl_4", "tower_1.conv_4": "branch7x7dbl_5",
             "tower_2.conv": "branch_pool"}
_TOWERS_D = {"tower.conv": "branch3x3_1", "tower.conv_1": "branch3x3_2", "tower_1.conv": "branch7x7x3_1",
             "tower_1.conv_1": "branch7x7x3_2", "tower_1.conv_2": "branch7x7x3_3", "tower_1.conv_3": "branch7x7x3_4"}
_TOWERS_E = {"conv": "branch1x1", "tower_conv": "branch3x3_1", "tower_mixed_conv": "branch3x3_2a",
             "tower_mixed_conv_1": "branch3x3_2b", "tower_1_conv": "branch3x3dbl_1", "tower_1_conv_1": "branch3x3dbl_2",
             "tower_1_mixed_conv": "branch3x3dbl_3a", "tower_1_mixed_conv_1": "branch3x3dbl_3b",
             "tower_2_conv": "branch_pool"}
_LEAVES = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def _stylegan_names() -> dict[str, str]:
  names = {"output.weight": "fc.weight", "output.bias": "fc.bias"}
  modules = dict(zip(("conv", "conv_1", "conv_2", "conv_3", "conv_4"),
                     (step.name for step in _STEM if isinstance(step, _Unit))))
  towers = (*[_TOWERS_A] * 3, _TOWERS_B, *[_TOWERS_C] * 4, _TOWERS_D, *[_TOWERS_E] * 2)
  for i, (block, tower) in enumerate(zip(_BLOCKS, towers)):
    prefix = f"mixed_{i}" if i else "mixed"
    modules.update({f"{prefix}.{theirs}": f"{block}.{ours}" for theirs, ours in tower.items()})
  for theirs, ours in modules.items():
    names.update({f"layers.{theirs}.{leaf}": f"{ours}.{our_leaf}" for leaf, our_leaf in _LEAVES.items()})
  return names


# Such as {"layers.mixed_4.tower.conv_1.weight": "Mixed_6b.branch7x7_2.conv.weight"}.
_STYLEGAN = _stylegan_names()
