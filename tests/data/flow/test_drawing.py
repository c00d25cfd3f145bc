"""Motion that is described: a turn rolls the panorama, travel flows out of the heading, regions go their own way."""

import numpy as np
import pytest

from panda_jax.data.flow import Drift, Forward, Region, Turn, draw_motion, encode_flow
from panda_jax.geometry import equirect_rays

SIZE = (64, 128)


def one(*regions) -> np.ndarray:
  return draw_motion(1, SIZE, regions)[0]


@pytest.mark.parametrize("pixels", [1, -5, 30])
def test_a_turn_by_pixels_rolls_the_panorama(pixels):
  """The camera turns to the right, so pictures move to the left, by the same everywhere."""
  flow = one(Turn(yaw_deg=-pixels / SIZE[1] * 360))
  np.testing.assert_allclose(flow[..., 0], pixels, atol=1e-4)
  np.testing.assert_allclose(flow[..., 1], 0, atol=1e-4)


def test_a_turn_of_more_than_half_a_circle_goes_the_short_way():
  np.testing.assert_allclose(one(Turn(yaw_deg=200))[..., 0], 160 / 360 * SIZE[1], atol=1e-4)


def test_a_pitch_moves_what_is_ahead_down_and_what_is_behind_up():
  flow = one(Turn(pitch_deg=2))
  ahead, behind = flow[SIZE[0] // 2, SIZE[1] // 2], flow[SIZE[0] // 2, 0]
  np.testing.assert_allclose([ahead[1], behind[1]], np.array([2, -2]) / 180 * SIZE[0], atol=0.02)


def place(yaw: float, pitch: float) -> tuple[float, float]:
  """Row and column, between pixels."""
  return (0.5 - pitch / 180) * SIZE[0] - 0.5, (yaw / 360 + 0.5) * SIZE[1] - 0.5


@pytest.mark.parametrize("yaw, pitch", [(0, 0), (90, 0), (-120, 20)])
def test_travel_flows_out_of_the_heading_and_into_the_point_behind(yaw, pitch):
  step = 0.05
  flow = one(Forward(step, yaw, pitch))
  speed = np.hypot(*np.moveaxis(flow, -1, 0))
  rows, columns = np.arange(SIZE[0]), np.arange(SIZE[1])
  for at, sign in ((place(yaw, pitch), 1), (place(yaw + 180 if yaw <= 0 else yaw - 180, -pitch), -1)):
    row, column = round(at[0]), round(at[1])
    around = np.ix_((rows[:, None] + 0)[np.abs(rows - row) <= 3].ravel(), (column + np.arange(-3, 4)) % SIZE[1])
    assert speed[around].max() < 0.3                     # still at the two points
    across = (columns[around[1][0]] - at[1] + SIZE[1] / 2) % SIZE[1] - SIZE[1] / 2
    assert (sign * flow[around][..., 0] * across >= -1e-6).all()          # away from the one, towards the other
    assert (sign * flow[around][..., 1] * (around[0] - at[0]) >= -0.02).all()
  # a quarter turn from the heading things pass by at the full step
  heading = equirect_rays(SIZE)[round(place(yaw, pitch)[0]), round(place(yaw, pitch)[1]) % SIZE[1]]
  abeam = (np.abs(equirect_rays(SIZE) @ heading) < 0.05) & (np.abs(rows - SIZE[0] / 2) < 4)[:, None]
  np.testing.assert_allclose(speed[abeam], np.arctan(step) / np.pi * SIZE[0], rtol=0.1)


def test_travel_is_the_same_on_both_sides_and_above_and_below():
  flow = one(Forward(0.1))
  np.testing.assert_allclose(flow, flow[:, ::-1] * [-1, 1], atol=1e-4)
  np.testing.assert_allclose(flow, flow[::-1] * [1, -1], atol=1e-4)
  np.testing.assert_allclose(one(Forward(0.1, yaw_deg=90)), np.roll(flow, SIZE[1] // 4, axis=1), atol=1e-4)


def test_travel_is_where_points_on_the_sphere_are_seen_afterwards():
  flow = one(Forward(0.2, 30, 10)).astype(np.float64)
  lon = np.radians((np.arange(SIZE[1]) + 0.5 + flow[..., 0]) / SIZE[1] * 360 - 180)
  lat = np.radians(90 - (np.arange(SIZE[0])[:, None] + 0.5 + flow[..., 1]) / SIZE[0] * 180)
  seen = np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], axis=-1)
  yaw, pitch = np.radians(30), np.radians(10)
  heading = np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
  moved = equirect_rays(SIZE) - 0.2 * heading
  np.testing.assert_allclose(seen, moved / np.linalg.norm(moved, axis=-1, keepdims=True), atol=1e-5)


def test_regions_have_motion_of_their_own_also_across_the_seam():
  flow = one(Turn(yaw_deg=-360 / SIZE[1]), Region(Drift(right_deg=360 / SIZE[1] * 4, up_deg=180 / SIZE[0]),
                                                    box=(170, -20, -170, 20)))
  lat, lon = ((np.arange(count) + 0.5) / count * degrees - degrees / 2 for count, degrees in zip(SIZE, (180, 360)))
  inside = (abs(lat) <= 20)[:, None] & (abs(lon) >= 170)
  assert 0 < inside.sum() < inside.size / 10
  np.testing.assert_allclose(flow[inside], np.broadcast_to([4, -1], (inside.sum(), 2)), atol=1e-3)
  np.testing.assert_allclose(flow[~inside], np.broadcast_to([1, 0], ((~inside).sum(), 2)), atol=1e-3)


def test_motions_add_up_where_they_are_told_to_and_masks_may_be_soft():
  mask = np.zeros(SIZE)
  mask[:, :64], mask[:, 64:70] = 1, 0.5
  turn, pixel = Turn(yaw_deg=-360 / SIZE[1]), 360 / SIZE[1]
  over, added = (one(turn, Region(Drift(right_deg=3 * pixel), mask=mask, add=add))[32, [0, 66, 100], 0]
                 for add in (False, True))
  np.testing.assert_allclose(over, [3, 2, 1], atol=1e-4)
  np.testing.assert_allclose(added, [4, 2.5, 1], atol=1e-4)


def test_motion_may_start_and_stop_softly():
  flow = draw_motion(4, SIZE, [Region(Turn(yaw_deg=-360 / SIZE[1]), pace=(0, 0.5, 1, 0))])
  np.testing.assert_allclose(flow[:, 5, 5, 0], [0, 0.5, 1, 0], atol=1e-4)


def test_drawn_motion_looks_the_same_at_any_size_and_nothing_is_black():
  small, large = (encode_flow(draw_motion(2, (h, 2 * h), [Forward(0.05)]), 2 * h) for h in (32, 96))
  np.testing.assert_allclose(large[:, 1::3, 1::3].astype(int), small, atol=2)
  assert not encode_flow(draw_motion(2, SIZE, []), SIZE[1]).any()
  assert draw_motion(3, SIZE, [Turn(1)]).shape == (3, *SIZE, 2)


@pytest.mark.parametrize("call, said", [
  (lambda: Forward(1.5), "between -1 and 1"),
  (lambda: draw_motion(0, SIZE, []), "1 frame or more"),
  (lambda: one(Region(Turn(1), box=(0, 10, 20, 0))), "box is"),
  (lambda: one(Region(Turn(1), mask=np.ones((3, 3)))), "mask is"),
  (lambda: one(Region(Turn(1), mask=np.full(SIZE, 2.0))), "mask is"),
  (lambda: one(Region(Turn(1), box=(0, 0, 20, 10), mask=np.ones(SIZE))), "not both"),
  (lambda: one(Region(Turn(1), pace=(1, 2))), "pace")])
def test_what_cannot_be_drawn_is_refused(call, said):
  with pytest.raises(ValueError, match=said):
    call()
