"""Codecs turn pixels into latents and back. This one needs no training: a block cosine transform, scaled.

It stands where Stable Diffusion's VAE stands in the full-size systems and has the same interface, so that the tiny
model runs the real path without weights to download.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange


class Codec(Protocol):
  """Pixels in [-1, 1] to latents of about unit variance, and back.

  Attributes:
    factor: pixels per latent in h and in w.
    channels: latent channels.
  """

  factor: int
  channels: int

  def encode(self, pixels: jax.Array) -> jax.Array:
    """[... h w 3] in [-1, 1] -> [... h/factor w/factor channels]."""

  def decode(self, latents: jax.Array) -> jax.Array:
    """[... h w channels] -> [... h*factor w*factor 3]."""


# Rec. 601 luma and colour differences, as in JPEG.
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)


class CosineCodec:
  """4x4 block cosine transform of luma, and of the chroma's `chroma_size` x `chroma_size` lowest frequencies.

  The transform keeps all of the luma, so that a decoded view is as sharp as the given one. Coefficients fall off with
  frequency in every natural image; each is divided by about its expected size. On the procedural worlds the low ones
  come out with unit deviation and the highest with a quarter of it: they matter less to the eye, and so to the loss.
  """

  factor = 4

  def __init__(self, chroma_size: int = 2):
    """Raises ValueError unless 1 <= chroma_size <= 4."""
    if not 1 <= chroma_size <= self.factor:
      raise ValueError(f"chroma_size must be 1 to {self.factor}, got {chroma_size}")
    self.chroma_size = chroma_size
    self.channels = self.factor**2 + 2 * chroma_size**2
    k = np.arange(self.factor)
    basis = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / self.factor) * np.sqrt(2 / self.factor)
    basis[0] /= np.sqrt(2)
    self._basis = basis.astype(np.float32)                                       # [frequency position], orthonormal
    frequency = np.hypot(*np.meshgrid(k, k))
    scale = 1 / (1 + 5.0 * frequency + 1.5 * frequency**2)                       # fall-off measured on the worlds
    self._luma_scale = (_LUMA_DEVIATION * scale).astype(np.float32)
    self._chroma_scale = (_CHROMA_DEVIATION * scale[:chroma_size, :chroma_size]).astype(np.float32)

  def encode(self, pixels: jax.Array) -> jax.Array:
    """[... h w 3] in [-1, 1] -> [... h/4 w/4 channels].

    Raises:
      ValueError: if h or w is not a multiple of 4 or the last axis is not RGB.
    """
    if pixels.shape[-1] != 3 or pixels.shape[-3] % self.factor or pixels.shape[-2] % self.factor:
      raise ValueError(f"pixels must be [... h w 3] with h and w multiples of {self.factor}, got {pixels.shape}")
    ycc = jnp.einsum("...c,kc->...k", pixels, _TO_YCC)
    blocks = rearrange(ycc, "... (h p) (w q) k -> ... h w k p q", p=self.factor, q=self.factor)
    blocks = jnp.einsum("...pq,up,vq->...uv", blocks, self._basis, self._basis)
    n = self.chroma_size
    luma = blocks[..., 0, :, :] / self._luma_scale
    chroma = blocks[..., 1:, :n, :n] / self._chroma_scale
    return jnp.concatenate([rearrange(luma, "... u v -> ... (u v)"), rearrange(chroma, "... k u v -> ... (k u v)")], -1)

  def decode(self, latents: jax.Array) -> jax.Array:
    """[... h w channels] -> [... 4h 4w 3], not clipped."""
    p, n = self.factor, self.chroma_size
    luma = rearrange(latents[..., : p * p], "... (u v) -> ... 1 u v", u=p) * self._luma_scale
    chroma = rearrange(latents[..., p * p :], "... (k u v) -> ... k u v", u=n, v=n) * self._chroma_scale
    chroma = jnp.pad(chroma, [(0, 0)] * (chroma.ndim - 2) + [(0, p - n)] * 2)
    blocks = jnp.concatenate([luma, chroma], axis=-3)
    blocks = jnp.einsum("...uv,up,vq->...pq", blocks, self._basis, self._basis)
    ycc = rearrange(blocks, "... h w k p q -> ... (h p) (w q) k")
    return jnp.einsum("...k,ck->...c", ycc, np.linalg.inv(_TO_YCC).astype(np.float32))


# Standard deviation of the lowest coefficient over blocks of the procedural worlds (pixels in [-1, 1]).
_LUMA_DEVIATION = 1.7
_CHROMA_DEVIATION = 0.6
