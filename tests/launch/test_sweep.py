"""launch/sweep.py: what it would run, what it runs, and the table at the end. A small stub stands for the trainer."""

import csv
import json
from pathlib import Path
import shlex
import sys

import pytest

from configs.sweeps import study, tiny_learning_rate
from launch import sweep

SWEEP = '''
CONFIG = "configs/tiny.py:runlocal"

def sweep():
  yield {"optimizer.learning_rate": 1e-3, "data.split": "a/b c"}
  yield {"optimizer.learning_rate": 2e-3, "matrix.shapes": ((2, 3), (3, 2))}
  yield {"seed": 3}
'''
NAMES = ["learning_rate=0.001,split=a_b_c", "learning_rate=0.002,shapes=_2_3_3_2_", "seed=3"]

# Adds two lines of metrics, as a trainer that resumes does; the point with seed 3 fails before it measures anything.
TRAINER = '''
import json, pathlib, sys
words = sys.argv[1:]
workdir = pathlib.Path(words[words.index("--workdir") + 1])
if "--config.seed=3" in words:
  sys.exit(2)
workdir.mkdir(parents=True, exist_ok=True)
with open(workdir / "metrics.jsonl", "a") as file:
  start = file.tell() and 8
  print(json.dumps({"step": start + 4, "loss": 1.0, "validation_loss": 0.5 / (start + 1)}), file=file)
  print(json.dumps({"step": start + 8, "loss": 0.9}), file=file)
(workdir / "words.json").write_text(json.dumps(words))
'''


@pytest.fixture
def files(tmp_path):
  (tmp_path / "sweep.py").write_text(SWEEP)
  (tmp_path / "trainer.py").write_text(TRAINER)
  return tmp_path


def run(files: Path, *words: str) -> int:
  return sweep.main(["--sweep", str(files / "sweep.py"), "--workdir", str(files / "runs"), *words],
                    trainer=(sys.executable, str(files / "trainer.py")))


def summary(files: Path) -> list[dict[str, str]]:
  with open(files / "runs" / "summary.csv", newline="") as file:
    return list(csv.DictReader(file))


def test_a_dry_run_prints_every_command_and_does_nothing(files, capsys):
  """Each line can be pasted into a shell; every point has a folder of its own with a name that a shell likes."""
  assert run(files, "--dry-run", "--config.data.path=my worlds") == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  assert [line[line.index("--workdir") + 1] for line in lines] == [str(files / "runs" / name) for name in NAMES]
  assert all(line[:4] == ["panda", "train", "--config", "configs/tiny.py:runlocal"] for line in lines)
  assert all("--config.data.path=my worlds" in line for line in lines)
  assert lines[0][-2:] == ["--config.optimizer.learning_rate=0.001", "--config.data.split=a/b c"]
  assert lines[1][-1] == "--config.matrix.shapes=((2, 3), (3, 2))"
  assert not (files / "runs").exists()


def test_every_point_runs_and_one_that_fails_does_not_stop_the_others(files, capfd):
  assert run(files, "--config.training.steps=8") == 1
  words = json.loads((files / "runs" / NAMES[0] / "words.json").read_text())
  assert words[-3:] == ["--config.training.steps=8", "--config.optimizer.learning_rate=0.001",
                        "--config.data.split=a/b c"]
  assert "2 of 3 points done" in (last := capfd.readouterr().out.splitlines()[-1])
  assert "failed: seed=3 (exit status 2)" in last
  assert [row["name"] for row in summary(files)] == NAMES
  assert [(row["validation_loss"], row["steps"]) for row in summary(files)] == [("0.5", "8"), ("0.5", "8"), ("", "")]
  assert summary(files)[0]["overrides"] == "--config.optimizer.learning_rate=0.001 '--config.data.split=a/b c'"


def test_the_same_command_again_leaves_it_to_the_trainer_to_resume(files):
  """Every point is given to the trainer again, in the same folder; the table has what is newest."""
  run(files)
  run(files)
  assert [(row["validation_loss"], row["steps"]) for row in summary(files)][0] == (str(0.5 / 9), "16")


def test_a_point_may_have_a_name_and_a_config_of_its_own(files, capsys):
  """Neither is an override; a point with nothing else is one, too, and the table says which config it was."""
  (files / "sweep.py").write_text('''
CONFIG = "configs/tiny.py:runlocal"

def sweep():
  yield {"name": "full-0", "config": "configs/ablations.py:row=full,size=tiny,runlocal"}
  yield {"name": "full-1", "config": "configs/ablations.py:row=full,size=tiny,runlocal", "seed": 1}
  yield {"name": "tiny"}
  yield {"config": "configs/tiny.py", "seed": 1}
''')
  assert run(files, "--dry-run") == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  ablation = "configs/ablations.py:row=full,size=tiny,runlocal"
  assert [line[3:] for line in lines] == [
    [ablation, "--workdir", str(files / "runs" / "full-0")],
    [ablation, "--workdir", str(files / "runs" / "full-1"), "--config.seed=1"],
    ["configs/tiny.py:runlocal", "--workdir", str(files / "runs" / "tiny")],
    ["configs/tiny.py", "--workdir", str(files / "runs" / "seed=1"), "--config.seed=1"]]
  assert run(files) == 0
  assert [(row["name"], row["config"]) for row in summary(files)][::2] == [
    ("full-0", ablation), ("tiny", "configs/tiny.py:runlocal")]


@pytest.mark.parametrize("text, words, sentence", [
  (SWEEP.replace('"seed"', '"sed"'), (), "sweep: the config has no key sed: did you mean seed?\n"),
  (SWEEP, ("--config.sed=1",), "sweep: the config has no key sed: did you mean seed?\n"),
  (SWEEP + '  yield {"seed": 3}\n', (), "yields a second point named 'seed=3'"),
  (SWEEP + "  yield {}\n", (), "or one without overrides"),
  (SWEEP + '  yield {"config": "configs/tiny.py"}\n', (), "or one without overrides"),
  (SWEEP + '  yield {"name": "seed=3"}\n', (), "yields a second point named 'seed=3'"),
  (SWEEP + '  yield {"name": "../best"}\n', (), "names a point '../best': give a folder's name"),
  (SWEEP + '  yield {"name": "a", "config": "configs/tiny.py:sed=3"}\n', (), "sed"),
  (None, (), "there is no config file"),
])
def test_what_is_wrong_is_said_before_anything_runs(files, capsys, text, words, sentence):
  (files / "sweep.py").unlink() if text is None else (files / "sweep.py").write_text(text)
  with pytest.raises(SystemExit) as stopped:
    run(files, *words)
  err = capsys.readouterr().err
  assert stopped.value.code == 2 and err.startswith("sweep: ") and err.count("\n") == 1 and sentence in err
  assert not (files / "runs").exists()


def test_the_shipped_sweep_is_a_few_points_of_the_tiny_config(capsys):
  """Its command, as the docstring has it, is accepted."""
  command = next(line for line in tiny_learning_rate.__doc__.splitlines() if "launch/sweep.py" in line)
  python, script, *words = shlex.split(command)
  assert (python, script) == ("python", "launch/sweep.py")
  assert sweep.main([*words, "--dry-run"]) == 0
  assert capsys.readouterr().out.count("panda train") == len(list(tiny_learning_rate.sweep())) == 5


def test_the_study_has_a_run_for_every_row_and_seed(capsys):
  """Named as the scores want them; every command trains one row, and smoke-sized ones exist."""
  from panda_jax.evaluation.study import split_name
  command = next(line for line in study.__doc__.splitlines() if "launch/sweep.py" in line)
  assert sweep.main([*shlex.split(command)[2:], "--dry-run"]) == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  names = [Path(line[line.index("--workdir") + 1]).name for line in lines]
  assert [split_name(name) for name in names] == [(row, seed) for seed in study.SEEDS for row in study.ROWS]
  for line, name in zip(lines, names):
    row, seed = split_name(name)
    assert f"row={row},size=tiny" in line[3] and f"--config.seed={seed}" in line
