"""Frames as they go into a dataset: the right ones, repaired, each decoded once."""

import dataclasses

import cv2
import numpy as np
import pytest

from panda_jax.data import repairs, video
from panda_jax.data.checks import check, read_still
from panda_jax.errors import InputError
from panda_jax.geometry import eac_rays, equirect_rays
from tests.data.made_clips import as_eac, film, moving, other_eye, squeezed, top_bottom, write
from tests.geometry.analytic import paint, psnr


def kept(found, size, keep=range(20), **options) -> np.ndarray:
  return np.stack(list(repairs.frames(found, size, keep, **options)))


def psnr_of(frames, reference) -> float:
  return psnr(np.stack(frames), np.stack(reference).astype(float), 255)


def test_a_plain_panorama_is_resized_like_any_video(tmp_path):
  path = write(tmp_path / "a.mp4", moving())
  found = check(path)
  np.testing.assert_array_equal(kept(found, (128, 256)), list(video.read_frames(path)))
  small = list(video.read_frames(path, (64, 128)))
  np.testing.assert_array_equal(kept(found, (64, 128), [3, 4, 11]), [small[3], small[4], small[11]])
  assert list(repairs.frames(found, (64, 128), [])) == []


def test_16_9_becomes_2_1(tmp_path):
  found = check(write(tmp_path / "a.mp4", [squeezed(frame, (144, 256)) for frame in moving()]))
  assert psnr_of(kept(found, (128, 256)), moving()) > 32


@pytest.mark.parametrize("axis, size", [(0, None), (1, None), (0, (128, 256)), (1, (128, 256))])
def test_one_eye_is_kept(tmp_path, axis, size):
  """Whatever the frame's shape, it is the upper or the left one, and nothing of the other, which is darker here."""
  stored = [np.concatenate([frame, np.maximum(other_eye(frame), 4) - 4], axis) for frame in moving()]
  found = check(write(tmp_path / "a.mp4", [squeezed(frame, size) if size else frame for frame in stored]))
  eye = kept(found, (128, 256))
  assert psnr_of(eye, moving()) > 30
  np.testing.assert_allclose(eye.mean((1, 2)), np.stack(moving()).mean((1, 2)), atol=1.5)


@pytest.mark.parametrize("size", [(200, 300), (288, 512)])
def test_a_cubemap_becomes_the_panorama_it_was_made_of(tmp_path, size):
  found = check(write(tmp_path / "a.mp4", [as_eac(frame, size) for frame in moving()]))
  assert psnr_of(kept(found, (128, 256)), moving()) > 30


@pytest.mark.parametrize("size", [(240, 360), (720, 1280), (1080, 1920)])
def test_cubemaps_are_converted_without_a_trace(size):
  """A picture painted on the sphere: shrunk or not, no seam between the faces shows."""
  painted = np.rint(127.5 + 127.5 * paint(eac_rays(size))).astype(np.uint8)
  panorama = repairs.from_eac(painted, (240, 480))
  truth = 127.5 + 127.5 * paint(equirect_rays((240, 480)))
  assert psnr(panorama, truth, 255) > 50
  assert np.abs(panorama - truth).max() < 5


def test_flat_frames_are_cut_square_before_they_are_resized(tmp_path):
  path = write(tmp_path / "a.mp4", [film(frame, (90, 160)) for frame in moving()])
  whole = list(video.read_frames(path))
  found = check(path, flat=True)
  np.testing.assert_array_equal(kept(found, (90, 90), flat=True), [frame[:, 35:125] for frame in whole])
  np.testing.assert_array_equal(kept(found, (32, 32), [0, 19], flat=True),
                                [video.resize(frame[:, 35:125], (32, 32)) for frame in (whole[0], whole[19])])


def test_frames_are_counted_from_the_start_of_the_span(tmp_path):
  path = write(tmp_path / "a.mp4", moving(frames=60), fps=10)
  found = check(path, start=2.0, end=5.0)
  whole = list(video.read_frames(path))
  np.testing.assert_array_equal(kept(found, (128, 256), range(30)), whole[20:50])
  np.testing.assert_array_equal(kept(found, (128, 256), [7, 29]), [whole[27], whole[49]])


def test_a_photograph_is_one_frame(tmp_path):
  cv2.imwrite(str(tmp_path / "a.png"), moving()[0][..., ::-1])
  cv2.imwrite(str(tmp_path / "b.png"), top_bottom(moving()[0])[..., ::-1])
  for name in ("a.png", "b.png"):
    np.testing.assert_array_equal(kept(check(tmp_path / name), (128, 256), [0]), moving()[:1])
  np.testing.assert_array_equal(kept(check(tmp_path / "a.png"), (64, 128), [0])[0],
                                video.resize(read_still(tmp_path / "a.png"), (64, 128)))


def test_nothing_is_decoded_after_the_last_frame_that_is_kept(tmp_path, monkeypatch):
  path = write(tmp_path / "a.mp4", moving())
  found, decode, decoded = check(path), video.decode, []

  def counting(*arguments):
    for frame in decode(*arguments):
      decoded.append(1)
      yield frame

  monkeypatch.setattr(video, "decode", counting)
  assert len(kept(found, (64, 128), [2, 5])) == 2 and len(decoded) == 6


def test_a_file_that_changed_since_it_was_checked_is_an_error(tmp_path):
  path = write(tmp_path / "a.mp4", moving())
  found = check(path)
  write(path, moving(frames=12))
  with pytest.raises(InputError, match="had 20 frames when it was checked and ends before frame 12 now.*run again"):
    kept(found, (64, 128))
  path.write_bytes(b"gone")
  with pytest.raises(InputError, match="cannot be read as a video"):
    kept(found, (64, 128))
  path.unlink()
  with pytest.raises(InputError, match="there is no video file"):
    kept(found, (64, 128))
  with pytest.raises(ValueError, match="no repair called"):
    repairs.repair(moving()[0], ["unsharp"], (64, 128))


def test_a_verdict_from_json_repairs_the_same(tmp_path):
  found = check(write(tmp_path / "a.mp4", [top_bottom(frame) for frame in moving()]))
  again = type(found).from_json(found.to_json())
  assert dataclasses.asdict(again) == dataclasses.asdict(found)
  np.testing.assert_array_equal(kept(again, (64, 128), [4]), kept(found, (64, 128), [4]))
