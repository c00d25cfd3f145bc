"""The given clip: rate, crop, memory, and what is refused."""

import numpy as np
import pytest

from panda_jax.data import video
from panda_jax.data.video import DamagedVideo, centre_square, resize, write_video
from panda_jax.data.worlds import draw_world, render
from panda_jax.errors import InputError
from panda_jax.generate import given_video
from panda_jax.generate.given_video import GivenArray, GivenPanorama, GivenVideo
from panda_jax.geometry import Camera, project, to_uint8

SIZE = (32, 32)


def grey_film(path, levels, fps, size=(48, 80)):
  write_video(path, (np.full((*size, 3), level, np.uint8) for level in levels), fps, crf=1)
  return path


@pytest.fixture
def film(tmp_path):
  """20 frames, each 10 brighter than the one before."""
  return grey_film(tmp_path / "film.mp4", range(0, 200, 10), 8)


@pytest.mark.parametrize("source_fps, wanted, filmed", [
  (8, [20, 40, 60, 80], [0, 1, 2, 3]), (16, [20, 60], [0, 2]), (4, [20, 20, 40, 40, 60, 60, 80, 80], [0, 0, 1, 1, 2, 2, 3, 3]),
])
def test_frames_are_taken_at_the_rate_of_the_model(tmp_path, source_fps, wanted, filmed):
  """A faster film loses frames, a slower one repeats them: what is on the screen at each tick."""
  clip = GivenVideo(grey_film(tmp_path / "film.mp4", (20, 40, 60, 80), source_fps), SIZE, 8.0)
  assert clip.count(100) == len(wanted)
  frames, numbers = clip.read(0, len(wanted))
  assert frames.shape == (len(wanted), 32, 32, 3) and frames.dtype == np.uint8
  np.testing.assert_allclose(frames.mean((1, 2, 3)), wanted, atol=2)
  assert numbers.tolist() == filmed


def test_odd_rates_take_the_frame_on_the_screen(tmp_path):
  clip = GivenVideo(grey_film(tmp_path / "film.mp4", range(0, 240, 8), 30000 / 1001), SIZE, 8.0)
  assert clip.read(0, 8)[1].tolist() == [int(k / 8 * 30000 / 1001) for k in range(8)] and clip.count(100) == 9


def test_windows_that_overlap_give_the_same_as_one_reading(film):
  whole, numbers = GivenVideo(film, SIZE, 8.0).read(0, 20)
  clip = GivenVideo(film, SIZE, 8.0)
  for start in (0, 3, 6, 9, 2):                                       # the last one goes back
    frames, filmed = clip.read(start, 4)
    np.testing.assert_array_equal(frames, whole[start:start + 4])
    assert filmed.tolist() == numbers[start:start + 4].tolist()


def test_after_the_end_the_last_frame_stands(film):
  clip = GivenVideo(film, SIZE, 8.0)
  frames, filmed = clip.read(18, 5)
  assert filmed.tolist() == [18, 19, 19, 19, 19] and (frames[1:] == frames[1]).all()
  assert clip.count(20) == clip.count(50) == 20 and clip.count(7) == 7
  assert clip.read(17, 2)[1].tolist() == [17, 18]


def test_a_clip_is_decoded_once_and_only_so_far_as_it_is_wanted(film, monkeypatch):
  decoded, converted = [], []
  monkeypatch.setattr(given_video, "decode", lambda path: (decoded.append(1) or frame for frame in video.decode(path)))
  monkeypatch.setattr(given_video, "to_rgb", lambda frame: converted.append(1) or video.to_rgb(frame))
  clip = GivenVideo(film, SIZE, 4.0)                                  # every other frame
  for start in (0, 3):
    clip.read(start, 4)
  assert len(decoded) == 13 and len(converted) == 8                   # frames 0 to 12; 0, 2, … 12 and once more the 6


def test_a_wide_film_gives_its_middle_square(tmp_path):
  frame = np.zeros((64, 128, 3), np.uint8)
  frame[:, 32:96] = 255                                              # the middle square is white
  frame[:, :4] = 128                                                 # and the edges do not join
  write_video(tmp_path / "wide.mp4", [frame] * 2, 8, crf=1)
  clip = GivenVideo(tmp_path / "wide.mp4", (16, 16), 8.0)
  assert clip.read(0, 2)[0][:, 1:-1, 1:-1].min() > 245 and clip.picture_size == (64, 128)


def test_a_share_of_the_square_is_cut_from_the_full_picture():
  picture = np.zeros((60, 100, 3), np.uint8)
  picture[15:45, 35:65] = 200
  assert (resize(centre_square(picture, 0.5), (6, 6)) == 200).all()
  assert (resize(centre_square(picture), (6, 6))[0] == 0).all()


def test_each_frame_may_have_its_own_share():
  frames = np.zeros((3, 8, 8, 3), np.uint8)
  frames[:, 2:6, 2:6] = 100
  images, _ = GivenArray(frames, (8, 8)).read(0, 3, lambda frame: (1.0, 0.5, 1.0)[frame])
  assert images[1].min() == 100 and images[0].min() == images[2].min() == 0


def test_a_360_video_is_refused_by_name(tmp_path):
  write_video(tmp_path / "sphere.mp4", render(draw_world(0), 2, (64, 128)), 8)
  with pytest.raises(InputError, match="sphere.mp4 is twice as wide .*`panda prepare`"):
    GivenVideo(tmp_path / "sphere.mp4", SIZE, 8.0)


def test_damage_is_found_before_anything_is_made_of_the_clip(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (24, 48, 80, 3), np.uint8)
  film = tmp_path / "film.mp4"
  write_video(film, noise, 8)
  data = bytearray(film.read_bytes())
  data[len(data) * 3 // 4:] = bytes(len(data) - len(data) * 3 // 4)
  film.write_bytes(data)
  clip = GivenVideo(film, SIZE, 8.0)
  assert clip.count(4) == 4
  with pytest.raises(DamagedVideo, match="film.mp4 is damaged"):
    clip.count(24)


# --- cut out of a panorama


@pytest.fixture(scope="module")
def sphere(tmp_path_factory):
  """A world at 16 frames per second."""
  path = tmp_path_factory.mktemp("sphere") / "sphere.mp4"
  write_video(path, render(draw_world(0), 12, (64, 128)), 16, crf=1)
  return path


def test_a_view_is_cut_out_of_a_panorama_at_the_rate_of_the_model(sphere):
  camera = Camera(40, 10, 80, 5)
  clip = GivenPanorama(sphere, camera, SIZE, 8.0, panorama_height=48)
  images, filmed = clip.read(0, 4)
  assert filmed.tolist() == [0, 2, 4, 6] and clip.count(100) == 6 and clip.picture_size == SIZE
  truth = np.stack([frame for frame in video.read_frames(sphere, size=(48, 96))])[filmed]
  np.testing.assert_array_equal(images, to_uint8(project(truth, camera, SIZE)))


def test_a_panorama_is_never_enlarged_before_it_is_cut(sphere):
  one, other = (GivenPanorama(sphere, Camera(0, 0), SIZE, 8.0, height).read(0, 1)[0] for height in (None, 1024))
  np.testing.assert_array_equal(one, other)


def test_a_share_of_a_cut_view_is_a_narrower_view(sphere):
  """tan 45° / 2 = tan 26.565°."""
  half, _ = GivenPanorama(sphere, Camera(20, 0, 90), SIZE, 8.0).read(0, 1, lambda frame: 0.5)
  narrow, _ = GivenPanorama(sphere, Camera(20, 0, 2 * 26.56505118), SIZE, 8.0).read(0, 1)
  assert np.abs(half.astype(int) - narrow).max() <= 1


def test_what_is_no_panorama_is_refused(film):
  with pytest.raises(InputError, match="film.mp4 is 80x48, not 2:1"):
    GivenPanorama(film, Camera(0, 0), SIZE, 8.0)
