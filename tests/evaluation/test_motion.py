"""Whether the same things move the same way: 1 for the truth itself, 0 for no motion, -1 for the other way round."""

import numpy as np
import pytest

from panda_jax.evaluation.motion import flow_of, motion_agreement
from tests.data.made_clips import moving

FRAMES = np.stack(moving(frames=4, size=(64, 128), step=1))


@pytest.fixture(scope="module")
def flow():
  return flow_of(FRAMES)


def test_the_flow_of_a_turn_is_that_of_its_pixels(flow):
  assert flow.shape == (3, 64, 128, 2)
  np.testing.assert_allclose(np.median(flow, axis=(0, 1, 2)), [-1, 0], atol=0.05)


def test_the_same_motion_is_one_whatever_its_speed_and_the_reverse_minus_one(flow):
  assert motion_agreement(flow, flow) == pytest.approx(1)
  assert motion_agreement(flow, 3 * flow) == pytest.approx(1)
  assert motion_agreement(flow, flow_of(FRAMES[::-1])) < -0.9


def test_no_motion_is_nought_and_nothing_can_agree_with_a_truth_that_stands_still(flow):
  still = flow_of(np.stack([FRAMES[0]] * 4))
  assert motion_agreement(flow, still) == 0
  assert motion_agreement(still, flow) is None
  assert motion_agreement(flow[:0], flow[:0]) is None                    # a single frame


def test_noise_has_nothing_to_do_with_a_turn(flow):
  noise = np.random.default_rng(0).normal(size=flow.shape).astype(np.float32)
  assert abs(motion_agreement(flow, noise)) < 0.05


def test_the_poles_count_by_their_solid_angle(flow):
  """What is wrong in the five rows at either pole is two hundredths of the sphere."""
  odd = flow.copy()
  odd[:, :5], odd[:, -5:] = -flow[:, :5], -flow[:, -5:]
  assert 0.9 < motion_agreement(flow, odd) < 1


def test_a_yaw_of_both_changes_nothing_and_fine_panoramas_are_reduced(flow):
  turned = flow_of(np.roll(FRAMES, 37, axis=2))
  assert motion_agreement(turned, turned) == pytest.approx(motion_agreement(flow, flow))
  np.testing.assert_allclose(motion_agreement(flow, np.roll(turned, -37, axis=2)), 1, atol=0.02)
  assert flow_of(np.zeros((2, 300, 600, 3), np.uint8)).shape == (1, 256, 512, 2)
  assert flow_of(np.zeros((2, 8, 16, 3), np.uint8)).shape == (1, 32, 64, 2)
