"""Flicker and drift are what they are called."""

import numpy as np
import pytest

from panda_jax.evaluation.temporal import drift, frame_changes, laplacian_energy, window_starts

SIZE = (16, 32)


def noise(frames: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (frames, *SIZE, 3)).astype(np.uint8)


def test_detail_is_counted_inside_the_mask_and_not_at_its_border():
  """A dot of brightness 60 has a Laplacian of -240 and four of 60 around it; a step at the border is none of it."""
  mask = np.zeros(SIZE, bool)
  mask[4:13, 4:13] = True
  step = np.where(mask, 0, 200)[None, ..., None].repeat(3, -1).astype(np.uint8)
  assert laplacian_energy(step, mask) == 0
  dot = step.copy()
  dot[0, 8, 8] = 60
  weights = np.cos((0.5 - (np.arange(SIZE[0]) + 0.5) / SIZE[0]) * np.pi)
  total = weights[8] * (240**2 + 2 * 60**2) + (weights[7] + weights[9]) * 60**2
  assert laplacian_energy(dot, mask) == pytest.approx(total / (7 * weights[5:12].sum()), rel=1e-5)
  assert laplacian_energy(dot, np.zeros(SIZE, bool)) == 0
  blurred = (noise(2).astype(float) + np.roll(noise(2), 1, 2)) / 2
  everywhere = np.ones(SIZE, bool)
  assert laplacian_energy(blurred.astype(np.uint8), everywhere) < 0.7 * laplacian_energy(noise(2), everywhere)


def test_a_wrapped_picture_has_the_same_detail_wherever_it_is_cut():
  frames, mask = noise(2), np.ones(SIZE, bool)
  assert laplacian_energy(np.roll(frames, 5, 2), mask) == pytest.approx(laplacian_energy(frames, mask))


def test_frame_changes_are_by_pair_and_by_solid_angle():
  frames = np.zeros((3, *SIZE, 3), np.uint8)
  frames[1:], frames[2, :, :16] = 10, 30
  mask = np.ones(SIZE, bool)
  np.testing.assert_allclose(frame_changes(frames, mask), [10, 10])
  mask[:, :16] = False
  np.testing.assert_allclose(frame_changes(frames, mask), [10, 0])


def test_new_windows_begin_where_the_generator_begins_them():
  """16 frames, then 15 new ones each; a window that is not whole is left out."""
  assert window_starts(61, 16) == window_starts(75, 16) == [0, 16, 31, 46]
  assert window_starts(76, 16) == [0, 16, 31, 46, 61]
  assert window_starts(16, 16) == [0] and window_starts(15, 16) == []
  assert window_starts(12, 4, overlap=0) == [0, 4, 8]
  with pytest.raises(ValueError, match="overlap by 4"):
    window_starts(12, 4, overlap=4)


def test_a_video_that_blurs_and_darkens_window_by_window_is_seen_to():
  """Contrast halves with each of three windows, so detail quarters; brightness falls by ten levels."""
  texture = noise(1)[0].astype(float) / 255 - 0.5
  frames = np.stack([100 - 10 * part + 100 / 2**part * np.roll(texture, shift, 1)
                     for part in range(3) for shift in range(4)])
  found = drift(frames.round().astype(np.uint8), window=4, overlap=0)
  assert found.sharpness_kept == pytest.approx(1 / 16, rel=0.05)
  assert found.colour_shift == pytest.approx(20, abs=1)
  assert len(found.sharpness) == len(found.colour) == 3


def test_a_jump_at_window_borders_is_told_from_motion():
  """Brightness rises by 2 a frame, and by 10 into each new window."""
  rise = np.full(31, 2.0)
  rise[0] = 0
  rise[[16]] = 10
  frames = np.broadcast_to(np.cumsum(rise)[:, None, None, None] + 20, (31, *SIZE, 3)).astype(np.uint8)
  assert drift(frames, window=16).jump == pytest.approx(5)
  assert drift(np.roll(frames, 3, 0)[3:], window=16) is None                  # 28 frames are one window and a rest
  still = np.full((31, *SIZE, 3), 9, np.uint8)
  assert drift(still, window=16).jump is None and drift(still, window=16).sharpness_kept is None
