"""I3D of the Fréchet Video Distance, and how its published weights are read.

FVD is defined by the logits of one network: Inception-I3D on RGB, trained on Kinetics-400, as TensorFlow Hub has it
(Unterthiner et al. 2018). MAGVIT's file is a copy of it for Flax; VideoGPT's, TATS's and pytorch-i3d's are for torch.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp

from panda_jax.evaluation.networks.files import fill, open_weights, renamed, with_factors
from panda_jax.evaluation.networks.layers import BatchNorm
from panda_jax.models.functional import Functional, compiled
from panda_jax.models.products import convolve
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.plain_pickle import printable
from panda_jax.weights.tensors import LazyTensor, TensorFile

MIN_FRAMES = 9                    # fewer leave less than the two time steps that the last pool takes
SIZE = 224                        # pixels, both ways
EPSILON = 1e-3                    # of all batch normalisations

# The network in order: convolutions by name with (channels, size, stride), pools with (size, stride), and blocks with
# the channels of branch 0, of the two convolutions of branches 1 and 2, and of branch 3.
_LAYERS = {
  "Conv3d_1a_7x7": (64, 7, 2), "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
  "Conv3d_2b_1x1": (64, 1, 1), "Conv3d_2c_3x3": (192, 3, 1), "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
  "Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64),
  "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
  "Mixed_4b": (192, 96, 208, 16, 48, 64), "Mixed_4c": (160, 112, 224, 24, 64, 64),
  "Mixed_4d": (128, 128, 256, 24, 64, 64), "Mixed_4e": (112, 144, 288, 32, 64, 64),
  "Mixed_4f": (256, 160, 320, 32, 128, 128), "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
  "Mixed_5b": (256, 160, 320, 32, 128, 128), "Mixed_5c": (384, 192, 384, 48, 128, 128)}


@dataclasses.dataclass(frozen=True)
class I3DConfig:
  """Sizes of an I3D.

  Attributes:
    divisor: every number of channels is the published one divided by this: 1, 2, 4 or 8.
    classes: of videos; Kinetics-400 has 400.
  """
  divisor: int = 1
  classes: int = 400

  def __post_init__(self):
    if self.divisor not in (1, 2, 4, 8):
      raise ValueError(f"divisor of an I3D's channels must be 1, 2, 4 or 8, got {self.divisor}")


class _Kernel(nnx.Module):
  """A cubic convolution, padded like TensorFlow's "SAME": what is odd goes behind.

  Computed as a convolution over h and w of frames stacked as channels, which CPUs do in a quarter of the time.
  """

  def __init__(self, inputs: int, outputs: int, size: int, stride: int, use_bias: bool, rngs: nnx.Rngs):
    self.stride = stride
    self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (size, size, size, inputs, outputs)))
    if use_bias:
      self.bias = nnx.Param(jnp.zeros((outputs,)))

  def __call__(self, x):                                             # x: [b f h w c]
    b, f, h, w, c = x.shape
    kernel, stride = self.kernel[...], self.stride
    size = len(kernel)
    frames, rows, columns = (_same(length, size, stride) for length in (f, h, w))
    x = jnp.pad(x, ((0, 0), frames, (0, 0), (0, 0), (0, 0)))
    steps = -(-f // stride)
    taps = jnp.concatenate([x[:, i:i + stride * (steps - 1) + 1:stride] for i in range(size)], axis=-1)
    y = convolve(taps.reshape(b * steps, h, w, size * c), rearrange(kernel, "f h w c o -> h w (f c) o"), stride, rows,
                 columns)
    y = y.reshape(b, steps, *y.shape[1:])
    return y + self.bias[...] if hasattr(self, "bias") else y


def _same(length: int, size: int, stride: int) -> tuple[int, int]:
  """What TensorFlow pads an axis with, before and behind."""
  total = max((-(-length // stride) - 1) * stride + size - length, 0)
  return total // 2, total - total // 2


class _Unit(nnx.Module):
  """Convolution, batch normalisation, ReLU."""

  def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, *, rngs: nnx.Rngs):
    self.conv3d = _Kernel(inputs, outputs, size, stride, False, rngs)
    self.bn = BatchNorm(outputs, EPSILON)

  def __call__(self, x):                                             # x: [b f h w c]
    return jax.nn.relu(self.bn(self.conv3d(x)))


class _Block(nnx.Module):
  """Four branches side by side."""

  def __init__(self, inputs: int, channels: tuple[int, ...], rngs: nnx.Rngs):
    unit = functools.partial(_Unit, rngs=rngs)
    self.b0 = unit(inputs, channels[0])
    self.b1a, self.b1b = unit(inputs, channels[1]), unit(channels[1], channels[2], 3)
    self.b2a, self.b2b = unit(inputs, channels[3]), unit(channels[3], channels[4], 3)
    self.b3b = unit(inputs, channels[5])

  def __call__(self, x):                                             # x: [b f h w c]
    pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
    return jnp.concatenate([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], axis=-1)


class _Logits(nnx.Module):
  """The last layer."""

  def __init__(self, inputs: int, classes: int, rngs: nnx.Rngs):
    self.conv3d = _Kernel(inputs, classes, 1, 1, True, rngs)

  def __call__(self, x):                                             # x: [b f h w c]
    return self.conv3d(x)


class I3D(nnx.Module):
  """Videos to the logits of Kinetics-400, averaged over time: the features of FVD.

  Attribute paths are pytorch-i3d's names. Products are float32, on every accelerator.

  Source: Carreira and Zisserman 2017, "Quo Vadis, Action Recognition?", figure 3; Unterthiner et al. 2018 for its use.
  """

  def __init__(self, config: I3DConfig = I3DConfig(), *, rngs: nnx.Rngs):
    self.config = config
    channels = 3
    for name, layer in _LAYERS.items():
      if name.startswith("Conv3d"):
        inputs, channels = channels, layer[0] // config.divisor
        setattr(self, name, _Unit(inputs, channels, *layer[1:], rngs=rngs))
      elif name.startswith("Mixed"):
        parts = tuple(part // config.divisor for part in layer)
        setattr(self, name, _Block(channels, parts, rngs))
        channels = parts[0] + parts[2] + parts[4] + parts[5]
    self.logits = _Logits(channels, config.classes, rngs)

  @compiled
  def __call__(self, videos: jax.Array) -> jax.Array:
    """Features of videos.

    Args:
      videos: [b f 224 224 3] float32 in [-1, 1], at least 9 frames.

    Returns:
      [b 400] float32.

    Raises:
      ValueError: if the videos are too short or have another shape.
    """
    if videos.ndim != 5 or videos.shape[2:] != (SIZE, SIZE, 3):
      raise ValueError(f"videos must be [b f {SIZE} {SIZE} 3], got {list(videos.shape)}: resize them before")
    if videos.shape[1] < MIN_FRAMES:
      raise ValueError(f"I3D takes videos of at least {MIN_FRAMES} frames, got {videos.shape[1]}: FVD is not defined "
                       "for shorter ones")
    # By default TPUs round the operands of products to bfloat16, and GPUs to TF32.
    with jax.default_matmul_precision("highest"):
      x = videos.astype(jnp.float32)
      for name, layer in _LAYERS.items():
        x = _max_pool(x, *layer) if name.startswith("MaxPool3d") else getattr(self, name)(x)
      x = nnx.avg_pool(x, (2, 7, 7), (1, 1, 1), "VALID")
      return self.logits(x).mean((1, 2, 3))


def _max_pool(x: jax.Array, size: tuple[int, ...], stride: tuple[int, ...]) -> jax.Array:
  """Padded like TensorFlow's "SAME"; torch's ports pad with zeros, which is the same behind a ReLU."""
  for axis in range(3):                   # one after the other: a fifth of the time on CPUs
    if size[axis] > 1:
      window, strides = ([lengths[axis] if other == axis else 1 for other in range(3)] for lengths in (size, stride))
      x = nnx.max_pool(x, tuple(window), tuple(strides), "SAME")
  return x


def read_i3d(path: str | os.PathLike, config: I3DConfig = I3DConfig()) -> I3D:
  """Reads the network of FVD from its published weights.

  Args:
    path: MAGVIT's Flax file (`i3d_k400.flax`), or a state dict by pytorch-i3d's names, as VideoGPT, TATS
      (`i3d_pretrained_400.pt`) and pytorch-i3d (`rgb_imagenet.pt`) give it, or as safetensors or .npz.
    config: sizes, for a network that is not the published one.

  Raises:
    WeightsError: one sentence that says what the file is and what is wrong with it.
  """
  file = open_weights(path)
  tensors, origins = _canonical(file)
  if not any(name.startswith("Conv3d_1a_7x7.") for name in tensors):
    raise WeightsError(f"{file.path} has none of the names of pytorch-i3d or MAGVIT (its first is "
                       f"{printable(next(iter(tensors), 'none'))}): give MAGVIT's i3d_k400.flax or VideoGPT's "
                       "i3d_pretrained_400.pt; the names in StyleGAN-V's i3d_torchscript.pt are not known here")
  return fill(Functional(lambda rngs: I3D(config, rngs=rngs)), with_factors(tensors), file.path, "I3D of FVD", origins,
              unused=("*.bn.num_batches_tracked",))


# Names of Flax: ours for each.
_UNITS = {"Branch_0.Conv3d_0a_1x1": "b0", "Branch_1.Conv3d_0a_1x1": "b1a", "Branch_1.Conv3d_0b_3x3": "b1b",
          "Branch_2.Conv3d_0a_1x1": "b2a", "Branch_2.Conv3d_0b_3x3": "b2b", "Branch_3.Conv3d_0b_1x1": "b3b",
          "Logits.Conv3d_0c_1x1": "logits"}
_LEAVES = {"conv_3d/kernel": "conv3d.weight", "conv_3d/bias": "conv3d.bias", "batch_norm/beta": "bn.bias",
           "batch_norm/moving_mean": "bn.running_mean", "batch_norm/moving_variance": "bn.running_var"}


def _canonical(file: TensorFile) -> tuple[dict[str, LazyTensor], dict[str, str]]:
  """The tensors by pytorch-i3d's names and in torch's layout, and what each was called in the file."""
  tensors, origins = renamed(file, _from_flax)
  for name, tensor in tensors.items():
    if origins[name].endswith("/kernel") and len(tensor.shape) == 5:
      tensors[name] = tensor.map(lambda values: values.transpose(4, 3, 0, 1, 2),
                                 [tensor.shape[axis] for axis in (4, 3, 0, 1, 2)])
  return tensors, origins


def _from_flax(path: str) -> str:
  """`params/Mixed_3b/Branch_1.Conv3d_0a_1x1/conv_3d/kernel` -> `Mixed_3b.b1a.conv3d.weight`; others stay."""
  found = re.fullmatch(r"(?:params/)?(.+?)/(\w+/\w+)", path)
  if not found or found[2] not in _LEAVES:
    return path
  return ".".join([*(_UNITS.get(unit, unit) for unit in found[1].split("/")), _LEAVES[found[2]]])
