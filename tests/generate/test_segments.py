"""A video that grows window by window: whole at every moment, killed anywhere, continued, and never confused."""

import json
import subprocess
import sys

import av
import ml_dtypes
import numpy as np
import pytest

from panda_jax.data.video import probe, read_frames, write_video
from panda_jax.errors import InputError
from panda_jax.generate import segments
from panda_jax.generate.segments import GrowingVideo, differences, join
from panda_jax.generate.spherical import spherical_metadata
from tests.generate.killing import REQUEST, WINDOWS, row, window
from tests.small_disk import small_disk


def begin(folder, fingerprint=REQUEST, windows=3, fps=8.0, **options):
  return GrowingVideo(folder / "a_360.mp4", fps, fingerprint, windows, **options)


def make(folder, count=3, **options):
  """Adds windows up to `count`, from wherever the video stands, and returns which ones."""
  with begin(folder, **options) as video:
    first = video.finished
    for number in range(first, count):
      video.add(window(number), row(number))
  return list(range(first, count))


def names(folder):
  return sorted(path.name for path in folder.rglob("*"))


def frames_of(path):
  return np.stack(list(read_frames(path)))


# --- growing


@pytest.mark.parametrize("fps", [4.0, 8.0, 30000 / 1001])
def test_after_every_window_the_video_is_whole_and_holds_all_frames_so_far(tmp_path, fps):
  with begin(tmp_path, fps=fps) as video:
    for number, wanted in enumerate(np.cumsum(WINDOWS)):
      video.add(window(number), row(number))
      truth = np.concatenate([window(n) for n in range(number + 1)])
      assert frames_of(video.path).shape == truth.shape == (wanted, 16, 32, 3)
      assert np.abs(frames_of(video.path).astype(int) - truth).mean() < 4
      assert set(spherical_metadata(video.path)) == {"v1", "v2"}
      info = probe(video.path)
      assert info.fps == pytest.approx(fps) and info.frames == wanted and info.duration == pytest.approx(wanted / fps)
      with av.open(str(video.path)) as container:
        times = [frame.time for frame in container.decode(container.streams.video[0])]
      np.testing.assert_allclose(times, np.arange(wanted) / fps, atol=1e-4)
  assert video.complete and names(tmp_path) == ["a_360.mp4"]


def test_the_pictures_of_the_windows_are_copied_not_encoded_again(tmp_path):
  with begin(tmp_path) as video:
    for number in range(2):
      video.add(window(number), row(number))
    parts = [frames_of(tmp_path / "a_360.parts" / f"window_{number:04d}.mp4") for number in range(2)]
  np.testing.assert_array_equal(frames_of(video.path), np.concatenate(parts))


def test_only_the_newest_row_is_kept_beside_the_windows(tmp_path):
  make(tmp_path, 2)
  assert names(tmp_path / "a_360.parts") == ["request.json", "row_0001.npy", "window_0000.mp4", "window_0001.mp4"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_row_comes_back_bit_for_bit(tmp_path, dtype):
  latents = np.random.default_rng(0).normal(size=(1, 8, 4, 4, 4)).astype(dtype)
  with begin(tmp_path) as video:
    assert video.row(latents.shape, latents.dtype) is None
    video.add(window(0), latents)
  again = begin(tmp_path).row(latents.shape, latents.dtype)
  assert again.dtype == latents.dtype and again.tobytes() == latents.tobytes()


def test_windows_of_one_frame_join(tmp_path):
  """So short that the encoder reorders nothing in it."""
  truth = [np.full((16, 32, 3), 20 * k, np.uint8) for k in range(7)]
  with begin(tmp_path, windows=5) as video:
    for part in (truth[:3], truth[3:4], truth[4:5], truth[5:6], truth[6:]):
      video.add(part, row(0))
  assert np.abs(frames_of(video.path).astype(int) - truth).max() < 4 and probe(video.path).fps == 8


# --- going on


@pytest.mark.parametrize("before", [1, 2])
def test_the_same_request_goes_on_behind_the_last_window_and_ends_with_the_same_bytes(tmp_path, before):
  (tmp_path / "straight").mkdir()
  make(tmp_path / "straight")
  assert make(tmp_path, before) == list(range(before))
  (tmp_path / "a_360.mp4").unlink()                                   # the parts are enough
  assert make(tmp_path) == list(range(before, 3))
  assert (tmp_path / "a_360.mp4").read_bytes() == (tmp_path / "straight" / "a_360.mp4").read_bytes()


def test_a_finished_video_is_left_as_it_is(tmp_path):
  make(tmp_path)
  whole = (tmp_path / "a_360.mp4").read_bytes()
  for overwrite in (False, True):
    video = begin(tmp_path, overwrite=overwrite)
    assert video.complete and video.finished == 3
  assert (tmp_path / "a_360.mp4").read_bytes() == whole and names(tmp_path) == ["a_360.mp4"]


def test_a_kill_at_any_moment_loses_no_more_than_the_window_under_way(tmp_path):
  """Before every change to the folder, and in the middle of encoding and of joining: see tests/generate/killing.py."""
  done = subprocess.run([sys.executable, "-m", "tests.generate.killing", tmp_path], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout)
  assert len(report) > 40 and {"encoding 1", "joining 1"} <= {kill["change"] for kill in report}
  sizes = [None, *np.cumsum(WINDOWS).tolist()]
  for kill in report:
    assert kill["same"], kill                                         # the bytes of a run without a kill, and no other file
    shown = sizes.index(kill["frames"])                               # windows in the video after the kill
    assert kill["made"] == list(range(3 - len(kill["made"]), 3)) and 3 - len(kill["made"]) >= shown, kill
  assert [kill["frames"] for kill in report if kill["change"].startswith(("encoding", "joining"))] == [None, 4, None, 4]


def test_an_attempt_that_finishes_no_window_leaves_nothing(tmp_path):
  with pytest.raises(KeyboardInterrupt), begin(tmp_path) as video:
    def frames():
      yield window(0)[0]
      raise KeyboardInterrupt
    video.add(frames(), row(0))
  assert names(tmp_path) == []


# --- another request


def test_another_request_of_the_same_name_is_refused_and_says_what_differs(tmp_path):
  other = {"prompt": "land", "seed": 2}
  words = "from another request .prompt was 'sea', is now 'land'; seed was 1, is now 2.*--name.*--overwrite"
  make(tmp_path, 2)
  before = names(tmp_path)
  with pytest.raises(InputError, match="a_360.parts is " + words):
    begin(tmp_path, other)
  assert names(tmp_path) == before and make(tmp_path) == [2]
  with pytest.raises(InputError, match="a_360.mp4 is " + words):
    begin(tmp_path, other)


def test_overwrite_starts_over_and_its_own_interruption_goes_on(tmp_path):
  make(tmp_path, 2)
  other = {"prompt": "land", "seed": 2}
  assert make(tmp_path, 1, fingerprint=other, overwrite=True) == [0]
  assert len(frames_of(tmp_path / "a_360.mp4")) == 4
  assert make(tmp_path, fingerprint=other, overwrite=True) == [1, 2]
  assert make(tmp_path, fingerprint=REQUEST, overwrite=True) == [0, 1, 2]


def test_the_old_video_stands_until_the_first_window_of_the_new_one(tmp_path):
  make(tmp_path)
  whole = (tmp_path / "a_360.mp4").read_bytes()
  with begin(tmp_path, {"prompt": "land"}, overwrite=True):
    assert (tmp_path / "a_360.mp4").read_bytes() == whole
  assert names(tmp_path) == ["a_360.mp4"]


def test_a_video_that_was_not_made_here_is_not_replaced_unasked(tmp_path):
  write_video(tmp_path / "a_360.mp4", window(0), 8)
  with pytest.raises(InputError, match="a_360.mp4 exists, and not from this request.*--overwrite"):
    begin(tmp_path)
  assert make(tmp_path, overwrite=True) == [0, 1, 2]


def test_files_of_others_in_the_folder_of_parts_stay(tmp_path):
  (tmp_path / "a_360.parts").mkdir()
  (tmp_path / "a_360.parts" / "notes.txt").write_text("mine")
  make(tmp_path)
  assert names(tmp_path) == ["a_360.mp4", "a_360.parts", "notes.txt"]


def test_differences_are_said_for_people():
  before = {"prompt": "a", "the set of weights": "sha256:1", "the video": None, "steps": 25}
  now = {"prompt": "a" * 99, "the set of weights": "sha256:2", "the video": "sha256:1", "steps": 25}
  said = differences(before, now)
  assert "the set of weights is another" in said and "the video was nothing" in said and "steps" not in said
  assert len(said) < 200


# --- damage, full disks, forbidden places


@pytest.mark.parametrize("part, data", [
  ("window_0000.mp4", None), ("window_0000.mp4", b"no video"), ("row_0001.npy", b"no array"), ("row_0001.npy", b""),
])
def test_damaged_parts_are_refused_by_name_and_can_be_started_over(tmp_path, part, data):
  make(tmp_path, 2)
  path = tmp_path / "a_360.parts" / part
  path.unlink()
  if data is not None:
    path.write_bytes(data)
  with pytest.raises(InputError, match=f"{part} is missing or damaged.*start over with --overwrite"):
    begin(tmp_path)
  assert make(tmp_path, overwrite=True) == [0, 1, 2]


def test_a_row_of_another_size_is_refused(tmp_path):
  make(tmp_path, 1)
  with pytest.raises(InputError, match="row_0000.npy is missing or damaged"):
    begin(tmp_path).row((1, 2, 4), np.float32)


def test_windows_of_another_encoder_are_not_joined(tmp_path):
  """Players take the settings from the first of them."""
  for name, size in (("a", (16, 32)), ("b", (32, 64))):
    write_video(tmp_path / f"{name}.mp4", [np.zeros((*size, 3), np.uint8)] * 3, 8)
  with pytest.raises(segments._BadSegment):
    join([tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "out.mp4", 8)


@pytest.mark.parametrize("blocked", ["a_360.parts", "file/a_360.mp4"])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, blocked):
  (tmp_path / blocked.split("/")[0]).write_text("a file")
  with pytest.raises(InputError, match="cannot write .*a_360.mp4"):
    begin(tmp_path / "file" if "/" in blocked else tmp_path)


def test_a_name_that_players_do_not_know_is_refused(tmp_path):
  with pytest.raises(InputError, match="must end in _360.mp4"):
    GrowingVideo(tmp_path / "a.mp4", 8, REQUEST, 3)


@pytest.fixture
def disk(tmp_path):
  with small_disk(tmp_path / "disk", 200) as place:
    yield place


def test_a_full_disk_is_one_sentence_and_loses_nothing(disk, tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (12, 128, 256, 3), np.uint8)
  small, large = noise[:1, :32, :64].repeat(2, 0), noise
  with pytest.raises(InputError, match="no space left on the disk while writing .*disk/a_360.mp4: free some space"):
    with begin(disk, windows=2) as video:
      video.add(large, row(0))
  assert names(disk) == []

  with begin(disk, windows=2) as video:
    video.add(small, row(0))
  (disk / "ballast").write_bytes(bytes(170 << 10))
  before = names(disk)
  with pytest.raises(InputError, match="a_360.mp4; 1 window of 2 kept: free some space"):
    with begin(disk, windows=2) as video:
      assert video.finished == 1
      video.add(noise[:12, :32, :64], row(1))
  assert names(disk) == before and len(frames_of(disk / "a_360.mp4")) == 2
  (disk / "ballast").unlink()
  with begin(disk, windows=2) as video:
    video.add(small, row(1))
  assert video.complete and len(frames_of(disk / "a_360.mp4")) == 4
