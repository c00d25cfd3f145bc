"""Shapes of view-frame matrices and keyed randomness."""

import collections

import numpy as np
import pytest

from panda_jax.data.matrix import MatrixSchedule, keyed_generator
from panda_jax.errors import InputError

STEPS = range(4000)


def test_a_step_has_one_shape_whoever_asks_and_in_whatever_order():
  here, there = MatrixSchedule(seed=3), MatrixSchedule(seed=3)
  forwards = [here.shape(step) for step in range(200)]
  backwards = [there.shape(step) for step in reversed(range(200))]
  assert forwards == backwards[::-1]
  assert there.shape(10**12) == here.shape(10**12)


def test_shapes_of_a_seed_stay_what_they_were_in_earlier_releases():
  """A run that is resumed with newer code must not change its sequence."""
  assert [MatrixSchedule(seed=0).shape(step) for step in range(8)] == [
    (8, 6), (6, 8), (3, 16), (8, 6), (6, 8), (8, 6), (6, 8), (6, 8)]


def test_another_seed_gives_another_sequence():
  assert [MatrixSchedule(seed=0).shape(step) for step in range(50)] != [
    MatrixSchedule(seed=1).shape(step) for step in range(50)]


def test_every_shape_comes_equally_often():
  counts = collections.Counter(map(MatrixSchedule(seed=5).shape, STEPS))
  assert set(counts) == {(3, 16), (4, 12), (6, 8), (8, 6)}
  assert all(abs(count / len(STEPS) - 1 / 4) < 0.03 for count in counts.values())


def test_shapes_may_come_as_lists_from_a_config():
  schedule = MatrixSchedule([[8, 3], [2, 5]], seed=0)
  assert schedule == MatrixSchedule(((8, 3), (2, 5)), seed=0)
  assert schedule.most_views == 8
  assert schedule.most_frames == 5


@pytest.mark.parametrize("shapes", [(), ((3,),), ((3, 0),), ((0, 16),), ((3, 16.5),), (7,), ("ab",)])
def test_impossible_shapes_are_refused_in_one_sentence(shapes):
  with pytest.raises(InputError, match="matrix.shapes"):
    MatrixSchedule(shapes)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused_at_once(seed):
  with pytest.raises(InputError, match="seed"):
    MatrixSchedule(seed=seed)


def test_keyed_draws_repeat_and_differ_in_purpose_seed_and_index():
  keys = [("train", 0, 0), ("validation", 0, 0), ("train", 1, 0), ("train", 0, 1)]
  draws = [keyed_generator(*key).integers(2**63, size=4) for key in keys]
  for i, key in enumerate(keys):
    np.testing.assert_array_equal(keyed_generator(*key).integers(2**63, size=4), draws[i])
    for other in draws[:i]:
      assert not np.intersect1d(other, draws[i]).size
