"""What 360DVD does to a video model so that its pictures close into a panorama: switches that any system can use.

The latents are turned by a quarter after every denoising step, so that no edge stays in one place; convolutions join the
left and right edges in the later steps and in the decoder; the loss counts a row by its latitude.

Source: 360DVD §3.3 and its code, which differ in much: `PRESETS` has both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.diffusion.ddim import DDIM

_QUARTERS = 4                                                   # of a full turn: θ is 90° in the paper and in the code


@dataclasses.dataclass(frozen=True)
class Enhancement:
  """The switches; the defaults are those of the official code.

  Attributes:
    rotation_sign: the way that latents are turned after each step: 1 to the right, -1 to the left, 0 not at all.
    rotate_condition: turn the features of the condition with the latents. The code means to and does not.
    unrotate_output: turn the latents back at the end. Otherwise 25 steps leave them a quarter from where they began.
    adapter_stop: part of the steps after which the condition's features are zeros; 1: never.
    circular_start: part of the steps after which convolutions join the left and right edges; 1: never.
    circular_rounding: of an odd number of steps, whether the step in the middle is circular ("down") or not ("up").
    circular_decode: whether the decoder joins the edges.
    loss_weight_power: of the latitude weight that multiplies the squared error; 0: rows count alike.
    flip_fixes_flow: exchange left and right in the flow of mirrored clips, whose direction would be wrong otherwise.

  Raises:
    ValueError: for values that mean nothing.
  """

  rotation_sign: int = 1
  rotate_condition: bool = False
  unrotate_output: bool = False
  adapter_stop: float = 0.75
  circular_start: float = 0.5
  circular_rounding: str = "down"
  circular_decode: bool = True
  loss_weight_power: int = 1
  flip_fixes_flow: bool = False

  def __post_init__(self):
    if self.rotation_sign not in (-1, 0, 1):
      raise ValueError(f"rotation_sign is 1 (right), -1 (left) or 0 (none), got {self.rotation_sign}")
    for name in ("adapter_stop", "circular_start"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} is a part of the steps, from 0 to 1, got {getattr(self, name)}")
    if self.circular_rounding not in ("down", "up"):
      raise ValueError(f'circular_rounding is "down" or "up", got {self.circular_rounding!r}')
    if self.loss_weight_power not in (0, 1, 2):
      raise ValueError(f"loss_weight_power is 0, 1 or 2, got {self.loss_weight_power}")

  def steps(self, count: int) -> Step:
    """What each of `count` denoising steps does: arrays [count] of NumPy."""
    step = np.arange(count)
    # As the code counts: up to and with step 3 · (T // 4), and from step T // 2 on.
    stop = self.adapter_stop * _QUARTERS * (count // _QUARTERS)
    rounded = np.floor if self.circular_rounding == "down" else np.ceil
    return Step(circular=step >= rounded(self.circular_start * count),
                condition=(step <= stop) | (self.adapter_stop == 1),
                turned=(self.rotation_sign * step % _QUARTERS).astype(np.int32))

  def left_turned(self, count: int) -> int:
    """By how many quarters to the right the output of `count` steps is turned, 0 to 3."""
    return 0 if self.unrotate_output else self.rotation_sign * count % _QUARTERS


PRESETS = {
  "official": Enhancement(),
  "paper": Enhancement(rotation_sign=-1, rotate_condition=True, unrotate_output=True, adapter_stop=1.0,
                       circular_rounding="up", loss_weight_power=2, flip_fixes_flow=True),
}
"""`official` is 360DVD's code to the letter. `paper` is its text and equations (§3.3), and, where it is silent, what they
presuppose: the output is turned back, and the flow of mirrored clips says where things move."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
  """One denoising step: scalars, traced in a sampler.

  Attributes:
    circular: bool, whether convolutions join the edges.
    condition: bool, whether the condition's features are used.
    turned: int, by how many quarters to the right the latents are turned by now.
  """

  circular: jax.Array
  condition: jax.Array
  turned: jax.Array


def sample_panorama(sampler: DDIM, denoiser: Callable[[jax.Array, jax.Array, Step], jax.Array], noise: jax.Array,
                    enhancement: Enhancement, trace: bool = False,
                    on_step: Callable[[], None] | None = None) -> jax.Array:
  """Samples latents of panoramas; one program has all kinds of steps.

  Args:
    sampler: the schedule and the number of steps.
    denoiser: (noised [b … w c], timestep int [b], `Step`) -> ε or v.
    noise: [b … w c] unit Gaussian, w in four quarters.
    enhancement: the switches.
    trace, on_step: as of `DDIM`; states are those after a step and its turn, and are never turned back.

  Returns:
    [b … w c], or [steps+1 b … w c] with `trace`.

  Raises:
    ValueError: if the width has no quarters.
  """
  sign = enhancement.rotation_sign
  states = sampler(denoiser, noise, trace=trace, on_step=on_step, per_step=enhancement.steps(sampler.steps),
                   after_step=(lambda x: turned(x, sign)) if sign else None)
  return turned(states, -sign * sampler.steps) if enhancement.unrotate_output and not trace else states


def turned(x: jax.Array, quarters: int | jax.Array) -> jax.Array:
  """Turns panoramas to the right by quarters of their width, perhaps a traced number of them: [… w c] -> the same.

  Raises:
    ValueError: if the width has no quarters.
  """
  width = x.shape[-2]
  if width % _QUARTERS:
    raise ValueError(f"a panorama of {width} columns cannot be turned by a quarter: give a multiple of {_QUARTERS}")
  return jnp.roll(x, quarters * (width // _QUARTERS), axis=-2)


def used(features: list[jax.Array], step: Step, enhancement: Enhancement) -> list[jax.Array]:
  """A condition's features [… w c] as a step wants them: turned with the latents where they should be, or zeros."""
  if enhancement.rotate_condition:
    features = [turned(feature, step.turned) for feature in features]
  return [jnp.where(step.condition, feature, 0) for feature in features]


def latitude_weight(rows: int, power: int = 1) -> np.ndarray:
  """How much each row of a panorama counts: the cosine of its latitude, to a power.

  Returns:
    float32 [rows 1 1], to multiply squared errors [… h w c]. It is not normalised: its mean is 0.64 for power 1, 0.5 for
    power 2.

  Source: 360DVD eq. 10. Its code multiplies the squared error by the weight; eq. 9 squares their product.
  """
  latitude = ((np.arange(rows) + 0.5) / rows - 0.5) * np.pi
  return (np.cos(latitude) ** power).astype(np.float32)[:, None, None]
