"""The Fréchet distance between two sets of features, on the host and in float64: FID, FVD and their relatives.

Features are summed up as they come (`Moments`), and sums of several hosts are added. What is between the sums and the
distance is written for sets that are smaller than their features have dimensions, too: their covariances have no full
rank, and square roots of what rounding leaves there would add up.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable

import numpy as np
import scipy.linalg

NORMALISERS = ("n-1", "n")


@dataclasses.dataclass(frozen=True)
class Moments:
  """Sums over a set of features, which are all that the distance needs; add two for the union of their sets.

  Sums are taken about the first feature of the set that was summed, for digits.

  Attributes:
    count: how many features.
    origin: [d], which was subtracted from each.
    total: [d], their sum.
    products: [d d], the sum of their outer products.
  """

  count: int
  origin: np.ndarray
  total: np.ndarray
  products: np.ndarray

  @classmethod
  def of(cls, features: np.ndarray) -> Moments:
    """The moments of features [n d] of any floating type.

    Raises:
      ValueError: if there is none, the shape is another, or a value is not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not features.size:
      raise ValueError(f"features must be [n d] and not empty, got shape {features.shape}")
    if not np.isfinite(features).all():
      raise ValueError(f"{np.sum(~np.isfinite(features).all(1))} of {len(features)} features hold NaN or infinity")
    centred = features - features[0]
    return cls(len(features), features[0], centred.sum(0), centred.T @ centred)

  @classmethod
  def of_all(cls, parts: Iterable[np.ndarray]) -> Moments:
    """The moments of many arrays [n d], of which only one is held at a time.

    Raises:
      ValueError: if there is no array, or one is not as `of` wants it.
    """
    result = None
    for part in parts:
      result = cls.of(part) if result is None else result + cls.of(part)
    if result is None:
      raise ValueError("there are no features")
    return result

  def __add__(self, other: Moments) -> Moments:
    if self.total.shape != other.total.shape:
      raise ValueError(f"features of {len(self.total)} and of {len(other.total)} dimensions cannot be one set")
    moved = other._about(self.origin)
    return Moments(self.count + moved.count, self.origin, self.total + moved.total, self.products + moved.products)

  def _about(self, origin: np.ndarray) -> Moments:
    shift = self.origin - origin
    cross = np.outer(self.total, shift)
    return Moments(self.count, origin, self.total + self.count * shift,
                   self.products + cross + cross.T + self.count * np.outer(shift, shift))

  @property
  def mean(self) -> np.ndarray:
    """[d]."""
    return self.origin + self.total / self.count

  def covariance(self, normaliser: str = "n-1") -> np.ndarray:
    """[d d]; `normaliser` is what the sum of squares is divided by, "n-1" or "n".

    Raises:
      ValueError: if the normaliser is unknown, or is "n-1" of a single feature.
    """
    divisor = _divisor(self.count, normaliser)
    centre = self.total / self.count
    return (self.products - self.count * np.outer(centre, centre)) / divisor


def frechet_distance(a: Moments, b: Moments, normaliser: str = "n-1") -> float:
  """|mean a - mean b|² + tr(A + B - 2 (A B)^½), of normal distributions with these means and covariances A, B.

  The trace of the root is the sum of the singular values of A^½ B^½, which loses no digits to the square root of a small
  eigenvalue.

  Args:
    a, b: of features of one dimension.
    normaliser: "n-1" (TTUR, pytorch-fid, tf-gan) or "n" (StyleGAN).

  Returns:
    0 for equal sets, up to rounding; never negative.

  Raises:
    ValueError: if the dimensions differ, or a set is too small for its normaliser.

  Source: Dowson and Landau 1982; Heusel et al. 2017, eq. 6.
  """
  if a.total.shape != b.total.shape:
    raise ValueError(f"features of {len(a.total)} and of {len(b.total)} dimensions cannot be compared")
  roots = [_factor(moments.covariance(normaliser)) for moments in (a, b)]
  return _distance(a.mean, b.mean, *roots)


def frechet_of_features(a: np.ndarray, b: np.ndarray, normaliser: str = "n-1") -> float:
  """`frechet_distance` of two sets of features [n d]: faster than by moments where n < d, and equal.

  Raises:
    ValueError: as `Moments.of` and `frechet_distance`.
  """
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  if min(len(a), len(b)) >= a.shape[1]:
    return frechet_distance(Moments.of(a), Moments.of(b), normaliser)
  roots = [(x - x.mean(0)).T / np.sqrt(_divisor(len(x), normaliser)) for x in (a, b)]
  return _distance(a.mean(0), b.mean(0), *roots)


def frechet_by_groups(a: Iterable[np.ndarray], b: Iterable[np.ndarray], items: int, normaliser: str = "n-1",
                      groups: int = 10) -> tuple[float, np.ndarray]:
  """The distance of two sets that come clip by clip, and the distances without each of `groups` parts of both.

  Resampling with replacement, as a bootstrap does, makes sets that look less varied than they are, and raises a Fréchet
  distance by that alone; leaving a part out does not.

  Args:
    a, b: features [n d] of each clip, `items` arrays each, the k-th of both of one clip; read once, one at a time.
    items: how many clips.
    normaliser: see `frechet_distance`.
    groups: into how many parts the clips are divided, fewer where there are fewer clips; clip k is in part k modulo
      `groups`. Fewer than 2: nothing is left out.

  Returns:
    The distance, and [groups] of those for `jackknife_error`, which are exact to about 1e-4; empty for fewer than two.

  Raises:
    ValueError: as `Moments.of` and `frechet_distance`.
  """
  groups = min(groups, items)
  parts = [_by_group(side, max(groups, 1)) for side in (a, b)]
  total = [_joined(side) for side in parts]
  distance = _between(*total, normaliser)
  if groups < 2:
    return distance, np.zeros(0)
  without = [[_joined(side[:group] + side[group + 1:]) for side in parts] for group in range(groups)]
  return distance, np.array([_between(*sides, normaliser, quick=True) for sides in without])


def jackknife_error(without: np.ndarray) -> float:
  """The standard error of a statistic from its values without each part (Shao and Tu 1995, delete-d jackknife)."""
  groups = len(without)
  return float(np.sqrt((groups - 1) / groups * np.square(without - without.mean()).sum()))


def _by_group(clips: Iterable[np.ndarray], groups: int) -> list[Moments] | list[np.ndarray]:
  """The clips' features in groups: themselves where they are fewer than their dimensions, otherwise their moments."""
  features: list[list[np.ndarray]] = [[] for _ in range(groups)]
  moments: list[Moments | None] = [None] * groups
  count = 0
  for number, clip in enumerate(clips):
    group, count = number % groups, count + len(clip)
    features[group].append(np.asarray(clip))
    if count < clip.shape[1]:
      continue
    for index, waiting in enumerate(features):        # from here on there is one array at a time
      for array in waiting:
        part = Moments.of(array)
        moments[index] = part if moments[index] is None else moments[index] + part
      waiting.clear()
  if not count:
    raise ValueError("there are no features")
  return moments if moments[0] is not None else [np.concatenate(part) for part in features]


def _joined(parts: list[Moments] | list[np.ndarray]) -> Moments | np.ndarray:
  if isinstance(parts[0], Moments):
    return functools.reduce(operator.add, parts)
  return np.concatenate(parts)


def _between(a: Moments | np.ndarray, b: Moments | np.ndarray, normaliser: str, quick: bool = False) -> float:
  if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
    return frechet_of_features(a, b, normaliser)
  a, b = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
  if not quick:
    return frechet_distance(a, b, normaliser)
  # Eigenvalues of the symmetric product take a fifth of the time, and half of the digits of the smallest.
  other, root = a.covariance(normaliser), _factor(b.covariance(normaliser))
  cross = np.sqrt(np.linalg.eigvalsh(root.T @ other @ root).clip(0)).sum()
  return float(np.square(a.mean - b.mean).sum() + np.trace(other) + np.square(root).sum() - 2 * cross)


def _distance(mean_a: np.ndarray, mean_b: np.ndarray, root_a: np.ndarray, root_b: np.ndarray) -> float:
  """From means [d] and factors [d r] with covariance = root @ root.T."""
  cross = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
  spread = np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross
  return max(0.0, float(np.square(mean_a - mean_b).sum() + spread))


def _factor(covariance: np.ndarray) -> np.ndarray:
  """[d r] with covariance = factor @ factor.T; what is zero but for rounding is left out."""
  values, vectors = scipy.linalg.eigh(covariance, driver="evd")      # NumPy's takes twice the time
  kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
  return vectors[:, kept] * np.sqrt(values[kept])


def _divisor(count: int, normaliser: str) -> int:
  if normaliser not in NORMALISERS:
    raise ValueError(f"the normaliser of covariances must be {' or '.join(NORMALISERS)}, got {normaliser!r}")
  if normaliser == "n-1" and count < 2:
    raise ValueError("a covariance divided by n - 1 needs two features or more, got one")
  return count - 1 if normaliser == "n-1" else count
