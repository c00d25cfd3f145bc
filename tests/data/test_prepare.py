"""`panda prepare`: 360° material goes in, everything else is named, and nothing half-made is left."""

import argparse
import errno
import itertools
import json
import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from panda_jax.cli import prepare as command
from panda_jax.data import checks, prepare, records, shards, video
from panda_jax.data.prepare import plan, pool, work
from panda_jax.errors import InputError
from tests.data.made_clips import panorama
from tests.data.prepare import killing
from tests.data.prepare.killing import digests
from tests.paths import REAL, needs_real
from tests.small_disk import small_disk


def turning(frame: np.ndarray, count: int):
  return (np.roll(frame, -2 * k, axis=1) for k in range(count))


def make_video(path, count: int = 24, seed: int = 0, size=None, fps: float = 24):
  frames = (video.resize(frame, size) if size else frame for frame in turning(panorama(seed=seed), count))
  video.write_video(path, frames, fps)
  return path


def make_film(path, count: int = 12):
  """An ordinary 16:9 film: a window onto a panorama."""
  video.write_video(path, (video.resize(frame[10:55, 10:90], (90, 160)) for frame in turning(panorama(), count)), 24)
  return path


def make_still(path, seed: int = 5):
  cv2.imwrite(str(path), panorama(128, seed)[..., ::-1])
  return path


def run(capsys, *arguments) -> tuple[str, str]:
  """Runs the subcommand as the command line does, taking short clips; returns what it printed (stdout, stderr)."""
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  args = parser.parse_args([str(argument) for argument in arguments])
  args.overrides = ["--config.checks.short=1"]
  command.run(args)
  return capsys.readouterr()


def options(**changes) -> prepare.Options:
  """The clips of these tests are shorter than those that are worth training on."""
  return prepare.Options(checks=checks.Thresholds(short=1), **changes)


@pytest.fixture
def folder(tmp_path):
  """Two videos, one in a folder below, and a still."""
  (tmp_path / "in" / "below").mkdir(parents=True)
  make_video(tmp_path / "in" / "beach.mp4", 24)
  make_video(tmp_path / "in" / "below" / "wood.mp4", 25, seed=1)
  make_still(tmp_path / "in" / "hall.jpg")
  return tmp_path / "in"


def clip_ids(path, split):
  return [record["id"] for record in records.open_records(path, split)]


def test_a_folder_becomes_a_dataset(folder, tmp_path, capsys):
  """Videos and stills, found in folders below too; one size; the last quarter validates."""
  said, warned = run(capsys, "--input", folder, "--output", tmp_path / "out", "--height", 32)
  assert "3 of 3 files used, 0 skipped" in said and warned == ""
  assert records.dataset_info(tmp_path / "out")["size"] == (32, 64)
  assert clip_ids(tmp_path / "out", "train") == ["beach_000", "hall_000", "wood_000"]
  assert clip_ids(tmp_path / "out", "validation") == ["beach_001", "hall_001", "wood_001"]
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert manifest["counts"] == {"files": 3, "used": 3, "skipped": 0, "clips": {"train": 3, "validation": 3},
                                "frames": {"train": 18 + 48 + 19, "validation": 6 + 16 + 6}}
  assert manifest["options"]["height"] == 32
  beach = manifest["files"][0]
  assert (beach["verdict"], beach["size"], beach["fps"], beach["frames"]) == ("panorama", [64, 128], 24, 24)


def test_no_frame_is_lost_or_shared(tmp_path):
  """Clips and splits, put together again, are the video."""
  path = make_video(tmp_path / "a.mp4", 50)
  prepare.prepare([path], tmp_path / "out",
                  prepare.Options(height=64, encoding="png", max_frames_per_clip=12, holdout=0.3))
  read = {split: list(records.open_records(tmp_path / "out", split)) for split in ("train", "validation")}
  assert [[len(record["frames"]) for record in read[split]] for split in read] == [[11, 12, 12], [7, 8]]
  frames = [records.decode_frame(data) for record in read["train"] + read["validation"] for data in record["frames"]]
  np.testing.assert_array_equal(frames, list(video.read_frames(path)))
  ids = [record["id"] for split in read for record in read[split]]
  assert ids == [f"a_{k:03d}" for k in range(5)] and read["train"][0]["fps"] == 24


@pytest.mark.parametrize("frames, holdout, longest, expected", [
  (100, 0.25, 100, [("train", 75), ("validation", 25)]),
  (100, 0, 100, [("train", 100)]),
  (1, 0.25, 100, [("train", 1)]),
  (901, 0, 300, [("train", 225), ("train", 225), ("train", 225), ("train", 226)]),
])
def test_cutting_leaves_no_crumbs(frames, holdout, longest, expected):
  assert prepare.cut(frames, holdout, longest) == expected


def test_every_cut_is_whole():
  for frames, holdout, longest in itertools.product((1, 2, 7, 64, 333), (0, 0.1, 0.5, 0.9), (1, 16, 100)):
    clips = prepare.cut(frames, holdout, longest)
    assert sum(count for _, count in clips) == frames and all(0 < count <= longest for _, count in clips)


def test_fps_drops_frames_and_never_makes_any(tmp_path):
  fast, slow = make_video(tmp_path / "fast.mp4", 30, fps=30), make_video(tmp_path / "slow.mp4", 10, seed=1, fps=5)
  prepare.prepare([fast, slow], tmp_path / "out", options(height=64, encoding="png", fps=8, holdout=0))
  first, second = records.open_records(tmp_path / "out", "train")
  assert (first["fps"], len(first["frames"])) == (8, 8) and (second["fps"], len(second["frames"])) == (5, 10)
  kept = list(video.read_frames(fast))
  for k, data in enumerate(first["frames"]):
    np.testing.assert_array_equal(records.decode_frame(data), kept[int(k * 30 / 8 + 0.5)])


def test_a_still_turns_slowly_and_evenly(tmp_path):
  """Eight seconds at about six degrees a second, to the right, every frame the photograph itself."""
  image = checks.read_still(make_still(tmp_path / "hall.png"))
  frames = list(prepare.still_frames(image, 128, fps=8.0))
  assert len(frames) == 64
  for k, frame in enumerate(frames):
    np.testing.assert_array_equal(frame, np.roll(image, -k, axis=1))


# What does not belong in


def break_things(folder):
  whole = (folder / "beach.mp4").read_bytes()
  (folder / "text.mp4").write_text("not a video\n" * 100)
  (folder / "cut.mp4").write_bytes(whole[:len(whole) * 9 // 10])
  (folder / "empty.webm").write_bytes(b"")
  (folder / "half.jpg").write_bytes((folder / "hall.jpg").read_bytes()[:3000])
  (folder / "text.png").write_text("not an image")
  (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
  make_film(folder / "film.mp4")
  video.write_video(folder / "black.mp4", [np.zeros((64, 128, 3), np.uint8)] * 5, 24)
  (folder / "notes.txt").write_text("ignored")


def test_what_does_not_belong_is_named_skipped_and_counted(folder, tmp_path, capsys):
  """The good ones are prepared all the same."""
  break_things(folder)
  said, warned = run(capsys, "--input", folder, "--output", tmp_path / "out", "--height", 32)
  assert "3 of 11 files used, 8 skipped" in said and "8 of 11 files skipped" in warned
  lines = {line.split()[0].rpartition("/")[2]: line for line in warned.splitlines() if "/" in line.split()[0]}
  for name, reason in {
    "text.mp4": "cannot be read as a video", "cut.mp4": "frames decode", "empty.webm": "cannot be read as a video",
    "half.jpg": "is cut off", "text.png": "cannot be read as an image", "dangling.mp4": "there is no video file",
    "film.mp4": "is 160x90, not 2:1, and its left and right edges do not join (edge difference",
    "black.mp4": "one colour only",
  }.items():
    assert reason in lines[name], name
  assert "it looks like an ordinary film" in lines["film.mp4"] and "--allow-flat" in lines["film.mp4"]
  assert clip_ids(tmp_path / "out", "train") == ["beach_000", "hall_000", "wood_000"]
  files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
  assert sum(not entry["used"] and bool(entry["why"]) for entry in files) == 8


@pytest.mark.parametrize("name, message", [
  ("text.mp4", r"text\.mp4 cannot be read as a video"), ("cut.mp4", r"cut\.mp4 is .* frames decode"),
  ("half.jpg", r"half\.jpg is cut off"), ("film.mp4", r"film\.mp4 is 160x90.*do not join"),
  ("notes.txt", r"notes\.txt is neither"), ("none.mp4", r"there is no file or folder .*none\.mp4"),
])
def test_one_named_file_that_is_bad_is_an_error(folder, tmp_path, name, message):
  break_things(folder)
  with pytest.raises(InputError, match=message):
    prepare.prepare([folder / name], tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_nothing_usable_is_an_error(tmp_path):
  (tmp_path / "in").mkdir()
  with pytest.raises(InputError, match="holds no video or still"):
    prepare.prepare([tmp_path / "in"], tmp_path / "out")
  for name in ("a.mp4", "b.mp4"):
    (tmp_path / "in" / name).write_text("text")
  with pytest.raises(InputError, match="none of the 2 files of .* is a usable panorama:\n.*a.mp4 cannot"):
    prepare.prepare([tmp_path / "in"], tmp_path / "out")
  assert os.listdir(tmp_path) == ["in"]


def test_allow_flat_keeps_a_film_and_says_so(tmp_path, capsys):
  film = make_film(tmp_path / "film.mp4")
  _, warned = run(capsys, "--input", film, "--output", tmp_path / "out", "--height", 32, "--allow-flat")
  assert "kept, stretched to 2:1 (--allow-flat)" in warned and clip_ids(tmp_path / "out", "train") == ["film_000"]


def test_a_panorama_stored_as_16_9_or_nearly_2_1_goes_in(tmp_path):
  for name, size in {"wide.mp4": (108, 192), "odd.mp4": (64, 126)}.items():
    assert checks.check(make_video(tmp_path / name, size=size)).ok
  found = checks.check(tmp_path / "wide.mp4")
  assert found.verdict == "panorama" and "stored as 16:9" in found.why


def gradient(kind: str) -> np.ndarray:
  y, x = np.mgrid[:180, :320]
  draw = np.random.default_rng(0)
  return {
    "left to right": np.repeat((x * 255 / 320)[..., None], 3, -1),
    "faint": np.repeat((120 + x * 12 / 320)[..., None], 3, -1),
    "slanted": np.stack([x / 320 * 255, y / 180 * 255, (x + y) / 2], -1),
    "noise": draw.integers(0, 256, (180, 320, 3)),
    "coarse noise": cv2.resize(draw.integers(0, 256, (18, 32, 3), dtype=np.uint8), (320, 180)),
  }[kind].astype(np.uint8)


@pytest.mark.parametrize("kind", ["left to right", "faint", "slanted", "noise", "coarse noise"])
def test_made_films_do_not_join(kind):
  assert not checks.seam(gradient(kind)).joins


def test_black_bars_do_not_pass_for_a_seam(tmp_path):
  """Equal edges, but not neighbours: a 4:3 film in a 16:9 frame."""
  frame = np.pad(gradient("slanted")[:, :240], ((0, 0), (40, 40), (0, 0)))
  video.write_video(tmp_path / "bars.mp4", [frame] * 5, 24)
  found = checks.check(tmp_path / "bars.mp4")
  assert not found.ok and "black bars" in found.why


def test_a_fade_from_black_does_not_hide_a_panorama(tmp_path):
  frames = [np.zeros((64, 128, 3), np.uint8)] * 8 + list(turning(panorama(), 24))
  video.write_video(tmp_path / "fade.mp4", frames, 24)
  assert checks.check(tmp_path / "fade.mp4").ok


# Captions


@pytest.mark.parametrize("table", [
  "file,caption\nbeach.mp4,a beach\nhall,\"a hall, inside\"\nbelow/wood.mp4,trees\n",
  "\ufeffvideoid,name\r\nbeach,a beach\r\nhall,\"a hall, inside\"\r\nwood,trees\r\n",
  "caption,fps,file\na beach,24,beach.mp4\n\"a hall, inside\",1,hall.jpg\ntrees,2,wood.mp4\n",
])
def test_captions_join_by_name_or_stem(folder, tmp_path, table):
  (tmp_path / "captions.csv").write_text(table, encoding="utf-8")
  result = prepare.prepare([folder], tmp_path / "out", prepare.Options(height=16), tmp_path / "captions.csv")
  assert result.warnings == []
  for split in ("train", "validation"):
    assert [record["caption"] for record in records.open_records(tmp_path / "out", split)] == [
      "a beach", "a hall, inside", "trees"]


def test_rows_and_files_that_do_not_meet_are_told(folder, tmp_path, capsys):
  (tmp_path / "captions.csv").write_text("file,caption\nbeach.mp4,a beach\nbeach,again\nmoon.mp4,the moon\n")
  _, warned = run(capsys, "--input", folder, "--output", tmp_path / "out", "--height", 16,
                  "--captions", tmp_path / "captions.csv")
  assert "1 rows" in warned and "name no file of the input: moon.mp4" in warned
  assert "repeat a file, the first row counts: beach" in warned and "2 files have no caption" in warned
  captions = [record["caption"] for record in records.open_records(tmp_path / "out", "train")]
  assert captions == ["a beach", "a 360 degree video", "a 360 degree video"]


@pytest.mark.parametrize("table", [b"beach.mp4,a beach\n", b"", b"\xff\xfe\x00bad", b'file,caption\n"open'])
def test_a_table_that_is_none_is_refused(folder, tmp_path, table):
  (tmp_path / "captions.csv").write_bytes(table)
  with pytest.raises(InputError, match=r"the captions .*captions\.csv"):
    prepare.prepare([folder], tmp_path / "out", captions=tmp_path / "captions.csv")


def test_files_of_one_name_get_different_ids(tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    make_video(tmp_path / name / "clip.mp4", 4)
  prepare.prepare([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "clip.mp4"], tmp_path / "out",
                  options(height=16, holdout=0))
  assert clip_ids(tmp_path / "out", "train") == ["clip_000", "clip-2_000"]


# Runs that meet what others left


def test_the_same_command_again_does_nothing(folder, tmp_path, capsys):
  arguments = ("--input", folder, "--output", tmp_path / "out", "--height", 16)
  run(capsys, *arguments)
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
  said, _ = run(capsys, *arguments)
  assert "already prepared" in said
  assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_another_command_does_not_touch_a_finished_dataset(folder, tmp_path):
  prepare.prepare([folder], tmp_path / "out", prepare.Options(height=16))
  with pytest.raises(InputError, match="height 16 instead of 32.*choose another --output"):
    prepare.prepare([folder], tmp_path / "out", prepare.Options(height=32))
  make_video(folder / "new.mp4", 4)
  with pytest.raises(InputError, match="other or older input files.*choose another --output"):
    prepare.prepare([folder], tmp_path / "out", prepare.Options(height=16))
  with pytest.raises(InputError, match="no dataset that panda prepare made"):
    prepare.prepare([folder], folder)


@pytest.mark.parametrize("error, expected", [
  (KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left on device"), InputError)])
def test_an_interrupted_run_keeps_what_is_whole_and_goes_on_there(folder, tmp_path, monkeypatch, error, expected):
  """Nothing half-written is left, no file is checked twice, and the outcome is that of an undisturbed run."""
  monkeypatch.setattr(plan, "_FEWEST_FRAMES", 16)
  prepare.prepare([folder], tmp_path / "whole", options(height=16))
  write = shards.ShardWriter.write

  def fail_later(self, record, written=[]):
    written.append(record)
    if len(written) == 4:
      raise error
    write(self, record)

  monkeypatch.setattr(shards.ShardWriter, "write", fail_later)
  with pytest.raises(expected):
    prepare.prepare([folder], tmp_path / "out", options(height=16))
  monkeypatch.setattr(shards.ShardWriter, "write", write)
  left = tmp_path / "out.incomplete"
  assert sorted(os.listdir(tmp_path)) == ["in", "out.incomplete", "whole"]
  assert list(left.glob("work/*.json")) and not list(left.glob("work/*.part"))
  with pytest.raises(InputError, match=r"out\.incomplete is the unfinished work .*height 16 instead of 32.*--output"):
    prepare.prepare([folder], tmp_path / "out", options(height=32))
  before = {path: path.stat().st_mtime_ns for path in left.glob("work/unit-000000.*")}
  monkeypatch.setattr(work, "check_source", None)
  prepare.prepare([folder], tmp_path / "out", options(height=16))
  assert before and sorted(os.listdir(tmp_path)) == ["in", "out", "whole"]
  assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(folder, tmp_path):
  """SIGKILL while files are checked and while they are written, with two processes at work."""
  for k in range(3):
    make_video(folder / f"long{k}.mp4", 300, seed=k)
  arguments = ["--input", str(folder), "--height", "64", "--processes", "2", "--config.checks.short=1"]
  done = killing.prepare(arguments, tmp_path / "whole")
  assert done.communicate() and done.returncode == 0
  killing.disturb(arguments, tmp_path / "out", kills=3, longest=2.5)
  assert sorted(os.listdir(tmp_path)) == ["in", "out", "whole"]
  assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_file_that_vanishes_or_changes_meanwhile_is_named(folder, tmp_path, monkeypatch):
  """What is finished stays; nothing half-written does."""
  def vanish(path, *arguments, **keywords):
    found = judge(path, *arguments, **keywords)
    if "wood" in str(path):
      happen(folder / "below" / "wood.mp4")
    return found

  judge = checks.check
  monkeypatch.setattr(checks, "check", vanish)
  for happen, said in ((os.remove, "wood.mp4 cannot be read any more"),
                       (lambda path: make_video(path, 30), "wood.mp4 changed while the dataset was being made")):
    with pytest.raises(InputError, match=said):
      prepare.prepare([folder], tmp_path / "out", options(height=16))
    assert not (tmp_path / "out").exists() and not list((tmp_path / "out.incomplete").glob("work/*.part"))
    shutil.rmtree(tmp_path / "out.incomplete")
    make_video(folder / "below" / "wood.mp4", 25, seed=1)


def test_a_full_disk_ends_with_a_sentence_and_the_same_command_goes_on(folder, tmp_path):
  for k in range(3):
    make_video(folder / f"long{k}.mp4", 300, seed=k)
  with small_disk(tmp_path / "disk", 1200) as disk:
    with pytest.raises(InputError, match="no space left on the disk while writing .*finished shards are kept"):
      prepare.prepare([folder], disk / "out", options(height=64, encoding="png"))
    assert not (disk / "out").exists() and not list(disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    prepare.prepare([folder], disk / "out", options(height=64, encoding="png"))
    assert sorted(os.listdir(disk)) == ["out"]


def test_processes_change_nothing(folder, tmp_path):
  prepare.prepare([folder], tmp_path / "one", options(height=16))
  prepare.prepare([folder], tmp_path / "two", options(height=16), pool=prepare.Pool(2))
  assert digests(tmp_path / "one") == digests(tmp_path / "two")


class OneDies(prepare.Pool):
  """A pool whose process dies over the file with this name."""

  def __init__(self, name: str):
    super().__init__(0)
    self.name = name

  def map(self, function, pieces):
    for number, piece in enumerate(pieces):
      dies = function is work.check_source and piece[0].path.name == self.name
      yield number, pool.Died() if dies else function(*piece)


def test_a_file_that_crashes_its_decoder_is_named_and_the_others_go_in(folder, tmp_path):
  manifest = prepare.prepare([folder], tmp_path / "out", options(height=16), pool=OneDies("wood.mp4")).manifest
  assert manifest["counts"]["used"] == 2 and manifest["rules"]["unreadable"]["example"]["file"].endswith("wood.mp4")


def test_a_dry_run_prints_every_verdict_and_writes_nothing(folder, tmp_path, capsys):
  break_things(folder)
  said, _ = run(capsys, "--input", folder, "--output", tmp_path / "out", "--dry-run")
  lines = {line.split()[0].rpartition("/")[2]: line for line in said.splitlines() if line}
  assert "panorama" in lines["beach.mp4"] and "flat film" in lines["film.mp4"]
  assert lines["one_colour"].split()[1:3] == ["rejected", "1"]
  assert "3 of 11 files can be used; nothing was written" in said and os.listdir(tmp_path) == ["in"]


def test_the_manifest_counts_every_rule_and_names_an_example(folder, tmp_path):
  break_things(folder)
  prepare.prepare([folder], tmp_path / "out", options(height=16))
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert set(manifest["rules"]) == set(checks.RULES)
  counts = {rule: row["count"] for rule, row in manifest["rules"].items()}
  assert (counts["flat"], counts["truncated"], counts["one_colour"], counts["eac"]) == (1, 2, 1, 0)
  assert manifest["rules"]["flat"]["example"]["file"].endswith("film.mp4")
  assert manifest["rules"]["flat"]["effect"] == "rejected" and "example" not in manifest["rules"]["eac"]


@pytest.mark.parametrize("option, value", [
  ("height", 33), ("height", 0), ("quality", 0), ("fps", 0.0), ("fps", float("nan")), ("holdout", 1.0),
  ("holdout", float("nan")), ("max_frames_per_clip", 0), ("encoding", "bmp")])
def test_options_that_make_no_sense_are_refused(option, value):
  with pytest.raises(InputError, match="--" + option.replace("_", "-")):
    prepare.Options(**{option: value})


# Ordinary films


def test_flat_keeps_the_central_square_of_every_frame(tmp_path, capsys):
  """Wide and tall films, resized to --height; captions, cutting and the holdout as for panoramas."""
  film = make_film(tmp_path / "wide.mp4", 12)
  video.write_video(tmp_path / "tall.mp4", (frame[:, 20:60] for frame in turning(panorama(), 8)), 24)
  (tmp_path / "captions.csv").write_text("file,caption\nwide,a walk\n")
  said, warned = run(capsys, "--input", film, tmp_path / "tall.mp4", "--output", tmp_path / "out", "--flat",
                     "--height", 32, "--encoding", "png", "--captions", tmp_path / "captions.csv")
  assert "2 of 2 files used, 0 skipped" in said and "32x32 png" in said
  assert '1 files have no caption' in warned and 'get "a video": tall.mp4' in warned
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert (manifest["kind"], manifest["size"], manifest["options"]["flat"]) == ("flat", [32, 32], True)
  assert [entry["verdict"] for entry in manifest["files"]] == ["film", "film"]
  assert manifest["counts"]["frames"] == {"train": 9 + 6, "validation": 3 + 2}
  assert records.dataset_info(tmp_path / "out")["kind"] == "flat"
  assert [record["caption"] for record in records.open_records(tmp_path / "out", "train")] == ["a walk", "a video"]
  for name, cut in {"wide": np.s_[:, 35:125], "tall": np.s_[12:52]}.items():
    whole = list(video.read_frames(tmp_path / f"{name}.mp4"))
    kept = [records.decode_frame(data) for split in ("train", "validation")
            for record in records.open_records(tmp_path / "out", split) if record["id"].startswith(name)
            for data in record["frames"]]
    np.testing.assert_array_equal(kept, [video.resize(frame[cut], (32, 32)) for frame in whole])


def test_flat_asks_only_that_a_film_is_whole_and_shows_something(folder, tmp_path, capsys):
  """Whatever its shape and its edges; pictures are named and left out."""
  break_things(folder)
  said, warned = run(capsys, "--input", folder, "--output", tmp_path / "out", "--flat", "--height", 16)
  assert "3 of 11 files used, 8 skipped" in said
  assert sorted(clip_ids(tmp_path / "out", "train")) == ["beach_000", "film_000", "wood_000"]
  lines = {line.split()[0].rpartition("/")[2]: line for line in warned.splitlines() if "/" in line.split()[0]}
  for name, reason in {"hall.jpg": "is a picture, and --flat keeps films only", "cut.mp4": "frames decode",
                       "text.mp4": "cannot be read as a video", "black.mp4": "one colour only"}.items():
    assert reason in lines[name], name


def test_flat_without_a_usable_film_is_an_error(tmp_path):
  make_still(tmp_path / "hall.jpg")
  make_still(tmp_path / "wood.jpg")
  with pytest.raises(InputError, match=r"hall\.jpg is a picture, and --flat keeps films only"):
    prepare.prepare([tmp_path / "hall.jpg"], tmp_path / "out", prepare.Options(flat=True))
  with pytest.raises(InputError, match="none of the 2 files of .* is a usable film:\n"):
    prepare.prepare([tmp_path], tmp_path / "out", prepare.Options(flat=True))


def test_flat_drops_frames_to_the_rate_as_panoramas_do(tmp_path):
  film = make_film(tmp_path / "film.mp4", 12)
  prepare.prepare([film], tmp_path / "out", options(height=90, encoding="png", fps=8, holdout=0, flat=True))
  record, = records.open_records(tmp_path / "out", "train")
  whole = list(video.read_frames(film))
  assert record["fps"] == 8
  np.testing.assert_array_equal([records.decode_frame(data) for data in record["frames"]],
                                [frame[:, 35:125] for frame in whole[::3]])


def test_a_flat_dataset_is_not_mistaken_for_one_of_panoramas(folder, tmp_path):
  """Nor is a dataset from before --flat existed made again."""
  prepare.prepare([folder], tmp_path / "out", prepare.Options(height=16))
  with pytest.raises(InputError, match=r"other options \(flat False instead of True\)"):
    prepare.prepare([folder], tmp_path / "out", prepare.Options(height=16, flat=True))
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  del manifest["options"]["flat"], manifest["kind"]
  (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
  assert prepare.prepare([folder], tmp_path / "out", prepare.Options(height=16)).already


def test_flat_and_allow_flat_together_are_refused():
  with pytest.raises(InputError, match="--flat and --allow-flat are two ways .* give one of them"):
    prepare.Options(flat=True, allow_flat=True)


# Camera-made material


@needs_real
def test_every_real_video_goes_in(tmp_path, capsys):
  """16:9-stored, 640x322, fragmented, with a visible stitch; and photographs beside them."""
  stills = [REAL / "photo" / "googlearchive_petra.jpg", REAL / "photo" / "sunset1995_demo.png"]
  said, _ = run(capsys, "--input", REAL / "video", *stills, "--output", tmp_path / "out", "--height", 64)
  assert "5 of 5 files used, 0 skipped" in said
  counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
  assert sum(counts["frames"].values()) == 120 + 189 + 1202 + 2 * prepare.STILL_FRAMES


@needs_real
def test_every_real_photograph_is_a_panorama():
  """Even those with white or black poles, or not level."""
  verdicts = [checks.check(path) for path in sorted((REAL / "photo").iterdir())]
  assert len(verdicts) == 15 and all(found.ok for found in verdicts)


@needs_real
def test_windows_onto_real_panoramas_are_told_from_panoramas():
  """96 crops to 16:9 look like the ordinary films they are; turned and badly stitched panoramas do not."""
  draw = np.random.default_rng(0)
  for path in sorted((REAL / "photo").glob("*"))[::2]:
    image = video.resize(checks.read_still(path), (512, 1024))
    for share in (0.3, 0.5, 0.7, 0.9) * 3:
      w = int(1024 * share)
      h = min(512, w * 9 // 16)
      x, y = draw.integers(0, 1025 - w), draw.integers(0, 513 - h)
      measured = checks.seam(image[y:y + h, x:x + w])
      assert measured is None or not measured.joins, (path.name, share)
    turned = np.roll(image, 300, axis=1)
    stitched = np.concatenate([turned[:, :512], np.roll(turned[:, 512:], 3, axis=0)], axis=1)
    assert all(checks.seam(frame).joins for frame in (image, turned, stitched)), path.name
