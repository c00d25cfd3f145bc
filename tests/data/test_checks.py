"""Checks as a whole: what a verdict says, broken files, spans, and camera-made material."""

import dataclasses
import json
import re
import struct
import zlib

import av
import cv2
import numpy as np
import pytest

from panda_jax.data import checks, video
from panda_jax.data.checks import Thresholds, Verdict, check
from tests.data.made_clips import moving, write
from tests.paths import REAL, needs_real


def rules(found: Verdict) -> dict[str, str]:
  return {finding.rule: finding.effect for finding in found.findings if finding.rule != "few_pixels"}


def test_a_plain_panorama_needs_no_words(tmp_path):
  found = check(write(tmp_path / "a.mp4", moving()))
  assert (found.ok, found.verdict, found.why, found.repairs) == (True, "panorama", "", [])
  assert (found.width, found.height, found.fps, found.frames, found.shots) == (256, 128, 24, 20, [(0, 20)])
  assert found.seam.joins and rules(found) == {} and checks.rejected_by(found) is None


def test_a_verdict_survives_json(tmp_path):
  for path in (write(tmp_path / "a.mp4", moving() + moving(2)), write(tmp_path / "b.mp4", moving(frames=3)),
               tmp_path / "none.mp4"):
    found = check(path, start=0.1, end=5)
    assert Verdict.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_every_threshold_is_explained_and_every_finding_has_a_rule():
  text = Thresholds.__doc__
  for field in dataclasses.fields(Thresholds):
    assert re.search(rf"^    {field.name}: ", text, re.M), field.name
  assert all(re.fullmatch("[a-z0-9_]+", rule) and line for rule, line in checks.RULES.items())


def test_thresholds_decide(tmp_path):
  path = write(tmp_path / "a.mp4", moving())
  assert check(path, Thresholds(short=20)).ok and not check(path, Thresholds(short=21)).ok
  assert "few_pixels" in {finding.rule for finding in check(path).findings}
  assert check(path, Thresholds(few_pixels=128)).findings == []


# What cannot be read


def test_what_does_not_decode_is_unreadable(tmp_path):
  (tmp_path / "text.mp4").write_text("no video\n" * 99)
  (tmp_path / "empty.webm").write_bytes(b"")
  (tmp_path / "text.png").write_text("no image")
  cv2.imwrite(str(tmp_path / "picture.png"), moving()[0])
  (tmp_path / "picture.png").rename(tmp_path / "picture.mkv")
  (tmp_path / "folder.mp4").mkdir()
  sound(tmp_path / "sound.mp4")
  for name in ("text.mp4", "empty.webm", "text.png", "folder.mp4", "sound.mp4", "missing.jpg", "missing.mp4"):
    found = check(tmp_path / name)
    assert (found.ok, rules(found)) == (False, {"unreadable": "rejected"}), name
    assert found.why and str(tmp_path) not in found.why and found.shots == [] and found.verdict == "broken"
  assert not check(tmp_path / "picture.mkv").ok


def sound(path):
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def test_a_file_that_ends_early_is_truncated(tmp_path):
  whole = write(tmp_path / "a.mp4", moving()).read_bytes()
  (tmp_path / "cut.mp4").write_bytes(whole[:len(whole) * 8 // 10])
  cv2.imwrite(str(tmp_path / "b.jpg"), moving()[0])
  (tmp_path / "cut.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-500])
  found = check(tmp_path / "cut.mp4")
  assert rules(found) == {"truncated": "rejected"} and 0 < found.frames < 20 and "get a whole copy" in found.why
  assert rules(check(tmp_path / "cut.jpg")) == {"truncated": "rejected"}


def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path):
  """A picture of four gigapixels whose data is a few bytes; a video above a threshold."""
  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  for name, side in (("bomb.png", 65500), ("large.png", 12000)):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert rules(check(tmp_path / name)) == {"too_large": "rejected"}
  found = check(write(tmp_path / "a.mp4", moving()), Thresholds(most_pixels=128 * 256 - 1))
  assert rules(found) == {"too_large": "rejected"} and "256x128 by its header" in found.why
  assert check(tmp_path / "a.mp4", Thresholds(most_pixels=128 * 256)).ok


def test_one_colour_says_nothing(tmp_path):
  found = check(write(tmp_path / "a.mp4", [np.full((64, 128, 3), 90, np.uint8)] * 20))
  assert rules(found) == {"one_colour": "rejected"} and found.seam is None


# Spans


def test_a_span_counts_only_its_own_frames(tmp_path):
  """From start, which is in, to end, which is not; on_frame hears of those only."""
  path = write(tmp_path / "a.mp4", moving(frames=60), fps=10)
  heard = []
  found = check(path, start=1.0, end=3.5, on_frame=lambda: heard.append(1))
  assert (found.frames, found.first, found.shots, len(heard)) == (25, 10, [(0, 25)], 25)
  assert check(path, start=3.0).frames == 30 and check(path, end=2.0).frames == 20
  assert rules(check(path, start=1.0, end=2.0)) == {"short": "rejected"}
  found = check(path, start=7.0, end=9.0)
  assert (found.frames, rules(found)) == (0, {"short": "rejected"}) and "no frame between 7 s and 9 s" in found.why


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_late_span_holds_the_frames_that_decoding_all_gives(tmp_path, suffix):
  """The seek that finds it is exact."""
  path = tmp_path / f"a{suffix}"
  with av.open(str(path), "w") as container:
    codec, options = ("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}) if suffix == ".webm" else \
      ("libx264", {"g": "25", "bf": "3"})
    stream = container.add_stream(codec, rate=10, options=options)
    stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
    for frame in moving(frames=120, size=(64, 128), step=1):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
  whole = list(video.read_frames(path))
  for start, end in ((6.0, 8.0), (7.33, 9.1), (5.05, None), (11.0, 11.3)):
    first = next(k for k in range(120) if k / 10 >= start - 1e-9)
    span = [video.to_rgb(frame) for frame in video.decode(path, start, end)]
    stop = 120 if end is None else next(k for k in range(121) if k / 10 >= end - 1e-9)
    np.testing.assert_array_equal(span, whole[first:stop])
    assert video.frames_before(path, start) == first


# Camera-made material


VERDICTS = {
  "overpass_2048x1024.mp4": (True, {"poles": "reported"}, []),
  "ricoh_prison_640x322.mp4": (True, {}, []),
  "tunnel_walk_1920x1080.mp4": (True, {"stored_16_9": "repaired"}, ["resize"]),
}


@needs_real
@pytest.mark.parametrize("name", VERDICTS)
def test_the_real_clips_come_out_as_what_they_are(name):
  """A blacked-out nadir, a fragmented file, a panorama stored as 16:9; none has a cut, however fast it moves."""
  found = check(REAL / "video" / name)
  assert (found.ok, rules(found), found.repairs) == VERDICTS[name]
  assert found.verdict == "panorama" and found.shots == [(0, found.frames)]


@needs_real
def test_the_real_photographs_come_out_as_what_they_are():
  """Eight have a white nadir."""
  for path in sorted((REAL / "photo").iterdir()):
    found = check(path)
    white = "chester" in path.name
    assert (found.ok, found.verdict, found.why) == (True, "panorama", ""), path.name
    assert rules(found) == ({"poles": "reported"} if white else {}), path.name
    assert (found.frames, found.shots) == (1, [(0, 1)])
