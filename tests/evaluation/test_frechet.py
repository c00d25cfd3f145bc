"""The Fréchet distance is the textbook's, also for few features of many dimensions, and however the sums were taken."""

import numpy as np
import pytest
import scipy.linalg

from panda_jax.evaluation.frechet import (
  Moments, frechet_by_groups, frechet_distance, frechet_of_features, jackknife_error)


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
  """Correlated, skewed and positive, like those of a network."""
  rng = np.random.default_rng(seed)
  mix = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
  return np.abs(rng.normal(size=(n, d)) @ mix + shift) * np.linspace(0.1, 1, d)


def by_scipy(a: np.ndarray, b: np.ndarray, normaliser: int) -> float:
  """As TTUR and pytorch-fid write it."""
  s, t = (np.cov(x, rowvar=False, ddof=normaliser) for x in (a, b))
  root = scipy.linalg.sqrtm(s @ t)
  return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s + t - 2 * root.real)


def test_it_is_the_closed_form_of_two_diagonal_normal_distributions():
  """Signs of all combinations: means 0, covariances diagonal, and sum (a - b)² of the deviations between them."""
  signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T.astype(float)
  a, b = signs * [1, 2, 3], signs * [2, 2, 7] + [1, 0, 0]
  assert frechet_distance(Moments.of(a), Moments.of(b), "n") == pytest.approx(1 + 1 + 0 + 16)


@pytest.mark.parametrize("normaliser, ddof", [("n-1", 1), ("n", 0)])
def test_it_is_scipys(normaliser, ddof):
  a, b = features(300, 24, 0), features(200, 24, 1, 0.3)
  expected = by_scipy(a, b, ddof)
  assert frechet_distance(Moments.of(a), Moments.of(b), normaliser) == pytest.approx(expected, rel=1e-9)
  assert frechet_of_features(a, b, normaliser) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("counts", [(20, 30), (20, 200), (2, 2)])
def test_fewer_features_than_dimensions_are_no_trouble(counts):
  """scipy's root of a product without full rank is right to a few digits only; both our ways agree to nine."""
  a, b = features(counts[0], 64, 0), features(counts[1], 64, 1, 0.3)
  value = frechet_distance(Moments.of(a), Moments.of(b))
  assert value == pytest.approx(by_scipy(a, b, 1), rel=1e-3)
  assert frechet_of_features(a, b) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("n, d", [(500, 40), (30, 300), (2, 50)])
def test_a_set_has_no_distance_from_itself(n, d):
  a = features(n, d, 3) * 20
  assert frechet_distance(Moments.of(a), Moments.of(a)) < 1e-6
  assert frechet_of_features(a, a) < 1e-6
  assert frechet_of_features(a, a[::-1]) < 1e-6


def test_sums_of_parts_are_the_sums_of_the_whole():
  """Two hosts, ten batches, any order: one set of moments, also about a mean that is far from zero."""
  a = features(103, 16, 0) + 1e4
  whole = Moments.of(a)
  parts = [Moments.of(part) for part in np.array_split(a, 10)]
  for order in (parts, parts[::-1]):
    merged = sum(order[1:], order[0])
    assert merged.count == 103
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.covariance(), np.cov(a, rowvar=False), rtol=1e-7, atol=1e-10)
    assert frechet_distance(merged, whole) < 1e-8
  streamed = Moments.of_all(part for part in np.array_split(a, 7))
  np.testing.assert_allclose(streamed.covariance("n"), np.cov(a, rowvar=False, ddof=0), rtol=1e-7, atol=1e-10)


def test_half_precision_is_summed_in_double():
  a = features(50, 8, 0).astype(np.float16)
  np.testing.assert_allclose(Moments.of(a).mean, a.astype(float).mean(0), rtol=1e-14)


@pytest.mark.parametrize("d", [6, 200])
def test_what_is_left_out_is_left_out_of_both(d):
  """Twelve clips in five parts, fewer features than dimensions and more: each distance is that of the other clips."""
  a = [features(4, d, seed) for seed in range(12)]
  b = [features(4, d, 100 + seed, 0.2) for seed in range(12)]
  distance, without = frechet_by_groups(iter(a), iter(b), 12, groups=5)
  assert distance == pytest.approx(frechet_of_features(np.concatenate(a), np.concatenate(b)), rel=1e-9)
  for group in range(5):
    rest = [k for k in range(12) if k % 5 != group]
    expected = frechet_of_features(*(np.concatenate([x[k] for k in rest]) for x in (a, b)))
    assert without[group] == pytest.approx(expected, abs=1e-4)
  assert frechet_by_groups(iter(a), iter(b), 12, groups=1)[1].size == 0
  assert len(frechet_by_groups(iter(a[:3]), iter(b[:3]), 3, groups=5)[1]) == 3


def test_the_error_is_that_of_many_draws():
  """The jackknife's standard error of the distance is about the spread over fresh sets."""
  reference = features(400, 6, 1000, 0.5)
  draw = lambda seed: features(200, 6, seed)
  spread = np.std([frechet_of_features(draw(seed), reference) for seed in range(60)], ddof=1)
  errors = []
  for seed in range(100, 112):
    a = draw(seed)
    clips = [a[start:start + 10] for start in range(0, 200, 10)]
    errors.append(jackknife_error(frechet_by_groups(clips, [reference] * 20, 20, groups=20)[1]))
  assert np.mean(errors) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("call, words", [
  (lambda: Moments.of(np.zeros(3)), r"\[n d\]"),
  (lambda: Moments.of(np.zeros((0, 3))), "not empty"),
  (lambda: Moments.of(np.array([[1, np.nan], [0, 1], [np.inf, 0]])), "2 of 3 features hold NaN or infinity"),
  (lambda: Moments.of_all([]), "no features"),
  (lambda: Moments.of(np.zeros((2, 3))) + Moments.of(np.zeros((2, 4))), "of 3 and of 4 dimensions"),
  (lambda: frechet_distance(Moments.of(np.zeros((2, 3))), Moments.of(np.zeros((2, 4)))), "of 3 and of 4 dimensions"),
  (lambda: frechet_distance(Moments.of(np.zeros((1, 3))), Moments.of(np.zeros((2, 3)))), "two features or more"),
  (lambda: Moments.of(np.zeros((2, 3))).covariance("N"), "n-1 or n"),
  (lambda: frechet_by_groups([], [], 0), "no features"),
])
def test_wrong_input_is_refused_with_a_reason(call, words):
  with pytest.raises(ValueError, match=words):
    call()
