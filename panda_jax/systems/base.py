"""What every system offers. The trainer, the checkpoints, the generator and the planner know only this."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import numpy as np

from panda_jax.geometry import Rig

Params = dict[str, Any]
Batch = dict[str, jax.Array]


class System(Protocol):
  """A published method.

  Attributes:
    rig: cameras of the views.
    view_size: (h, w) of a view in pixels.
    rays_size: (h, w) of a view's rays, that is, of its latents.
    timesteps: length of the noise schedule, the most steps that a sampler can take.
    pretrained: networks, such as "vae", that come from elsewhere and are never trained: training needs them to begin.
  """

  rig: Rig
  view_size: tuple[int, int]
  rays_size: tuple[int, int]
  timesteps: int
  pretrained: tuple[str, ...]

  def init(self, rng: jax.Array) -> Params:
    """Fresh parameters, a nested dict with string keys."""

  def trainable(self, path: str) -> bool:
    """Whether the parameter at "unet/conv_in/kernel" … is trained."""

  def batch_spec(self, shape: tuple[int, int], batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of `batch_size` matrices of (views, frames)."""

  def loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(scalar, scalar metrics)."""

  def sample(self, params: Params, request: Batch, rng: jax.Array, *, steps: int, guidance: float,
             noise_scale: float) -> jax.Array:
    """One window of frames: uint8 [b v f h w 3]."""

  def tokenize(self, text: str) -> np.ndarray:
    """int32 [l]."""

  def unknown_words(self, text: str) -> list[str]:
    """The words of a prompt that mean nothing to the text encoder."""
