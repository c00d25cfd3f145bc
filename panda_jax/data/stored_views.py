"""From stored crops and latents to the arrays of one matrix: only what is shown is read.

Classes as those of `views`: each turns a clip record and its chosen frames into a part of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from panda_jax.data.image_records import ImageReader
from panda_jax.data.mirror import mirrored, mirrored_rays
from panda_jax.data.records import decode_frame
from panda_jax.data.stores import places_of_cameras
from panda_jax.data.views import Cameras, draw_flip
from panda_jax.errors import InputError
from panda_jax.geometry import Rig

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Later:
  """An array that is read when its place in the batch is there: what is large is copied once and not twice.

  Attributes:
    shape, dtype: of the array.
    fill: puts its values into an array of these.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  fill: Callable[[np.ndarray], None]


class StoredCrops:
  """Views of a rig that are stored as images.

  Args:
    path, split: of the dataset.
    about: what it says of its store.
    rig: the cameras; all of them must be stored.
    view_size: (h, w) of the views, as they are stored.
    rays_size: (h, w) of the rays.
    most_views: of any matrix that will be asked for.
    in_order: take the rig's cameras in its order instead of a random one.
    flip: how likely it is that a sample is mirrored.

  Raises:
    InputError: if another rig or view size is stored, the rig has too few cameras, or samples cannot be mirrored.
  """

  def __init__(self, path: str | Path, split: str, about: Mapping[str, Any], rig: Rig, view_size: tuple[int, int],
               rays_size: tuple[int, int], most_views: int, in_order: bool = False, flip: float = 0.0):
    self.flip, self.view_size = flip, tuple(view_size)
    self.reader = ImageReader(path, split)
    self._stored = len(about["rig"])
    self._places = np.array(places_of_cameras(path, about, rig, view_size))
    self._cameras = Cameras(rig, rays_size, most_views, in_order)

  def __call__(self, rng: np.random.Generator, record: dict[str, Any], frames: Sequence[int],
               count: int) -> dict[str, np.ndarray | Later]:
    """One matrix of a clip.

    DO NOT CHANGE THE ORDER of the draws: runs resume to the last bit.

    Args:
      rng: draws the stored yaw, the order of the cameras and whether to mirror, in this order.
      record: of the clip.
      frames: which of its frames.
      count: number of views.

    Returns:
      "images" uint8 [v f h w 3] and "rays" float32 [v h w 3] relative to the first view.
    """
    yaw, order = draw_yaw(rng, record), self._cameras.draw(rng, count)
    flipped, rays = draw_flip(rng, self.flip, record["caption"]), self._cameras.rays(order)
    if flipped:
      return self._mirrored(record, frames, yaw, order, rays)
    return self._shown(record, frames, yaw, order) | {"rays": rays}

  def _shown(self, record: dict[str, Any], frames: Sequence[int], variant: int,
             order: Sequence[int]) -> dict[str, np.ndarray | Later]:
    """The stored images of some frames and cameras."""
    numbers = image_numbers(record, frames, variant, self._stored, self._places[order])
    encoded = self.reader.read(numbers.reshape(-1).tolist())
    images = np.empty((*numbers.shape, *self.view_size, 3), np.uint8)
    for target, data in zip(images.reshape(-1, *self.view_size, 3), encoded, strict=True):
      target[...] = decode_frame(data)
    return {"images": images}

  def _mirrored(self, record: dict[str, Any], frames: Sequence[int], variant: int, order: Sequence[int],
                rays: np.ndarray) -> dict[str, np.ndarray]:
    """The same in a mirrored world. Only the first view is where it was: the others were on its other side."""
    shown = self._shown(record, frames, variant, order)
    return {"images": mirrored(shown["images"]), "rays": mirrored_rays(rays)}


class StoredLatents(StoredCrops):
  """Views of a rig that are stored as latents; arguments as those of `StoredCrops`.

  A mirrored picture has other latents than the mirror image of its latents: it must be stored, too.
  """

  def __init__(self, path: str | Path, split: str, about: Mapping[str, Any], rig: Rig, view_size: tuple[int, int],
               rays_size: tuple[int, int], most_views: int, in_order: bool = False, flip: float = 0.0):
    super().__init__(path, split, about, rig, view_size, rays_size, most_views, in_order, flip)
    check_flips(path, about, flip)
    self._shape = tuple(about["shape"])
    if self._shape[:2] != tuple(rays_size):
      raise InputError(f"{path} stores latents of {self._shape[1]}x{self._shape[0]} and this run's have "
                       f"{rays_size[1]}x{rays_size[0]}: prepare the dataset again for this run's codec")

  def _shown(self, record: dict[str, Any], frames: Sequence[int], variant: int,
             order: Sequence[int]) -> dict[str, np.ndarray | Later]:
    numbers = image_numbers(record, frames, variant, self._stored, self._places[order])
    return {"latents": Later((*numbers.shape, *self._shape), BFLOAT16,
                             lambda out: read_latents(self.reader, numbers, out))}

  def _mirrored(self, record: dict[str, Any], frames: Sequence[int], variant: int, order: Sequence[int],
                rays: np.ndarray) -> dict[str, np.ndarray | Later]:
    """The same cameras in a mirrored world, which was stored behind the world as it is."""
    return self._shown(record, frames, variant + yaws_of(record), order) | {"rays": rays}


class StoredPanoramas:
  """Whole panoramas that are stored as latents, encoded without a seam and turned here by whole latents.

  Args:
    path, split: of the dataset.
    about: what it says of its store.
    shapes: the matrices that will be asked for.
    flip: how likely it is that a sample is mirrored.

  Raises:
    InputError: if a matrix has more than one view, or samples cannot be mirrored.
  """

  def __init__(self, path: str | Path, split: str, about: Mapping[str, Any], shapes: Sequence[tuple[int, int]],
               flip: float = 0.0):
    if any(views != 1 for views, _ in shapes):
      many = next(shape for shape in shapes if shape[0] != 1)
      raise InputError(f"matrix.shapes has {many}, but {path} stores latents of whole panoramas, which are one view: "
                       f"every shape must be (1, frames), e.g. (1, {many[1]})")
    check_flips(path, about, flip)
    self.flip, self.reader, self._shape = flip, ImageReader(path, split), tuple(about["shape"])

  def __call__(self, rng: np.random.Generator, record: dict[str, Any], frames: Sequence[int],
               count: int) -> dict[str, np.ndarray]:
    """One clip: "latents" bfloat16 [1 f h w c].

    DO NOT CHANGE THE ORDER of the draws, the turn and whether to mirror: runs resume to the last bit.
    """
    roll = int(rng.integers(self._shape[1]))
    variant = int(draw_flip(rng, self.flip, record["caption"]))
    numbers = image_numbers(record, frames, variant, 1, np.zeros(1, int))
    latents = np.empty((*numbers.shape, *self._shape), BFLOAT16)
    read_latents(self.reader, numbers, latents)
    return {"latents": np.roll(latents, roll, axis=-2)}


def stack(samples: Sequence[dict[str, np.ndarray | Later]]) -> dict[str, np.ndarray]:
  """Samples as one batch, [b …]."""
  batch = {}
  for name, first in samples[0].items():
    if not isinstance(first, Later):
      batch[name] = np.stack([sample[name] for sample in samples])
      continue
    batch[name] = np.empty((len(samples), *first.shape), first.dtype)
    for sample, place in zip(samples, batch[name], strict=True):
      sample[name].fill(place)
  return batch


def draw_yaw(rng: np.random.Generator, record: Mapping[str, Any]) -> int:
  """The number of a stored variant that is not mirrored, each equally likely; mirrored ones come behind them."""
  return int(rng.integers(yaws_of(record)))


def yaws_of(record: Mapping[str, Any]) -> int:
  """At how many yaws a clip is stored."""
  return len(record["flip"]) - sum(record["flip"])


def image_numbers(record: Mapping[str, Any], frames: Sequence[int], variant: int, stored: int,
                  places: np.ndarray) -> np.ndarray:
  """Where the images of a matrix are among those of the split: [v f].

  Args:
    record: of the clip.
    frames: which of its frames.
    variant: which of its variants.
    stored: views of each frame and variant.
    places: [v] which of them.
  """
  rows = np.asarray(frames) * len(record["flip"]) + variant
  return record["first"] + rows[None, :] * stored + places[:, None]


def read_latents(reader: ImageReader, numbers: np.ndarray, out: np.ndarray) -> None:
  """Reads stored latents by number, [v f], into `out`: bfloat16 [v f h w c]."""
  reader.read_into(numbers.reshape(-1), out.view(np.uint8).reshape(numbers.size, -1))


def read_states(text: bytes, shape: tuple[int, ...]) -> np.ndarray:
  """Stored states of a text: bfloat16 [l c]."""
  return np.frombuffer(text, BFLOAT16).reshape(shape)


def check_flips(path: str | Path, about: Mapping[str, Any], flip: float) -> None:
  """Refuses to mirror latents that are not stored mirrored."""
  if flip > 0 and not about["flips"]:
    raise InputError(f"data.flip is {flip:g}, but {path} stores no mirrored latents, and latents cannot be mirrored as "
                     "pictures can: prepare it again with flips, or set data.flip=0")
