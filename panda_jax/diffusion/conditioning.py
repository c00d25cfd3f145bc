"""Which images of a view-frame matrix are given, how they are noised, and guidance (VideoPanda §3.1-3.3, §4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

REGIMES = ("text", "video", "continuation")
"""Nothing given; the first view; the first view and the first frame of every view (paper figure 3 a, b, c)."""


def check_regimes(regimes: Sequence[str]) -> None:
  """Raises ValueError for an unknown regime, or none."""
  if not regimes or set(regimes) - set(REGIMES):
    raise ValueError(f"conditioning.regimes must be some of {', '.join(REGIMES)}, got {tuple(regimes)}")


def regime_mask(regime: jax.Array, views: int, frames: int) -> jax.Array:
  """int [b], indices into REGIMES -> float32 [b v f], 1 where an image is given."""
  view = jnp.arange(views)[:, None] == 0
  frame = jnp.arange(frames)[None, :] == 0
  masks = jnp.stack([jnp.zeros((views, frames), bool), jnp.broadcast_to(view, (views, frames)), view | frame])
  return masks[regime].astype(jnp.float32)


def group_sigma(mask: jax.Array, view_sigma: jax.Array, row_sigma: jax.Array) -> jax.Array:
  """The noise level of each image: the given video has one, the given first frames of the other views another.

  Args:
    mask: [b v f].
    view_sigma, row_sigma: [b].

  Returns:
    [b v f], 0 where nothing is given.
  """
  first_view = jnp.arange(mask.shape[1])[:, None] == 0
  return mask * jnp.where(first_view, view_sigma[:, None, None], row_sigma[:, None, None])


def draw_conditions(rng: jax.Array, batch: int, views: int, frames: int, *, regimes: Sequence[str] = REGIMES,
                    max_view_sigma: float, max_row_sigma: float, drop_images: float, drop_text: float,
                    drop_both: float, drop_video: float) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What one training example of each clip is told.

  Args:
    rng: key of all the draws.
    batch, views, frames: b, v, f.
    regimes: of REGIMES, each as likely as the others. A name may come twice; one alone trains a single task.
    max_view_sigma, max_row_sigma: noise levels are uniform from 0 up to these, drawn once for the given video and once
      for the given first frames of the other views.
    drop_images, drop_text, drop_both: probabilities to lose what is given, the text, and both, so that every branch of
      guidance has been trained.
    drop_video: probability that a continuation loses its video, so that a long video can also go on from its own last
      frames alone.

  Returns:
    mask [b v f], sigma [b v f], keep_text [b] (1 or 0).

  Raises:
    ValueError: for an unknown regime, or none.

  Source: VideoPanda §3.1 (noise augmentation, 10 % dropped), §3.2 (equal probability), table 3 (single task). Dropping
  the text, both, or a continuation's video is ours (the paper's unconditional branch has neither text nor video).
  """
  check_regimes(regimes)
  keys = jax.random.split(rng, 7)
  choices = jnp.array([REGIMES.index(name) for name in regimes])
  regime = choices[jax.random.randint(keys[0], (batch,), 0, len(choices))]
  both = jax.random.bernoulli(keys[1], drop_both, (batch,))
  images = jax.random.bernoulli(keys[2], drop_images, (batch,)) | both
  text = jax.random.bernoulli(keys[3], drop_text, (batch,)) | both
  mask = regime_mask(jnp.where(images, 0, regime), views, frames)
  first_frames = jnp.arange(frames) == 0
  no_video = (regime == REGIMES.index("continuation")) & jax.random.bernoulli(keys[6], drop_video, (batch,))
  mask = jnp.where(no_video[:, None, None], mask * first_frames, mask)
  view_sigma, row_sigma = (jax.random.uniform(key, (batch,), maxval=limit)
                           for key, limit in zip(keys[4:6], (max_view_sigma, max_row_sigma)))
  return mask, group_sigma(mask, view_sigma, row_sigma), 1.0 - text.astype(jnp.float32)


def guided(conditional: jax.Array, unconditional: jax.Array, scale: float) -> jax.Array:
  """Classifier-free guidance: unconditional + scale * (conditional - unconditional) (Ho & Salimans 2022)."""
  return unconditional + scale * (conditional - unconditional)


def rescaled(output: jax.Array, conditional: jax.Array, amount: float) -> jax.Array:
  """Brings a guided output back to the spread of the conditional one, which large scales inflate.

  Args:
    output, conditional: [… h w c].
    amount: 0 leaves the output, 1 gives each image the conditional one's standard deviation; 0.7 is usual.

  Source: Lin et al. 2023, §3.4. VideoPanda does not say that it does this.
  """
  axes = (-3, -2, -1)
  spread = jnp.maximum(output.std(axes, keepdims=True), 1e-12)                  # of an image of one value it is 0
  return output * (1 - amount + amount * conditional.std(axes, keepdims=True) / spread)
