"""Stores of latents: what the frozen networks of a model make of images and captions, encoded once for many epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from panda_jax.data.stores import TurnedViews, Variant, changed, may_flip
from panda_jax.errors import InputError
from panda_jax.geometry import Rig
from panda_jax.systems.base import Params, System


class ViewLatents:
  """The latents of a rig's views: bfloat16 [h' w' c], as `System.encode_stored` has them.

  Args:
    system: whose codec and text encoder are used.
    params: of the system; at least those that its codec and its pretrained text encoder need.
    rig: the cameras; default: the system's.
    view_size: (h, w) of the views; default: the system's.
    yaws: variants of each clip.
    flips: store each of them mirrored, too, but for clips whose caption names sides.
    batch: images that a device encodes at a time.

  Raises:
    InputError: for a rig without a horizontal camera, or settings that make no sense.
  """

  name = "latents"

  def __init__(self, system: System, params: Params, rig: Rig | None = None, view_size: tuple[int, int] | None = None,
               yaws: int = 1, flips: bool = False, batch: int = 8):
    rig = system.rig if rig is None else rig
    self._turned = TurnedViews(rig, system.view_size if view_size is None else view_size, yaws)
    self._model, self.flips, self.views = _Model(system, params, batch), flips, len(rig)

  def about(self) -> dict[str, Any]:
    return {"store": self.name, **self._turned.about(), "flips": self.flips,
            **self._model.about(self._turned.view_size)}

  def variants(self, clip_id: str, caption: str) -> list[Variant]:
    """Turned; then the same again mirrored, if the caption allows."""
    return self._turned.variants(clip_id, may_flip(caption, self.flips))

  def images(self, frames: Iterator[np.ndarray], variants: Sequence[Variant]) -> Iterator[bytes]:
    return self._model.encode(self._turned(frames, variants))

  def text(self, caption: str) -> bytes:
    return self._model.encode_text(caption)


class PanoramaLatents:
  """The latents of whole panoramas, encoded with left and right edges joined, so that they can be turned afterwards.

  Args:
    system: with a learned codec.
    params: of the system; at least those that its codec and its pretrained text encoder need.
    size: (H, W) of the panoramas.
    flips: store each mirrored, too, but for clips whose caption names sides.
    batch: panoramas that a device encodes at a time.

  Raises:
    InputError: for a codec that does not look across edges, or a size that it cannot encode.
  """

  name = "panorama_latents"
  views = 1

  def __init__(self, system: System, params: Params, size: tuple[int, int], flips: bool = False, batch: int = 1):
    if "vae" not in system.pretrained:
      raise InputError("latents of whole panoramas are for learned codecs, which look across the seam; this model's "
                       "codec needs no training and codes blocks by themselves: store pixels instead")
    factor = system.view_size[0] // system.rays_size[0]
    if any(side % factor for side in size):
      raise InputError(f"panoramas of {size[1]}x{size[0]} pixels make no whole latents of {factor} x {factor}: prepare "
                       f"them with a height that is a multiple of {factor}")
    self.size, self.flips = tuple(size), flips
    self._model = _Model(system, params, batch, circular=True)

  def about(self) -> dict[str, Any]:
    return {"store": self.name, "size": list(self.size), "flips": self.flips, **self._model.about(self.size)}

  def variants(self, clip_id: str, caption: str) -> list[Variant]:
    """As they are; then mirrored, if the caption allows."""
    return [Variant(0.0, flip) for flip in ((False, True) if may_flip(caption, self.flips) else (False,))]

  def images(self, frames: Iterator[np.ndarray], variants: Sequence[Variant]) -> Iterator[bytes]:
    return self._model.encode(changed(frame, variant) for frame in frames for variant in variants)

  def text(self, caption: str) -> bytes:
    return self._model.encode_text(caption)


class _Model:
  """The frozen networks of a system, on all devices of this process, each of which encodes whole batches.

  Every batch is filled up to the same size, and a clip begins a new one: the bytes of a clip depend on nothing but the
  clip.
  """

  def __init__(self, system: System, params: Params, batch: int, circular: bool = False):
    if batch < 1:
      raise InputError(f"a device must encode 1 image at a time at least, got {batch}")
    self._system, self._circular = system, circular
    devices = Mesh(np.array(jax.local_devices()), ("images",))
    self._everywhere = NamedSharding(devices, PartitionSpec())
    self._shared = NamedSharding(devices, PartitionSpec("images"))
    self._batch = batch * devices.size
    self._params = jax.device_put(system.key_params(params), self._everywhere)

  def about(self, size: tuple[int, int]) -> dict[str, Any]:
    """JSON: what decides the bytes, for images of (h, w)."""
    image = jax.ShapeDtypeStruct((1, 1, 1, *size, 3), jnp.uint8)
    stored = jax.eval_shape(functools.partial(self._system.encode_stored, circular=self._circular), self._params, image)
    shape, key = list(stored.shape[3:]), self._system.stored_key(self._params)
    text = {"text": None}
    if "text" in key:
      ids = jax.ShapeDtypeStruct((1, len(self._system.tokenize(""))), jnp.int32)
      states = jax.eval_shape(self._system.encode_text, self._params, ids, jax.ShapeDtypeStruct((1,), jnp.float32))
      text = {"text shape": list(states.shape[1:])}
    return {"shape": shape, "dtype": "bfloat16", "factor": size[0] // shape[0], "scaled": key["codec weights"] is None,
            "circular": self._circular, **key, **text}

  def encode(self, images: Iterator[np.ndarray]) -> Iterator[bytes]:
    """uint8 [h w 3] each -> bfloat16 [h' w' c] each; while one batch is encoded, the images of the next are made."""
    running = None
    while batch := list(itertools.islice(images, self._batch)):
      count = len(batch)
      batch += batch[-1:] * (self._batch - count)
      started = count, self._encode(self._params, jax.device_put(np.stack(batch), self._shared))
      if running is not None:
        yield from _records(*running)
      running = started
    if running is not None:
      yield from _records(*running)

  def encode_text(self, caption: str) -> bytes:
    """bfloat16 [l c] of a pretrained encoder, or nothing."""
    return np.asarray(self._text_states(caption)).tobytes() if "text" in self._params else b""

  def _text_states(self, caption: str) -> jax.Array:
    ids = np.asarray(self._system.tokenize(caption), np.int32)[None]
    return self._encode_text(self._params, jax.device_put(ids, self._everywhere))[0]

  @functools.cached_property
  def _encode(self):
    def encode(params, images):
      stored = self._system.encode_stored(params, images[:, None, None], circular=self._circular)
      return stored[:, 0, 0].astype(jnp.bfloat16)

    return jax.jit(encode, in_shardings=(self._everywhere, self._shared), out_shardings=self._shared)

  @functools.cached_property
  def _encode_text(self):
    def encode(params, ids):
      return self._system.encode_text(params, ids, jnp.ones(1)).astype(jnp.bfloat16)

    return jax.jit(encode, out_shardings=self._everywhere)


def _records(count: int, latents: jax.Array) -> Iterator[bytes]:
  """The first `count` of a batch, as bytes."""
  for image in np.asarray(latents)[:count]:
    yield image.tobytes()
