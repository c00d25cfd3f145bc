"""Procedural worlds: the same everywhere, without seams, and as their captions say."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from panda_jax.data.worlds import PLACES, TRAINING_PLACES, Floater, World, draw_world, render
from panda_jax.evaluation.seams import seam_ratio

SEEDS = range(40)
PLAIN = World(seed=5, time="noon", place="meadow", terrain="flat", clouds="clear", motion="still", sun_longitude=1.0,
              heading=0.5, floaters=())
BALLOON = Floater("balloon", "red", longitude=0.0, latitude=0.5, radius=0.3, speed=0.1)


def changed(**changes) -> World:
  return dataclasses.replace(PLAIN, **changes)


def frames(world: World, count: int = 1, **options) -> np.ndarray:
  """float64 [f H W 3]."""
  return np.stack(list(render(world, count, **options))).astype(np.float64)


@pytest.fixture(scope="module")
def first_frames():
  """float64 [40 64 128 3]."""
  return np.stack([frames(draw_world(seed))[0] for seed in SEEDS])


# --- the same everywhere


def fingerprint() -> str:
  digest = hashlib.sha256()
  for seed in (0, 1, 2**40):
    world = draw_world(seed)
    digest.update(repr(world).encode())
    for frame in render(world, 2, size=(16, 32)):
      digest.update(frame.tobytes())
  return digest.hexdigest()


def test_a_seed_gives_the_same_clip_in_every_process():
  code = "from tests.data.test_worlds import fingerprint; print(fingerprint())"
  other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                         env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(filter(None, sys.path))})
  assert other.stdout.strip() == fingerprint()


def test_other_seeds_give_other_worlds(first_frames):
  captions = {draw_world(seed).caption for seed in SEEDS}
  assert len(captions) > 35
  assert len({frame.tobytes() for frame in first_frames}) == len(SEEDS)


def test_the_first_frame_does_not_depend_on_how_many_follow():
  world = draw_world(3)
  np.testing.assert_array_equal(frames(world, 1)[0], frames(world, 4)[0])


def test_a_clip_is_uint8_of_the_size_asked_for():
  clip = list(render(PLAIN, 3, size=(32, 64)))
  assert [(frame.shape, frame.dtype) for frame in clip] == [((32, 64, 3), np.uint8)] * 3
  assert list(render(PLAIN, 0)) == []


def test_twice_the_rate_shows_the_same_moments():
  world = draw_world(4)
  np.testing.assert_array_equal(frames(world, 5, fps=16.0)[::2], frames(world, 3, fps=8.0))


@pytest.mark.parametrize("size", [(64, 64), (64, 127), (128, 64)])
def test_a_size_that_is_not_a_panorama_is_refused(size):
  with pytest.raises(ValueError, match="twice as wide as high"):
    next(render(PLAIN, 1, size=size))


# --- spheres, not pictures


def test_left_and_right_edge_meet(first_frames):
  assert 0.7 < seam_ratio(first_frames) < 1.1                        # measured 0.89
  steps = np.abs(first_frames - np.roll(first_frames, 1, axis=2)).mean((1, 3))       # [seed W], the seam first
  assert (steps[:, 0] <= 1.1 * steps[:, 1:].max(1) + 0.1).all()


@pytest.mark.parametrize("row", [0, -1], ids=["zenith", "nadir"])
def test_nothing_jumps_at_the_poles(first_frames, row):
  """Across the pole pixels differ as along a meridian, and the top row is nearly one colour."""
  pole, next_row = first_frames[:, row], first_frames[:, 1 if row == 0 else -2]
  across = np.abs(pole - np.roll(pole, 64, axis=1)).mean()
  along = np.abs(pole - next_row).mean()
  assert across < 1.5 * along + 0.5
  spread = np.abs(pole - pole.mean(1, keepdims=True)).max((1, 2))
  assert np.median(spread) < 3 and spread.max() < 20


# --- what a caption says


def test_the_caption_names_what_is_drawn():
  world = changed(time="night", place="sea", terrain="hilly", clouds="many", motion="fast",
                  floaters=(BALLOON, dataclasses.replace(BALLOON, kind="kite", colour="blue")))
  assert world.caption == ("night over the open sea, hilly land, many clouds, a red balloon, a blue kite, "
                           "a fast moving camera")
  assert PLAIN.caption == "noon over a green meadow, flat land, a clear sky, the camera stands still"


@pytest.mark.parametrize("field, value", [
  ("time", "night"), ("place", "desert"), ("terrain", "mountainous"), ("clouds", "many"), ("floaters", (BALLOON,))])
def test_every_word_of_the_caption_can_be_seen(field, value):
  world = changed(**{field: value})
  assert world.caption != PLAIN.caption
  assert np.abs(frames(world) - frames(PLAIN)).max() > 30


def test_night_is_dark_and_noon_is_bright():
  brightness = [frames(changed(time=time)).mean() for time in ("night", "dusk", "afternoon", "noon")]
  assert brightness == sorted(brightness) and brightness[3] > 3 * brightness[0]


def test_a_red_balloon_is_red_and_a_blue_one_blue_where_it_floats():
  """At longitude 0 and latitude 0.5, which is the middle column, a third of the way down."""
  colours = {colour: frames(changed(floaters=(dataclasses.replace(BALLOON, colour=colour),)))[0, 22, 64]
             for colour in ("red", "blue")}
  assert colours["red"].argmax() == 0 and colours["blue"].argmax() == 2


def test_training_has_never_seen_a_lavender_field():
  assert "lavender" in PLACES and "lavender" not in TRAINING_PLACES
  assert set(PLACES) - set(TRAINING_PLACES) == {"lavender"}
  drawn = {draw_world(seed).place for seed in range(300)}
  assert drawn == set(TRAINING_PLACES)
  assert {draw_world(seed, ("lavender",)).place for seed in range(5)} == {"lavender"}


# --- what moves


def test_a_camera_that_stands_still_leaves_the_ground_unchanged():
  below = slice(33, None)
  still = frames(changed(floaters=(BALLOON,), clouds="many"), 8)[:, below]
  assert (still == still[:1]).all()
  moving = frames(changed(motion="slow"), 8)[:, below]
  assert np.abs(moving[7] - moving[0]).max() > 10


def test_a_fast_camera_covers_more_ground_than_a_slow_one():
  """Eight frames of the fast one are those of the slow one at 0.7 / 0.25 of the rate."""
  fast = frames(changed(motion="fast"), 8, fps=8.0)
  slow = frames(changed(motion="slow"), 8, fps=8.0 * 0.25 / 0.7)
  np.testing.assert_allclose(fast, slow, atol=1)


def test_floaters_move_along_their_path():
  """The middle of what differs from the empty sky goes right by the speed."""
  clip = frames(changed(floaters=(BALLOON,)), 17)
  differs = np.abs(clip - frames(PLAIN)).sum(-1) > 60                # [f H W]
  longitude = ((np.arange(128) + 0.5) / 128 - 0.5) * 2 * np.pi
  centre = (differs * longitude).sum((1, 2)) / differs.sum((1, 2))
  assert abs(centre[0]) < 0.03
  np.testing.assert_allclose(centre[16] - centre[0], 2 * BALLOON.speed, atol=0.03)
  assert (np.diff(centre) > 0).all()


def test_a_floater_crosses_the_seam_whole():
  behind = frames(changed(floaters=(dataclasses.replace(BALLOON, longitude=np.pi),), sun_longitude=0.0))
  ahead = frames(changed(floaters=(BALLOON,), sun_longitude=0.0))
  area = [int((np.abs(clip - frames(changed(sun_longitude=0.0))).sum(-1) > 60).sum()) for clip in (behind, ahead)]
  assert area[0] == pytest.approx(area[1], rel=0.15)


def test_clouds_drift_in_the_wind():
  clip = frames(changed(clouds="many"), 8)[:, :24]
  assert np.abs(clip[7] - clip[0]).max() > 5
