"""Confidence intervals of means over clips: a bootstrap in which every metric and method draws the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

Interval = tuple[float | None, float | None]
NONE: Interval = (None, None)


def bootstrap_mean(values: Sequence[float], *, samples: int, confidence: float, seed: int) -> Interval:
  """Percentile interval of a mean; none of fewer than two values. For paired differences give the differences.

  Source: Efron and Tibshirani 1993, §13.3.
  """
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return NONE
  rng = np.random.default_rng(seed)
  means = np.concatenate([values[rng.integers(0, len(values), (count, len(values)))].mean(1)
                          for count in _blocks(samples, len(values))])
  low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
  return float(low), float(high)


def normal_interval(value: float, error: float, confidence: float) -> Interval:
  """From a standard error."""
  reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
  return value - reach, value + reach


def _blocks(samples: int, values: int) -> list[int]:
  """Counts of samples that are drawn at once, so that memory does not grow with their product."""
  most = max(1, 4_000_000 // values)
  return [min(most, samples - start) for start in range(0, samples, most)]
