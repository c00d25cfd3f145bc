"""Files of answers, good and bad: each kind of bad one has its sentence, and none is left out in silence."""

import dataclasses
import json

import pytest

from panda_jax.errors import InputError
from panda_jax.evaluation.preference.answers import read_sheets
from panda_jax.evaluation.preference.trials import Study, Trial, read_key, write_key
from tests.evaluation.preference.toy import answer_sheet, save

STUDY = Study("5eed", 0, ("Which?", "Which moves better?"), False, ("ours", "baseline"),
              {"m0": "ours", "m1": "baseline", "m2": "baseline", "m3": "ours"},
              (Trial("t0", "beach", ("m0", "m1")), Trial("t1", "dune", ("m2", "m3"))))


def read(*paths, study=STUDY):
  return read_sheets(list(paths), study)


def test_answers_are_told_by_method_whichever_side_it_was_on(tmp_path):
  path = save(tmp_path, answer_sheet(STUDY, "Ann", lambda clip, question, rng: ("baseline", "ours")[question]))
  (sheet,) = read(path)
  assert sheet.participant == "Ann" and len(sheet.answers) == sheet.expected == 4
  assert [(a.clip, a.question, a.a, a.b, a.chosen) for a in sheet.answers] == [
    ("beach", 0, "ours", "baseline", "baseline"), ("beach", 1, "ours", "baseline", "ours"),
    ("dune", 0, "ours", "baseline", "baseline"), ("dune", 1, "ours", "baseline", "ours")]


def test_an_unfinished_file_counts_as_far_as_it_goes_and_says_how_far(tmp_path):
  (sheet,) = read(save(tmp_path, answer_sheet(STUDY, "Ann", upto=3)))
  assert (len(sheet.answers), sheet.expected) == (3, 4)


@pytest.mark.parametrize("content, sentence", [
  ("", "is damaged, or no file of answers"),
  ('{"format": "panda_jax pref', "is damaged, or no file of answers"),
  ("[" * 100_000, "is damaged, or no file of answers"),
  ("[1, 2]", "is no file of answers of this version"),
  ('{"study": "5eed"}', "is no file of answers of this version"),
])
def test_what_is_no_file_of_answers_is_named(tmp_path, content, sentence):
  (tmp_path / "a.json").write_text(content)
  with pytest.raises(InputError, match=f"a.json {sentence}"):
    read(tmp_path / "a.json")


@pytest.mark.parametrize("change, sentence", [
  (lambda s: s["answers"][0].update(trial="t9"), "there is no trial 't9'"),
  (lambda s: s["answers"][0].update(trial=["t0"]), "a.json is damaged"),
  (lambda s: s["answers"][0].update(left="m3"), "trial t0 does not show 'm3'"),
  (lambda s: s["answers"][0].update(left=None), "a.json is damaged"),
  (lambda s: s["answers"][0].update(choice="both"), "trial t0 cannot be answered by 'both'"),
  (lambda s: s["answers"][0].update(choice="tie"), "trial t0 cannot be answered by 'tie'"),
  (lambda s: s["answers"][0].update(question=2), "trial t0 has no question 2"),
  (lambda s: s["answers"][0].update(seconds=-1), "trial t0 lasted -1 s"),
  (lambda s: s["answers"][0].update(seconds=float("nan")), "trial t0 lasted nan s"),
  (lambda s: s["answers"][0].update(seconds=10 ** 400), "a.json is damaged"),
  (lambda s: s["answers"][0].pop("watched"), "'watched' is missing"),
  (lambda s: s["answers"].append(s["answers"][0]), "trial t0 is answered twice"),
  (lambda s: s["answers"].append(None), "a.json is damaged"),
  (lambda s: s.update(answers=7), "a.json is damaged"),
  (lambda s: s.update(participant=" "), "participant has no name"),
  (lambda s: s.pop("participant"), "'participant' is missing"),
  (lambda s: s.update(answers=[]), "holds no answers: leave it out"),
])
def test_an_answer_that_cannot_be_is_named_and_the_file_refused(tmp_path, change, sentence):
  sheet = answer_sheet(STUDY, "Ann")
  change(sheet)
  with pytest.raises(InputError, match=sentence) as error:
    read(save(tmp_path, sheet, "a.json"))
  assert "\n" not in str(error.value) and "a.json" in str(error.value)


def test_answers_of_another_study_are_refused_with_both_names(tmp_path):
  sheet = answer_sheet(STUDY, "Ann") | {"study": "0ther"}
  with pytest.raises(InputError, match="answers another study .0ther, the key is of 5eed"):
    read(save(tmp_path, sheet))


def test_one_participant_twice_is_refused_with_both_files(tmp_path):
  """However the name is written: a page that was saved twice must not count twice."""
  first = save(tmp_path, answer_sheet(STUDY, "Ann", upto=2))
  second = save(tmp_path, answer_sheet(STUDY, " ann"), "answers_Ann (1).json")
  with pytest.raises(InputError, match=r"Ann.json \(2 answers\) and .*Ann \(1\).json \(4 answers\) are both by ann"):
    read(first, second)
  with pytest.raises(InputError, match="are both by Ann"):
    read(first, first)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(InputError, match="nobody.json cannot be read"):
    read(tmp_path / "nobody.json")


def test_the_key_comes_back_as_it_was_written_and_is_not_overwritten_by_another(tmp_path):
  path = tmp_path / "page.key.json"
  write_key(path, STUDY)
  assert read_key(path) == STUDY
  write_key(path, STUDY)
  other = dataclasses.replace(STUDY, id="0ther")
  with pytest.raises(InputError, match="is the key of another study .5eed.*whose answers cannot be read without it"):
    write_key(path, other)
  assert read_key(path) == STUDY


@pytest.mark.parametrize("change, sentence", [
  (lambda text: text[:100], "is not a key: it is damaged"),
  (lambda text: "{}", "is not a key of this version"),
  (lambda text: text.replace('"trials"', '"trails"'), "page.key.json is damaged"),
  (lambda text: text.replace('"m3": "ours"', '"m3": "theirs"'), "page.key.json is damaged"),
])
def test_a_damaged_key_is_refused(tmp_path, change, sentence):
  path = tmp_path / "page.key.json"
  write_key(path, STUDY)
  path.write_text(change(path.read_text()))
  with pytest.raises(InputError, match=sentence):
    read_key(path)


def test_the_answers_are_no_key(tmp_path):
  path = save(tmp_path, answer_sheet(STUDY, "Ann"))
  with pytest.raises(InputError, match="is not a key of this version"):
    read_key(path)
  assert json.loads(path.read_text())["study"] == STUDY.id
