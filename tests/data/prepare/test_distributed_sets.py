"""WEB360 and YouTube360 as they are distributed, the whole way into a dataset."""

import csv

import numpy as np

from panda_jax.data import prepare, video
from panda_jax.data.records import dataset_info, decode_frame, open_records
from tests.data.broken_files import make_broken_web360
from tests.data.test_prepare import make_video, options


def write_table(path, rows):
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)


def test_web360_goes_in_with_its_captions_whatever_is_wrong_with_some_rows(tmp_path):
  expected = make_broken_web360(tmp_path / "WEB360")
  result = prepare.prepare([tmp_path / "WEB360"], tmp_path / "out", options(height=16))
  found = {}
  for entry in result.manifest["files"]:
    found.setdefault(entry["id"], set()).update(each["rule"] for each in entry["findings"] if each["effect"] == "rejected")
  assert result.manifest["dataset"] == "web360"
  damaged = {"truncated", "unreadable"}               # of a file cut off before its first frame nothing decodes
  for name, rule in expected.items():
    assert rule is None or rule in found[name] or {rule, *found[name]} == damaged, name
  used = [entry for entry in result.manifest["files"] if entry["used"]]
  assert used and all(entry["caption"] for entry in used)
  assert sorted(path.name for path in (tmp_path / "out").glob("*train*"))[0].startswith("web360-train.array_record")


def test_spans_of_youtube360_are_cut_out_of_their_films(tmp_path):
  """Two spans of one film, to the frame; a row whose film is not there is counted."""
  (tmp_path / "in").mkdir()
  film = make_video(tmp_path / "in" / "abc-DEF_123.mp4", 96)
  write_table(tmp_path / "in" / "youtube360.csv", [
    ("youtubeid", "videoid", "caption", "fps", "tstart", "tend", "totalframes"),
    ("abc-DEF_123", "v0", "the beginning", 24, 0, 1, 24), ("abc-DEF_123", "v1", "later, by the sea", 24, 2, 3, 24),
    ("gone", "v2", "nothing", 24, 0, 1, 24)])
  result = prepare.prepare([tmp_path / "in"], tmp_path / "out", prepare.Options(height=64, encoding="png", holdout=0))
  assert result.manifest["dataset"] == "youtube360" and result.manifest["rules"]["missing"]["count"] == 1
  whole = list(video.read_frames(film))
  clips = list(open_records(tmp_path / "out", "train"))
  assert [(clip["id"], clip["caption"]) for clip in clips] == [("v0_000", "the beginning"), ("v1_000", "later, by the sea")]
  for clip, start in zip(clips, (0, 48)):
    np.testing.assert_array_equal([decode_frame(data) for data in clip["frames"]], whole[start:start + 24])
  assert dataset_info(tmp_path / "out")["splits"] == {"train": 2}
