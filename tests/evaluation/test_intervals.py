"""Intervals hold what they say about as often as they say."""

import numpy as np
import pytest

from panda_jax.evaluation.intervals import bootstrap_mean, normal_interval

SETTINGS = dict(samples=500, confidence=0.9)


def test_the_mean_lies_in_its_interval_as_often_as_it_says():
  rng = np.random.default_rng(0)
  hits = 0
  for trial in range(200):
    low, high = bootstrap_mean(rng.exponential(size=40), seed=trial, **SETTINGS)
    hits += low <= 1 <= high
  assert hits / 200 == pytest.approx(0.9, abs=0.06)


def test_an_interval_is_the_same_each_time_and_is_that_of_the_values():
  values = np.random.default_rng(1).normal(5, 2, 100)
  interval = bootstrap_mean(values, seed=3, **SETTINGS)
  assert interval == bootstrap_mean(list(values), seed=3, **SETTINGS)
  assert bootstrap_mean(values + 10, seed=3, **SETTINGS) == pytest.approx(np.add(interval, 10))
  assert np.mean(interval) == pytest.approx(values.mean(), abs=0.1)


def test_one_value_has_no_interval_and_equal_ones_have_no_width():
  assert bootstrap_mean([4.0], seed=0, **SETTINGS) == bootstrap_mean([], seed=0, **SETTINGS) == (None, None)
  assert bootstrap_mean([4.0, 4.0], seed=0, **SETTINGS) == (4.0, 4.0)


def test_a_standard_error_becomes_an_interval():
  assert normal_interval(10, 1, 0.95) == pytest.approx((8.04, 11.96), abs=0.001)
