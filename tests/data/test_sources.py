"""What people have is found as it lies there: WEB360, YouTube360, and any folder; the same on every disk."""

import json
import os
import random
import zipfile
from pathlib import Path

import pytest

from panda_jax.data.sources import find_sources, safe_id
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from tests.data import broken_files

YOUTUBE360 = ["youtubeid", "videoid", "caption", "fps", "tstart", "tend", "totalframes"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  return folder, broken_files.make_corpus(folder)


def touch(folder: Path, *names: str) -> Path:
  """Files without content: nothing here opens them."""
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  return folder


def table(path: Path, *rows: str) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(rows) + "\n", encoding="utf-8")
  return path


def web360(folder: Path, below: str = "datasets/WEB360") -> Path:
  base = touch(folder / below, *(f"videos_512x1024x100/{number}.mp4" for number in (100001, 100002, 100003)),
               *(f"flows_512x1024x100/{number}.mp4" for number in (100001, 100002)))
  table(base / "WEB360_360TF_train.csv", "videoid,name", '100001,"a beach, at noon"', "100002,trees", "100003,a hall")
  return folder


def youtube360(folder: Path, *rows: tuple, header=YOUTUBE360, name="dataset/youtube360.csv") -> Path:
  lines = [",".join(str(dict(zip(YOUTUBE360, row))[column]) for column in header) for row in rows]
  return table(folder / name, ",".join(header), *lines)


def plain(found) -> dict[str, str | None]:
  """id -> caption of what can be used."""
  return {source.id: source.caption for source in found.sources if not source.problem}


def refused(found) -> dict[str, str]:
  """id -> rule of what cannot."""
  return {source.id: source.rule for source in found.sources if source.problem}


# WEB360


@pytest.mark.parametrize("below", [".", "WEB360", "datasets/WEB360"])
@pytest.mark.parametrize("dataset", ["auto", "web360"])
def test_web360_is_known_by_its_table(tmp_path, below, dataset):
  """The clips with their captions, and not the optical flow that lies beside them."""
  found = find_sources([web360(tmp_path / "in", below)], dataset=dataset)
  assert found.dataset == "web360" and found.warnings == []
  assert plain(found) == {"100001": "a beach, at noon", "100002": "trees", "100003": "a hall"}
  assert all(source.path.is_file() and source.path.parent.name.startswith("videos_") for source in found.sources)
  assert {(source.start, source.end) for source in found.sources} == {(0.0, None)}


def test_web360_with_the_clips_beside_the_folder_of_the_table(tmp_path):
  touch(tmp_path, "videos_256x512x50/1.mp4")
  table(tmp_path / "datasets" / "WEB360" / "WEB360_360TF_train.csv", "videoid,name", "1,a beach")
  assert plain(find_sources([tmp_path])) == {"1": "a beach"}


def test_everything_wrong_with_a_web360_is_told(tmp_path):
  expected = broken_files.make_broken_web360(tmp_path)
  found = find_sources([tmp_path])
  assert {source.id for source in found.sources} == set(expected)
  for source in found.sources:                         # what is in a file is for the checks to see
    assert source.rule == (expected[source.id] if expected[source.id] in ("missing", "duplicate") else "")
  captions = {source.id: source.caption for source in found.sources}
  assert captions["1"] == 'a beach, "the best", at noon' and captions["2"] == "Strand — пляж — 海滩 🏖"
  assert captions["3"] == "first" and captions["extra"] is None
  assert all(tmp_path in source.path.parents and ".." not in source.path.parts for source in found.sources)
  assert any("2 rows" in said and "line 9" in said for said in found.warnings)
  assert any("clips of" in said and "have no row" in said and "extra.mp4" in said for said in found.warnings)
  why = next(source.problem for source in found.sources if source.id == "missing")
  assert why == "is not there: line 8 of WEB360_360TF_train.csv names it"


def test_a_clip_without_a_text_or_a_row_gets_the_default(tmp_path):
  web360(tmp_path, ".")
  touch(tmp_path / "videos_512x1024x100", "100009.mp4")
  table(tmp_path / "WEB360_360TF_train.csv", "videoid,name", "100001,a beach", "100002,", "100003,a hall")
  found = find_sources([tmp_path], default_caption="{a} %s default")
  assert plain(found) == {"100001": "a beach", "100002": None, "100003": "a hall", "100009": None}
  assert all('"{a} %s default"' in said for said in found.warnings) and len(found.warnings) == 2


def test_captions_that_are_given_count_before_the_table(tmp_path):
  mine = table(tmp_path / "mine.csv", "file,caption", "100002.mp4,a wood", "100003,", "100007,nothing")
  found = find_sources([web360(tmp_path / "in")], mine)
  assert plain(found) == {"100001": "a beach, at noon", "100002": "a wood", "100003": "a hall"}
  assert found.warnings == [f"1 rows of {mine} name no file of the input: 100007"]


def test_the_larger_of_two_sizes_is_taken(tmp_path):
  touch(web360(tmp_path, "."), "videos_64x128x100/100001.mp4", "videos_1024x2048x100/100001.mp4")
  found = find_sources([tmp_path])
  assert {source.path.parent.name for source in found.sources} == {"videos_1024x2048x100"}
  assert any("leaves videos_512x1024x100, videos_64x128x100 alone" in said for said in found.warnings)
  assert refused(found) == {"100002": "missing", "100003": "missing"}


def test_a_zip_is_to_be_unpacked_first(tmp_path):
  with zipfile.ZipFile(tmp_path / "WEB360.zip", "w") as archive:
    archive.writestr("WEB360_360TF_train.csv", "videoid,name\n")
  for dataset in ("auto", "web360", "folder360"):
    with pytest.raises(InputError, match=r"WEB360\.zip is packed: unpack it first .*unzip WEB360\.zip"):
      find_sources([tmp_path / "WEB360.zip"], dataset=dataset)


# YouTube360


def test_rows_become_spans_of_films_however_these_are_named(tmp_path):
  films = touch(tmp_path / "films", "abcdefghij1.mp4", "A title [-bcdefghij2].webm", "deep/Another-one-_cdefgh-j3.mkv",
                "part [dddddddddd4].f137.mp4", "abcdefghij5_clip_0_001.mp4", "holiday.mp4")
  youtube360(tmp_path, ("abcdefghij1", "abcdefghij1_clip_0_000", "a beach", 20.0, 26.7, 36.7, 6794.0),
             ("abcdefghij1", "abcdefghij1_clip_0_001", "a wood", 20.0, 36.7, 46.7, 6794.0),
             ("-bcdefghij2", "-bcdefghij2_clip_1_000", '"a hall, inside"', 29.97, 0.0, 10.0, 900),
             ("_cdefgh-j3", "_cdefgh-j3_clip_0_000", "a street", 25, 5, 15, 900),
             ("dddddddddd4", "dddddddddd4_clip_0_000", "a hill", 25, 5, 15, 900),
             ("abcdefghij5", "abcdefghij5_clip_0_001", "already cut", 25, 5, 15, 900),
             ("zzzzzzzzzz9", "zzzzzzzzzz9_clip_0_000", "gone", 25, 5, 15, 900))
  found = find_sources([tmp_path])
  assert found.dataset == "youtube360"
  assert [(source.path.name, source.start, source.end) for source in found.sources] == [
    ("abcdefghij1.mp4", 26.7, 36.7), ("abcdefghij1.mp4", 36.7, 46.7), ("A title [-bcdefghij2].webm", 0, 10),
    ("Another-one-_cdefgh-j3.mkv", 5, 15), ("part [dddddddddd4].f137.mp4", 5, 15),
    ("abcdefghij5_clip_0_001.mp4", 0, None), ("zzzzzzzzzz9.mp4", 0, None)]
  assert plain(found)["_bcdefghij2_clip_1_000"] == "a hall, inside" and len(plain(found)) == 6
  assert refused(found) == {"zzzzzzzzzz9_clip_0_000": "missing"}
  listed = tmp_path / "dataset" / "youtube360.csv"
  assert found.warnings == [f"1 films are left out, no row of {listed} names them: holiday.mp4"]
  # the list may lie elsewhere
  for inputs, captions in (([films], listed), ([films, listed], None), ([listed, films], None)):
    again = find_sources(inputs, captions)
    assert again.warnings == found.warnings and plain(again) == plain(found) and refused(again) == refused(found)


def test_the_columns_of_the_list_come_in_any_order(tmp_path):
  touch(tmp_path, "a.mp4")
  for header in (YOUTUBE360[::-1], ["caption", "tend", "tstart", "videoid", "youtubeid"]):
    youtube360(tmp_path, ("a", "a_0", "a beach", 20, 1.5, 11.5, 99), header=header, name="youtube360.csv")
    assert [(source.id, source.caption, source.start, source.end) for source in find_sources([tmp_path]).sources] == [
      ("a_0", "a beach", 1.5, 11.5)]


def test_a_row_that_is_wrong_costs_that_row_only(tmp_path):
  touch(tmp_path, "a.mp4")
  os.mkfifo(tmp_path / "pipe.mp4")
  spans = [(0, 10), (10, 5), ("", 10), ("soon", "late"), ("nan", "inf"), (-5, 5)]
  youtube360(tmp_path, *(("a", f"a_{k}", "text", 20, *span, 99) for k, span in enumerate(spans)),
             ("a", "a_0", "again", 20, 3, 13, 99), ("pipe", "p_0", "text", 20, 0, 10, 99))
  found = find_sources([tmp_path], dataset="youtube360")
  assert plain(found) == {"a_0": "text"}
  assert refused(found) == {**{f"a_{k}": "unreadable" for k in range(1, 6)}, "a_0-2": "duplicate", "p_0": "unreadable"}
  problems = {source.id: source.problem for source in found.sources}
  assert problems["a_1"] == "has no usable span: line 3 of youtube360.csv says 10 to 5 seconds"
  assert problems["p_0"].startswith("is a named pipe")


def test_captions_for_a_list_go_by_its_ids(tmp_path):
  """A film's own name would give all its spans one caption."""
  touch(tmp_path, "a.mp4")
  youtube360(tmp_path, ("a", "a_0", "old", 20, 0, 10, 99), ("a", "a_1", "old", 20, 10, 20, 99))
  mine = table(tmp_path / "mine.csv", "videoid,name", "a_1,new", "a,all")
  found = find_sources([tmp_path], mine)
  assert plain(found) == {"a_0": "old", "a_1": "new"}
  assert found.warnings == [f"1 rows of {mine} name no file of the input: a"]


# Any folder


def test_a_folder_is_searched_in_the_order_of_its_names(tmp_path):
  touch(tmp_path, "b.mp4", "a.JPG", "c/a.webm", "c/d/x.mov", "c/.hidden.mp4", "notes.txt", "flows/z.mkv", ".c/y.png")
  found = find_sources([tmp_path, tmp_path / "b.mp4"])
  assert found.dataset == "folder360" and found.warnings == []
  assert [str(source.path.relative_to(tmp_path)) for source in found.sources] == [
    "a.JPG", "b.mp4", ".c/y.png", "c/a.webm", "c/d/x.mov", "flows/z.mkv"]
  assert [source.id for source in found.sources] == ["a", "b", "y", "a-2", "x", "z"]


def test_the_order_of_the_disk_does_not_matter(corpus, monkeypatch):
  expected = find_sources([corpus[0]])
  listdir = os.listdir
  for seed in range(3):
    shuffled = lambda path: random.Random(seed).sample(names := listdir(path), len(names))
    monkeypatch.setattr(os, "listdir", shuffled)
    assert find_sources([corpus[0]]) == expected


def test_captions_join_by_name_stem_or_end_of_the_path(tmp_path):
  touch(tmp_path, "beach.mp4", "below/wood.mp4", "below/hall.jpg", "e\u0301te\u0301.mp4", "alone.mp4")
  mine = table(tmp_path / "mine.csv", "file,caption", "beach,a beach", "./below/wood.mp4,trees", "hall.jpg,a hall",
               "\u00e9t\u00e9,summer", "beach.mp4,again", "moon.mp4,the moon")
  found = find_sources([tmp_path], mine, default_caption="a view")
  assert plain(found) == {"alone": None, "beach": "a beach", "hall": "a hall", "wood": "trees",
                          "\u00e9t\u00e9": "summer"}
  assert found.warnings == [f"1 rows of {mine} name no file of the input: moon.mp4",
                            f"1 rows of {mine} repeat a file, the first row counts: beach.mp4",
                            f'1 files have no caption in {mine} and get "a view": alone.mp4']


def test_a_web360_among_other_inputs_is_a_folder_and_that_is_said(tmp_path):
  found = find_sources([web360(tmp_path / "in"), touch(tmp_path / "mine", "a.mp4")])
  assert found.dataset == "folder360" and "looks like WEB360" in found.warnings[0]


# The broken and the hostile


def test_every_broken_file_is_named_and_none_is_waited_for(corpus):
  """Pipes and devices are never opened; what is broken inside is left to the checks."""
  folder, expected = corpus
  with broken_files.deadline(20):
    found = find_sources([folder])
  names = [os.path.relpath(source.path, folder) for source in found.sources]
  assert len(expected) >= 30 and sorted(names) == sorted(expected)
  for name, source in zip(names, found.sources):
    if source.problem:
      assert source.rule == expected[name], name
    assert not (source.rule and not source.problem)
  known = {"dangling.mp4", "dangling.jpg", "circle.mp4", "to.mp4", "fro.mp4", "pipe.mp4", "pipe.jpg", "socket.mp4",
           "directory.mp4", "device.mp4"}
  assert {name for name, source in zip(names, found.sources) if source.problem} == known


def test_ids_are_safe_distinct_and_short(corpus, tmp_path):
  ids = [source.id for source in find_sources([corpus[0]]).sources]
  assert len({name.casefold() for name in ids}) == len(ids)
  for name in ids:
    assert 0 < len(name.encode()) <= 100 and name[0] not in ".-" and not set("/\\\n\"' $`*?:<>|\x1b") & set(name)
  for name in ids:
    (tmp_path / f"{name}_000.mp4").touch()     # any disk takes them


def test_long_names_that_differ_at_the_end_stay_apart():
  one, other = safe_id("海" * 80 + "1"), safe_id("海" * 80 + "2")
  assert one != other and one[:20] == other[:20] and safe_id("海" * 80 + "1") == one
  assert safe_id("🎉") != safe_id("🎈") and safe_id("beach_1.final-cut") == "beach_1.final-cut"


def test_every_path_can_be_printed(corpus):
  said = [(printable(source.path), source.id, source.problem) for source in find_sources([corpus[0]]).sources]
  text = json.dumps(said, ensure_ascii=False)
  text.encode("utf-8")
  assert all(part.isprintable() for line in said for part in line)


def test_many_files_of_one_name_and_deep_folders_take_no_time(tmp_path):
  touch(tmp_path, *(f"{k}/video.mp4" for k in range(500)))
  folder = tmp_path / "0"
  for _ in range(900):                                 # deeper than Python likes to recurse is not deeper than disks go
    folder /= "d"
  folder.mkdir(parents=True)
  (folder / "last.mp4").touch()
  with broken_files.deadline(20):
    ids = [source.id for source in find_sources([tmp_path]).sources]
  assert len(set(ids)) == 501 and "video-500" in ids and "last" in ids


@pytest.mark.skipif(broken_files.ROOT, reason="root may look into every folder")
def test_a_closed_folder_costs_that_folder_only(tmp_path):
  touch(tmp_path, "a.mp4", "closed/b.mp4")
  (tmp_path / "closed").chmod(0)
  try:
    found = find_sources([tmp_path])
    assert plain(found) == {"a": None} and refused(found) == {"closed": "unreadable"}
    with pytest.raises(InputError, match="cannot look into .*closed"):
      find_sources([tmp_path / "closed"])
  finally:
    (tmp_path / "closed").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
  """As the test before, for those who may look into every folder."""
  touch(tmp_path, "a.mp4", "closed/b.mp4")
  listdir = os.listdir

  def refuse(path):
    if Path(path).name == "closed":
      raise PermissionError(13, "Permission denied", str(path))
    return listdir(path)

  monkeypatch.setattr(os, "listdir", refuse)
  found = find_sources([tmp_path])
  assert plain(found) == {"a": None}
  assert [(source.problem, source.rule) for source in found.sources if source.problem] == [
    ("cannot be looked into (Permission denied)", "unreadable")]


# What is refused


@pytest.mark.parametrize("given, dataset, words", [
  ("none", "auto", "there is no file or folder"), ("x" * 300 + ".mp4", "auto", "there is no file or folder"),
  ("two\nlines", "auto", r"two\nlines"), ("notes.txt", "auto", "notes.txt is neither a video nor a still by its name"),
  ("t.csv", "auto", "a table goes to the captions"), ("empty", "auto", "empty holds no video or still"),
  ("films", "web360", "films is no WEB360: there is no WEB360_360TF_train.csv in it or in WEB360/, datasets/WEB360/"),
  ("films", "youtube360", "films holds no YouTube360: there is no youtube360.csv in it or in dataset/"),
  ("films/a.mp4", "web360", "is no WEB360"), ("bare", "auto", "there is no folder videos_* beside"),
  ("other", "auto", "none of the 1 rows of"), ("list", "auto", "looked for files named by youtubeid"),
  ("films", "web 360", "there is no dataset 'web 360': choose auto, web360, youtube360, folder360"),
])
def test_what_is_not_there_is_said_with_what_was_looked_for(tmp_path, given, dataset, words):
  touch(tmp_path, "films/a.mp4", "notes.txt", "t.csv", "other/videos_1x2x3/7.mp4", "list/b.mp4")
  (tmp_path / "empty").mkdir()
  for name in ("bare", "other"):
    table(tmp_path / name / "WEB360_360TF_train.csv", "videoid,name", "1,a beach")
  youtube360(tmp_path / "list", ("a", "a_0", "text", 20, 0, 10, 99))
  with pytest.raises(InputError) as caught:
    find_sources([tmp_path / given], dataset=dataset)
  assert words in str(caught.value) and str(caught.value).isprintable()


def test_the_wrong_table_for_a_dataset_is_refused(tmp_path):
  films = touch(tmp_path / "films", "a.mp4")
  listed = youtube360(tmp_path, ("a", "a_0", "text", 20, 0, 10, 99))
  assert find_sources([films], listed).dataset == "youtube360"
  with pytest.raises(InputError, match="are a list like YouTube360's"):
    find_sources([films], listed, dataset="folder360")
  with pytest.raises(InputError, match="there is no captions file"):
    find_sources([films], tmp_path / "none.csv")
  with pytest.raises(InputError, match="no input was given"):
    find_sources([])


def test_films_are_asked_for_where_films_are_wanted(tmp_path):
  with pytest.raises(InputError, match="give a folder of films"):
    find_sources([tmp_path], flat=True)
  with pytest.raises(InputError, match="give a folder with mp4"):
    find_sources([tmp_path])
