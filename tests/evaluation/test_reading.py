"""The frames that are compared are of the same times, or the clip is refused by name."""

import numpy as np
import pytest

from panda_jax.data.video import write_video
from panda_jax.evaluation.protocol import Protocol
from panda_jax.evaluation.reading import Unusable, all_frames, check_pair, frame_numbers, read_frames, read_views
from tests.evaluation.benchmarks import world

PROTOCOL = Protocol(frames=4, height=32, surfaces=("panorama",))


def grey(path, levels, fps=8.0, size=(32, 64)):
  write_video(path, [np.full((*size, 3), level, np.uint8) for level in levels], fps, crf=0)
  return path


def test_frames_are_taken_by_number_or_by_time():
  assert frame_numbers(PROTOCOL, 30) == (0, 1, 2, 3)
  assert frame_numbers(Protocol(frames=3, start=2, stride=4), 30) == (2, 6, 10)
  by_time = Protocol(frames=4, fps=4.0)
  assert frame_numbers(by_time, 4) == (0, 1, 2, 3)
  assert frame_numbers(by_time, 30) == (0, 8, 15, 22)
  assert frame_numbers(by_time, 29.97) == (0, 7, 15, 22)
  assert frame_numbers(by_time, 3.99) == (0, 1, 2, 3) and frame_numbers(by_time, 3) == ()


def test_the_frames_asked_for_are_the_frames_read(tmp_path):
  path = grey(tmp_path / "a.mp4", range(0, 250, 10), fps=20)
  frames = read_frames(path, Protocol(frames=4, fps=4.0, height=32))
  assert frames.panoramas.shape == (4, 32, 64, 3) and frames.numbers == (0, 5, 10, 15)
  np.testing.assert_allclose(frames.panoramas.mean((1, 2, 3)), [0, 50, 100, 150], atol=2)
  assert (frames.fps, frames.native, frames.count, frames.one_colour) == (20, (32, 64), 25, True)
  assert len(list(all_frames(path, PROTOCOL))) == 25


def test_another_size_is_brought_to_the_protocols(tmp_path):
  write_video(tmp_path / "a.mp4", world(0, height=64), 8, crf=0)
  large = read_frames(tmp_path / "a.mp4", PROTOCOL)
  assert large.native == (64, 128) and not large.one_colour
  assert np.abs(large.panoramas.astype(float) - world(0)).mean() < 3


@pytest.mark.parametrize("make, kind, words", [
  (lambda path: path, "missing", "there is no video"),
  (lambda path: path.write_bytes(b"no film") and path, "damaged", "cannot be read as a video"),
  (lambda path: grey(path, range(3)), "short", "has 3 frames, which give 3 of the 4 .*--config.frames=3"),
  (lambda path: grey(path, [7]), "short", "has 1 frame, which"),
  (lambda path: grey(path, range(5), size=(32, 48)), "not 2:1", "is 48x32, and a panorama is 2:1"),
])
def test_what_cannot_be_compared_is_refused_by_kind(tmp_path, make, kind, words):
  with pytest.raises(Unusable, match=words) as refused:
    read_frames(make(tmp_path / "a.mp4"), PROTOCOL)
  assert refused.value.kind == kind


def test_a_file_that_was_cut_off_is_damaged(tmp_path):
  path = tmp_path / "a.mp4"
  write_video(path, np.random.default_rng(0).integers(0, 255, (30, 32, 64, 3)).astype(np.uint8), 8)
  path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
  with pytest.raises(Unusable) as refused:
    read_frames(path, Protocol(frames=30, height=32))
  assert refused.value.kind == "damaged"


def test_two_rates_are_not_compared_frame_by_frame(tmp_path):
  slow, fast = (read_frames(grey(tmp_path / f"{fps}.mp4", range(5), fps), PROTOCOL) for fps in (8, 30))
  with pytest.raises(Unusable, match="has 30 frames per second and the true video 8.*--config.fps=8"):
    check_pair(fast, slow, tmp_path / "30.mp4", PROTOCOL)
  check_pair(fast, slow, tmp_path / "30.mp4", Protocol(frames=4, fps=4.0))
  check_pair(slow, slow, tmp_path / "8.mp4", PROTOCOL)
  with pytest.raises(Unusable, match="has 8 frames per second, and 10 are compared: give --config.fps=8 or less"):
    read_frames(tmp_path / "8.mp4", Protocol(frames=4, fps=10.0))


def test_views_side_by_side_are_taken_apart(tmp_path):
  views = np.stack([np.full((3, 16, 16, 3), level, np.uint8) for level in (10, 100, 200)])
  write_video(tmp_path / "v.mp4", np.concatenate(views, axis=2), 8, crf=0)
  read = read_views(tmp_path / "v.mp4", 3)
  assert read.shape == views.shape
  np.testing.assert_allclose(read.mean((1, 2, 3, 4)), [10, 100, 200], atol=3)
  with pytest.raises(Unusable, match="8 square views side by side are 128x16"):
    read_views(tmp_path / "v.mp4", 8)
