"""How frames lay the sphere out: cubemaps, two eyes, half spheres, bars and patches, and what only looks like them."""

import cv2
import numpy as np
import pytest

from panda_jax.data import checks, video, worlds
from panda_jax.data.checks import Thresholds, check, layout
from panda_jax.data.checks.edges import look_size
from tests.data import made_clips
from tests.data.made_clips import as_eac, film, front_half, moving, side_by_side, squeezed, top_bottom, write
from tests.paths import REAL, needs_real

QUIET = Thresholds(few_pixels=1)


def pictures() -> list[np.ndarray]:
  """Panoramas of every time of day, sea and sky among them."""
  drawn = [worlds.draw_world(seed, worlds.PLACES) for seed in range(24)]
  return [next(worlds.render(world, 1, (128, 256), oversample=1)) for world in drawn]


def checked(tmp_path, frames, **options):
  found = check(write(tmp_path / "clip.mp4", frames), QUIET, **options)
  return found, {finding.rule: finding.effect for finding in found.findings}


# Cubemaps


@pytest.mark.parametrize("size", [(144, 256), (288, 512), (200, 300)])
def test_a_cubemap_is_found_and_converted(tmp_path, size):
  found, rules = checked(tmp_path, [as_eac(frame, size) for frame in moving()])
  assert (found.ok, rules, found.repairs) == (True, {"eac": "repaired"}, ["eac"])
  assert "equi-angular cubemap, converted" in found.why


def test_what_is_no_cubemap_is_not_converted(tmp_path):
  """A panorama stored as 16:9 is one already; a film is a film, also at 3:2."""
  found, rules = checked(tmp_path, [squeezed(frame, (144, 256)) for frame in moving()])
  assert (found.ok, rules) == (True, {"stored_16_9": "repaired"})
  for size in ((144, 256), (200, 300)):
    found, rules = checked(tmp_path, [film(frame, size) for frame in moving()])
    assert (found.ok, rules) == (False, {"flat": "rejected"})


def test_cubemaps_and_films_are_far_apart():
  for panorama in pictures():
    cubemap, window = as_eac(panorama, (144, 256)), film(panorama, (144, 256))
    difference, variety, middle = layout.face_edges(cubemap, 144, 256)
    assert difference < 0.5 * variety and difference < 0.6 * middle
    difference, variety, middle = layout.face_edges(window, 144, 256)
    assert difference > 0.7 * variety or variety < 4


# Two eyes


@pytest.mark.parametrize("stored, rule, repairs", [
  (top_bottom, "stereo_top_bottom", ["top_half"]),
  (lambda frame: squeezed(top_bottom(frame)), "stereo_top_bottom", ["top_half", "resize"]),
  (lambda frame: squeezed(top_bottom(frame), (144, 256)), "stereo_top_bottom", ["top_half", "resize"]),
  (side_by_side, "stereo_side_by_side", ["left_half"]),
  (lambda frame: squeezed(side_by_side(frame)), "stereo_side_by_side", ["left_half", "resize"]),
  (lambda frame: squeezed(side_by_side(frame), (144, 256)), "stereo_side_by_side", ["left_half", "resize"]),
])
def test_two_eyes_are_found_and_one_is_kept(tmp_path, stored, rule, repairs):
  found, rules = checked(tmp_path, [stored(frame) for frame in moving()])
  assert (found.ok, rules, found.repairs) == (True, {rule: "repaired"}, repairs)
  assert found.verdict == "stereo panorama" and "is kept" in found.why


def test_a_panorama_alone_is_not_taken_for_two(tmp_path):
  """Sea and sky, an even desert, night: their halves resemble each other, but not in detail."""
  for panorama in pictures():
    for way in ("stereo_top_bottom", "stereo_side_by_side"):
      assert not layout.are_alike(*layout.halves(panorama, way), QUIET)
      pair = top_bottom(panorama) if way == "stereo_top_bottom" else side_by_side(panorama)
      assert layout.are_alike(*layout.halves(squeezed(pair), way), QUIET)


# Half spheres


def test_vr180_is_told_from_two_whole_spheres(tmp_path):
  """Its halves are alike, but none of them goes around."""
  vr180 = [np.concatenate([front_half(frame), front_half(made_clips.other_eye(frame))], axis=1) for frame in moving()]
  found, rules = checked(tmp_path, vr180)
  assert (found.ok, rules, found.shots, found.repairs) == (False, {"half_sphere": "rejected"}, [], [])
  assert "VR180" in found.why


@pytest.mark.parametrize("turn", [0, 128, 90])
def test_half_a_sphere_with_nothing_behind_is_refused(tmp_path, turn):
  """Black in front, behind, or anywhere."""
  half = []
  for frame in moving():
    frame = frame.copy()
    frame[:, :64] = frame[:, -64:] = 0
    half.append(np.roll(frame, turn, axis=1))
  found, rules = checked(tmp_path, half)
  assert (found.ok, rules) == (False, {"half_sphere": "rejected"}) and "50% of its width" in found.why
  found, rules = checked(tmp_path, half, allow_flat=True)
  assert found.ok and rules == {"half_sphere": "reported"} and "--allow-flat" in found.why


def test_bars_at_the_sides_are_no_half_sphere(tmp_path):
  bars = [np.pad(film(frame, (144, 192)), ((0, 0), (32, 32), (0, 0))) for frame in moving()]
  found, rules = checked(tmp_path, bars)
  assert (found.ok, rules) == (False, {"flat": "rejected"}) and "black bars at its sides" in found.why


# No panorama


def test_a_film_that_is_only_2_to_1_has_a_broken_seam(tmp_path):
  found, rules = checked(tmp_path, [film(frame, (128, 256)) for frame in moving()])
  assert (found.ok, found.verdict, rules) == (False, "flat film", {"flat": "rejected"})
  assert "do not join" in found.why and "not 2:1" not in found.why
  found, rules = checked(tmp_path, [film(frame, (128, 256)) for frame in moving()], allow_flat=True)
  assert (found.ok, rules, found.repairs) == (True, {"flat": "reported"}, ["resize"])
  found, rules = checked(tmp_path, [film(frame, (128, 256)) for frame in moving()], flat=True)
  assert (found.ok, found.verdict, rules, found.repairs) == (True, "film", {}, [])


# What is only reported


def test_bars_at_top_and_bottom_are_reported_with_their_rows(tmp_path):
  frames = [np.pad(squeezed(frame, (108, 256)), ((10, 10), (0, 0), (0, 0))) for frame in moving()]
  found, rules = checked(tmp_path, frames)
  assert found.ok and rules == {"letterbox": "reported"} and found.why == ""
  assert "10 and 10 rows" in found.findings[0].why
  film_frames = [np.pad(film(frame, (88, 192)), ((10, 10), (0, 0), (0, 0))) for frame in moving()]
  assert checked(tmp_path, film_frames, flat=True)[1] == {"letterbox": "reported"}


@pytest.mark.parametrize("pole, rows", [("nadir", np.s_[-16:]), ("zenith", np.s_[:16])])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_patch_over_a_pole_is_reported(tmp_path, pole, rows, colour):
  patched = []
  for frame in moving(3):
    frame = frame.copy()
    frame[rows] = colour if pole == "nadir" else (colour, 40, 40)
    patched.append(frame)
  found, rules = checked(tmp_path, patched)
  assert found.ok and rules == {"poles": "reported"} and f"the {pole}, 2" in found.findings[0].why


def test_a_logo_that_keeps_still_under_a_moving_camera_is_reported(tmp_path):
  draw = np.random.default_rng(0)
  logo = cv2.resize(draw.integers(0, 255, (4, 32, 3), np.uint8), (256, 20), interpolation=cv2.INTER_NEAREST)
  busy = [cv2.resize(draw.integers(0, 255, (16, 32, 3), np.uint8), (256, 128))]
  frames = [np.concatenate([np.roll(busy[0], -4 * k, axis=1)[:108], logo]) for k in range(32)]
  found, rules = checked(tmp_path, frames)
  assert found.ok and rules == {"poles": "reported"} and "keeps still covers the nadir" in found.findings[0].why


def test_skies_and_grounds_are_no_patches(tmp_path):
  for panorama in pictures():
    assert layout.patches([panorama], False, QUIET) == []
    assert layout.bars(cv2.cvtColor(panorama, cv2.COLOR_RGB2GRAY).max(1), QUIET) == (0, 0)


def test_few_rows_are_reported_of_what_is_kept(tmp_path):
  path = write(tmp_path / "a.mp4", [top_bottom(frame) for frame in moving()])
  assert "few_pixels" in {finding.rule for finding in check(path, Thresholds(few_pixels=129)).findings}
  assert "few_pixels" not in {finding.rule for finding in check(path, Thresholds(few_pixels=128)).findings}


# Photographs


def test_photographs_are_judged_likewise(tmp_path):
  """A still that stands still is no fault."""
  frame = moving()[0]
  for name, image, rule in (("eac", as_eac(frame, (144, 256)), "eac"), ("two", top_bottom(frame), "stereo_top_bottom"),
                            ("flat", film(frame, (144, 256)), "flat"), ("plain", frame, None)):
    cv2.imwrite(str(tmp_path / f"{name}.png"), image[..., ::-1])
    found = check(tmp_path / f"{name}.png", QUIET)
    assert found.ok == (rule != "flat") and [finding.rule for finding in found.findings] == ([rule] if rule else [])


@needs_real
def test_real_pictures_in_every_layout():
  """Each photograph as a cubemap and for two eyes is found, and alone it is taken for none of them."""
  for path in sorted((REAL / "photo").iterdir())[::3]:
    panorama = video.resize(checks.read_still(path), (512, 1024))
    look = video.resize(panorama, look_size(512, 1024))
    for way, pair in (("stereo_top_bottom", top_bottom(panorama)), ("stereo_side_by_side", side_by_side(panorama))):
      assert not layout.are_alike(*layout.halves(look, way), QUIET), path.name
      eyes = layout.halves(squeezed(pair, (256, 512)), way)
      assert layout.are_alike(*eyes, QUIET) and checks.seam(eyes[0]).joins, path.name
    for size in ((360, 640), (960, 1440)):
      cubemap = as_eac(panorama, size)
      assert layout.is_eac(video.resize(cubemap, look_size(*size)), *size, QUIET), (path.name, size)
    assert not layout.is_eac(look, 576, 1024, QUIET)
