"""A smooth picture painted on the sphere, known in every direction."""

import numpy as np

_RNG = np.random.default_rng(0)
_WAVES = _RNG.normal(size=(12, 3))
_WAVES *= _RNG.uniform(2, 8, size=(12, 1)) / np.linalg.norm(_WAVES, axis=1, keepdims=True)
_PHASES = _RNG.uniform(0, 2 * np.pi, size=12)


def paint(directions: np.ndarray) -> np.ndarray:
  """[... 3] unit directions -> [... 3] float32 colours in (-1, 1): four plane waves of 2 to 8 radians per channel."""
  waves = np.sin(directions.astype(np.float64) @ _WAVES.T + _PHASES)
  return waves.reshape(*waves.shape[:-1], 3, 4).mean(-1).astype(np.float32)


def psnr(image: np.ndarray, reference: np.ndarray, value_range: float = 2.0) -> float:
  """Decibels, over all pixels."""
  error = np.mean((image.astype(np.float64) - reference) ** 2)
  return float(10 * np.log10(value_range**2 / error))
