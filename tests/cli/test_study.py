"""`panda study`, as it is typed: a page and its key, answers and a table; one sentence for what does not fit."""

import csv
import json

import pytest

from panda_jax.cli.main import main
from panda_jax.evaluation.preference.trials import read_key
from tests.evaluation.preference.toy import answer_sheet, film, generated, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Three methods with four clips each, of which third lacks one; a table of five clips."""
  folder = tmp_path_factory.mktemp("user")
  generated(folder / "generated", ("ours", "baseline", "third"))
  (folder / "generated" / "third" / "beach-3.mp4").unlink()
  rows = "".join(f"beach-{clip},a calm sea in picture {clip}\n" for clip in range(5))
  (folder / "master.csv").write_text("clip_id,prompt\n" + rows)
  return folder


def study(*words, status=0):
  assert main(["study", *map(str, words)]) == status


@pytest.fixture(scope="module")
def answered(folder):
  """The key of a study of ours and baseline with two questions, and the answers of three, one of whom stopped early."""
  study("--generated", folder / "generated", "--methods", "ours,baseline", "--question", "Which is sharper?",
        "Which moves | better?", "--ties", "--output", folder / "answered")
  key = folder / "answered.key.json"
  made = read_key(key)
  sheets = [
    answer_sheet(made, "Ann", lambda clip, question, rng: ("ours", "baseline")[question]),
    answer_sheet(made, "Bob", lambda clip, question, rng: "ours" if clip != "beach-1" else None),
    answer_sheet(made, "Cy", lambda clip, question, rng: "baseline", upto=5),
  ]
  return key, [save(folder, sheet) for sheet in sheets]


def test_the_page_is_built_for_all_pairs_and_what_is_missing_is_named(folder, tmp_path, capsys):
  study("--generated", folder / "generated", "--reference", folder / "master.csv", "--clips", 4,
        "--output", tmp_path / "page")
  out = capsys.readouterr().out
  assert "baseline against ours: 4 clips\n  baseline has no video of 1 clip, left out: beach-4" in out
  assert "baseline against third: 3 clips, fewer than the 4 asked for" in out
  assert "third has no video of 2 clips, left out: beach-3, beach-4" in out
  assert "index.html has 10 pairs of videos: hand out this one file" in out
  assert f"{tmp_path / 'page.key.json'} says which method is which: keep it" in out and "do not hand it out" in out
  made = read_key(tmp_path / "page.key.json")
  assert (made.methods, made.ties) == (("baseline", "ours", "third"), False)
  assert made.questions == ("Which video do you prefer?",)
  page = (tmp_path / "page" / "index.html").read_text()
  assert "a calm sea in picture 0" in page and "beach-0" not in page


def test_the_first_of_methods_is_the_one_that_preferences_are_of(answered, capsys):
  key, files = answered
  assert read_key(key).methods == ("ours", "baseline")
  study("--key", key, "--answers", *files)
  out = capsys.readouterr().out
  assert "Which is sharper?" in out and "ours against baseline" in out and "baseline against ours" not in out


def test_the_table_has_preferences_intervals_and_who_did_not_finish(answered, capsys):
  key, files = answered
  study("--key", key, "--answers", *files, "--seed", 3)
  out = capsys.readouterr().out
  sharper = out.split("Which is sharper?")[1].split("Which moves")[0].splitlines()[3].split()
  assert sharper[:3] == ["ours", "against", "baseline"]
  assert float(sharper[3]) == pytest.approx(70, abs=1)          # 4 of Ann, 3 of Bob, none of Cy's 3
  assert "Not everything was answered by 1 of 3 participants, whose answers count as far as they go: Cy 5 of 8." in out
  assert "The left video was chosen in" in out and "watched to the end for 100 % of all answers" in out
  study("--key", key, "--answers", *reversed(files), "--seed", 3)
  assert capsys.readouterr().out.split("Not everything")[0] == out.split("Not everything")[0], "in any order of files"


def test_the_json_has_everything_by_clip_and_by_participant(answered, tmp_path):
  key, files = answered
  study("--key", key, "--answers", *files, "--seed", 3, "--output", tmp_path / "result.json")
  result = json.loads((tmp_path / "result.json").read_text())
  assert result["study"] == read_key(key).id and result["bootstrap"]["seed"] == 3
  assert [(p["participant"], p["answers"], p["asked"]) for p in result["participants"]] == [
    ("Ann", 8, 8), ("Bob", 8, 8), ("Cy", 5, 8)]
  sharper, moves = result["results"]
  assert (sharper["question"], sharper["a"], sharper["b"]) == ("Which is sharper?", "ours", "baseline")
  assert (sharper["for_a"], sharper["for_b"], sharper["ties"], sharper["answers"]) == (7, 3, 1, 11)
  assert sharper["preference_percent"] == pytest.approx(70)
  low, high = sharper["wilson_95_percent"]
  assert low < 70 < high and sharper["binomial_p"] == pytest.approx(0.34375)
  low, high = sharper["bootstrap_95_percent"]
  assert 0 <= low < 70 < high <= 100
  assert {c["clip"]: c["ties"] for c in sharper["clips"]}["beach-1"] == 1
  assert {p["participant"]: p["preference_percent"] for p in moves["participants"]} == {"Ann": 0, "Bob": 100, "Cy": 0}


def test_markdown_and_csv_have_the_same_numbers(answered, tmp_path):
  key, files = answered
  study("--key", key, "--answers", *files, "--output", tmp_path / "result.md")
  study("--key", key, "--answers", *files, "--output", tmp_path / "result.csv")
  text = (tmp_path / "result.md").read_text()
  assert "**Which moves | better?**" in text and "| ours against baseline | 70.0 |" in text and "Cy 5 of 8" in text
  with open(tmp_path / "result.csv", newline="") as file:
    sharper, moves = csv.DictReader(file)
  assert sharper["question"] == "Which is sharper?" and float(sharper["preference_percent"]) == pytest.approx(70)
  assert float(sharper["wilson_95_low_percent"]) < 70 < float(sharper["wilson_95_high_percent"])
  assert f"{float(moves['preference_percent']):.1f}" in text
  first = (tmp_path / "result.csv").read_bytes()
  study("--key", key, "--answers", *files, "--output", tmp_path / "result.csv")
  assert (tmp_path / "result.csv").read_bytes() == first, "the same seed gives the same intervals"


@pytest.mark.parametrize("words, sentence", [
  ((), "give --generated DIR and --output DIR to build a page, or --key FILE and --answers FILE"),
  (("--generated", "GEN"), "give --generated DIR and --output DIR"),
  (("--key", "KEY"), "--key FILE and --answers FILE … go together"),
  (("--answers", "ANN"), "--key FILE and --answers FILE … go together"),
  (("--key", "KEY", "--answers", "ANN", "--ties"), "--ties is for building a page"),
  (("--key", "KEY", "--answers", "ANN", "--output", "x.txt"), "let it end in .json, .md or .csv"),
  (("--key", "ANN", "--answers", "ANN"), "is not a key of this version"),
  (("--key", "KEY", "--answers", "ANN", "ANN"), "are both by Ann"),
  (("--key", "KEY", "--answers", "KEY"), "is no file of answers of this version"),
  (("--generated", "GEN", "--output", "OUT", "--methods", "ours,theirs"), "there is no theirs in"),
  (("--generated", "GEN", "--output", "OUT", "--methods", "ours"), "a preference is between two methods"),
  (("--generated", "GEN", "--output", "OUT", "--methods", "ours,ours"), "names a method twice"),
  (("--generated", "GEN/ours", "--output", "OUT"), "a preference is between two methods, and there is only ours"),
  (("--generated", "GEN", "--output", "OUT", "--clips", "0"), "--clips must be at least 1"),
  (("--generated", "GEN", "--output", "OUT", "--question", "Which?", " "), "--question must not be empty"),
  (("--generated", "GEN", "--output", "OUT", "--conditions", "nowhere"), "--conditions nowhere is no folder"),
  (("--generated", "nowhere", "--output", "OUT"), "nowhere does not exist"),
  (("--generated", "GEN", "--output", "gs://bucket/page"), "gs://bucket/page is not on this machine"),
  (("--generated", "GEN", "--output", "OUT", "--seed", "-1"), "--seed must be 0 or more"),
])
def test_what_does_not_go_together_is_one_sentence(folder, answered, tmp_path, capsys, words, sentence):
  key, files = answered
  places = {"GEN": folder / "generated", "GEN/ours": folder / "generated" / "ours", "OUT": tmp_path / "page",
            "KEY": key, "ANN": files[0]}
  study(*(places.get(word, word) for word in words), status=2)
  err = capsys.readouterr().err
  assert sentence in err and err.count("\n") == 1
  assert not (tmp_path / "page").exists() and not (tmp_path / "page.key.json").exists()


def test_videos_of_no_clip_and_of_unlike_length_are_said(folder, tmp_path, capsys):
  own = tmp_path / "generated"
  generated(own, clips=2)
  film(own / "ours" / "beach-0.mp4", 60, frames=6)
  film(own / "ours" / "extra.mp4", 60)
  study("--generated", own, "--methods", "ours,baseline", "--reference", folder / "master.csv",
        "--output", tmp_path / "page")
  out = capsys.readouterr().out
  assert "ours has videos of no clip in" in out and "1 of them left out: extra" in out
  assert ("ours and baseline differ in size, length or frame rate in 1 of 2 clips, which gives them away: in beach-0, "
          "64x32, 6 frames, 8 fps and 64x32, 8 frames, 8 fps") in out
