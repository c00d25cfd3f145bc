"""A tagged video is the same video, and other people's readers see that it is a sphere."""

import random

import av
import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.generate.spherical import add_spherical_metadata, spherical_metadata, write_360_video
from tests.paths import REAL, needs_real

LAYOUTS = {"index first": {"movflags": "faststart"}, "index last": {}}


def make_mp4(path, options=None, audio=False, frames=6):
  """A small moving video by PyAV's own muxer, with a sound track in front of it if asked for."""
  with av.open(str(path), "w", options=options or {}) as container:
    if audio:
      sound = container.add_stream("aac", rate=8000, layout="mono")
    video = container.add_stream("libx264", rate=8)
    video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
    video.codec_context.sample_aspect_ratio = 1
    if audio:
      silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
      silence.sample_rate = 8000
      container.mux(sound.encode(silence))
      container.mux(sound.encode())
    for index in range(frames):
      image = np.full((32, 64, 3), 30 * index, np.uint8)
      image[:, 8 * index:8 * index + 8] = 255
      container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
    container.mux(video.encode())
  return path


def decoded(path):
  with av.open(str(path)) as container:
    return [frame.to_ndarray() for frame in container.decode(container.streams.video[0])]


def sound_packets(path):
  with av.open(str(path)) as container:
    return [bytes(packet) for packet in container.demux(container.streams.audio[0])]


def side_data(path):
  with av.open(str(path)) as container:
    frame = next(container.decode(container.streams.video[0]))
    return {data.type.name for data in frame.side_data.keys()}


@pytest.fixture(params=LAYOUTS, ids=lambda name: name.replace(" ", "_"))
def pair(request, tmp_path):
  plain = make_mp4(tmp_path / "plain.mp4", LAYOUTS[request.param])
  data = plain.read_bytes()
  assert (data.index(b"moov") < data.index(b"mdat")) == (request.param == "index first")
  tagged = tmp_path / "tagged_360.mp4"
  add_spherical_metadata(plain, tagged)
  return plain, tagged


def test_every_frame_decodes_bit_identically_after_tagging(pair):
  plain, tagged = pair
  before, after = decoded(plain), decoded(tagged)
  assert len(before) == len(after) == 6
  assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_ffmpeg_sees_a_sphere_only_after_tagging(pair):
  plain, tagged = pair
  assert "SPHERICAL" not in side_data(plain)
  assert {"SPHERICAL", "STEREO3D"} <= side_data(tagged)


@pytest.mark.parametrize("removed", [b"sv3d", b"uuid"])
def test_each_of_the_two_forms_is_enough_for_ffmpeg(pair, removed):
  """A reader that knows only V1, or only V2, still sees the sphere."""
  tagged = pair[1]
  data = tagged.read_bytes()
  assert data.count(removed) == 1
  tagged.write_bytes(data.replace(removed, b"free"))
  assert "SPHERICAL" in side_data(tagged)
  assert set(spherical_metadata(tagged)) == {"v1", "v2"} - ({"v1"} if removed == b"uuid" else set())


def test_what_was_written_can_be_read_back(pair):
  plain, tagged = pair
  assert spherical_metadata(plain) == {}
  found = spherical_metadata(tagged)
  assert found["v1"]["Spherical"] == found["v1"]["Stitched"] == "true"
  assert found["v1"]["ProjectionType"] == "equirectangular"
  assert "panda_jax" in found["v1"]["StitchingSoftware"]
  assert found["v2"]["stereo_mode"] == "mono"
  assert found["v2"]["projection"] == "equirectangular"
  assert found["v2"]["bounds"] == (0, 0, 0, 0)
  assert "panda_jax" in found["v2"]["metadata_source"]


def test_v2_boxes_stand_between_the_codec_configuration_and_the_pixel_aspect_ratio(pair):
  data = pair[1].read_bytes()
  assert data.index(b"avcC") < data.index(b"st3d") < data.index(b"sv3d") < data.index(b"pasp")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sound_survives_and_only_the_video_track_is_tagged(tmp_path, layout):
  plain = make_mp4(tmp_path / "plain.mp4", LAYOUTS[layout], audio=True)
  add_spherical_metadata(plain, tmp_path / "tagged.mp4")
  assert sound_packets(plain) == sound_packets(tmp_path / "tagged.mp4")
  assert all(np.array_equal(a, b) for a, b in zip(decoded(plain), decoded(tmp_path / "tagged.mp4")))
  data = (tmp_path / "tagged.mp4").read_bytes()
  assert data.count(b"sv3d") == 1 and data.index(b"mp4a") < data.index(b"avcC") < data.index(b"sv3d")
  assert "SPHERICAL" in side_data(tmp_path / "tagged.mp4")


def test_64_bit_chunk_offsets_are_shifted_too(tmp_path):
  """Recorders of long films use co64; here the muxer's stco is rewritten as one, which moves the samples by 4 bytes."""
  plain = make_mp4(tmp_path / "plain.mp4", {"movflags": "faststart"})
  expected = decoded(plain)
  data = bytearray(plain.read_bytes())
  at = data.index(b"stco") - 4
  assert int.from_bytes(data[at + 12:at + 16], "big") == 1, "the small film lies in one chunk"
  offset = int.from_bytes(data[at + 16:at + 20], "big") + 4
  data[at:at + 20] = (24).to_bytes(4, "big") + b"co64" + bytes(data[at + 8:at + 16]) + offset.to_bytes(8, "big")
  for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
    start = data.index(kind) - 4
    data[start:start + 4] = (int.from_bytes(data[start:start + 4], "big") + 4).to_bytes(4, "big")
  plain.write_bytes(data)
  assert all(np.array_equal(a, b) for a, b in zip(decoded(plain), expected))
  add_spherical_metadata(plain, plain)
  assert all(np.array_equal(a, b) for a, b in zip(decoded(plain), expected))


def test_a_file_can_be_tagged_in_place_but_not_twice(tmp_path):
  path = make_mp4(tmp_path / "clip.mp4")
  add_spherical_metadata(path, path)
  once = path.read_bytes()
  with pytest.raises(InputError, match="clip.mp4 is tagged as spherical already"):
    add_spherical_metadata(path, path)
  assert path.read_bytes() == once


@pytest.mark.parametrize("name, content, message", [
  ("missing.mp4", None, "missing.mp4: there is no such file"),
  ("empty.mp4", b"", "empty.mp4 is not an mp4"),
  ("notes.mp4", b"not a film at all, only words", "notes.mp4 is not an mp4"),
  ("clip.mkv", b"\x1aE\xdf\xa3" + bytes(64), "clip.mkv is not an mp4"),
  ("bare.mp4", b"\0\0\0\x10ftypisom\0\0\0\0", "bare.mp4 is damaged or was never finished"),
])
def test_other_files_are_refused_in_one_sentence_and_nothing_is_written(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(InputError, match=message):
    add_spherical_metadata(tmp_path / name, tmp_path / "out_360.mp4")
  with pytest.raises(InputError, match=message):
    spherical_metadata(tmp_path / name)
  assert sorted(tmp_path.iterdir()) == before


def test_a_fragmented_file_and_a_cut_short_one_are_refused(tmp_path):
  fragmented = make_mp4(tmp_path / "fragmented.mp4", {"movflags": "frag_keyframe+empty_moov"})
  with pytest.raises(InputError, match="fragmented.mp4 is a fragmented mp4; rewrite"):
    add_spherical_metadata(fragmented, tmp_path / "out.mp4")
  cut = make_mp4(tmp_path / "cut.mp4")
  cut.write_bytes(cut.read_bytes()[:-20])
  with pytest.raises(InputError, match="cut.mp4 is damaged or cut short"):
    add_spherical_metadata(cut, tmp_path / "out.mp4")
  assert not (tmp_path / "out.mp4").exists()


def test_a_sound_file_has_no_video_to_tag(tmp_path):
  path = tmp_path / "sound.mp4"
  with av.open(str(path), "w") as container:
    sound = container.add_stream("aac", rate=8000, layout="mono")
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
    silence.sample_rate = 8000
    container.mux(sound.encode(silence))
    container.mux(sound.encode())
  with pytest.raises(InputError, match="sound.mp4 has no video track"):
    add_spherical_metadata(path, tmp_path / "out.mp4")


def test_a_damaged_index_gives_a_sentence_and_never_a_traceback(tmp_path):
  """200 files with three random bytes of the index changed: each is either tagged or refused."""
  good = make_mp4(tmp_path / "good.mp4", {"movflags": "faststart"}).read_bytes()
  chance, refused = random.Random(0), 0
  for _ in range(200):
    data = bytearray(good)
    for _ in range(3):
      data[chance.randrange(good.index(b"moov"), good.index(b"mdat"))] = chance.randrange(256)
    (tmp_path / "bad.mp4").write_bytes(data)
    try:
      add_spherical_metadata(tmp_path / "bad.mp4", tmp_path / "out.mp4")
    except InputError:
      refused += 1
  assert refused > 20


def test_one_call_writes_a_tagged_h264_video_at_the_asked_rate(tmp_path):
  frames = np.random.default_rng(0).integers(0, 255, (5, 32, 64, 3), np.uint8)
  path = tmp_path / "noise_360.mp4"
  write_360_video(path, iter(frames), 8)
  assert set(spherical_metadata(path)) == {"v1", "v2"}
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
  assert len(decoded(path)) == 5
  assert list(tmp_path.iterdir()) == [path], "nothing but the video stays behind"


@pytest.mark.parametrize("name, shape, message", [
  ("clip.mp4", (2, 32, 64, 3), "must end in _360.mp4"),
  ("clip_360.mp4", (0, 32, 64, 3), "no frames"),
  ("clip_360.mp4", (2, 36, 64, 3), "64x36 do not cover the sphere"),
])
def test_a_wrong_name_or_shape_is_refused_before_anything_is_written(tmp_path, name, shape, message):
  with pytest.raises(ValueError, match=message):
    write_360_video(tmp_path / name, np.zeros(shape, np.uint8), 8)
  assert not list(tmp_path.iterdir())


@needs_real
def test_a_camera_file_with_sound_and_edits_stays_the_same_film(tmp_path):
  source = REAL / "video" / "overpass_2048x1024.mp4"
  add_spherical_metadata(source, tmp_path / "out_360.mp4")

  def packets(path):
    with av.open(str(path)) as container:
      return [(packet.stream_index, packet.pts, bytes(packet)) for packet in container.demux()]

  assert packets(source) == packets(tmp_path / "out_360.mp4")
  assert "SPHERICAL" in side_data(tmp_path / "out_360.mp4")
