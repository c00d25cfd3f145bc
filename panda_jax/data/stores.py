"""What can be stored in place of whole panoramas: a matrix then reads the images that it needs, and no others.

A store turns the frames of a clip into records of single images, in the order

  frame, variant, view:   place = first + (frame * variants + variant) * views + view

and says in `about` all that decides their bytes. `latents` has the stores that need a model. A random yaw cannot be
drawn any more when views are fixed, so each clip is stored at a few yaws, spread evenly over the angle between two
neighbouring cameras of the rig, from a start of its own: together with the random first view they look everywhere.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from panda_jax.data.mirror import mirrored, names_sides
from panda_jax.data.records import ENCODINGS, encode_frame
from panda_jax.data.views import horizontal_views
from panda_jax.errors import InputError
from panda_jax.geometry import Camera, Rig
from panda_jax.geometry.projector import Projector


@dataclasses.dataclass(frozen=True)
class Variant:
  """How a clip's panoramas are changed before they are stored: turned to the right, then perhaps mirrored."""

  yaw_deg: float = 0.0
  flip: bool = False


class Store(Protocol):
  """How the images of a dataset are stored. All of it is a pure function of its arguments.

  Attributes:
    name: one of `shards.STORES`.
    views: images of each frame and variant.
  """

  name: str
  views: int

  def about(self) -> dict[str, Any]:
    """JSON: everything that decides the bytes."""

  def variants(self, clip_id: str, caption: str) -> list[Variant]:
    """The variants that a clip is stored in."""

  def images(self, frames: Iterator[np.ndarray], variants: Sequence[Variant]) -> Iterator[bytes]:
    """Panoramas uint8 [H W 3] of one clip -> its records: for each frame, for each variant, for each view."""

  def text(self, caption: str) -> bytes:
    """The states of a pretrained text encoder, bfloat16 [l c]; nothing where tokens are read in training."""


class Crops:
  """The views of a rig as images: decoding a matrix costs what its own pixels cost, whatever the panorama's size.

  Args:
    rig: the cameras.
    view_size: (h, w) of every view.
    yaws: variants of each clip.
    encoding: "jpeg", "webp" or "png".
    quality: 1-100, for jpeg and webp.

  Raises:
    InputError: for a rig without a horizontal camera, or settings that make no sense.
  """

  name = "crops"

  def __init__(self, rig: Rig, view_size: tuple[int, int], yaws: int = 1, encoding: str = "jpeg", quality: int = 95):
    if encoding not in ENCODINGS:
      raise InputError(f"unknown encoding {encoding!r}: choose one of {', '.join(ENCODINGS)}")
    if not 1 <= quality <= 100:
      raise InputError(f"quality must be between 1 and 100, got {quality}")
    self.encoding, self.quality = encoding, quality
    self._turned = TurnedViews(rig, view_size, yaws)
    self.views = len(rig)

  def about(self) -> dict[str, Any]:
    return {"store": self.name, **self._turned.about(), "flips": False, "encoding": self.encoding,
            "quality": self.quality, "text": None}

  def variants(self, clip_id: str, caption: str) -> list[Variant]:
    """Turned, never mirrored: images can be mirrored when they are read."""
    return self._turned.variants(clip_id)

  def images(self, frames: Iterator[np.ndarray], variants: Sequence[Variant]) -> Iterator[bytes]:
    for view in self._turned(frames, variants):
      yield encode_frame(view, self.encoding, self.quality)

  def text(self, caption: str) -> bytes:
    return b""


class TurnedViews:
  """The views of a rig in panoramas that are turned by a few fixed yaws.

  Args:
    rig: the cameras.
    view_size: (h, w) of every view.
    yaws: how many.

  Raises:
    InputError: for a rig without a horizontal camera, or settings that make no sense.
  """

  def __init__(self, rig: Rig, view_size: tuple[int, int], yaws: int):
    if yaws < 1:
      raise InputError(f"each clip must be stored at 1 yaw at least, got {yaws}")
    self.rig, self.view_size, self.yaws = rig, tuple(view_size), yaws
    self._gap = 360 / len(horizontal_views(rig))
    self._projectors: dict[tuple[int, int], Projector] = {}

  def about(self) -> dict[str, Any]:
    """JSON: cameras as (yaw, pitch, field of view, roll) in degrees, size and number of yaws."""
    return {"rig": cameras_to_json(self.rig), "view_size": list(self.view_size), "yaws": self.yaws}

  def variants(self, clip_id: str, flip: bool = False) -> list[Variant]:
    """The clip's start and the steps from there; with `flip`, the same again mirrored."""
    start = 360 * int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big") / 2**64
    yaws = [(start + number * self._gap / self.yaws) % 360 for number in range(self.yaws)]
    return [Variant(yaw, mirror) for mirror in ((False, True) if flip else (False,)) for yaw in yaws]

  def __call__(self, frames: Iterator[np.ndarray], variants: Sequence[Variant]) -> Iterator[np.ndarray]:
    """Panoramas uint8 [H W 3] -> views uint8 [h w 3]: for each frame, for each variant, for each camera."""
    for frame in frames:
      size = frame.shape[:2]
      if size not in self._projectors:
        self._projectors[size] = Projector(size, tuple(self.rig), self.view_size)
      panoramas = np.stack([changed(frame, variant) for variant in variants])
      yield from self._projectors[size](panoramas).swapaxes(0, 1).reshape(-1, *self.view_size, 3)


def changed(panorama: np.ndarray, variant: Variant) -> np.ndarray:
  """A panorama uint8 [H W 3] as a variant has it: turned by the nearest whole number of pixels, then mirrored."""
  width = panorama.shape[1]
  turned = np.roll(panorama, round(variant.yaw_deg / 360 * width) % width, axis=1)
  return mirrored(turned) if variant.flip else turned


def may_flip(caption: str, flips: bool) -> bool:
  """Whether a clip is stored mirrored, too."""
  return flips and not names_sides(caption)


def cameras_to_json(rig: Rig) -> list[list[float]]:
  """[yaw, pitch, field of view, roll] of every camera, in degrees."""
  return [[float(angle) for angle in dataclasses.astuple(camera)] for camera in rig]


def places_of_cameras(path: str | Path, about: Mapping[str, Any], rig: Rig, view_size: tuple[int, int]) -> list[int]:
  """Where the cameras of a rig are among the views that a dataset stores.

  Args:
    path: of the dataset, for the message.
    about: what it says of its store.
    rig: that is asked for; all of its cameras must be stored.
    view_size: (h, w) that is asked for.

  Raises:
    InputError: if the dataset is of another rig or view size.
  """
  stored = [Camera(*angles) for angles in about["rig"]]
  absent = [camera for camera in rig if camera not in stored]
  if absent:
    yaw, pitch, fov, roll = dataclasses.astuple(absent[0])
    raise InputError(
      f"{path} stores the views of another rig: none of its {len(stored)} cameras is at yaw {yaw:g}, pitch {pitch:g}, "
      f"roll {roll:g} with a field of view of {fov:g} degrees; prepare the dataset again for this model.rig, or store "
      "pixels, which serve any rig")
  if tuple(about["view_size"]) != tuple(view_size):
    (h, w), (height, width) = about["view_size"], view_size
    raise InputError(f"{path} stores views of {w}x{h} pixels and this run has views of {width}x{height}: set "
                     f"model.view_size, or prepare the dataset again for it")
  return [stored.index(camera) for camera in rig]


_CAUSES = {"codec": "latents of another codec", "codec weights": "latents of other codec weights",
           "text": "texts of another text encoder", "text weights": "texts of other text encoder weights",
           "tokenizer": "texts of another tokenizer"}


def check_fresh(path: str | Path, about: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
  """Refuses latents and text states that another model has made.

  Args:
    path: of the dataset, for the message.
    about: what it says of its store.
    expected: what the store of this model would say, see `latents.model_key`; what is not stored is not compared.

  Raises:
    InputError: naming what differs.
  """
  for key, cause in _CAUSES.items():
    if about.get(key) is not None and about[key] != expected.get(key):
      then, now = _difference(about[key], expected.get(key))
      raise InputError(f"{path} is stale: it stores {cause} ({then}, and of this run {now}); prepare the dataset again "
                       "with this run's model, or begin with the model that it was prepared with (config.init)")


def _difference(then: Any, now: Any) -> tuple[str, str]:
  """Both values in short, or the first of their fields that differ."""
  if isinstance(then, Mapping) and isinstance(now, Mapping):
    key = next(key for key in sorted({*then, *now}) if then.get(key) != now.get(key))
    return tuple(f"{key} {json.dumps(value.get(key))}" for value in (then, now))
  return tuple(json.dumps(value) for value in (then, now))
