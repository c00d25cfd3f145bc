"""Clips and videos are found where people and other programs put them, and nothing is passed over."""

import json

import pytest

from panda_jax.data.clips import (
  Clip, clips_of_methods, file_name, find_methods, find_video, parse_shard, read_clips, unlisted, views_of)
from panda_jax.errors import InputError


def touch(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b"")
  return path


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")
  return path


def test_a_table_of_panoworlds_benchmark_is_read_as_it_is(tmp_path):
  """Captions in JSON by model and length, the longest wins; paths are relative to the table; further columns are fine."""
  write(tmp_path / "captions" / "a.json", json.dumps({"gpt-5-mini": {"short": "a hall", "long": " a long dark hall "}}))
  write(tmp_path / "captions" / "b.txt", "plain text\n")
  table = write(tmp_path / "master.csv", "clip_id,split,video_path,caption_path,n_frames,fps\n"
                "argus::a,argus,videos/a.mp4,captions/a.json,25,25\nself::b,self,/abs/b.mp4,captions/b.txt,25,25\n"
                "self::c,self,,,25,25\n")
  a, b, c = read_clips(table)
  assert a == Clip("argus::a", "a long dark hall", tmp_path / "videos/a.mp4", "argus")
  assert (b.prompt, str(b.video), c.video, c.prompt) == ("plain text", "/abs/b.mp4", None, "")
  assert a.name == file_name("argus::a") == "argus__a"
  assert read_clips(tmp_path) == [a, b, c]


def test_a_folder_of_videos_is_a_benchmark_too(tmp_path):
  for name in ("b.mp4", "a_360.mp4", "notes.txt"):
    touch(tmp_path / name)
  assert [clip.id for clip in read_clips(tmp_path)] == ["a", "b"]
  write(tmp_path / "captions.csv", "file,caption\nb.mp4,a beach\na,a hill\n")
  assert [(clip.id, clip.prompt) for clip in read_clips(tmp_path)] == [("a", "a hill"), ("b", "a beach")]


def test_methods_are_folders_and_their_videos_have_three_names(tmp_path):
  touch(tmp_path / "ours" / "s__1.mp4"), touch(tmp_path / "ours" / "2_360.mp4"), touch(tmp_path / "theirs" / "2" / "video.mp4")
  (tmp_path / "empty").mkdir()
  touch(tmp_path / ".hidden" / "1.mp4")
  methods = find_methods(tmp_path)
  assert list(methods) == ["ours", "theirs"]
  assert find_video(methods["ours"], "s::1").name == "s__1.mp4"
  assert find_video(methods["ours"], "2").name == "2_360.mp4"
  assert find_video(methods["theirs"], "2").parts[-2:] == ("2", "video.mp4")
  assert find_video(methods["theirs"], "s::1") is None
  assert [clip.id for clip in clips_of_methods(methods)] == ["2", "s__1"]
  assert unlisted(methods, [Clip("2")]) == {"ours": ["s__1"]}


def test_a_method_given_by_itself_is_one(tmp_path):
  touch(tmp_path / "flat" / "1.mp4"), touch(tmp_path / "deep" / "1" / "video.mp4"), touch(tmp_path / "deep" / "2" / "video.mp4")
  assert find_methods(tmp_path / "flat") == {"flat": tmp_path / "flat"}
  assert find_methods(tmp_path / "deep") == {"deep": tmp_path / "deep"}


@pytest.mark.parametrize("text, words", [
  ("clip_id\na\na\n", "clip a twice, again in line 3"),
  ("clip_id,prompt\na,b,c,d\n", "do not have 2 fields"),
  ("clip_id\n../a\n", "cannot be a clip's id"),
  ("clip_id\na::b\na__b\n", "files of one name"),
  ("clip_id\n", "has no clips"),
  ("name\na\n", "clip_id"),
  ("clip_id,caption_path\na,none.json\n", "line 2: the caption .*none.json cannot be read"),
])
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path, text, words):
  with pytest.raises(InputError, match=words):
    read_clips(write(tmp_path / "master.csv", text))


def test_captions_that_say_nothing_are_refused(tmp_path):
  write(tmp_path / "a.json", '{"model": {"tiny": "x"}}')
  with pytest.raises(InputError, match="none of long, medium, short"):
    read_clips(write(tmp_path / "master.csv", "clip_id,caption_path\na,a.json\n"))
  touch(tmp_path / "folder" / "b.mp4")
  write(tmp_path / "folder" / "captions.csv", "file,caption\nc.mp4,lost\n")
  with pytest.raises(InputError, match="caption for c"):
    read_clips(tmp_path / "folder")


def test_what_is_ambiguous_is_refused(tmp_path):
  touch(tmp_path / "m" / "1.mp4"), touch(tmp_path / "m" / "1_360.mp4")
  with pytest.raises(InputError, match="are both videos of the clip 1"):
    find_video(tmp_path / "m", "1")
  touch(tmp_path / "2.mp4")
  with pytest.raises(InputError, match="holds videos and also m/?"):
    find_methods(tmp_path)
  (tmp_path / "none").mkdir()
  with pytest.raises(InputError, match="holds no videos"):
    find_methods(tmp_path / "none")
  with pytest.raises(InputError, match="does not exist"):
    find_methods(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "1", "4/4", "-1/4", "1/0", "a/b", "1/4/2"])
def test_shards_are_counted_from_0(text):
  assert [parse_shard(f"{k}/4") for k in range(4)] == [(k, 4) for k in range(4)]
  with pytest.raises(InputError, match="give I/N"):
    parse_shard(text)


def test_what_generating_leaves_beside_videos_is_no_video(tmp_path):
  """Views before stitching, and folders with windows of a video that was interrupted."""
  touch(tmp_path / "ours" / "1.mp4"), touch(tmp_path / "ours" / "1_views.mp4"), touch(tmp_path / "ours" / "2.parts" / "video.mp4")
  methods = find_methods(tmp_path)
  assert unlisted(methods, [Clip("1")]) == {} and [clip.id for clip in clips_of_methods(methods)] == ["1"]
  assert find_methods(tmp_path / "ours") == {"ours": tmp_path / "ours"}
  assert views_of(tmp_path / "ours" / "1_360.mp4") == views_of(tmp_path / "ours" / "1.mp4") == tmp_path / "ours" / "1_views.mp4"
