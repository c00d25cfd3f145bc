"""The DDIM sampler: one `lax.scan` over steps, so that a whole generation is one compiled program."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.diffusion.schedule import Schedule, check_prediction, to_clean_and_noise

Denoiser = Callable[..., jax.Array]
"""(noised [b …], timestep int [b]) -> ε or v [b …]; with `per_step`, its values for the step are a third argument."""


@dataclasses.dataclass(frozen=True, eq=False)
class DDIM:
  """Deterministic DDIM (η = 0; Song et al. 2021, eq. 12).

  Attributes:
    schedule: the noise schedule that the network was trained on.
    steps: network evaluations.
    prediction: "epsilon" or "v".
    spacing: "leading" takes multiples of T // steps plus `offset` (Stable Diffusion); "trailing" begins at the last
      timestep (Lin et al. 2023), which a shifted schedule wants: its last timestep is all but pure noise.
    offset: added to "leading" timesteps.
    final_alpha_one: the step after the last goes to ᾱ = 1, otherwise to the schedule's first ᾱ.

  Raises:
    ValueError: for unknown options, more steps than timesteps, or ε from a timestep without any signal.
  """

  schedule: Schedule
  steps: int = 25
  prediction: str = "v"
  spacing: str = "leading"
  offset: int = 1
  final_alpha_one: bool = True

  def __post_init__(self):
    check_prediction(self.prediction)
    if self.spacing not in ("leading", "trailing"):
      raise ValueError(f'spacing must be "leading" or "trailing", got {self.spacing!r}')
    if not 1 <= self.steps <= len(self.schedule):
      raise ValueError(f"steps must be 1 to {len(self.schedule)}, got {self.steps}")
    total = len(self.schedule)
    if not strides_end(self.steps, total, self.spacing):
      raise ValueError(f"{self.steps} trailing steps must divide the {total} timesteps, or be at most {total // 4}")
    if self.prediction == "epsilon" and self.schedule.alphas_cumprod[self.timesteps[0]] == 0:
      raise ValueError('an ε-prediction cannot start from a timestep of zero signal: use prediction="v", or a schedule '
                       "without zero_terminal_snr")

  @property
  def timesteps(self) -> np.ndarray:
    """int32 [steps], from noisy to clean."""
    total = len(self.schedule)
    if self.spacing == "leading":
      timesteps = (np.arange(self.steps) * (total // self.steps))[::-1] + self.offset
    else:
      timesteps = np.round(np.arange(total, 0, -total / self.steps)) - 1
    return np.minimum(timesteps, total - 1).astype(np.int32)

  def __call__(self, denoiser: Denoiser, noise: jax.Array, trace: bool = False,
               on_step: Callable[[], None] | None = None, per_step: Any = None,
               after_step: Callable[[jax.Array], jax.Array] | None = None) -> jax.Array:
    """Samples.

    Args:
      denoiser: called once per step inside the scan.
      noise: [b …] unit Gaussian.
      trace: return the state before the first and after every step.
      on_step: called on the host after every step, for a progress bar; the device does not wait for it.
      per_step: a tree of arrays [steps …], of which the denoiser is given those of its step.
      after_step: what is done to the state after every step.

    Returns:
      [b …], or [steps+1 b …] with `trace`.
    """
    alphas = self.schedule.alphas_cumprod
    # As in the reference samplers, the next timestep is a fixed stride away, whatever the spacing.
    following = self.timesteps - len(alphas) // self.steps
    final = 1.0 if self.final_alpha_one else alphas[0]
    next_alphas = np.where(following >= 0, alphas[np.maximum(following, 0)], final)
    roots = lambda values: np.stack([np.sqrt(values), np.sqrt(1 - values)], -1).astype(np.float32)
    known = tuple(map(jnp.asarray, (self.timesteps, roots(alphas[self.timesteps]), roots(next_alphas))))
    told = () if per_step is None else (jax.tree.map(jnp.asarray, per_step),)

    def step(x, inputs):
      (timestep, (a, s), (next_a, next_s)), told = inputs
      output = denoiser(x, jnp.full((x.shape[0],), timestep), *told)
      clean, epsilon = to_clean_and_noise(self.prediction, output, x, a, s)
      x = (next_a * clean + next_s * epsilon).astype(x.dtype)
      x = x if after_step is None else after_step(x)
      if on_step is not None:
        # With a value of the new state as argument it cannot run before the step has.
        jax.debug.callback(lambda _: on_step(), x.ravel()[0])
      return x, x if trace else None

    x, states = jax.lax.scan(step, noise, (known, told))
    return jnp.concatenate([noise[None], states]) if trace else x


def strides_end(steps: int, timesteps: int, spacing: str) -> bool:
  """Whether strides of a whole number of timesteps end near the clean end: many that do not divide them end far off."""
  return spacing != "trailing" or steps <= timesteps // 4 or timesteps % steps == 0
