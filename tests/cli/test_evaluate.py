"""`panda evaluate` from the command line: tables, files, parts on several machines, and one sentence for bad input."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest

from panda_jax.cli.main import main
from tests.evaluation.benchmarks import write_benchmark

PROTOCOL = ["--config.frames=4", "--config.height=32", "--config.surfaces=('panorama', 'horizontal4')", "--processes", "1"]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
  folder = tmp_path_factory.mktemp("benchmark")
  return write_benchmark(folder)


def words(benchmark, output, *more):
  table, made = benchmark
  return ["evaluate", "--reference", str(table), "--generated", str(made), "--output", str(output), *PROTOCOL, *more]


def test_tables_files_and_report(benchmark, tmp_path, capsys):
  """Everything that can be measured without weights; the rest is named. Again: the same, from what is there."""
  assert main(words(benchmark, tmp_path, "--baseline", "same")) == 0
  captured = capsys.readouterr()
  assert "WS-PSNR ↑" in captured.out and "horizontal4: 4 views of 16x16, 90°" in captured.out and "4/4" in captured.out
  for name in ("InceptionV3", "I3D", "LPIPS (alex)", "CLIP"):
    assert f"no weights of {name} were given" in captured.err
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["baseline"] == "same" and list(summary["methods"]) == ["reference", "darker", "same", "seam"]
  assert "panda" in summary["made_with"]["command"] and summary["protocol"]["frames"] == 4
  with open(tmp_path / "scores.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert {row["clip_id"] for row in rows} == {"even::00", "odd::01", "even::02", "odd::03"}
  assert all(row["resize"] and row["height"] == "32" for row in rows)
  page = (tmp_path / "report.html").read_text()
  assert "WS-PSNR" in page and "darker" in page
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").rglob("*.json")}
  assert main(words(benchmark, tmp_path, "--no-report")) == 0
  assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").rglob("*.json")}


def test_two_machines_share_one_folder(benchmark, tmp_path):
  """Two processes at once, a half each: the tables are those of one process."""
  run = lambda output, *more: subprocess.Popen(
    [sys.executable, "-m", "panda_jax", *words(benchmark, output, "--no-report", *more)], stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, text=True)
  halves = [run(tmp_path / "halves", "--shard", f"{half}/2") for half in (0, 1)]
  whole = run(tmp_path / "whole")
  outputs = [process.communicate()[0] for process in (*halves, whole)]
  assert [process.returncode for process in (*halves, whole)] == [0, 0, 0]
  assert any("scores.csv" in text for text in outputs[:2])                 # whoever is last writes the tables
  assert (tmp_path / "halves" / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()
  halves, whole = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("halves", "whole"))
  assert halves["rows"] == whole["rows"] and halves["differences"] == whole["differences"]


def test_a_part_alone_says_that_it_is_one(benchmark, tmp_path, capsys):
  assert main(words(benchmark, tmp_path, "--shard", "1/3")) == 0
  assert "part 1 of 3 is done, 1 clips" in capsys.readouterr().out
  assert not (tmp_path / "summary.json").exists()


def test_without_a_truth_only_what_needs_none_is_measured(benchmark, tmp_path, capsys):
  _, made = benchmark
  assert main(["evaluate", "--generated", str(made / "seam"), "--output", str(tmp_path), *PROTOCOL, "--no-report"]) == 0
  captured = capsys.readouterr()
  assert "DS ↓" in captured.out and "PSNR ↑" not in captured.out.replace("overlap PSNR ↑", "")
  assert "horizontal4" not in captured.out                                 # nothing is measured of views alone
  assert "PSNR is left out: there are no true videos" in captured.err


def test_views_for_other_programs(benchmark, tmp_path, capsys):
  assert main(words(benchmark, tmp_path / "scores", "--no-report", "--methods", "same", "--export", str(tmp_path / "views"))) == 0
  assert "vbench evaluate" in capsys.readouterr().out
  assert len(list((tmp_path / "views" / "vbench" / "same").glob("*.mp4"))) == 16


def test_videos_of_no_clip_are_named(benchmark, tmp_path, capsys):
  table, made = benchmark
  shutil.copytree(made / "seam", tmp_path / "made" / "seam")
  shutil.copy(made / "darker" / "even__00.mp4", tmp_path / "made" / "seam" / "zebra.mp4")
  assert main(words((table, tmp_path / "made"), tmp_path / "scores", "--no-report")) == 0
  assert "1 videos of seam are of no clip" in capsys.readouterr().err


@pytest.mark.parametrize("more, sentence", [
  (["--methods", "ours"], "names 'ours', and .* has darker, same, seam"),
  (["--baseline", "ours"], "none of the methods darker, same, seam"),
  (["--shard", "2/2"], "--shard 2/2: give I/N"),
  (["--processes", "0"], "--processes must be at least 1"),
  (["--weights", "inception=/nowhere.pth"], "/nowhere.pth cannot be read"),
  (["--config.metrics=('fid',)"], "there is nothing to measure: FID is left out"),
  (["--config.metrics=('fidd',)"], "there is no metric 'fidd'"),
  (["--config.frames=90"], "none of the 12 videos could be compared: .* has 4 frames"),
])
def test_bad_input_is_one_sentence(benchmark, tmp_path, capsys, more, sentence):
  assert main(words(benchmark, tmp_path, *more)) == 2
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith("panda evaluate: ")
  assert re.search(sentence, error), error


def test_a_method_cannot_have_the_truths_name(benchmark, tmp_path, capsys):
  table, made = benchmark
  shutil.copytree(made / "seam", tmp_path / "made" / "reference")
  assert main(words((table, tmp_path / "made"), tmp_path / "scores")) == 2
  assert "rename its folder" in capsys.readouterr().err
