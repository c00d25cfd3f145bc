"""The adapter's colours of flow: what 360DVD's films hold, read back, turned and mirrored."""

import math

import numpy as np
import pytest

from panda_jax.data.flow import decode_flow, encode_flow, flip_flow


def slow_colour(u: float, v: float) -> list[int]:
  """One pixel, step by step, as 360DVD's films have it after they are decoded."""
  wheel = []
  for count, (start, end) in zip((15, 6, 4, 11, 13, 6), ("ry", "yg", "gc", "cb", "bm", "mr")):
    full = {"r": (1, 0, 0), "y": (1, 1, 0), "g": (0, 1, 0), "c": (0, 1, 1), "b": (0, 0, 1), "m": (1, 0, 1)}
    for step in range(count):
      ramp = math.floor(255 * step / count)
      wheel.append([255 if a and b else 255 - ramp if a else ramp if b else 0 for a, b in zip(full[start], full[end])])
  pixels = math.hypot(u, v)
  u, v = ((pixels / 25) ** 0.1 * part / (25 + 1e-5) for part in (u, v))
  speed = math.hypot(u, v)
  position = (math.atan2(-v, -u) / math.pi + 1) / 2 * 54
  before = math.floor(position)
  colour = []
  for channel in range(3):
    low, high = wheel[before][channel] / 255, wheel[(before + 1) % 55][channel] / 255
    mixed = low + (position - before) * (high - low)
    mixed = 1 - speed * (1 - mixed) if speed <= 1 else 0.75 * mixed
    colour.append(math.floor(255 * mixed))
  return [255 - level for level in colour[::-1]]


def flows(count: int, seed: int = 0, most: float = 60.0) -> np.ndarray:
  """All directions, speeds from a twentieth of a pixel on: float32 [1 count 2]."""
  draw = np.random.default_rng(seed)
  angle, speed = draw.uniform(-np.pi, np.pi, count), np.exp(draw.uniform(np.log(0.05), np.log(most), count))
  return np.stack([speed * np.cos(angle), speed * np.sin(angle)], axis=-1).astype(np.float32)[None]


def test_colours_are_those_of_the_official_films():
  flow = flows(4000)
  slow = np.array([slow_colour(*map(float, pixel)) for pixel in flow[0]])
  difference = np.abs(encode_flow(flow)[0].astype(int) - slow)
  assert difference.max() <= 1 and (difference > 0).mean() < 0.001       # float32 beside float64, at whole levels


@pytest.mark.parametrize("flow, colour", [
  ((0, 0), (0, 0, 0)), ((25, 0), (255, 255, 0)), ((-25, 0), (0, 46, 255)), ((26, 0), (255, 255, 64)),
  ((0, 25), (255, 26, 0)), ((0, -25), (0, 255, 167))])
def test_no_motion_is_black_and_speed_is_brightness(flow, colour):
  """Up to 25 pixels per frame; what is faster has less saturation."""
  got = encode_flow(np.full((1, 1, 2), flow, np.float32))[0, 0]
  np.testing.assert_allclose(got, colour, atol=1)
  assert slow_colour(*flow) == pytest.approx(colour, abs=1)


def test_the_same_motion_has_the_same_colours_at_any_size():
  flow = flows(500)
  for width in (256, 512, 2048):
    scaled = flow * np.float32(width / 1024)
    np.testing.assert_allclose(encode_flow(scaled, width).astype(int), encode_flow(flow), atol=1)
    np.testing.assert_allclose(decode_flow(encode_flow(flow), width), decode_flow(encode_flow(flow)) * width / 1024)
  assert np.array_equal(encode_flow(flow, 1024), encode_flow(flow))


def test_flow_is_read_back_as_near_as_levels_allow():
  flow = flows(20000, most=24)
  back = decode_flow(encode_flow(flow))
  speed = np.hypot(*np.moveaxis(flow, -1, 0))
  assert np.abs(np.hypot(*np.moveaxis(back, -1, 0)) - speed).max() < 0.09
  turned = np.degrees(np.abs(np.angle((back @ [1, 1j]) * np.conj(flow @ [1, 1j]))))
  assert turned[speed > 1].max() < 15 and turned[speed > 4].max() < 3 and turned[speed > 4].mean() < 0.5
  assert np.abs(back - flow)[speed > 1].mean() < 0.05
  assert not decode_flow(encode_flow(np.zeros((2, 3, 4, 2), np.float32))).any()


def test_what_is_faster_than_full_comes_back_as_full_speed_in_its_direction():
  flow = flows(2000)
  flow *= 80 / np.hypot(*np.moveaxis(flow, -1, 0))[..., None]
  np.testing.assert_allclose(decode_flow(encode_flow(flow)), flow * 25 / 80, atol=0.3)


def test_colours_of_mirrored_films_are_mirrored_colours():
  flow = np.broadcast_to(flows(3000), (2, 4, 3000, 2))
  expected = encode_flow(np.ascontiguousarray(flow[..., ::-1, :] * np.float32([-1, 1])))
  assert np.array_equal(flip_flow(flow), flow[..., ::-1, :] * np.float32([-1, 1]))
  difference = np.abs(flip_flow(encode_flow(flow)).astype(int) - expected)
  speed = np.hypot(*np.moveaxis(flow[..., ::-1, :], -1, 0))
  assert np.percentile(difference, 99) <= 3 and difference.mean() < 0.3
  # straight to the right is two colours: the ends of the wheel
  assert (difference.max(-1) > 4).mean() < 0.02 and not difference[speed < 0.1].max() > 3
  twice = np.abs(flip_flow(flip_flow(encode_flow(flow))).astype(int) - encode_flow(flow))
  assert np.percentile(twice, 99) <= 2


@pytest.mark.parametrize("pixels", [0.3, 1, 2.5, 7, 20, 25, 40])
def test_a_pan_to_the_left_mirrored_is_exactly_a_pan_to_the_right(pixels):
  left, right = (encode_flow(np.full((2, 3, 2), (u, 0), np.float32)) for u in (-pixels, pixels))
  assert np.array_equal(flip_flow(left), right)
  np.testing.assert_allclose(flip_flow(right).astype(int), left, atol=1)


def test_the_official_mirroring_is_kept_behind_a_switch():
  colours = encode_flow(flows(50))
  assert np.array_equal(flip_flow(colours, fix=False), colours[:, ::-1])
  assert np.array_equal(flip_flow(flows(50), fix=False), flows(50)[:, ::-1])


def test_turning_a_panorama_turns_its_flow_and_nothing_else():
  flow = flows(64)
  assert np.array_equal(encode_flow(np.roll(flow, 9, axis=-2)), np.roll(encode_flow(flow), 9, axis=-2))


def test_losing_a_few_levels_to_a_codec_loses_little_flow():
  flow = flows(2000, most=24)
  colours = encode_flow(flow)
  noisy = np.clip(colours.astype(int) + np.random.default_rng(0).integers(-2, 3, colours.shape), 0, 255)
  assert np.abs(decode_flow(noisy.astype(np.uint8)) - flow).mean() < 0.2


@pytest.mark.parametrize("call, said", [
  (lambda: encode_flow(np.zeros((4, 4, 3))), r"\[... H W 2\]"),
  (lambda: encode_flow(np.zeros((4, 4, 2), np.uint8)), "floating-point"),
  (lambda: encode_flow(np.full((4, 4, 2), np.nan)), "NaN"),
  (lambda: decode_flow(np.zeros((4, 4, 3))), "uint8"),
  (lambda: flip_flow(np.zeros((4, 4, 2), np.uint8)), "uint8")])
def test_what_is_no_flow_is_refused(call, said):
  with pytest.raises(ValueError, match=said):
    call()
