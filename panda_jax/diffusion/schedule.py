"""Discrete noise schedules and the two predictions (ε and v) that networks make on them.

With a = sqrt(ᾱ) and s = sqrt(1 - ᾱ): noised = a x0 + s ε, and v = a ε - s x0 (Salimans & Ho 2022).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

PREDICTIONS = ("epsilon", "v")


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
  """ᾱ for each timestep. Changes return a new schedule; they are computed in float64 on the host.

  Attributes:
    alphas_cumprod: float64 [timesteps], falling from nearly 1 to nearly 0.
  """

  alphas_cumprod: np.ndarray

  def __post_init__(self):
    values = np.asarray(self.alphas_cumprod)
    if values.ndim != 1 or len(values) < 2 or (np.diff(values) > 0).any() or values[0] > 1 or values[-1] < 0:
      raise ValueError("alphas_cumprod must fall from at most 1 to at least 0 over two timesteps or more")

  def __len__(self) -> int:
    return len(self.alphas_cumprod)

  @classmethod
  def linear(cls, start: float, end: float, timesteps: int = 1000) -> "Schedule":
    """β linear from `start` to `end` (DDPM; AnimateDiff and 360DVD use 0.00085 to 0.012)."""
    return cls(np.cumprod(1 - np.linspace(start, end, timesteps)))

  @classmethod
  def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, timesteps: int = 1000) -> "Schedule":
    """sqrt(β) linear (Stable Diffusion)."""
    return cls(np.cumprod(1 - np.linspace(start**0.5, end**0.5, timesteps) ** 2))

  @property
  def log_snr(self) -> np.ndarray:
    """ln(ᾱ / (1 - ᾱ)), float64 [timesteps]."""
    with np.errstate(divide="ignore"):
      return np.log(self.alphas_cumprod) - np.log1p(-self.alphas_cumprod)

  def shifted(self, factor: float, mode: str = "interpolated") -> "Schedule":
    """Moves the schedule towards high noise, since more images of one scene survive more noise.

    Args:
      factor: how many times more images than the base model makes; 8 for VideoPanda's eight views.
      mode: "uniform" lowers every log SNR by ln(factor) (simple diffusion, CAT3D); "interpolated" by 0 at the first
        timestep up to ln(factor) at the last, which leaves the clean end as pretrained (MV-Adapter).

    Raises:
      ValueError: for an unknown mode or a factor below 1.

    Source: VideoPanda §3.1 and appendix A.2 ("interpolated SNR").
    """
    if mode not in ("interpolated", "uniform") or factor < 1:
      raise ValueError(f'shift needs a factor >= 1 and mode "interpolated" or "uniform", got {factor} and "{mode}"')
    weight = np.linspace(0, 1, len(self)) if mode == "interpolated" else 1.0
    return Schedule(1 / (1 + np.exp(-(self.log_snr - weight * np.log(factor)))))

  def zero_terminal_snr(self) -> "Schedule":
    """Stretches sqrt(ᾱ) so that the last timestep is pure noise (Lin et al. 2023, algorithm 1)."""
    root = np.sqrt(self.alphas_cumprod)
    return Schedule(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)

  def signal_and_noise(self, timestep: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
    """(a, s) of each clip's timestep, [b 1 … 1] with `ndim` axes."""
    # Two lookups: where one gathers both and parts them, XLA for CPUs (jax 0.10.2) gets some programs of b = 1 wrong.
    roots = np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod)
    a, s = (jnp.asarray(root, jnp.float32)[timestep].reshape(-1, *[1] * (ndim - 1)) for root in roots)
    return a, s

  def noised(self, clean: jax.Array, noise: jax.Array, timestep: jax.Array) -> jax.Array:
    """a x0 + s ε; clean, noise: [b …], timestep: int [b]."""
    a, s = self.signal_and_noise(timestep, clean.ndim)
    return a * clean + s * noise

  def target(self, clean: jax.Array, noise: jax.Array, timestep: jax.Array, prediction: str) -> jax.Array:
    """What the network should say: ε, or v = a ε - s x0."""
    if check_prediction(prediction) == "epsilon":
      return noise
    a, s = self.signal_and_noise(timestep, clean.ndim)
    return a * noise - s * clean


def check_prediction(prediction: str) -> str:
  """Returns it, or raises ValueError."""
  if prediction not in PREDICTIONS:
    raise ValueError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")
  return prediction


def to_clean_and_noise(prediction: str, output: jax.Array, noised: jax.Array, a: jax.Array,
                       s: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(x0, ε) from what the network said: ε = output, or x0 = a x - s v and ε = s x + a v."""
  if prediction == "epsilon":
    return (noised - s * output) / a, output
  return a * noised - s * output, s * noised + a * output
