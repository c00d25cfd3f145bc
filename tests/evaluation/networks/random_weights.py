"""Random weights of networks of metrics: the tests draw them again, from a frozen stream of NumPy, and keep none."""

from collections.abc import Mapping
import math

import numpy as np


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
  """Weights for a network in torch's names and layouts, such that activations stay at about unit size.

  Args:
    shapes: {name: shape}; its order does not matter.
    seed: of `np.random.RandomState`, whose streams are the same in every version of NumPy.

  Returns:
    {name: float32}; no value has its usual one (0 or 1), so that none can be left out unnoticed.
  """
  stream = np.random.RandomState(seed)
  weights = {}
  for name in sorted(shapes):
    values = stream.standard_normal(shapes[name])
    if name.endswith("running_var"):
      values = np.exp(0.3 * values)
    elif len(shapes[name]) > 1:
      values *= math.sqrt(2 / math.prod(shapes[name][1:]))
    else:
      values = 0.1 * values + name.endswith("weight")
    weights[name] = values.astype(np.float32)
  return weights


def pixels(shape: tuple[int, ...], seed: int) -> np.ndarray:
  """Smooth random images or videos [... h w c], float32 in [-1, 1]."""
  *outer, h, w, c = shape
  stream = np.random.RandomState(seed)
  waves = stream.uniform(-8, 8, (*outer, 1, 1, c, 6))
  y, x = np.linspace(0, 1, h)[:, None, None], np.linspace(0, 1, w)[:, None]
  wave = lambda i: np.sin(waves[..., i] * y + waves[..., i + 1] * x + waves[..., i + 2])
  return (0.5 * wave(0) + 0.5 * wave(3)).astype(np.float32)
