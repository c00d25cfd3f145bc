"""What every system offers. The trainer, the checkpoints, the generator and the planner know only this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from panda_jax.geometry import Shown

Params = dict[str, Any]
Batch = dict[str, jax.Array]


class System(Protocol):
  """A published method.

  Attributes:
    shows: what of a panorama its training examples and its samples are. What goes with a rig, such as a given view, the
      generator asks of systems that show `RigViews` only.
    most_frames: of a clip, where `shows` is `WholePanoramas`; other systems have none, for they go on from window to
      window.
    timesteps: length of the noise schedule, the most steps that a sampler can take.
    takes_images: whether images can be given; stage one of VideoPanda goes by its text alone.
    letters: the axes of the arrays of a batch, "b v f h w c"; what is not named, such as one number for each clip, has
      the axis b alone. By these letters devices share a batch.
    pretrained: words for what comes from elsewhere and is never trained, such as "vae": training needs it to begin.
  """

  shows: Shown
  timesteps: int
  takes_images: bool
  letters: dict[str, str]
  pretrained: tuple[str, ...]

  def init(self, rng: jax.Array) -> Params:
    """Fresh parameters, a nested dict with string keys."""

  def adopt(self, params: Params, rng: jax.Array) -> Params:
    """All parameters, from those of a model that lacks only what this system adds; InputError if it lacks more."""

  def trainable(self, path: str) -> bool:
    """Whether the parameter at "unet/conv_in/kernel" … is trained."""

  def batch_spec(self, shape: tuple[int, int], batch_size: int, *, latents: bool = False,
                 text_states: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of `batch_size` matrices of (views, frames).

    Args:
      shape: (views, frames).
      batch_size: of all devices.
      latents: whether the dataset stores what `encode_stored` makes of images.
      text_states: whether it stores states of the pretrained text encoder.
    """

  def request_spec(self, shape: tuple[int, int], batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What `sample_latents` is told of `batch_size` matrices of (views, frames), beside the given latents."""

  def draw(self, rng: jax.Array, batch: Batch, timestep: jax.Array | int | None = None) -> Batch:
    """The batch with all that is random about its loss as arrays [b …]; `timestep`: one for all, instead of random."""

  def loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(scalar, scalar metrics), means over clips; `rng` draws what is random unless `draw` has.

    In a training step the arrays are one device's part of the batch, and `panda_jax.parallel.exchange` does what needs
    the whole matrix. `sample_latents` likewise.
    """

  def encode_images(self, params: Params, images: jax.Array) -> jax.Array:
    """uint8 [b v f h w 3] -> latents [b v f h' w' c]."""

  def encode_stored(self, params: Params, images: jax.Array, circular: bool = False) -> jax.Array:
    """uint8 [b v f h w 3] -> what a dataset stores of them, [b v f h' w' c]; `circular`: left and right edges join."""

  def key_params(self, params: Params) -> Params:
    """The parameters that `encode_stored` and stored text states depend on."""

  def stored_key(self, params: Params) -> dict[str, Any]:
    """JSON: all that stored latents ("codec", "codec weights") and text states ("text", "text weights", "tokenizer")
    depend on: a dataset made with another key is stale."""

  def sample_latents(self, params: Params, given: jax.Array, request: Batch, rng: jax.Array, *, steps: int,
                     guidance: float, noise_scale: float = 1.0, spacing: str = "trailing", rescale: float = 0.0,
                     on_step: Callable[[], None] | None = None) -> jax.Array:
    """One window of frames: latents [b v f h' w' c], where the request's mask says so those that are given."""

  def decode(self, params: Params, latents: jax.Array) -> jax.Array:
    """Latents [b v f h' w' c] -> uint8 [b v f h w 3], which `shows.panorama` makes one of."""

  def tokenize(self, text: str) -> np.ndarray:
    """int32 [l]."""

  def unknown_words(self, text: str) -> list[str]:
    """The words of a prompt that mean nothing to the text encoder."""
