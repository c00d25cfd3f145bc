"""What a user of `panda` meets before and after the work: help, typing errors, full disks, interruptions."""

import errno
import json
import os
import shlex
import subprocess
import sys
import types

import numpy as np
import pytest
from absl import logging

from panda_jax.cli import console, main
from panda_jax.errors import InputError

HEAVY = ("jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "transformers", "cv2", "av", "skimage", "PIL",
         "rich", "numpy")


@pytest.fixture
def command(monkeypatch):
  """Registers a subcommand "work" whose run the test chooses; returns a function that runs `panda work …`."""

  def register(run, add_arguments=lambda parser: None):
    module = types.SimpleNamespace(SUMMARY="works", EXAMPLE="panda work", add_arguments=add_arguments, run=run)
    monkeypatch.setitem(sys.modules, "panda_jax.cli.work", module)
    monkeypatch.setattr(main, "COMMANDS", ("work",))
    monkeypatch.setattr(console, "quiet_libraries", lambda: None)
    monkeypatch.setattr(console, "use_compilation_cache", lambda: None)
    return lambda *words: main.main(["work", *words])

  return register


def _raise(error):
  raise error


def test_help_waits_for_no_heavy_library():
  """Building every subcommand's parser imports none of the libraries that take their time, so help is immediate."""
  code = ("import json, sys, time; start = time.process_time(); from panda_jax.cli.main import build_parsers; "
          "build_parsers(); print(json.dumps([time.process_time() - start, sorted(sys.modules)]))")
  out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
  seconds, modules = json.loads(out)
  assert not [name for name in modules if name.split(".")[0] in HEAVY]
  assert seconds < 0.5


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_subcommands_help_shows_a_real_example(name, capsys):
  """Each line of the example is in the help, and the parser accepts what it says."""
  assert main.main([name, "--help"]) == 0
  printed = capsys.readouterr().out
  example = main.build_parsers()[1][name][0].EXAMPLE
  assert all(line.strip() in printed for line in example.splitlines())
  for line in example.replace("\\\n", " ").splitlines():
    panda, *words = shlex.split(line, comments=True)
    _, args = main._parse(words)
    assert (panda, args.command) == ("panda", name)


def test_help_lists_every_subcommand_with_its_summary(capsys):
  assert main.main(["--help"]) == 0
  printed = capsys.readouterr().out
  for name, (module, _) in main.build_parsers()[1].items():
    assert name in printed and module.SUMMARY.split()[0] in printed


def test_without_a_command_help_is_shown_and_the_status_says_bad_input(capsys):
  assert main.main([]) == 2
  assert "panda demo" in capsys.readouterr().err


@pytest.mark.parametrize("words, named", [
  (["nonsense"], "nonsense"),
  (["work", "--sed", "3"], "--sed"),
  (["work", "--config.seed=3"], "--config.seed=3"),
  (["work", "--seed", "three"], "three"),
  (["work", "extra"], "extra"),
])
def test_a_typing_error_is_one_sentence(command, capsys, words, named):
  """It names the word, points to the help, and comes without a usage dump. Options are not guessed from prefixes."""
  command(lambda args: None, lambda parser: parser.add_argument("--seed", type=int))
  assert main.main(words) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.count("\n") == 1 and named in err and "--help" in err


def test_config_overrides_reach_the_command_that_has_a_config(command):
  """`--config.key=value` and `--config.key value` mean the same, negative numbers too, and keep their order."""
  seen = []
  run = command(seen.append, lambda parser: parser.add_argument("--config"))
  assert run("--config.a.b=1", "--config", "c.py", "--config.lr", "-1e-4", "--config.name=x=y", "--config.flag") == 0
  assert seen[0].config == "c.py"
  assert seen[0].overrides == ["--config.a.b=1", "--config.lr=-1e-4", "--config.name=x=y", "--config.flag"]


def test_bad_input_is_the_sentence_and_status_2(command, capsys):
  run = command(lambda args: _raise(InputError("clips/a.mp4 is empty: give another")))
  assert run() == 2
  assert capsys.readouterr().err == "panda work: clips/a.mp4 is empty: give another\n"


def _full(path="/data/run/model.bin"):
  return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _chained(cause):
  error = RuntimeError("could not save")
  error.__cause__ = cause
  return error


@pytest.mark.parametrize("error, path", [
  (_full(), "/data/run/model.bin"),
  (_chained(_full()), "/data/run/model.bin"),
  (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/home/me/x"), "/home/me/x"),
  (ValueError('RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "/runs/my run/ckpt/": '
              "Failed to write 64 bytes to file 4: No space left on device [os_error_code=28]"), "/runs/my run/ckpt/"),
  (RuntimeError("write() failed: No space left on device; writing /d/x.rec; at byte 1048576"), "/d/x.rec"),
  (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "disk"),
])
def test_a_full_disk_is_one_sentence_whoever_notices_it(command, capsys, error, path):
  """Python, a wrapped error, the checkpoint library's or the record writer's own words: the path is named if known."""
  assert command(lambda args: _raise(error))() == 2
  err = capsys.readouterr().err
  assert err.startswith("panda work: ") and err.count("\n") == 1 and path in err


def test_a_forbidden_path_is_one_sentence(command, capsys):
  assert command(lambda args: _raise(PermissionError(errno.EACCES, "Permission denied", "/root/out")))() == 2
  err = capsys.readouterr().err
  assert "/root/out" in err and "permission denied" in err and err.count("\n") == 1


def test_an_interruption_is_one_line_and_130(command, capsys):
  assert command(lambda args: _raise(KeyboardInterrupt()))() == 130
  assert capsys.readouterr().err == "panda work: interrupted\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), PermissionError(errno.EPERM, "no file in sight")])
def test_a_bug_keeps_its_traceback(command, error):
  with pytest.raises(type(error)):
    command(lambda args: _raise(error))()


def test_a_reader_that_leaves_early_is_no_error():
  """`panda --help | head -0` ends without a word, with the status a shell gives a process that lost its reader."""
  read, write = os.pipe()
  os.close(read)
  buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
  done = subprocess.run([sys.executable, "-m", "panda_jax", "--help"], stdout=write, stderr=subprocess.PIPE, text=True,
                        env=buffered)
  os.close(write)
  assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_elsewhere_is_a_bug(command):
  """Only our own output may lose its reader; a pipe that breaks inside the work must not be hushed up."""
  with pytest.raises(BrokenPipeError):
    command(lambda args: _raise(BrokenPipeError(errno.EPIPE, "worker died")))()


def test_the_version_is_printed(capsys):
  assert main.main(["--version"]) == 0
  assert capsys.readouterr().out.startswith("panda_jax ")


def test_progress_says_nothing_when_nobody_watches(capfd):
  with console.progress("working", total=3) as advance:
    advance()
    advance(2, note="done")
  assert capfd.readouterr() == ("", "")


def test_progress_on_a_terminal_shows_count_rate_and_note(capfd, monkeypatch):
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "120")
  with console.progress("working", total=40, completed=20) as advance:
    for _ in range(20):
      advance(note="loss 0.31")
  out, err = capfd.readouterr()
  assert out == ""
  assert "working" in err and "40/40" in err and "loss 0.31" in err and "/s" in err


def test_rates_are_said_as_people_say_them():
  assert [console.format_rate(r) for r in (None, 0.0, 0.25, 12.49)] == ["", "", "4.0 s each", "12.5/s"]


def test_a_table_is_aligned_text(capsys):
  rows = [["ours", 14.236, 12], ["mean colour of the view", np.float32(9), 12]]
  console.table("scores", ["method", "PSNR dB", "n"], rows)
  assert capsys.readouterr().out == (
    "\nscores\n"
    "method                   PSNR dB   n\n"
    "-----------------------  -------  --\n"
    "ours                       14.24  12\n"
    "mean colour of the view     9.00  12\n")
  with pytest.raises(ValueError, match="2 columns"):
    console.table("t", ["a", "b"], [["alone"]])


@pytest.fixture
def environ(monkeypatch):
  """An environment of the test's own."""
  monkeypatch.setattr(os, "environ", {"HOME": "/nowhere"})
  return os.environ


def test_the_compilation_cache_can_be_moved_and_switched_off(tmp_path, environ):
  """PANDA_CACHE=off leaves JAX alone, a path moves it, and what the user told JAX itself wins."""
  environ["PANDA_CACHE"] = "off"
  console.use_compilation_cache()
  assert "JAX_COMPILATION_CACHE_DIR" not in environ

  environ["PANDA_CACHE"] = str(tmp_path / "here")
  console.use_compilation_cache()
  folder = environ["JAX_COMPILATION_CACHE_DIR"]
  assert folder.startswith(str(tmp_path / "here")) and os.path.isdir(folder)

  environ["JAX_COMPILATION_CACHE_DIR"] = "mine"
  console.use_compilation_cache()
  assert environ["JAX_COMPILATION_CACHE_DIR"] == "mine"


def test_a_cache_folder_that_cannot_be_made_is_done_without(tmp_path, environ):
  (tmp_path / "file").write_text("not a folder")
  environ["PANDA_CACHE"] = str(tmp_path / "file")
  console.use_compilation_cache()
  assert "JAX_COMPILATION_CACHE_DIR" not in environ


def test_libraries_are_quiet_unless_asked(environ):
  """Settings of the user win, and PANDA_VERBOSE=1 leaves everything alone."""
  before = logging.get_verbosity()
  environ["TRANSFORMERS_VERBOSITY"] = "debug"
  environ["PANDA_VERBOSE"] = "1"
  console.quiet_libraries()
  assert "TF_CPP_MIN_LOG_LEVEL" not in environ and logging.get_verbosity() == before
  environ["PANDA_VERBOSE"] = "0"
  try:
    console.quiet_libraries()
    assert environ["TF_CPP_MIN_LOG_LEVEL"] == "2" and environ["TRANSFORMERS_VERBOSITY"] == "debug"
    assert logging.get_verbosity() == logging.FATAL
  finally:
    logging.set_verbosity(before)
