"""Video files: what is written is read back, and what is broken is said."""

import os

import av
import numpy as np
import pytest

from panda_jax.data import video
from panda_jax.errors import InputError
from tests.paths import REAL, needs_real


def make_frames(count: int, h: int = 64, w: int = 128) -> list[np.ndarray]:
  """A smooth coloured pattern that turns."""
  y, x = np.mgrid[:h, :w]
  waves = (np.sin(x * 2 * np.pi / w), np.cos(x * 4 * np.pi / w + y / 20), np.sin(y / 15))
  frame = np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)
  return [np.roll(frame, -2 * k, axis=1) for k in range(count)]


@pytest.fixture
def clip(tmp_path):
  video.write_video(tmp_path / "clip.mp4", iter(make_frames(30)), 29.97002997)
  return tmp_path / "clip.mp4"


def test_a_written_video_is_read_back(clip):
  """Size, rate, number, order and colours."""
  info = video.probe(clip)
  assert (info.width, info.height, info.frames) == (128, 64, 30)
  assert info.fps == pytest.approx(30000 / 1001) and info.duration == pytest.approx(1.001)
  read = list(video.read_frames(clip))
  error = np.abs(np.float32(read) - make_frames(30)).mean(axis=(1, 2, 3))
  assert len(read) == 30 and error.max() < 4
  assert read[0].dtype == np.uint8 and read[0].shape == (64, 128, 3)


@pytest.mark.parametrize("colour", [(200, 30, 40), (20, 200, 60), (30, 60, 220), (250, 250, 250), (3, 3, 3)])
@pytest.mark.parametrize("height", [64, 720])
def test_colours_do_not_drift(tmp_path, colour, height):
  """Writer and reader agree on the colour matrix and range at every size: two levels at most."""
  frame = np.full((height, 128, 3), colour, np.uint8)
  video.write_video(tmp_path / "c.mp4", [frame] * 2, 10, crf=1)
  assert np.abs(np.int16(next(video.read_frames(tmp_path / "c.mp4"))) - frame).max() <= 2


def test_any_player_can_show_it(clip):
  """H.264, yuv420p, BT.709, and the index before the data, so that it plays while it loads."""
  with av.open(str(clip)) as container:
    context = container.streams.video[0].codec_context
    assert (context.name, context.pix_fmt, context.colorspace, context.color_primaries) == ("h264", "yuv420p", 1, 1)
  data = clip.read_bytes()
  assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_start_count_stride_and_size_pick_frames(clip):
  everything = list(video.read_frames(clip))
  np.testing.assert_array_equal(list(video.read_frames(clip, start=5, stride=7)), everything[5::7])
  np.testing.assert_array_equal(list(video.read_frames(clip, start=5, count=2)), everything[5:7])
  assert len(list(video.read_frames(clip, start=28, count=9))) == 2
  assert not list(video.read_frames(clip, count=0)) and not list(video.read_frames(clip, start=40))
  for size in [(32, 64), (96, 192), (20, 100)]:
    small = next(video.read_frames(clip, size))
    assert small.shape == (*size, 3)
    np.testing.assert_allclose(small.mean((0, 1)), everything[0].mean((0, 1)), atol=1.5)


def test_fragmented_files_whose_header_counts_nothing_are_fine(tmp_path):
  path = tmp_path / "fragmented.mp4"
  with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
    for frame in make_frames(20):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
  assert video.probe(path).frames is None
  assert len(list(video.read_frames(path))) == 20


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9, 0.97])
def test_a_cut_off_file_says_how_much_decodes(clip, tmp_path, share):
  cut = tmp_path / "cut.mp4"
  cut.write_bytes(clip.read_bytes()[:int(clip.stat().st_size * share)])
  with pytest.raises(video.DamagedVideo, match=r"cut\.mp4 is (cut off|damaged)") as caught:
    list(video.read_frames(cut))
  assert f"{caught.value.frames} frame" in str(caught.value) and caught.value.frames < 30


def test_a_cut_off_webm_is_noticed(tmp_path):
  """Its header counts no frames either; only its length in seconds tells."""
  path, cut = tmp_path / "clip.webm", tmp_path / "cut.webm"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libvpx-vp9", rate=10, options={"deadline": "realtime", "cpu-used": "8"})
    stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
    for frame in make_frames(50):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
  assert len(list(video.read_frames(path))) == 50
  cut.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
  with pytest.raises(video.DamagedVideo):
    list(video.read_frames(cut))


@pytest.mark.parametrize("content", [b"", b"just some text\n" * 1000, bytes(5000)])
def test_what_is_no_video_is_named(tmp_path, content):
  (tmp_path / "fake.mp4").write_bytes(content)
  for attempt in (video.probe, lambda path: next(video.read_frames(path))):
    with pytest.raises(InputError, match=r"fake\.mp4 cannot be read as a video"):
      attempt(tmp_path / "fake.mp4")


def test_a_missing_file_or_a_folder_is_named(tmp_path):
  for path in (tmp_path / "none.mp4", tmp_path):
    with pytest.raises(InputError, match="there is no video file"):
      video.probe(path)


@pytest.mark.parametrize("frames, message", [
  ([], "no frames"),
  ([np.zeros((9, 16, 3), np.uint8)], "even sizes"),
  ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)], "frame 1 .* like the first"),
  ([np.zeros((16, 16, 3), np.float32)], "must be uint8"),
])
def test_frames_that_make_no_video_are_refused_and_nothing_is_left(tmp_path, frames, message):
  with pytest.raises(InputError, match=message):
    video.write_video(tmp_path / "clip.mp4", iter(frames), 10)
  assert os.listdir(tmp_path) == []


def test_an_interrupted_write_keeps_the_old_file(clip):
  before = clip.read_bytes()

  def frames():
    yield from make_frames(5)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    video.write_video(clip, frames(), 30)
  assert clip.read_bytes() == before and os.listdir(clip.parent) == [clip.name]


@needs_real
@pytest.mark.parametrize("name, size, frames", [
  ("overpass_2048x1024.mp4", (2048, 1024), 120), ("tunnel_walk_1920x1080.mp4", (1920, 1080), 189),
  ("ricoh_prison_640x322.mp4", (640, 322), 1202)])
def test_real_clips_decode_whole(name, size, frames):
  """Whatever their headers count (123, 189 and 0 frames)."""
  path = REAL / "video" / name
  info = video.probe(path)
  assert (info.width, info.height) == size
  assert sum(1 for _ in video.decode(path)) == frames
