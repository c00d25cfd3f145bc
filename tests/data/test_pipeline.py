"""Batches of view-frame matrices: what is in them, and that every host and every resumed run agrees on them."""

import collections
import json

import cv2
import numpy as np
import pytest

from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import choose_frames
from panda_jax.data.records import Clip, write_records
from panda_jax.errors import InputError
from panda_jax.geometry import VIDEOPANDA_RIG, Camera, Rig, cubemap_rig
from tests.data.toy import (
  CLIPS,
  ODD_RIG,
  SHAPES,
  assert_same,
  busy_panorama,
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


# --- what a batch is


def test_a_batch_holds_images_rays_and_text_of_the_scheduled_shape(plain):
  schedule = MatrixSchedule(SHAPES, seed=1)
  for step, batch in enumerate(take(train(plain, batch_size=3, view_size=(4, 6), rays_size=(2, 3)), 8)):
    views, frames = schedule.shape(step)
    contract = {"images": ((3, views, frames, 4, 6, 3), np.uint8), "rays": ((3, views, 2, 3, 3), np.float32),
                "text": ((3, 3), np.int32)}
    assert {name: (array.shape, array.dtype.type) for name, array in batch.items()} == contract
    assert all(type(array) is np.ndarray for array in batch.values())


def test_text_belongs_to_its_clip(plain):
  for batch in take(train(plain), 6):
    assert batch["text"][:, 1].tolist() == clip_numbers(batch)


def test_the_first_view_looks_along_the_axis_of_the_rays(plain):
  for batch in take(train(plain, rays_size=(3, 3)), 6):
    np.testing.assert_allclose(batch["rays"][:, 0, 1, 1], [[0, 0, 1]] * 2, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(batch["rays"], axis=-1), 1, atol=1e-6)


def test_every_horizontal_view_comes_first_equally_often_and_no_view_twice(plain):
  """Told by the rays of a rig whose views all differ; the up and down views never come first."""
  firsts, partners = collections.Counter(), collections.Counter()
  batches = take(train(plain, rig=ODD_RIG, view_size=(1, 1), shapes=((3, 1),), batch_size=60), 30)
  for rays in np.concatenate([batch["rays"] for batch in batches]):
    views = order_by_rays(rays)
    assert len(set(views)) == 3
    firsts[views[0]] += 1
    partners.update(views[1:])
  assert set(firsts) == set(range(6))
  assert all(abs(count / 1800 - 1 / 6) < 0.04 for count in firsts.values())
  assert set(partners) == set(range(8))


def test_views_are_those_of_the_panorama_turned_by_whole_pixels(busy):
  """Each batch equals projecting the one panorama after some roll, by the same cameras its rays belong to."""
  rolls = set()
  for batch in take(train(busy, rig=ODD_RIG, shapes=((8, 3),), batch_size=1), 12):
    images = batch["images"][0]
    rolls.add(find_roll(images, [ODD_RIG[view] for view in order_by_rays(batch["rays"][0])]))
    assert (images == images[:, :1]).all()              # a still film stays still: one yaw for all frames
  assert len(rolls) > 6


def test_tall_panoramas_are_reduced_by_area_first(tmp_path):
  tall = [busy_panorama(32, seed) for seed in range(3)]
  low = [cv2.resize(frame, (32, 16), interpolation=cv2.INTER_AREA) for frame in tall]
  for name, frames in {"tall": tall, "low": low}.items():
    write_records(tmp_path / name, {"train": [Clip("a", "number 1", 4.0, frames)]}, encoding="png")
  reduced = take(train(tmp_path / "tall", shapes=((4, 3),), panorama_height=16), 3)
  assert_same(reduced, take(train(tmp_path / "low", shapes=((4, 3),), panorama_height=16), 3))
  assert_same(reduced, take(train(tmp_path / "low", shapes=((4, 3),), panorama_height=4000), 3))


# --- which frames


def test_frames_play_at_the_wanted_rate_from_any_start(plain):
  """20 fps clips at 4 fps: every fifth frame; all views show the same frames."""
  starts = set()
  for batch in take(train(plain, shapes=((3, 6),)), 30):
    frames = frame_numbers(batch)
    assert (np.diff(frames) == 5).all()
    assert (batch["images"][..., 1] == 4 * frames[:, None, :, None, None]).all()
    starts.update(frames[:, 0].tolist())
  assert starts <= set(range(15)) and len(starts) > 10


@pytest.mark.parametrize("rates, expected", [
  (dict(clip_fps=20.0, fps=4.0), 5), (dict(clip_fps=29.97, fps=4.0), 7), (dict(clip_fps=3.0, fps=4.0), 1),
  (dict(clip_fps=20.0, stride=2), 2)])
def test_the_stride_follows_from_the_rates(rates, expected):
  chosen = choose_frames(np.random.default_rng(0), 200, 16, **rates)
  assert (np.diff(chosen) == expected).all()


@pytest.mark.parametrize("available, expected", [(76, 5), (75, 4), (31, 2), (30, 1), (16, 1)])
def test_short_clips_are_sampled_more_densely(available, expected):
  for seed in range(20):
    chosen = choose_frames(np.random.default_rng(seed), available, 16, clip_fps=20.0, fps=4.0)
    assert (np.diff(chosen) == expected).all()
    assert 0 <= chosen[0] and chosen[-1] < available


def test_a_single_frame_comes_from_anywhere_in_the_clip():
  chosen = {int(choose_frames(np.random.default_rng(seed), 5, 1, clip_fps=20.0, fps=4.0)[0]) for seed in range(60)}
  assert chosen == set(range(5))


# --- hosts, epochs, resuming


def test_every_clip_comes_once_per_epoch_in_a_new_order(plain):
  stream = sum(map(clip_numbers, take(train(plain, batch_size=4), 9)), [])
  epochs = [stream[start:start + CLIPS] for start in range(0, len(stream), CLIPS)]
  assert all(sorted(epoch) == list(range(CLIPS)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2]


def test_two_hosts_never_read_the_same_clip_in_an_epoch(plain):
  hosts = [train(plain, batch_size=3, process_index=index, process_count=2) for index in range(2)]
  for _ in range(4):                                   # an epoch is two steps of two hosts of three clips
    read = [sum(map(clip_numbers, take(host, 2)), []) for host in hosts]
    assert not set(read[0]) & set(read[1])
    assert sorted(read[0] + read[1]) == list(range(CLIPS))


def test_hosts_agree_on_every_shape_from_the_step_alone(plain):
  hosts = [take(train(plain, process_index=index, process_count=2), 12) for index in range(2)]
  shapes = [[batch["images"].shape[1:3] for batch in host] for host in hosts]
  assert shapes[0] == shapes[1] == [MatrixSchedule(SHAPES, seed=1).shape(step) for step in range(12)]


@pytest.mark.parametrize("hosts", [2, 3])
def test_the_global_batch_does_not_depend_on_the_number_of_hosts(plain, hosts):
  alone = take(train(plain, batch_size=6), 8)
  parts = [train(plain, batch_size=6 // hosts, process_index=index, process_count=hosts) for index in range(hosts)]
  assert_same(alone, [joined(part) for part in zip(*(take(part, 8) for part in parts))])


def test_a_restored_iterator_continues_to_the_last_bit(plain):
  uninterrupted = take(train(plain), 17)
  stopped = train(plain)
  take(stopped, 7)
  state = json.loads(json.dumps(stopped.get_state()))
  resumed = train(plain, threads=3, prefetch=2)
  take(resumed, 2)                                     # what it did before does not matter
  resumed.set_state(state)
  assert_same(uninterrupted[7:], take(resumed, 10))


def test_a_run_can_start_at_a_step_without_a_saved_state_on_other_hosts(plain):
  uninterrupted = take(train(plain, batch_size=4), 12)
  hosts = [train(plain, batch_size=2, process_index=index, process_count=2) for index in range(2)]
  for host in hosts:
    host.set_state({"next_index": 9})
  assert_same(uninterrupted[9:], [joined(part) for part in zip(*(take(host, 3) for host in hosts))])


def test_the_draws_of_a_seed_stay_what_they_are(plain, busy):
  """Clips, starts, yaws and views by heart: runs that an earlier version began resume as if nothing had changed."""
  batches = take(train(plain), 4)
  assert list(map(clip_numbers, batches)) == [[3, 7], [9, 2], [10, 11], [1, 5]]
  assert [frame_numbers(batch)[:, 0].tolist() for batch in batches] == [[38, 21], [7, 2], [20, 16], [33, 39]]
  drawn = []
  for batch in take(train(busy, rig=ODD_RIG, shapes=((4, 3),), batch_size=1), 4):
    order = order_by_rays(batch["rays"][0])
    drawn.append((order, find_roll(batch["images"][0], [ODD_RIG[view] for view in order])))
  assert drawn == [([5, 0, 2, 3], 30), ([4, 2, 3, 7], 17), ([4, 7, 2, 1], 6), ([0, 3, 4, 6], 1)]


def test_another_seed_gives_other_clips_and_other_starts(plain):
  one, other = (take(train(plain, seed=seed, shapes=((3, 6),)), 6) for seed in (0, 1))
  assert list(map(clip_numbers, one)) != list(map(clip_numbers, other))
  assert any((frame_numbers(a) != frame_numbers(b)).any() for a, b in zip(one, other))


# --- validation


def test_validation_is_the_same_list_every_time(plain):
  batches = validation(plain)
  assert_same(batches, validation(plain, threads=1))
  assert [batch["images"].shape for batch in batches] == [(2, 3, 4, 4, 4, 3)] * 2
  assert sum(map(clip_numbers, batches), []) == [0, 1, 2, 3]


def test_validation_views_are_in_rig_order_from_view_0(plain):
  for batch in validation(plain, shape=(8, 2)):
    np.testing.assert_array_equal(batch["rays"], [VIDEOPANDA_RIG.rays((2, 2), reference=0)] * 2)


def test_a_small_validation_split_is_gone_through_again_with_other_draws(plain):
  batches = validation(plain, count=5, batch_size=5)
  assert all(clip_numbers(batch) == [0, 1, 2, 3, 4] for batch in batches)
  assert len({tuple(frame_numbers(batch)[:, 0]) for batch in batches}) > 1


def test_validation_hosts_share_the_same_clips(plain):
  alone = validation(plain, batch_size=4)
  hosts = [validation(plain, batch_size=2, process_index=index, process_count=2) for index in range(2)]
  assert_same(alone, [joined(part) for part in zip(*hosts)])


# --- errors


@pytest.mark.parametrize("make", [train, lambda path: validation(path, "train", shape=(2, 6))])
def test_a_dataset_with_a_clip_too_short_is_refused_at_the_start_by_its_name(tmp_path, make):
  clips = [plain_clip(0), plain_clip(1, frames=5), plain_clip(2, frames=4), plain_clip(3)]
  write_records(tmp_path / "short", {"train": clips}, encoding="png")
  with pytest.raises(InputError, match="'clip2' .* has 4 frames, but the longest matrix takes 6"):
    make(tmp_path / "short")


@pytest.mark.parametrize("changes, words", [
  (dict(shapes=((9, 1),)), "9 views, but the rig has 8"),
  (dict(rig=Rig((Camera(0, 90), Camera(0, -90))), shapes=((2, 1),)), "no horizontal camera"),
  (dict(rig=cubemap_rig()), "8 views, but the rig has 6"),
  (dict(fps=None), "either fps or stride"),
  (dict(stride=2), "either fps or stride"),
  (dict(fps=0), "fps must be above 0"),
  (dict(fps=None, stride=0), "stride must be at least 1"),
  (dict(batch_size=0), "batch_size"),
  (dict(panorama_height=0), "panorama_height"),
  (dict(seed=-1), "seed"),
])
def test_impossible_settings_are_refused_at_the_start_in_one_sentence(plain, changes, words):
  with pytest.raises(InputError, match=words):
    train(plain, **changes)


def test_a_missing_split_is_refused(plain):
  with pytest.raises(InputError, match="nowhere"):
    validation(plain, "nowhere")


def test_bad_input_met_by_a_worker_thread_reaches_the_trainer_as_itself(plain):
  def refuse(caption):
    raise InputError(f"caption {caption!r} is too odd")
  with pytest.raises(InputError, match="too odd"):
    next(train(plain, tokenize=refuse))
