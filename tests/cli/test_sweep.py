"""`panda sweep`: what it would run, what it runs, how it resumes, and the table at the end.

A small stub stands for `panda train`.
"""

import csv
import json
import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time

import pytest

from configs.sweeps import study, tiny_learning_rate
from panda_jax.cli import console, main
from panda_jax.sweeps import running

SWEEP = '''
CONFIG = "configs/tiny.py:runlocal"

def sweep():
  yield {"optimizer.learning_rate": 1e-3, "data.split": "a/b c"}
  yield {"optimizer.learning_rate": 2e-3, "matrix.shapes": ((2, 3), (3, 2))}
  yield {"seed": 3}
'''
NAMES = ["learning_rate=0.001,split=a_b_c", "learning_rate=0.002,shapes=_2_3_3_2_", "seed=3"]

# Writes what a run leaves, and the time of each start. Seed 3 fails; seed 4 first goes on until it is asked to end.
TRAINER = '''
import argparse, json, pathlib, signal, sys, time
from panda_jax.training.config import load_config, to_plain

parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["train"])
parser.add_argument("--config")
parser.add_argument("--workdir", type=pathlib.Path)
args, overrides = parser.parse_known_args()
config = load_config(args.config, overrides)
if config.seed == 3:
  print("some progress\\n\\npanda train: no clips\\n", file=sys.stderr)
  sys.exit(2)
steps, workdir = config.training.steps, args.workdir
with open(workdir / "starts", "a") as file:
  print(time.time(), *overrides, file=file)

def measure(step, **values):
  with open(workdir / "metrics.jsonl", "a") as file:
    print(json.dumps({"step": step, "loss_mean": 1 / step, "steps_per_second": 2.0, **values}), file=file)

def save(*_):
  (workdir / "saved").touch()
  sys.exit(143)

measure(steps // 2, validation_loss=0.5)
if config.seed == 4 and not (workdir / "saved").exists():
  signal.signal(signal.SIGTERM, save)
  print("waiting", flush=True)
  time.sleep(60)
if config.seed == 5:
  time.sleep(0.5)
measure(steps, validation_loss=0.75)
(workdir / "model").mkdir(exist_ok=True)
(workdir / "model" / "config.json").write_text(json.dumps(to_plain(config)))
(workdir / "ended").write_text(str(time.time()))
'''


@pytest.fixture
def files(tmp_path, monkeypatch):
  (tmp_path / "sweep.py").write_text(SWEEP)
  (tmp_path / "trainer.py").write_text(TRAINER)
  monkeypatch.setattr(running, "PANDA", (sys.executable, str(tmp_path / "trainer.py")))
  monkeypatch.setattr(console, "quiet_libraries", lambda: None)
  monkeypatch.setattr(console, "use_compilation_cache", lambda: None)
  return tmp_path


def sweep(files: Path, *words: str) -> int:
  """The exit status of `panda sweep` with the sweep file and workdir of `files`."""
  try:
    return main.main(["sweep", str(files / "sweep.py"), "--workdir", str(files / "runs"), *words])
  except SystemExit as stopped:
    return stopped.code


def summary(files: Path) -> dict[str, dict[str, str]]:
  with open(files / "runs" / "summary.csv", newline="") as file:
    return {row["name"]: row for row in csv.DictReader(file)}


def starts(files: Path, name: str) -> int:
  return len((files / "runs" / name / "starts").read_text().splitlines())


@pytest.mark.parametrize("mode", ["--dry-run", "--commands"])
def test_the_commands_can_be_pasted_and_nothing_is_done(files, capsys, mode):
  """Every point has a folder of its own with a name that a shell likes."""
  assert sweep(files, mode, "--config.data.path=my worlds") == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  assert [line[line.index("--workdir") + 1] for line in lines] == [str(files / "runs" / name) for name in NAMES]
  assert all(line[:4] == ["panda", "train", "--config", "configs/tiny.py:runlocal"] for line in lines)
  assert all("--config.data.path=my worlds" in line for line in lines)
  assert lines[0][-2:] == ["--config.optimizer.learning_rate=0.001", "--config.data.split=a/b c"]
  assert lines[1][-1] == "--config.matrix.shapes=((2, 3), (3, 2))"
  assert not (files / "runs").exists()


def test_the_commands_go_through_a_launcher_into_a_bucket(files, capsys):
  """{name} becomes what Kubernetes takes for a name."""
  words = ["--commands", "--launcher", "launch/gke.sh --slices 2 lr-{name} image v6e 4x4"]
  assert main.main(["sweep", str(files / "sweep.py"), "--workdir", "gs://bucket/lr/", *words]) == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  assert lines[0][:7] == ["launch/gke.sh", "--slices", "2", "lr-learning-rate-0-001-split-a-b-c", "image", "v6e", "4x4"]
  assert lines[2][7:] == ["--config", "configs/tiny.py:runlocal", "--workdir", "gs://bucket/lr/seed=3",
                          "--config.seed=3"]


def test_every_point_runs_and_one_that_fails_does_not_stop_the_others(files, capsys):
  """Its log stays in its folder; the table and the last line say why."""
  assert sweep(files, "--config.training.steps=6") == 1
  out, err = capsys.readouterr()
  last = out.splitlines()[-1]
  log = files / "runs" / "seed=3" / "log.txt"
  assert last == f"seed=3: exit status 2: panda train: no clips, see {log}"
  assert "some progress" in log.read_text() and log.read_text().startswith("$ panda train --config ")
  assert "2 of 3 points are done" in out and "seed=3: failed, exit status 2" in err
  rows = summary(files)
  assert list(rows) == NAMES
  assert [row["state"] for row in rows.values()] == ["done", "done", "failed"]
  first = rows[NAMES[0]]
  assert (first["optimizer.learning_rate"], first["data.split"], first["seed"]) == ("0.001", "a/b c", "")
  assert (first["steps"], first["validation_loss"], first["best_validation_loss"]) == ("6", "0.75", "0.5")
  assert (first["steps_per_second"], float(first["loss_mean"])) == ("2.0", 1 / 6)
  assert rows["seed=3"]["reason"] == "exit status 2: panda train: no clips" and rows["seed=3"]["steps"] == ""
  assert all(name in out for name in ("learning_rate", "split", "validation loss", "0.75000", "failed"))


def test_the_same_command_again_starts_what_is_unfinished_and_that_only(files, capsys):
  sweep(files)
  done = NAMES[:2]
  assert [starts(files, name) for name in done] == [1, 1]
  assert sweep(files) == 1
  assert [starts(files, name) for name in done] == [1, 1]
  assert "2 of 3 points were done before" in capsys.readouterr().err
  # A longer run, an export that is missing and another config are for `panda train` to decide about.
  assert sweep(files, "--config.training.steps=6") == 1
  assert [starts(files, name) for name in done] == [2, 2]
  (files / "runs" / done[0] / "model" / "config.json").unlink()
  sweep(files, "--config.training.steps=6")
  assert [starts(files, name) for name in done] == [3, 2]
  sweep(files, "--config.training.steps=6", "--config.batch_size=4")
  assert [starts(files, name) for name in done] == [4, 3]


def test_as_many_runs_at_a_time_as_are_asked_for(files):
  """With two jobs the second begins before the first has ended, and the third after one of them has."""
  (files / "sweep.py").write_text('CONFIG = "configs/tiny.py:runlocal"\n'
                                  'def sweep():\n'
                                  '  for steps in (4, 6, 8):\n'
                                  '    yield {"name": f"n{steps}", "seed": 5, "training.steps": steps}\n')
  assert sweep(files, "--jobs", "2") == 0
  begun = [float((files / "runs" / f"n{steps}" / "starts").read_text().split()[0]) for steps in (4, 6, 8)]
  ended = [float((files / "runs" / f"n{steps}" / "ended").read_text()) for steps in (4, 6, 8)]
  assert begun[1] < ended[0] and begun[0] < ended[1] and begun[2] >= min(ended[:2])


def interrupted(files: Path) -> tuple[subprocess.Popen, Path]:
  """A sweep as a process of its own, at the moment when its one run waits."""
  (files / "sweep.py").write_text('CONFIG = "configs/tiny.py:runlocal"\ndef sweep():\n  yield {"seed": 4}\n')
  code = (f"import sys; from panda_jax.cli import main; from panda_jax.sweeps import running; "
          f"running.PANDA = (sys.executable, {str(files / 'trainer.py')!r}); sys.exit(main.main(sys.argv[1:]))")
  process = subprocess.Popen([sys.executable, "-c", code, "sweep", str(files / "sweep.py"), "--workdir",
                              str(files / "runs")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             start_new_session=True)
  folder = files / "runs" / "seed=4"
  for _ in range(300):
    if (folder / "log.txt").exists() and "waiting" in (folder / "log.txt").read_text():
      return process, folder
    time.sleep(0.1)
  process.kill()
  raise AssertionError(f"the run did not begin: {process.communicate()}")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_lets_its_runs_save_and_resumes(files, sent):
  process, folder = interrupted(files)
  process.send_signal(sent)
  out, err = process.communicate(timeout=60)
  assert process.returncode == 130 and err.endswith("panda sweep: interrupted\n") and "Traceback" not in err
  assert (folder / "saved").exists() and not (folder / "model").exists()
  assert "0 of 1 points are done" in out and summary(files)["seed=4"]["state"] == "unfinished"
  assert sweep(files) == 0
  assert starts(files, "seed=4") == 2 and summary(files)["seed=4"]["state"] == "done"


def test_a_run_that_has_outlived_its_sweep_is_left_alone(files, capsys):
  """Two processes in one folder would spoil it: also when the sweep was killed and could not end the run."""
  process, folder = interrupted(files)
  process.kill()
  process.communicate(timeout=60)
  child = next(int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
               if str(folder).encode() in _read(path))
  try:
    assert sweep(files) == 1
    assert "another process still works in it" in capsys.readouterr().out
    assert starts(files, "seed=4") == 1
  finally:
    os.kill(child, signal.SIGKILL)


def _read(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError:                                              # that process has ended
    return b""


def test_collecting_compares_what_there_is_and_runs_nothing(files, capsys):
  """As after a cluster has trained: no log, no process of ours; a point may be half-way or not begun."""
  folder = files / "runs" / NAMES[0]
  folder.mkdir(parents=True)
  (folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "validation_loss": 0.25}) + '\n{"step": 5')
  assert sweep(files, "--collect") == 0
  rows = summary(files)
  assert [row["state"] for row in rows.values()] == ["unfinished", "not begun", "not begun"]
  assert (rows[NAMES[0]]["steps"], rows[NAMES[0]]["best_validation_loss"]) == ("4", "0.25")
  assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]
  assert "0 of 3 points are done" in capsys.readouterr().out


def test_a_point_may_have_a_name_and_a_config_of_its_own(files, capsys):
  """Neither is an override; a point with nothing else is one, too."""
  (files / "sweep.py").write_text('''
CONFIG = "configs/tiny.py:runlocal"

def sweep():
  yield {"name": "full-0", "config": "configs/ablations.py:row=full,size=tiny,runlocal"}
  yield {"name": "full-1", "config": "configs/ablations.py:row=full,size=tiny,runlocal", "seed": 1}
  yield {"name": "tiny"}
  yield {"config": "configs/tiny.py", "seed": 1}
''')
  assert sweep(files, "--dry-run") == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  ablation = "configs/ablations.py:row=full,size=tiny,runlocal"
  assert [line[3:] for line in lines] == [
    [ablation, "--workdir", str(files / "runs" / "full-0")],
    [ablation, "--workdir", str(files / "runs" / "full-1"), "--config.seed=1"],
    ["configs/tiny.py:runlocal", "--workdir", str(files / "runs" / "tiny")],
    ["configs/tiny.py", "--workdir", str(files / "runs" / "seed=1"), "--config.seed=1"]]
  assert sweep(files, "--collect") == 0
  assert [(row["name"], row["config"]) for row in summary(files).values()][::2] == [
    ("full-0", ablation), ("tiny", "configs/tiny.py:runlocal")]


@pytest.mark.parametrize("text, words, sentence", [
  (SWEEP.replace('"seed"', '"sed"'), (), "panda sweep: the config has no key sed: did you mean seed?\n"),
  (SWEEP, ("--config.sed=1",), "panda sweep: the config has no key sed: did you mean seed?\n"),
  (SWEEP + '  yield {"seed": 3}\n', (), "yields a second point named 'seed=3'"),
  (SWEEP + "  yield {}\n", (), "or one without overrides"),
  (SWEEP + '  yield {"config": "configs/tiny.py"}\n', (), "or one without overrides"),
  (SWEEP + '  yield {"name": "seed=3"}\n', (), "yields a second point named 'seed=3'"),
  (SWEEP + '  yield {"name": "../best"}\n', (), "names a point '../best': give a folder's name"),
  (SWEEP + '  yield {"name": "a", "config": "configs/tiny.py:sed=3"}\n', (), "sed"),
  (SWEEP + "  yield 3\n", (), "TypeError"),
  (SWEEP.replace("CONFIG", "BASE"), (), "has no 'CONFIG': a sweep file has CONFIG and sweep()"),
  (SWEEP + "  1 / 0\n", (), "ZeroDivisionError"),
  ("CONFIG = 'configs/tiny.py'\ndef sweep():\n  return []\n", (), "yields no point"),
  (SWEEP, ("--jobs", "0"), "--jobs must be 1 or more"),
  (SWEEP, ("--launcher", "launch/gke.sh"), "--launcher is for --commands"),
  (SWEEP + '  yield {"seed": "3 "}\n', ("--commands", "--launcher", "x {name}"), "would be launched as 'seed-3'"),
  (SWEEP, ("--workdir", "gs://bucket/runs"), "not in gs://bucket/runs: give a folder"),
  (None, (), "there is no config file"),
])
def test_what_is_wrong_is_said_before_anything_runs(files, capsys, text, words, sentence):
  (files / "sweep.py").unlink() if text is None else (files / "sweep.py").write_text(text)
  assert sweep(files, *words) == 2
  err = capsys.readouterr().err
  assert err.startswith("panda sweep: ") and err.count("\n") == 1 and sentence in err
  assert not (files / "runs").exists()


def test_a_workdir_that_is_a_file_is_one_sentence(files, capsys):
  (files / "runs").write_text("mine")
  assert sweep(files) == 2
  assert capsys.readouterr().err.endswith("cannot be made a folder: a file is in its place\n")


def test_nothing_of_it_imports_jax(files):
  """A sweep that is done is answered at once, and the runs have the machine's memory for themselves."""
  code = ("import sys; from panda_jax.cli import main; main.main(sys.argv[1:]); "
          "sys.exit('jax' in sys.modules)")
  words = ["sweep", str(files / "sweep.py"), "--workdir", str(files / "runs"), "--collect"]
  subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


@pytest.mark.parametrize("module, count", [(tiny_learning_rate, 5), (study, 15)])
def test_a_shipped_sweeps_command_is_accepted(module, count, capsys):
  command = next(line for line in module.__doc__.splitlines() if "panda sweep" in line)
  assert main.main([*shlex.split(command)[1:], "--dry-run"]) == 0
  assert capsys.readouterr().out.count("panda train") == len(list(module.sweep())) == count


def test_the_study_has_a_run_for_every_row_and_seed(capsys):
  """Named as the scores want them; every command trains one row."""
  from panda_jax.evaluation.study import split_name
  assert main.main(["sweep", "configs/sweeps/study.py", "--workdir", "runs/study", "--commands"]) == 0
  lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  names = [Path(line[line.index("--workdir") + 1]).name for line in lines]
  assert [split_name(name) for name in names] == [(row, seed) for seed in study.SEEDS for row in study.ROWS]
  for line, name in zip(lines, names, strict=True):
    row, seed = split_name(name)
    assert f"row={row},size=tiny" in line[3] and f"--config.seed={seed}" in line
