"""Whole panoramas with their motion: turned and mirrored together, and never one without the other."""

import numpy as np
import pytest

from panda_jax.data.flow import encode_flow, flip_flow
from panda_jax.data.records import Clip, dataset_info, decode_motion, open_records, write_records
from panda_jax.data.views import PanoramaClips
from panda_jax.errors import InputError
from tests.data.toy import busy_panorama

SIZE, FRAMES = (16, 32), 6


def flow_of(frame: int) -> np.ndarray:
  """Different in every column, and to the right and left."""
  flow = np.zeros((*SIZE, 2), np.float32)
  flow[..., 0] = np.linspace(-12, 12, SIZE[1]) + frame / 2
  flow[..., 1] = 3
  return flow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("records") / "motion"
  clips = [Clip(f"clip{k}", caption, 20.0, [busy_panorama(16, seed) for seed in range(FRAMES)],
                [encode_flow(flow_of(frame)) for frame in range(FRAMES)])
           for k, caption in enumerate(("a beach", "a boat on the left"))]
  write_records(path, {"train": clips}, encoding="png", motion={"estimator": "by hand"})
  return path


def clips(path, **changes) -> PanoramaClips:
  settings = dict(panorama_size=SIZE, shapes=((1, 4),), motion=True) | changes
  return PanoramaClips(path, dataset_info(path)["about"], **settings)


def drawn(path, seed: int, clip: int = 0, frames=(1, 3, 4), **changes) -> dict:
  return clips(path, **changes)(np.random.default_rng(seed), open_records(path, "train")[clip], frames, 1)


def roll_of(images: np.ndarray) -> tuple[int, bool]:
  """By how much the second panorama was turned, and whether it was mirrored then."""
  first = busy_panorama(16, 1)
  found = [(roll, flip) for roll in range(SIZE[1]) for flip in (False, True)
           if np.array_equal(np.roll(first, roll, axis=1)[:, ::-1 if flip else 1], images[0, 0])]
  assert len(found) == 1
  return found[0]


def test_images_and_motion_are_turned_and_mirrored_together(path):
  """Any turn occurs, mirrored ones are half of them, and motion says what mirrored pictures do."""
  seen = set()
  for seed in range(60):
    shown = drawn(path, seed, flip=0.5)
    assert shown.keys() == {"images", "motion"}
    assert shown["images"].shape == (1, 3, *SIZE, 3) and shown["motion"].shape == (3, *SIZE, 3)
    roll, flipped = roll_of(shown["images"])
    expected = np.stack([np.roll(encode_flow(flow_of(frame)), roll, axis=1) for frame in (1, 3, 4)])
    np.testing.assert_array_equal(shown["motion"], flip_flow(expected) if flipped else expected)
    if flipped:                                       # and that is the flow of the mirrored panorama
      mirrored = np.stack([flip_flow(np.roll(flow_of(frame), roll, axis=1)) for frame in (1, 3, 4)])
      assert np.percentile(np.abs(shown["motion"].astype(int) - encode_flow(mirrored)), 98) <= 2
    seen.add((roll, flipped))
  assert len({roll for roll, _ in seen}) > 20 and 15 < sum(flipped for _, flipped in seen) < 45


def test_the_official_mirroring_leaves_the_colours_alone(path):
  for seed in range(8):
    shown, plain = drawn(path, seed, flip=1.0, fix_flow=False), drawn(path, seed)
    np.testing.assert_array_equal(shown["motion"], plain["motion"][:, :, ::-1])
    np.testing.assert_array_equal(shown["images"], plain["images"][..., ::-1, :])


def test_clips_whose_captions_name_sides_are_not_mirrored(path):
  assert not any(roll_of(drawn(path, seed, clip=1, flip=1.0)["images"])[1] for seed in range(20))


def test_a_draw_is_a_function_of_the_generator(path):
  for name, value in drawn(path, 3, flip=0.5).items():
    np.testing.assert_array_equal(value, drawn(path, 3, flip=0.5)[name])
  assert drawn(path, 3, motion=False).keys() == {"images"}


def test_larger_panoramas_are_reduced_with_their_motion(path):
  shown = drawn(path, 0, panorama_size=(8, 16))
  assert shown["images"].shape == (1, 3, 8, 16, 3) and shown["motion"].shape == (3, 8, 16, 3)


def test_motion_of_chosen_frames_is_read_at_random(path):
  found = decode_motion(open_records(path, "train")[1], [5, 0, 2])
  np.testing.assert_array_equal(found, [encode_flow(flow_of(frame)) for frame in (5, 0, 2)])


def test_what_is_not_there_is_refused(path, tmp_path):
  with pytest.raises(InputError, match=r"matrix.shapes has \(3, 4\), but a whole panorama is one view"):
    clips(path, shapes=((1, 8), (3, 4)))
  frames = [busy_panorama(16, 0)]
  write_records(tmp_path / "none", {"train": [Clip("a", "b", 8.0, frames)]})
  with pytest.raises(InputError, match="none has no motion, on which this model is conditioned: prepare it again"):
    clips(tmp_path / "none")
  assert clips(tmp_path / "none", motion=False)


def test_all_clips_of_a_dataset_have_motion_or_none(tmp_path):
  frames = [busy_panorama(16, 0)] * 2
  with pytest.raises(ValueError, match="has no motion"):
    write_records(tmp_path / "out", {"train": [Clip("a", "b", 8.0, frames)]}, motion={"estimator": "x"})
  with pytest.raises(ValueError, match="has motion, and the dataset none"):
    write_records(tmp_path / "out", {"train": [Clip("a", "b", 8.0, frames, frames)]})
  with pytest.raises(InputError, match="has 2 frames and motion for 1"):
    write_records(tmp_path / "out", {"train": [Clip("a", "b", 8.0, frames, frames[:1])]}, motion={"estimator": "x"})
  assert not (tmp_path / "out").exists()
