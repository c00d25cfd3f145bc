"""Networks of metrics with their weights, ready for uint8 images: resized on the host, batched, spread over devices."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from flax import nnx
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
from PIL import Image

from panda_jax.errors import InputError
from panda_jax.evaluation.catalogue import NETWORKS
from panda_jax.evaluation.protocol import I3D_INPUT, INCEPTION_INPUTS, Protocol
from panda_jax.models.functional import Functional
from panda_jax.tree import flatten, unflatten

RANDOM = "random"
_BATCHES = {"inception": 32, "i3d": 8, "lpips_alex": 8, "lpips_vgg": 8, "clip": 32}      # at most, on one device
_MAY_BE_RANDOM = ("inception", "i3d")


@dataclasses.dataclass(frozen=True)
class Weights:
  """Which file a network was read from.

  Attributes:
    kind: key of `catalogue.NETWORKS`.
    file: its name, or that of the folder; "random" for weights that are drawn and stand for nothing.
    sha256: of its content; of the files one after the other, where it was several.
  """

  kind: str
  file: str
  sha256: str

  @property
  def random(self) -> bool:
    """Whether they are drawn."""
    return self.file == RANDOM


class Extractor:
  """One network on this process's devices.

  Images go through it in batches of one size, the last filled up, so that it is compiled once for each size of images.
  """

  def __init__(self, weights: Weights, network: nnx.Module, protocol: Protocol,
               say: Callable[[str], None] = lambda line: None):
    """`say` is told of every compilation."""
    self.weights, self._network, self._protocol, self._say = weights, network, protocol, say
    devices = jax.local_devices()
    self._batch = math.ceil(_BATCHES[weights.kind] / len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), ("batch",))
    self._split, everywhere = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    self._graph, state = nnx.split(network)
    self._state = jax.device_put(state, everywhere)
    self._seen: set[tuple] = set()
    self.text = functools.lru_cache(maxsize=1)(self._text)      # all methods and surfaces of a clip have one prompt

  @property
  def input(self) -> str:
    """How images reach the network, in words."""
    if self.weights.kind == "inception":
      return INCEPTION_INPUTS[self._protocol.inception_resize]
    if self.weights.kind == "i3d":
      return I3D_INPUT
    if self.weights.kind == "clip":
      return f"shortest side to {self._network.config.image_size}, bicubic with antialiasing (Pillow), centre cropped"
    return "images at their own size, in [-1, 1]"

  def features(self, images: np.ndarray) -> np.ndarray:
    """Features float32 [n d] of uint8 images [n h w 3], or for I3D of videos [n f h w 3]."""
    kind = self.weights.kind
    if kind == "inception":
      prepare, call = _INCEPTION_RESIZES[self._protocol.inception_resize], type(self._network).__call__
    elif kind == "i3d":
      prepare, call = for_i3d, type(self._network).__call__
    else:
      from panda_jax.evaluation.networks.clip import Clip, prepare_images
      prepare, call = functools.partial(prepare_images, size=self._network.config.image_size), Clip.images
    return self._run(call, prepare, images)

  def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """LPIPS [n] of uint8 images [n h w 3] to others."""
    return self._run(type(self._network).__call__, signed, a, b)

  def _text(self, prompt: str) -> np.ndarray:
    """CLIP's feature of a prompt, [d]."""
    return np.asarray(self._network.texts(self._network.tokenize([prompt]))[0])

  def _run(self, call: Callable, prepare: Callable, *arrays: np.ndarray) -> np.ndarray:
    results = []
    for start in range(0, len(arrays[0]), self._batch):
      part = [prepare(array[start:start + self._batch]) for array in arrays]
      count = len(part[0])
      part = [np.concatenate([x, np.repeat(x[-1:], self._batch - count, axis=0)]) for x in part]
      if (key := (call, part[0].shape)) not in self._seen:
        self._seen.add(key)
        self._say(f"compiling {NETWORKS[self.weights.kind]} for {' x '.join(map(str, part[0].shape[:-1]))} pixels")
      placed = [jax.device_put(x, self._split) for x in part]
      results.append(np.asarray(_apply(call, self._graph, self._state, *placed))[:count])
    return np.concatenate(results).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(call, graph, state, *arrays):
  return call(nnx.merge(graph, state), *arrays)


# --- from pixels to what networks take


def signed(images: np.ndarray) -> np.ndarray:
  """uint8 [...] -> float32 in [-1, 1]."""
  return images.astype(np.float32) / 127.5 - 1


def for_inception_bicubic(images: np.ndarray) -> np.ndarray:
  """uint8 [n h w 3] -> float32 [n 299 299 3], as clean-fid: antialiased in float32, then the 2015 graph's scaling."""
  def resized(image: np.ndarray) -> np.ndarray:
    channels = (Image.fromarray(image[..., c].astype(np.float32), mode="F") for c in range(3))
    return np.stack([channel.resize((299, 299), Image.Resampling.BICUBIC) for channel in channels], axis=-1)
  return (_each(resized, images).clip(0, 255) - 128) / 128


def for_inception_bilinear(images: np.ndarray) -> np.ndarray:
  """uint8 [n h w 3] -> float32 [n 299 299 3], as pytorch-fid."""
  return signed(_each(functools.partial(_bilinear, side=299), images))


def for_i3d(videos: np.ndarray) -> np.ndarray:
  """uint8 [n f h w 3] -> float32 [n f 224 224 3] in [-1, 1]."""
  n, f, *size = videos.shape
  return signed(_each(functools.partial(_bilinear, side=224), videos.reshape(-1, *size))).reshape(n, f, 224, 224, 3)


def _bilinear(image: np.ndarray, side: int) -> np.ndarray:
  return cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)


def _each(function: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
  """The function of every image, in threads: an accelerator waits for nothing else as long."""
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    return np.stack(list(pool.map(function, images)))


_INCEPTION_RESIZES = {"bicubic": for_inception_bicubic, "bilinear": for_inception_bilinear}


# --- from files to networks


def parse_weights(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """["inception=FILE", "lpips_alex=HEADS,BACKBONE"] -> files by network.

  Raises:
    InputError: for a word of another form, an unknown network, or one that is named twice.
  """
  found: dict[str, tuple[str, ...]] = {}
  for word in words:
    kind, _, files = word.partition("=")
    if kind not in NETWORKS or not files:
      raise InputError(f"--weights {word}: give NETWORK=FILE, with one of {', '.join(NETWORKS)}")
    if kind in found:
      raise InputError(f"--weights names {kind} twice: give one of them")
    if files == RANDOM and kind not in _MAY_BE_RANDOM:
      raise InputError(f"--weights {word}: random weights are for {' and '.join(_MAY_BE_RANDOM)} alone")
    found[kind] = tuple(files.split(","))
  return found


def identify(files: Mapping[str, Sequence[str]]) -> dict[str, Weights]:
  """Name and hash of the weights of every network, without reading them as such.

  Raises:
    InputError: if a file is not there.
  """
  return {kind: Weights(kind, ", ".join(Path(file).resolve().name for file in given) if given != (RANDOM,) else RANDOM,
                        "" if given == (RANDOM,) else _sha256(given)) for kind, given in files.items()}


def load_extractors(files: Mapping[str, Sequence[str]], weights: Mapping[str, Weights], protocol: Protocol,
                    say: Callable[[str], None] = lambda line: None) -> dict[str, Extractor]:
  """The networks, read; `weights`: what `identify` says of the files.

  Raises:
    InputError: if there are too many files for a network. WeightsError: if they do not hold it.
  """
  return {kind: Extractor(weights[kind], _read(kind, *given), protocol, say) for kind, given in files.items()}


def _read(kind: str, path: str, *more: str) -> nnx.Module:
  if more and not (kind.startswith("lpips") and len(more) == 1):
    raise InputError(f"--weights {kind}: {len(more) + 1} files were given, and it is read from one")
  if kind == "inception":
    from panda_jax.evaluation.networks.inception import InceptionConfig, InceptionV3, read_inception
    return read_inception(path) if path != RANDOM else _random(lambda rngs: InceptionV3(InceptionConfig(8), rngs=rngs))
  if kind == "i3d":
    from panda_jax.evaluation.networks.i3d import I3D, I3DConfig, read_i3d
    return read_i3d(path) if path != RANDOM else _random(lambda rngs: I3D(I3DConfig(8), rngs=rngs))
  if kind == "clip":
    from panda_jax.evaluation.networks.clip import read_clip
    return read_clip(path)
  from panda_jax.evaluation.networks.lpips import read_lpips
  network = read_lpips(path, *more)
  if f"lpips_{network.config.backbone}" != kind:
    raise InputError(f"--weights {kind}={path}: these are weights of lpips_{network.config.backbone}")
  return network


def _random(build: Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
  """Weights drawn by a fixed seed, such that activations stay at about unit size."""
  functional, stream = Functional(build), np.random.RandomState(0)

  def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) > 1:
      return (stream.standard_normal(shape) * math.sqrt(2 / math.prod(shape[:-1]))).astype(np.float32)
    return np.full(shape, path.endswith(("scale", "running_var")), np.float32)

  return functional.bind(unflatten({path: jax.device_put(draw(path, leaf.shape))
                                    for path, leaf in flatten(functional.abstract).items()}))


def _sha256(paths: Sequence[str]) -> str:
  """Of the only file, or of the hashes of several in the order of their names in each path."""
  files = [file for path in paths for file in (sorted(Path(path).rglob("*")) if os.path.isdir(path) else [Path(path)])]
  hashes = []
  for file in files:
    if file.is_dir():
      continue
    try:
      with open(file, "rb") as stream:
        hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError as error:
      raise InputError(f"--weights: {file} cannot be read ({error.strerror}): give the path of a local file") from error
  return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
