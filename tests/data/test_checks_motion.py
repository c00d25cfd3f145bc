"""What happens over time: cuts, stillness, blackness, length."""

import itertools

import numpy as np
import pytest

from panda_jax.data import video, worlds
from panda_jax.data.checks import Thresholds, check
from tests.data.made_clips import film, grainy, moving, write
from tests.paths import REAL, needs_real

QUIET = Thresholds(few_pixels=1)


def checked(tmp_path, frames, **options):
  found = check(write(tmp_path / "clip.mp4", frames), QUIET, **options)
  return found, {finding.rule: finding.effect for finding in found.findings}


def black(count: int) -> list[np.ndarray]:
  return [np.zeros((128, 256, 3), np.uint8)] * count


# Cuts


def test_every_cut_is_found_at_its_first_frame(tmp_path):
  shots = [moving(seed, count) for seed, count in ((1, 20), (2, 33), (3, 16), (6, 40))]
  found, rules = checked(tmp_path, itertools.chain(*shots))
  assert found.ok and rules == {"shot_change": "split"}
  assert found.shots == [(0, 20), (20, 53), (53, 69), (69, 109)] and found.why == "has 4 shots"


def test_short_shots_are_dropped_and_it_is_said(tmp_path):
  shots = [moving(seed, count) for seed, count in ((1, 20), (2, 6), (3, 3), (6, 40))]
  found, rules = checked(tmp_path, itertools.chain(*shots))
  assert found.ok and found.shots == [(0, 20), (29, 69)]
  assert found.why == "has 4 shots, 2 of them used (left out: 2 shorter than 16 frames; 9 frames)"
  found, rules = checked(tmp_path, itertools.chain(*shots[1:3], moving(4, 10)))
  assert not found.ok and rules == {"shot_change": "split", "short": "rejected"} and found.verdict == "short"


def test_films_are_split_too(tmp_path):
  found, rules = checked(tmp_path, [film(frame) for seed in (1, 2) for frame in moving(seed, 20, step=1)], flat=True)
  assert found.ok and found.shots == [(0, 20), (20, 40)]


def test_motion_is_no_cut(tmp_path):
  """A quick turn that begins and ends suddenly; frames repeated as in a film of 8 per second in one of 30."""
  steps = np.cumsum([0] * 20 + [25] * 20 + [0] * 20)
  frame = moving(frames=1)[0]
  found, rules = checked(tmp_path, [np.roll(frame, -step, axis=1) for step in steps])
  assert rules == {} and found.shots == [(0, 60)]
  found, rules = checked(tmp_path, [np.roll(frame, -20 * int(k * 8 / 30), axis=1) for k in range(90)])
  assert rules == {} and found.shots == [(0, 90)]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_flash_is_no_cut(tmp_path, length):
  frames = list(moving(frames=48))
  for k in range(20, 20 + length):
    frames[k] = np.clip(frames[k].astype(int) + 150, 0, 255).astype(np.uint8)
  found, rules = checked(tmp_path, frames)
  assert rules == {} and found.shots == [(0, 48)]


def test_a_fade_through_black_is_a_change_of_shot(tmp_path):
  """And a fade from black at the beginning is none: the black frames are left out."""
  def faded(frames, levels):
    return [(frame * level).astype(np.uint8) for frame, level in zip(frames, levels)]
  out = [1] * 20 + [k / 12 for k in range(12, 0, -1)]
  frames = faded(moving(1, 32), out) + black(6) + faded(moving(2, 32), out[::-1])
  found, _ = checked(tmp_path, frames)
  assert found.ok and len(found.shots) == 2
  assert found.shots[0][0] == 0 and 30 <= found.shots[0][1] <= 32
  assert 38 <= found.shots[1][0] <= 40 and found.shots[1][1] == 70
  found, _ = checked(tmp_path, black(8) + list(moving()))
  assert found.ok and found.shots == [(8, 28)] and "1 black" in found.why


@needs_real
def test_cuts_between_real_films_are_found_and_their_motion_is_none(tmp_path):
  """Also four times as fast."""
  names = ("overpass_2048x1024.mp4", "tunnel_walk_1920x1080.mp4", "ricoh_prison_640x322.mp4")
  films = [list(video.read_frames(REAL / "video" / name, (64, 128), 0, 104)) for name in names]
  for stride in (1, 4):
    shots = [film[:26 * stride:stride] for film in films]
    found, _ = checked(tmp_path, itertools.chain(*shots, shots[0][::-1]))
    assert found.shots == [(0, 26), (26, 52), (52, 78), (78, 104)], stride


# Stillness


@pytest.mark.parametrize("levels", [0, 3, 8])
def test_what_stands_still_is_static_also_under_film_grain(tmp_path, levels):
  found, rules = checked(tmp_path, grainy(moving(frames=1)[0], 30, levels))
  assert (found.ok, rules, found.verdict) == (False, {"static": "rejected"}, "static")


def test_a_little_motion_is_enough(tmp_path):
  """A camera that stands still, and a balloon."""
  world = worlds.World(7, "noon", "meadow", "hilly", "clear", "still", 0.5, 0.0,
                       (worlds.Floater("balloon", "red", 0.3, 0.3, 0.1, 0.1),))
  found, rules = checked(tmp_path, worlds.render(world, 24, (128, 256), oversample=1))
  assert found.ok and rules == {}


def test_a_still_shot_is_left_out_of_a_film_that_moves(tmp_path):
  found, rules = checked(tmp_path, [moving(4)[0]] * 20 + list(moving(1, 20)))
  assert found.ok and found.shots == [(20, 40)] and "1 in which nothing moves" in found.why
  found, rules = checked(tmp_path, [moving(4)[0]] * 20 + [moving(1)[0]] * 20)
  assert not found.ok and rules == {"shot_change": "split", "static": "rejected"}


# Blackness and length


def test_a_film_that_is_mostly_black_is_refused(tmp_path):
  found, rules = checked(tmp_path, list(moving(1, 20)) + black(21))
  assert not found.ok and rules["black"] == "rejected" and found.why == "is black in 21 of its 41 frames"
  found, rules = checked(tmp_path, list(moving(1, 20)) + black(20))
  assert found.ok and "black" not in rules and found.shots == [(0, 20)]


def test_night_is_not_black(tmp_path):
  night = next(seed for seed in range(100) if worlds.draw_world(seed).time == "night")
  found, rules = checked(tmp_path, moving(night))
  assert found.ok and rules == {}


def test_a_film_shorter_than_a_clip_is_refused(tmp_path):
  found, rules = checked(tmp_path, moving(frames=15))
  assert (found.ok, rules, found.verdict) == (False, {"short": "rejected"}, "short")
  assert found.why == "has 15 frames where 16 are the fewest"
  assert checked(tmp_path, moving(frames=16))[0].ok
