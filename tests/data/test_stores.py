"""Rig crops: what is stored, and that training sees in them what it sees in panoramas."""

import collections
import functools
import json

import numpy as np
import pytest

from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.records import decode_frame
from panda_jax.data.stores import Crops, Variant, changed, check_fresh
from panda_jax.errors import InputError
from panda_jax.geometry import VIDEOPANDA_RIG, Camera, Rig, horizontal_rig, project
from panda_jax.geometry.given import GivenCameras
from tests.data.stored import clips, panorama, write_store
from tests.data.toy import ODD_RIG, assert_same, joined, order_by_rays, take, train, validation

SIZE, VIEW, YAWS, CLIPS = (16, 32), (8, 6), 3, 5
SETTINGS = dict(rig=ODD_RIG, view_size=VIEW, shapes=((3, 2), (8, 1)), fps=None, stride=2)


@functools.cache
def members(split):
  captions = {"train": "number {}", "validation": "to the left: number {}"}
  return clips(CLIPS, caption=captions[split])


@pytest.fixture(scope="module")
def store():
  return Crops(ODD_RIG, VIEW, yaws=YAWS, encoding="png")


@pytest.fixture(scope="module")
def crops(store, tmp_path_factory):
  return write_store(tmp_path_factory.mktemp("crops") / "set",
                     {split: members(split) for split in ("train", "validation")}, store, SIZE)


def numbers_of(batch):
  return batch["text"][:, 1].tolist()


def seen(images, rays, number, flip=False):
  """(variant, frames) whose turned, perhaps mirrored panoramas show these images [v f h w 3] to the rays' cameras.

  `rays` of a mirrored matrix belong to mirrored cameras: their order is found by mirroring them back.
  """
  order = order_by_rays(rays[..., ::-1, :] * np.float32([-1, 1, 1]) if flip else rays)
  cameras = [ODD_RIG[view] for view in order]
  if flip:
    cameras = [Camera(-camera.yaw_deg, camera.pitch_deg, camera.fov_deg) for camera in cameras]
  found = []
  for variant in range(YAWS):
    frames = [frame for shown in images.swapaxes(0, 1) for frame in range(6)
              if all(np.abs(picture(number, variant, frame, flip, camera) - view).max() < 0.52
                     for camera, view in zip(cameras, shown))]
    if len(frames) == images.shape[1]:
      found.append((variant, frames))
  assert len(found) == 1, found
  return found[0]


@functools.cache
def picture(number, variant, frame, flip, camera):
  """What a camera sees of a clip's frame, turned as in one of its variants and perhaps mirrored."""
  member = members("train")[number]
  turn = Crops(ODD_RIG, VIEW, YAWS).variants(member.id, member.caption)[variant]
  return project(changed(member.frames[frame], Variant(turn.yaw_deg, flip)), camera, VIEW).clip(0, 255)


# --- what is stored


def test_images_are_the_views_of_each_turned_frame_in_the_order_frame_variant_view(store):
  frames = [panorama(seed) for seed in range(2)]
  variants = store.variants("clip", "any")
  images = [decode_frame(data) for data in store.images(iter(frames), variants)]
  assert len(images) == 2 * YAWS * 8 and store.views == 8
  for number, image in enumerate(images):
    frame, variant, view = number // (YAWS * 8), number // 8 % YAWS, number % 8
    turned = np.roll(frames[frame], round(variants[variant].yaw_deg / 360 * 32) % 32, axis=1)
    np.testing.assert_allclose(image, project(turned, ODD_RIG[view], VIEW).clip(0, 255), atol=0.52)


@pytest.mark.parametrize("rig, gap", [(VIDEOPANDA_RIG, 60), (horizontal_rig(4), 90), (Rig((Camera(0, 0),)), 360)])
def test_yaws_divide_the_gap_between_cameras_from_a_start_of_the_clips_own(rig, gap):
  made = Crops(rig, VIEW, yaws=4)
  starts = []
  for number in range(200):
    yaws = [variant.yaw_deg for variant in made.variants(f"clip{number}", "any")]
    np.testing.assert_allclose(np.diff(yaws) % 360, gap / 4)
    assert not any(variant.flip for variant in made.variants(f"clip{number}", "any"))
    starts.append(yaws[0])
  assert made.variants("clip7", "any") == Crops(rig, VIEW, yaws=4).variants("clip7", "another caption")
  assert (np.abs(np.histogram(starts, 4, (0, 360))[0] / 200 - 1 / 4) < 0.1).all()


def test_about_is_json_and_says_what_decides_the_bytes(store):
  about = store.about()
  assert json.loads(json.dumps(about)) == about
  for other in (Crops(VIDEOPANDA_RIG, VIEW, YAWS, "png"), Crops(ODD_RIG, (6, 8), YAWS, "png"),
                Crops(ODD_RIG, VIEW, 1, "png"), Crops(ODD_RIG, VIEW, YAWS, "jpeg"),
                Crops(ODD_RIG, VIEW, YAWS, "png", 50)):
    assert other.about() != about


@pytest.mark.parametrize("changes, words", [
  (dict(rig=Rig((Camera(0, 90),))), "no horizontal camera"), (dict(yaws=0), "1 yaw at least"),
  (dict(encoding="gif"), "unknown encoding 'gif'"), (dict(quality=0), "quality must be between 1 and 100")])
def test_stores_that_make_no_sense_are_refused(changes, words):
  with pytest.raises(InputError, match=words):
    Crops(**dict(rig=ODD_RIG, view_size=VIEW) | changes)


# --- what training sees


def test_a_batch_of_crops_has_what_a_batch_of_panoramas_has(crops):
  """Images, rays and text, which belong together: frames two apart, at one stored yaw, by the cameras of the rays."""
  schedule = MatrixSchedule(SETTINGS["shapes"], seed=1)
  for step, batch in enumerate(take(train(crops, **SETTINGS), 8)):
    views, frames = schedule.shape(step)
    contract = {"images": ((2, views, frames, *VIEW, 3), np.uint8), "rays": ((2, views, 2, 2, 3), np.float32),
                "text": ((2, 3), np.int32)}
    assert {name: (array.shape, array.dtype.type) for name, array in batch.items()} == contract
    for images, rays, number in zip(batch["images"], batch["rays"], numbers_of(batch)):
      _, shown = seen(images, rays, number)
      assert (np.diff(shown) == 2).all()


def test_every_stored_yaw_and_every_horizontal_first_view_comes_equally_often(crops, monkeypatch):
  yaws, firsts = collections.Counter(), collections.Counter()
  from panda_jax.data import stored_views
  draw = stored_views.draw_yaw

  def counted(rng, record):
    yaws[drawn := draw(rng, record)] += 1
    return drawn

  monkeypatch.setattr(stored_views, "draw_yaw", counted)
  for batch in take(train(crops, **SETTINGS | dict(shapes=((2, 1),), batch_size=30, threads=1, prefetch=1)), 20):
    firsts.update(order_by_rays(rays)[0] for rays in batch["rays"])
  total = sum(yaws.values())
  assert set(yaws) == set(range(YAWS)) and all(abs(count / total - 1 / YAWS) < 0.06 for count in yaws.values())
  assert set(firsts) == set(range(6)) and all(abs(count / 600 - 1 / 6) < 0.06 for count in firsts.values())


def test_stored_yaws_are_told_by_the_pictures(crops):
  found = collections.Counter()
  for batch in take(train(crops, **SETTINGS | dict(shapes=((2, 1),), batch_size=6)), 8):
    for images, rays, number in zip(batch["images"], batch["rays"], numbers_of(batch)):
      found[seen(images, rays, number)[0]] += 1
  assert set(found) == set(range(YAWS))


def test_every_clip_comes_once_per_epoch(crops):
  stream = sum(map(numbers_of, take(train(crops, **SETTINGS | dict(batch_size=1)), 15)), [])
  epochs = [stream[start:start + CLIPS] for start in range(0, 15, CLIPS)]
  assert all(sorted(epoch) == list(range(CLIPS)) for epoch in epochs) and epochs[0] != epochs[1]


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_hosts_threads_and_interruptions_change_nothing(crops, flip):
  settings = SETTINGS | dict(flip=flip)
  alone = take(train(crops, **settings | dict(batch_size=4)), 7)
  for hosts in (2, 4):
    parts = [train(crops, **settings | dict(batch_size=4 // hosts, process_index=index, process_count=hosts))
             for index in range(hosts)]
    assert_same(alone, [joined(part) for part in zip(*(take(part, 7) for part in parts))])
  for step in range(7):
    resumed = train(crops, **settings | dict(batch_size=4, threads=1 + step % 3, prefetch=2))
    resumed.set_state({"next_index": step})
    assert_same(alone[step:step + 1], take(resumed, 1))


def test_validation_takes_the_rig_in_its_order(crops):
  settings = {name: value for name, value in SETTINGS.items() if name != "shapes"}
  batches = validation(crops, **settings, shape=(4, 3))
  assert_same(batches, validation(crops, **settings, shape=(4, 3), threads=1))
  assert sum(map(numbers_of, batches), []) == [0, 1, 2, 3]
  for batch in batches:
    np.testing.assert_array_equal(batch["rays"], [ODD_RIG.rays((2, 2))[:4]] * 2)


def test_a_part_of_the_stored_rig_will_do(crops):
  """Cameras are found by what they are, not by their number."""
  part = Rig((ODD_RIG[7], ODD_RIG[3], ODD_RIG[0]))
  whole, = validation(crops, rig=ODD_RIG, view_size=VIEW, shape=(8, 2), count=1)
  some, = validation(crops, rig=part, view_size=VIEW, shape=(3, 2), count=1)
  np.testing.assert_array_equal(some["images"], whole["images"][:, [7, 3, 0]])


# --- mirroring


def test_mirrored_crops_are_the_crops_of_the_mirrored_panorama(crops):
  """By the cameras that their rays belong to, to a level: nothing is lost in PNG."""
  settings = SETTINGS | dict(flip=1.0)
  for batch in take(train(crops, **settings), 6):
    for images, rays, number in zip(batch["images"], batch["rays"], numbers_of(batch)):
      seen(images, rays, number, flip=True)


def test_mirroring_changes_no_other_draw_and_no_caption(crops):
  plain, flipped = (take(train(crops, **SETTINGS | dict(flip=flip)), 5) for flip in (0.0, 1.0))
  for batch, other in zip(plain, flipped):
    np.testing.assert_array_equal(batch["text"], other["text"])
    np.testing.assert_array_equal(batch["images"], other["images"][..., ::-1, :])
    np.testing.assert_array_equal(batch["rays"][:, 0], other["rays"][:, 0])


def test_half_of_the_samples_are_mirrored_where_that_is_asked_for(crops):
  """And the same ones always."""
  settings = SETTINGS | dict(shapes=((2, 1),), batch_size=50)
  plain, flipped, again = (take(train(crops, **settings | dict(flip=flip)), 6) for flip in (0.0, 0.5, 0.5))
  assert_same(flipped, again)
  same = np.concatenate([(batch["images"] == other["images"]).all((1, 2, 3, 4, 5))
                         for batch, other in zip(plain, flipped)])
  assert 0.4 < same.mean() < 0.6


def test_clips_whose_caption_names_sides_are_never_mirrored(store, tmp_path):
  path = write_store(tmp_path / "set", {"train": members("validation")}, store, SIZE)
  assert_same(*(take(train(path, **SETTINGS | dict(flip=flip)), 5) for flip in (0.0, 1.0)))


# --- what is refused


@pytest.mark.parametrize("changes, words", [
  (dict(rig=VIDEOPANDA_RIG), "another rig: none of its 8 cameras is at yaw 0, pitch 0, roll 0 .* of 90 degrees"),
  (dict(view_size=(6, 8)), "stores views of 6x8 pixels and this run has views of 8x6"),
  (dict(given=GivenCameras()), "stores crops, views of fixed cameras, .* model.own_view=False"),
  (dict(shapes=((9, 1),)), "9 views, but the rig has 8"),
  (dict(shapes=((2, 7),)), "has 6 frames, but the longest matrix takes 7"),
  (dict(flip=1.5), "data.flip is a probability"),
])
def test_what_these_crops_cannot_give_is_refused_at_the_start(crops, changes, words):
  with pytest.raises(InputError, match=words):
    train(crops, **SETTINGS | changes)


@pytest.mark.parametrize("expected, words", [
  (dict(codec={"kind": "b", "size": 3}), r'another codec \(kind "a", and of this run kind "b"\)'),
  (dict(codec={"kind": "a", "size": 4}), r"another codec \(size 3, and of this run size 4\)"),
  ({"codec weights": "sums:2"}, 'other codec weights .*"sums:1", and of this run "sums:2"'),
  (dict(tokenizer=[1, 3]), "another tokenizer"), ({"text weights": None}, "other text encoder weights")])
def test_a_stale_cache_is_refused_by_what_differs(expected, words):
  about = {"store": "latents", "codec": {"kind": "a", "size": 3}, "codec weights": "sums:1", "text": {"kind": "clip"},
           "text weights": "sums:3", "tokenizer": [1, 2]}
  check_fresh("set", about, about)
  check_fresh("set", about | {"text": None, "text weights": None, "tokenizer": None}, about)
  with pytest.raises(InputError, match=f"set is stale: it stores .*{words}.*prepare the dataset again"):
    check_fresh("set", about, about | expected)
