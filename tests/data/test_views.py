"""Which views a clip gives: rigs of any kind, a camera of its own in front of them, and clips that are no panoramas."""

import json
import math

import cv2
import numpy as np
import pytest

from panda_jax.data.records import Clip, write_records
from panda_jax.data.views import passing_table
from panda_jax.errors import InputError
from panda_jax.geometry import (
  VIDEOPANDA_RIG,
  Camera,
  Rig,
  apply_table,
  cubemap_rig,
  horizontal_rig,
  make_rig,
  project,
  projection_table,
  rays,
)
from panda_jax.geometry.given import GivenCameras
from tests.data.toy import (
  FPS,
  ODD_RIG,
  assert_same,
  clip_numbers,
  find_roll,
  frame_numbers,
  joined,
  order_by_rays,
  plain_clip,
  take,
  train,
  validation,
)

# Narrower than any camera of ODD_RIG, so that its rays tell a given view from the rig's.
GIVEN = GivenCameras(fov_deg=(40, 55), pitch_deg=(-30, 45), roll_deg=(-20, 10))
UP_AND_DOWN = Rig((Camera(0, 60, 120), Camera(180, 60, 120), Camera(0, -60, 120), Camera(180, -60, 120)))


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
  """Squares of ordinary films; `plain_clip`'s numbers in the left half, something else in the right one."""
  path = tmp_path_factory.mktemp("records") / "flat"

  def film(number):
    clip = plain_clip(number)
    clip.frames = (np.concatenate([frame[:, :4], 255 - frame[:, :4]], axis=1) for frame in clip.frames)
    return clip

  write_records(path, {"train": map(film, range(6)), "validation": map(film, range(3))}, encoding="png", kind="flat")
  return path


def find_cameras(matrix: np.ndarray, rig: Rig = ODD_RIG) -> tuple[Camera, list[int]]:
  """The given camera and the rig's views, from the rays [v 2 2 3] of a matrix with at least two views.

  Fields of view tell which cameras of the rig these are, and each of them says how the given one is turned.
  """
  def width(view):                                          # the angle between the left and the right ray
    return math.acos(float((view[0, 0] * view[0, 1]).sum()))

  widths = [width(rays(camera, (2, 2))) for camera in rig]
  order = [int(np.argmin([abs(width(view) - other) for other in widths])) for view in matrix[1:]]
  turns = []
  for index, view in zip(order, matrix[1:], strict=True):
    local = rays(Camera(0, 0, rig[index].fov_deg), (2, 2)).reshape(-1, 3)
    to_given = np.linalg.lstsq(local.astype(float), view.reshape(-1, 3).astype(float), rcond=None)[0].T
    turns.append(rig[index].rotation() @ to_given.T)
  np.testing.assert_allclose(turns, [turns[0]] * len(turns), atol=1e-5)
  turn = turns[0]
  fov = 2 * math.atan(-2 * matrix[0, 0, 0, 0] / matrix[0, 0, 0, 2])
  angles = math.atan2(turn[0, 2], turn[2, 2]), math.asin(turn[1, 2]), fov, math.atan2(-turn[1, 0], turn[1, 1])
  return Camera(*map(math.degrees, angles)), order


# --- a given camera of its own


def test_the_first_view_is_a_drawn_camera_and_the_pictures_are_what_the_rays_say(busy):
  """From the rays alone: a camera inside the ranges, no camera of the rig twice; the pictures are their projections."""
  for batch in take(train(busy, rig=ODD_RIG, given=GIVEN, shapes=((9, 2), (4, 3)), batch_size=1), 8):
    camera, order = find_cameras(batch["rays"][0])
    assert 40 <= camera.fov_deg <= 55 and -30 <= camera.pitch_deg <= 45 and -20 <= camera.roll_deg <= 10
    assert len(set(order)) == len(order) == batch["rays"].shape[1] - 1
    find_roll(batch["images"][0], [camera, *(ODD_RIG[view] for view in order)], tolerance=0.52)
    np.testing.assert_allclose(batch["rays"][0, 0], rays(Camera(0, 0, camera.fov_deg), (2, 2)), atol=1e-6)
    np.testing.assert_allclose(batch["rays"][0], Rig((camera, *ODD_RIG.select(order))).rays((2, 2)), atol=1e-5)


def test_given_cameras_look_everywhere_and_every_view_of_the_rig_comes_equally_often(plain):
  batches = take(train(plain, rig=ODD_RIG, given=GIVEN, view_size=(1, 1), shapes=((4, 1),), batch_size=50), 12)
  found = [find_cameras(matrix) for batch in batches for matrix in batch["rays"]]
  yaws = np.histogram([camera.yaw_deg % 360 for camera, _ in found], bins=6, range=(0, 360))[0]
  views = np.bincount(np.concatenate([order for _, order in found]), minlength=8)
  assert (abs(yaws / 600 - 1 / 6) < 0.06).all() and (abs(views / 600 - 3 / 8) < 0.08).all()
  for name, (low, high) in {"fov_deg": (40, 55), "pitch_deg": (-30, 45), "roll_deg": (-20, 10)}.items():
    values = [getattr(camera, name) for camera, _ in found]
    assert min(values) < low + 0.05 * (high - low) and max(values) > high - 0.05 * (high - low)


def test_a_single_view_is_the_given_one(busy):
  batch, = take(train(busy, given=GivenCameras(fov_deg=(70, 70)), shapes=((1, 2),)), 1)
  np.testing.assert_allclose(batch["rays"], [[rays(Camera(0, 0, 70), (2, 2))]] * 2, atol=1e-6)


@pytest.mark.parametrize("rig", [UP_AND_DOWN, make_rig("icosahedron")], ids=["up and down", "icosahedron"])
def test_a_rig_without_a_horizontal_camera_serves_with_a_given_one(busy, rig):
  with pytest.raises(InputError, match=r"no horizontal camera .*model\.own_view"):
    train(busy, rig=rig, shapes=((4, 2),))
  batch, = take(train(busy, rig=rig, given=GIVEN, shapes=((len(rig) + 1, 2),)), 1)
  assert batch["images"].shape == (2, len(rig) + 1, 2, 4, 4, 3)


def test_more_views_than_the_rig_and_the_given_one_are_refused(plain):
  with pytest.raises(InputError, match="10 views, but the rig has 8 cameras and the given view is one more"):
    train(plain, given=GIVEN, shapes=((10, 1),))


@pytest.mark.parametrize("size", [(16, 32), (15, 31), (64, 128)])
def test_a_drawn_cameras_view_is_that_of_project(size):
  """To 2e-4 of 255 levels; also across the seam, at the poles, and for panoramas of odd sizes."""
  panorama = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.float32)
  draw = GivenCameras(fov_deg=(30, 150), pitch_deg=(-90, 90), roll_deg=(-180, 180)).draw
  rng = np.random.default_rng(1)
  fixed = Camera(180, 0, 90), Camera(0, 90, 120), Camera(70, -90, 60, 45), Camera(0, 0, 90)
  for camera in (*fixed, *(draw(rng) for _ in range(20))):
    table = passing_table(size, camera, (12, 18))
    assert table.indices.dtype == np.int32 and table.weights.dtype == np.float32
    np.testing.assert_allclose(apply_table(table, panorama), project(panorama, camera, (12, 18)), atol=2e-4)


def test_drawn_cameras_do_not_push_those_of_rigs_out_of_the_cache(plain):
  """48 drawn cameras are more than the cache of tables holds."""
  stream = train(plain, given=GIVEN, batch_size=16, shapes=((2, 1),))
  before = [projection_table((8, 16), camera, (4, 4)) for camera in VIDEOPANDA_RIG]
  take(stream, 3)
  assert all(projection_table((8, 16), camera, (4, 4)) is table
             for camera, table in zip(VIDEOPANDA_RIG, before, strict=True))


@pytest.mark.parametrize("hosts", [2, 3])
def test_given_cameras_do_not_depend_on_hosts_threads_or_interruptions(plain, hosts):
  settings = dict(given=GIVEN, rig=ODD_RIG, shapes=((2, 3), (9, 1)))
  alone = take(train(plain, batch_size=6, **settings), 6)
  parts = [train(plain, batch_size=6 // hosts, process_index=index, process_count=hosts, **settings)
           for index in range(hosts)]
  assert_same(alone, [joined(part) for part in zip(*(take(part, 6) for part in parts), strict=True)])
  stopped = train(plain, batch_size=6, **settings)
  take(stopped, 2)
  state = json.loads(json.dumps(stopped.get_state()))
  resumed = train(plain, batch_size=6, threads=3, prefetch=2, **settings)
  resumed.set_state(state)
  assert_same(alone[2:], take(resumed, 4))


def test_frames_and_texts_are_those_of_a_run_without_given_cameras(plain):
  one, other = (take(train(plain, shapes=((2, 3),), **settings), 5) for settings in ({}, dict(given=GIVEN)))
  for batch, same in zip(one, other, strict=True):
    np.testing.assert_array_equal(batch["text"], same["text"])
    np.testing.assert_array_equal(frame_numbers(batch), frame_numbers(same))


def test_validation_draws_the_same_given_cameras_every_time_and_keeps_the_rigs_order(plain):
  settings = dict(given=GIVEN, rig=ODD_RIG, shape=(5, 2), count=2)
  batches = validation(plain, batch_size=4, **settings)
  assert_same(batches, validation(plain, batch_size=4, threads=1, **settings))
  hosts = [validation(plain, batch_size=2, process_index=index, process_count=2, **settings) for index in range(2)]
  assert_same(batches, [joined(part) for part in zip(*hosts, strict=True)])
  found = [find_cameras(matrix) for batch in batches for matrix in batch["rays"]]
  assert all(order == [0, 1, 2, 3] for _, order in found)
  assert len({camera for camera, _ in found}) == 8
  other = validation(plain, batch_size=4, seed=1, **settings)
  assert all((batch["rays"] != same["rays"]).any() for batch, same in zip(batches, other, strict=True))


# --- rigs other than the paper's


@pytest.mark.parametrize("rig", [
  cubemap_rig(), horizontal_rig(4), horizontal_rig(8),
  Rig((Camera(0, 0, 80), Camera(70, 50, 120, 15), Camera(200, -40, 60)))
], ids=["cubemap", "4 around", "8 around", "three of any kind"])
def test_any_rig_gives_the_views_of_its_cameras(busy, rig):
  """In its order for validation; in training from a horizontal one on, each relative to that."""
  batch, = validation(busy, "train", rig=rig, shape=(len(rig), 2), count=1, batch_size=1)
  find_roll(batch["images"][0], list(rig))
  np.testing.assert_array_equal(batch["rays"][0], rig.rays((2, 2)))
  level = [index for index, camera in enumerate(rig) if camera.pitch_deg == 0]
  for batch in take(train(busy, rig=rig, shapes=((len(rig), 1), (2, 2)), batch_size=1), 4):
    matrix = batch["rays"][0]
    assert any(
      all(any(np.array_equal(view, other) for other in rig.rays((2, 2), reference=first)) for view in matrix)
      and np.array_equal(matrix[0], rig.rays((2, 2), reference=first)[first]) for first in level)


# --- mirroring


def opposite(camera: Camera) -> Camera:
  return Camera(-camera.yaw_deg, camera.pitch_deg, camera.fov_deg, -camera.roll_deg)


@pytest.mark.parametrize("given", [None, GIVEN], ids=["rig", "own view"])
def test_a_mirrored_sample_is_that_of_the_mirrored_panorama_with_the_rays_it_had(busy, given):
  """What a camera sees of it is what the opposite camera sees of the panorama, mirrored. No other draw moves."""
  settings = dict(rig=ODD_RIG, given=given, shapes=((4, 2),), batch_size=1)
  for plain, flipped in zip(*(take(train(busy, flip=flip, **settings), 4) for flip in (0.0, 1.0)), strict=True):
    np.testing.assert_array_equal(plain["rays"], flipped["rays"])
    np.testing.assert_array_equal(plain["text"], flipped["text"])
    if given:
      camera, order = find_cameras(plain["rays"][0])
      cameras = [camera, *(ODD_RIG[view] for view in order)]
    else:
      cameras = [ODD_RIG[view] for view in order_by_rays(plain["rays"][0])]
    rolls = [find_roll(images, turned, tolerance=0.52) for images, turned in (
      (plain["images"][0], cameras), (flipped["images"][0][..., ::-1, :], list(map(opposite, cameras))))]
    assert rolls[0] == rolls[1]


def test_as_many_samples_are_mirrored_as_is_asked_for_and_the_same_ones_on_every_number_of_hosts(plain, flat):
  """Of panoramas and of flat clips."""
  for path, settings in ((plain, {}), (flat, dict(kind="flat", view_size=(4, 4)))):
    settings = settings | dict(shapes=((1, 2),), batch_size=60)
    alone = take(train(path, flip=0.25, **settings), 5)
    parts = [train(path, flip=0.25, process_index=index, process_count=3, **settings | dict(batch_size=20))
             for index in range(3)]
    assert_same(alone, [joined(part) for part in zip(*(take(part, 5) for part in parts), strict=True)])
    if path is flat:
      mirrored = np.mean([batch["images"][:, 0, 0, 0, 0, 2] != 99 for batch in alone])
      assert 0.15 < mirrored < 0.35


def test_a_mirrored_flat_clip_has_the_rays_it_had(flat):
  settings = dict(kind="flat", shapes=((1, 3),))
  for plain, flipped in zip(*(take(train(flat, flip=flip, **settings), 4) for flip in (0.0, 1.0)), strict=True):
    np.testing.assert_array_equal(plain["images"], flipped["images"][..., ::-1, :])
    np.testing.assert_array_equal(plain["rays"], flipped["rays"])


def test_captions_that_name_sides_keep_their_sides(tmp_path):
  frames = [np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)] * 2
  clips = [Clip("a", "a car on the left, number 1", FPS, frames), Clip("b", "a car, number 2", FPS, frames)]
  write_records(tmp_path / "sides", {"train": clips}, encoding="png")
  for plain, flipped in zip(*(take(train(tmp_path / "sides", flip=flip, shapes=((2, 2),)), 4) for flip in (0.0, 1.0))):
    same = (plain["images"] == flipped["images"]).all((1, 2, 3, 4, 5))
    assert dict(zip(plain["text"][:, 1].tolist(), same.tolist())) == {1: True, 2: False}


@pytest.mark.parametrize("flip", [-0.1, 1.1])
def test_a_chance_to_be_mirrored_is_a_probability(plain, flip):
  with pytest.raises(InputError, match="data.flip is a probability, from 0 to 1"):
    train(plain, flip=flip)


# --- flat clips


def test_a_flat_clip_is_its_own_one_view_straight_ahead(flat):
  """The square itself, resized and not turned; the rays are those of a 90 degree camera as it sees itself."""
  for batch in take(train(flat, kind="flat", shapes=((1, 6), (1, 3)), view_size=(4, 4), rays_size=(3, 3)), 6):
    images = batch["images"]
    assert images.shape[:2] == (2, 1) and images.shape[3:] == (4, 4, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(batch["rays"], [[rays(Camera(0, 0, 90), (3, 3))]] * 2)
    assert clip_numbers(batch) == batch["text"][:, 1].tolist()
    assert (np.diff(frame_numbers(batch)) == 5).all()
    np.testing.assert_array_equal(images[..., 2:, :], 255 - images[..., :2, :])


def test_flat_frames_are_resized_whole(tmp_path):
  frame = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
  write_records(tmp_path / "flat", {"train": [Clip("a", "number 1", FPS, [frame] * 2)]}, encoding="png", kind="flat")
  for size, method in ((12, None), (6, cv2.INTER_AREA), (24, cv2.INTER_CUBIC)):
    batch, = take(train(tmp_path / "flat", kind="flat", shapes=((1, 2),), view_size=(size, size)), 1)
    expected = frame if method is None else cv2.resize(frame, (size, size), interpolation=method)
    np.testing.assert_array_equal(batch["images"], np.broadcast_to(expected, (2, 1, 2, size, size, 3)))


def test_flat_batches_do_not_depend_on_hosts_or_interruptions_or_on_what_is_for_panoramas(flat):
  settings = dict(kind="flat", shapes=((1, 6), (1, 2)))
  alone = take(train(flat, batch_size=4, **settings), 5)
  hosts = [train(flat, batch_size=2, process_index=index, process_count=2, **settings) for index in range(2)]
  assert_same(alone, [joined(part) for part in zip(*(take(host, 5) for host in hosts), strict=True)])
  resumed = train(flat, batch_size=4, given=GIVEN, rig=UP_AND_DOWN, panorama_height=2, **settings)
  resumed.set_state({"next_index": 2})
  assert_same(alone[2:], take(resumed, 3))


def test_flat_validation_is_the_same_every_time(flat):
  batches = validation(flat, kind="flat", shape=(1, 4), count=2, batch_size=3)
  assert_same(batches, validation(flat, kind="flat", shape=(1, 4), count=2, batch_size=3, threads=1))
  assert [clip_numbers(batch) for batch in batches] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("changes, words", [
  (dict(shapes=((1, 6), (3, 4))), r"has \(3, 4\), but a flat clip has one view: .* e\.g\. \(1, 4\)"),
  (dict(shapes=((1, 6),), view_size=(4, 6)), "views of 6x4 pixels .* square view size"),
  (dict(shapes=((1, 41),)), "has 40 frames, but the longest matrix takes 41"),
  (dict(shapes=((1, 6),), kind="panorama"), r"films \(panda prepare --flat\), but data\.kind is 'panorama': set"),
  (dict(shapes=((1, 6),), kind="round"), "data.kind must be one of panorama, flat, got 'round'"),
])
def test_what_flat_clips_cannot_give_is_refused_at_the_start(flat, changes, words):
  with pytest.raises(InputError, match=words):
    train(flat, **dict(kind="flat") | changes)


def test_panoramas_are_not_taken_for_flat_clips(plain):
  refused = pytest.raises(InputError, match="dataset of panoramas, but data.kind is 'flat': set data.kind='panorama'")
  with refused:
    train(plain, kind="flat", shapes=((1, 4),))
  with refused:
    validation(plain, kind="flat", shape=(1, 4))
