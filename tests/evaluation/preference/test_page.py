"""The page of a study: what it holds, and what it keeps to itself."""

import base64
import json
import os
import re
import shutil

import av
import numpy as np
import pytest

from panda_jax.data.clips import Clip
from panda_jax.data.video import read_frames
from panda_jax.errors import InputError
from panda_jax.data import clips as layout
from panda_jax.evaluation.preference import page as page_module
from panda_jax.evaluation.preference.media import anonymous_copy
from panda_jax.evaluation.preference.page import build_study
from panda_jax.evaluation.preference.trials import draw_pairs, read_key
from tests.evaluation.preference.toy import build, film, generated, titled


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  return generated(tmp_path_factory.mktemp("generated"))


def about(output):
  page = (output / "index.html").read_text()
  return json.loads(re.search(r'<script id="study"[^>]*>(.*?)</script>', page)[1])


def embedded(output):
  page = (output / "index.html").read_text()
  found = re.findall(r'<script id="(m\d+)" type="text/plain">([^<]*)</script>', page)
  found += [re.fullmatch(r'video\("(m\d+)","([^"]*)"\);\n', path.read_text()).groups()
            for path in sorted(output.glob("media/*.js"))]
  return {name: base64.b64decode(text) for name, text in found}


def shades(content, tmp_path):
  """Mean blue of a video, which tells its method and clip."""
  (tmp_path / "one.mp4").write_bytes(content)
  return np.mean([frame[..., 2].mean() for frame in read_frames(tmp_path / "one.mp4")])


@pytest.mark.parametrize("limit", [200 << 20, 1000])
def test_nothing_that_is_handed_out_names_a_method_a_clip_or_a_program(videos, tmp_path, monkeypatch, limit):
  """Neither file names, nor the page, nor the videos in it, whatever their headers said."""
  monkeypatch.setattr(page_module, "EMBEDDED", limit)
  own = tmp_path / "own"
  shutil.copytree(videos, own)
  for path in own.glob("*/*.mp4"):
    titled(path, f"{path.parent.name} {path.name}")
  build(own, tmp_path / "page", conditions=own / "ours")
  names = "\n".join(os.path.relpath(path, tmp_path / "page") for path in (tmp_path / "page").rglob("*"))
  said = [names.encode(), (tmp_path / "page" / "index.html").read_bytes(), *embedded(tmp_path / "page").values()]
  assert len(said) == 2 + 12
  for word in (b"ours", b"baseline", b"beach", b"x264", b"Lavf", str(tmp_path).encode(), b"seed"):
    assert not [text for text in said if word in re.sub(rb"colours?", b"", text)], word


def test_the_key_lies_beside_the_folder_and_tells_every_video(videos, tmp_path):
  study, key, _ = build(videos, tmp_path / "page")
  assert key == tmp_path / "page.key.json" and read_key(key) == study
  contents = embedded(tmp_path / "page")
  assert sorted(contents) == sorted(study.media) and len(study.trials) == 4
  for trial in study.trials:
    for name in trial.media:
      path = videos / study.media[name] / f"{trial.clip}.mp4"
      assert shades(contents[name], tmp_path) == shades(path.read_bytes(), tmp_path), "pictures are carried over"
  assert sorted(os.listdir(tmp_path)) == ["one.mp4", "page", "page.key.json"]


def test_a_seed_gives_the_same_bytes_and_another_seed_another_study(videos, tmp_path):
  for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
    build(videos, tmp_path / folder / "page", seed=seed)
  bytes_of = {folder: [(tmp_path / folder / name).read_bytes() for name in ("page/index.html", "page.key.json")]
              for folder in "abc"}
  assert bytes_of["a"] == bytes_of["b"]
  assert bytes_of["a"][1] != bytes_of["c"][1]
  build(videos, tmp_path / "a" / "page")
  with pytest.raises(InputError, match="the key of another study"):
    build(videos, tmp_path / "a" / "page", seed=1)
  assert (tmp_path / "a" / "page" / "index.html").read_bytes() == bytes_of["a"][0], "the page still fits its key"


def test_neither_order_of_videos_nor_of_trials_follows_the_methods(tmp_path):
  study, _, _ = build(generated(tmp_path / "g", clips=12), tmp_path / "page")
  first = [study.media[trial.media[0]] for trial in study.trials]
  assert 2 <= first.count("ours") <= 10
  assert 2 <= [study.media[name] for name in sorted(study.media)][:12].count("ours") <= 10
  assert [trial.clip for trial in study.trials] != sorted(trial.clip for trial in study.trials)


def test_three_methods_meet_in_all_pairs_and_each_video_is_there_once(tmp_path):
  folder = generated(tmp_path / "g", ("ours", "baseline", "third"), clips=2)
  study, _, _ = build(folder, tmp_path / "page")
  sides = sorted((trial.clip, *study.sides(trial)) for trial in study.trials)
  assert sides == sorted((f"beach-{clip}", a, b) for clip in (0, 1)
                         for a, b in (("baseline", "ours"), ("baseline", "third"), ("ours", "third")))
  assert len(embedded(tmp_path / "page")) == 6


def test_clips_are_drawn_by_the_seed_and_a_clip_that_a_method_lacks_is_named(videos):
  methods = layout.find_methods(videos)
  clips = [*layout.clips_of_methods(methods), Clip("dune")]
  (pair,) = draw_pairs(methods, clips, 2, seed=0)
  assert len(pair.clips) == 2 and "dune" not in [clip.id for clip in pair.clips]
  assert pair.lacking == {"ours": ("dune",), "baseline": ("dune",)}
  drawn = {tuple(clip.id for clip in draw_pairs(methods, clips, 2, seed)[0].clips) for seed in range(12)}
  assert len(drawn) > 3
  with pytest.raises(InputError, match="have no clip in common, of 1"):
    draw_pairs(methods, [Clip("dune")], 2, seed=0)


def test_prompts_and_what_was_given_stand_above_their_pair(videos, tmp_path):
  """The text as it is, whatever it holds; a clip without a condition is said to have none."""
  given = tmp_path / "given"
  film(given / "beach-0.mp4", 17, size=(32, 32))
  methods = layout.find_methods(videos)
  prompt = '</script><b>"calm" sea</b> {{videos}}'
  pairs = draw_pairs(methods, [Clip("beach-0", prompt), Clip("beach-1", "dunes")], 20, 0)
  study, _, notes = build_study(tmp_path / "page", methods, pairs, 0, conditions=given)
  trials = {trial["prompt"]: trial for trial in about(tmp_path / "page")["trials"]}
  assert set(trials) == {prompt, "dunes"}
  assert trials["dunes"]["given"] is None
  assert shades(embedded(tmp_path / "page")[trials[prompt]["given"]], tmp_path) == pytest.approx(17, abs=3)
  assert trials[prompt]["given"] not in study.media
  assert notes == [f"1 of 2 clips have no video in {given} and are shown without one: beach-1"]


def test_videos_of_unlike_shape_and_the_same_video_twice_are_said_in_one_line_each(tmp_path):
  folder = generated(tmp_path / "g", clips=3)
  for clip in (0, 1):
    film(folder / "baseline" / f"beach-{clip}.mp4", 9, size=(16, 32), frames=6, fps=4)
  shutil.copy(folder / "ours" / "beach-2.mp4", folder / "baseline" / "beach-2.mp4")
  _, _, notes = build(folder, tmp_path / "page")
  assert len(notes) == 2
  assert re.search(r"baseline and ours differ in size, length or frame rate in 2 of 3 clips.* in beach-\d, "
                   "32x16, 6 frames, 4 fps and 64x32, 8 frames, 8 fps", notes[0])
  assert "the very same video in 1 of 3 clips: beach-2" in notes[1]


def old_film(path):
  """MPEG-4 part 2 with sound-less mp4 around it, as OpenCV's "mp4v" writes it."""
  with av.open(str(path), "w") as made:
    stream = made.add_stream("mpeg4", rate=8)
    stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
    for _ in range(8):
      made.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 64, 3), 90, np.uint8), format="rgb24")))
    made.mux(stream.encode(None))


@pytest.mark.parametrize("ending, codec", [("mkv", "libx264"), ("mov", "libx264"), ("webm", "libvpx-vp9")])
def test_every_frame_of_other_containers_is_carried_over(tmp_path, ending, codec):
  """With frames that are stored in another order than they are shown, whose times such files do not all have."""
  path = tmp_path / f"clip.{ending}"
  rng = np.random.default_rng(0)
  with av.open(str(path), "w") as made:
    stream = made.add_stream(codec, rate=8)
    stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
    for index in range(20):
      image = np.full((32, 64, 3), 12 * index, np.uint8) + rng.integers(0, 9, (32, 64, 3), np.uint8)
      made.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    made.mux(stream.encode(None))
  copy = anonymous_copy(path, tmp_path / "copy.mp4")
  assert copy.shape == "64x32, 20 frames, 8 fps"
  np.testing.assert_array_equal(list(read_frames(copy.path)), list(read_frames(path)))


def test_a_film_that_was_cut_with_hidden_frames_is_refused(tmp_path):
  """Programs that cut without encoding keep frames before the cut and hide them; a copy would show them."""
  whole, cut = film(tmp_path / "whole.mp4", 60, frames=16), tmp_path / "cut.mp4"
  with av.open(str(whole)) as given, av.open(str(cut), "w") as made:
    stream = made.add_stream_from_template(given.streams.video[0])
    for packet in given.demux(video=0):
      if packet.dts is not None:
        packet.pts, packet.dts = (time - round(0.5 / packet.time_base) for time in (packet.pts, packet.dts))
        packet.stream = stream
        made.mux(packet)
  assert len(list(read_frames(cut))) == 12
  with pytest.raises(InputError, match="cut.mp4 was cut without encoding it anew.*add --encode"):
    anonymous_copy(cut, tmp_path / "copy.mp4")
  assert anonymous_copy(cut, tmp_path / "copy.mp4", encode=True).frames == 12


def test_videos_that_browsers_cannot_play_are_refused_or_encoded_with_all_others(tmp_path):
  folder = generated(tmp_path / "g", clips=1)
  old_film(folder / "baseline" / "beach-0.mp4")
  with pytest.raises(InputError, match=r"baseline/beach-0.mp4 is mpeg4 \(yuv420p\).*add --encode"):
    build(folder, tmp_path / "page")
  _, _, notes = build(folder, tmp_path / "page", encode=True)
  assert notes == []
  for content in embedded(tmp_path / "page").values():
    (tmp_path / "one.mp4").write_bytes(content)
    with av.open(str(tmp_path / "one.mp4")) as video:
      assert video.streams.video[0].codec_context.name == "h264"


def test_a_damaged_video_stops_the_build_before_anything_is_written(videos, tmp_path):
  folder = tmp_path / "g"
  shutil.copytree(videos, folder)
  path = folder / "ours" / "beach-1.mp4"
  path.write_bytes(path.read_bytes()[:-300])
  with pytest.raises(InputError, match="ours/beach-1.mp4"):
    build(folder, tmp_path / "page")
  assert os.listdir(tmp_path / "page") == [] and sorted(os.listdir(tmp_path)) == ["g", "page"]


def test_a_folder_with_other_files_is_not_handed_out(videos, tmp_path):
  output = tmp_path / "page"
  output.mkdir()
  (output / "notes_on_ours.txt").write_text("ours wins")
  with pytest.raises(InputError, match="holds notes_on_ours.txt, which is no part of a study"):
    build(videos, output)
  (output / "notes_on_ours.txt").replace(tmp_path / "file")
  with pytest.raises(InputError, match="file is a file: give a folder"):
    build(videos, tmp_path / "file")


def test_videos_too_large_for_one_page_lie_beside_it_and_go_when_they_fit(videos, tmp_path, monkeypatch):
  build(videos, tmp_path / "page")
  inside = embedded(tmp_path / "page")
  monkeypatch.setattr(page_module, "EMBEDDED", 1000)
  build(videos, tmp_path / "page")
  assert len(list((tmp_path / "page" / "media").iterdir())) == 8 and embedded(tmp_path / "page") == inside
  monkeypatch.undo()
  build(videos, tmp_path / "page")
  assert os.listdir(tmp_path / "page") == ["index.html"]
