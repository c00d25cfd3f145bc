"""`panda compare`: what it would run, what it runs, how it goes on, and what it refuses before anything is trained.

A small stub stands for `panda train` and `panda generate`.
"""

import json
import sys
from pathlib import Path

import pytest

from configs.comparisons import systems
from panda_jax.cli import main
from panda_jax.data.clips import find_methods, read_clips, unlisted
from panda_jax.sweeps import comparisons, running

METHODS = '''
def compare():
  yield {"name": "views", "model": "tiny"}
  yield {"name": "views-given", "model": "views", "generate": {"given": "view", "yaw": 30, "views": True}}
  yield {"name": "whole", "config": "configs/dvd360.py:size=tiny,runlocal", "seed": 4}
  yield {"name": "whole-motion", "model": "whole", "generate": {"motion": "like", "switch": ["a=1", "b=2"]}}
'''
CLIPS = "clip_id,prompt\na::sea,the sea\nland,some land\n"

# Writes what a run leaves, or a video for every clip. Seed 3 cannot be trained; with a switch fail=1 the last clip fails.
PANDA = '''
import json, pathlib, sys
from panda_jax.cli.main import _parse
from panda_jax.data.clips import read_clips
from panda_jax.training.config import load_config, to_plain

_, args = _parse(sys.argv[1:])
with open("calls.txt", "a") as file:
  print(*sys.argv[1:], file=file)
if args.command == "train":
  config, workdir = load_config(args.config, args.overrides), pathlib.Path(args.workdir)
  if config.seed == 3:
    sys.exit("panda train: no clips")
  (workdir / "metrics.jsonl").write_text(json.dumps({"step": config.training.steps}))
  (workdir / "model").mkdir()
  (workdir / "model" / "config.json").write_text(json.dumps(to_plain(config)))
else:
  clips = read_clips(args.batch)
  for clip in clips[:-1] if "fail=1" in args.switch else clips:
    (pathlib.Path(args.output) / f"{clip.name}.mp4").touch()
  sys.exit("1 of 2 clips made" if "fail=1" in args.switch else 0)
'''


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PANDA_CACHE", "off")
  Path("clips.csv").write_text(CLIPS)
  Path("stub.py").write_text(PANDA)
  monkeypatch.setattr(running, "PANDA", (sys.executable, "stub.py"))
  monkeypatch.setenv("PYTHONPATH", str(Path(main.__file__).parents[2]))
  use(METHODS)


def use(content):
  Path("methods.py").write_text(content)


def run(*words):
  """The exit status."""
  try:
    return main.main(["compare", "methods.py", "--batch", "clips.csv", "--workdir", "out", *words])
  except SystemExit as stop:
    return stop.code


def calls():
  return Path("calls.txt").read_text().splitlines() if Path("calls.txt").exists() else []


def test_it_trains_what_has_no_model_and_all_make_the_same_clips(capsys):
  assert run("--frames", "5", "--config.data.path=worlds") == 0
  alike = "--batch clips.csv --seed 0 --frames 5 --output out/generated"
  assert calls() == [
    "train --config configs/dvd360.py:size=tiny,runlocal --workdir out/runs/whole --config.data.path=worlds "
    "--config.seed=4",
    f"generate --checkpoint tiny {alike}/views",
    f"generate --checkpoint tiny {alike}/views-given --given view --yaw 30 --views",
    f"generate --workdir out/runs/whole {alike}/whole",
    f"generate --workdir out/runs/whole {alike}/whole-motion --motion like --switch a=1 --switch b=2"]
  methods = find_methods("out/generated")
  assert list(methods) == ["views", "views-given", "whole", "whole-motion"]
  assert not unlisted(methods, read_clips("clips.csv")) and (methods["whole"] / "a__sea.mp4").is_file()
  said = capsys.readouterr().out
  assert said.count("2 of 2") == 4
  assert "panda evaluate --reference clips.csv --generated out/generated --output out/scores" in said


def test_the_same_command_trains_nothing_twice(capsys):
  assert run() == 0
  before = len(calls())
  assert run() == 0
  assert [line.split()[0] for line in calls()[before:]] == ["generate"] * 4
  assert run("--config.seed=9") == 0                             # a method's own values stand behind those for all
  assert not any(line.startswith("train") for line in calls()[before:])
  use(METHODS.replace('"seed": 4', '"seed": 5'))
  assert run("--dry-run") == 0
  assert capsys.readouterr().out.splitlines()[-5].startswith("panda train --config configs/dvd360.py")


def test_what_fails_is_named_and_the_others_are_made(capsys):
  lame = '  yield {"name": "lame", "model": "tiny", "generate": {"switch": "fail=1"}}\n'
  use(METHODS.replace('"seed": 4', '"seed": 3') + lame)
  assert run() == 1
  said = capsys.readouterr().out
  assert "whole: exit status 1: panda train: no clips, see out/runs/whole/log.txt" in said
  assert "lame: exit status 1: 1 of 2 clips made, see out/generated/lame/log.txt" in said
  assert sorted(find_methods("out/generated")) == ["lame", "views", "views-given"]
  assert "1 of 2" in said and "0 of 2" in said


@pytest.mark.parametrize("line, words", [
  ('{"name": "x"}', 'needs either "model", what it loads, or "config", what it trains'),
  ('{"name": "x", "model": "tiny", "config": "configs/tiny.py"}', "needs either"),
  ('{"name": "x", "model": "nowhere"}', "is no folder, no shipped model, and no method before it"),
  ('{"name": "x", "model": "tiny", "seed": 1}', "sets seed, which are for training"),
  ('{"name": "../x", "model": "tiny"}', "give a folder's name"),
  ('{"name": "views", "model": "tiny"}', "a second method named 'views'"),
  ('{"name": "x", "config": "configs/tiny.py", "no.such": 1}', "no.such"),
  ('{"name": "x", "model": "tiny", "generate": {"sky": "blue"}}', "--sky blue, which `panda generate` does not know"),
  ('{"name": "x", "model": "tiny", "generate": {"steps": "many"}}', "invalid int value"),
])
def test_a_method_that_cannot_be_is_refused_before_anything_is_trained(capsys, line, words):
  use(METHODS + f"  yield {line}\n")
  assert run() == 2
  assert words in capsys.readouterr().err and not calls()


@pytest.mark.parametrize("content, words", [
  ("", "has no 'compare'"), ("def compare():\n  return []\n", "yields no method"),
  ("def compare():\n  return 1 / 0\n", "ZeroDivisionError")])
def test_a_file_that_is_none_is_refused(capsys, content, words):
  use(content)
  assert run() == 2 and words in capsys.readouterr().err


def test_the_comparison_on_films_begins_from_the_other_and_shows_both_as_many_pixels():
  methods = comparisons.read_methods("configs/comparisons/films.py", ["--config.data.path=records"])
  trained = {method.name: method.trained.plain for method in methods if method.trained}
  assert trained["dvd360"]["init"] == "compared/runs/dvd360" and trained["videopanda"]["init"] == "tiny"
  views, whole = (config["training"]["steps"] * config["batch_size"] for config in trained.values())
  assert whole * 8 * 64 * 128 == pytest.approx(views * 24 * 32**2, rel=0.01)
  assert methods[-1].options["switch"] == systems.PAPER


def test_the_shipped_comparison_is_of_both_systems(monkeypatch):
  monkeypatch.setattr(running, "run_all", None)
  methods = comparisons.read_methods("configs/comparisons/systems.py", ["--config.data.path=worlds"])
  assert [method.name for method in methods] == [values["name"] for values in systems.compare()]
  assert {method.trained.plain["system"] for method in methods if method.trained} == {"dvd360"}
  words = {method.name: comparisons.generate_words(method, methods, "out", ["--batch", "clips.csv"])
           for method in methods}
  assert words["dvd360-motion"][-2:] == ["--motion", "like"] and words["dvd360-motion"][1:3] == words["dvd360"][1:3]
  paper = systems.PAPER
  assert words["dvd360-motion-paper"][-6:] == [word for switch in paper for word in ("--switch", switch)]
  config = methods[2].trained.plain
  seen = config["training"]["steps"] * config["batch_size"] * config["matrix"]["shapes"][0][1]
  card = json.loads((Path(main.__file__).parents[1] / "assets/tiny/config.json").read_text())
  views = card["training"]["steps"] * card["batch_size"] * 24
  assert seen * 64 * 128 == views * card["model"]["view_size"] ** 2        # as many pixels
