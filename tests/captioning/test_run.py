"""`panda caption`: nothing finished is lost, nothing is asked twice, and the table is in order."""

import argparse
import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from panda_jax.captioning import run as running
from panda_jax.captioning.journal import Journal, partial_path
from panda_jax.cli import caption as command
from panda_jax.cli import main
from panda_jax.data import records
from panda_jax.data.sources import find_sources
from panda_jax.errors import InputError
from tests.captioning.stub import answer, make_stills, make_video, panorama, refusal, serving, write_sentences

KEY = "sk-very-secret-0123456789"
GIVEN = ("--sentences", "s", "--output", "c.csv")
SERVER = ("--fuse", "http://h", "--model-name", "m")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def six(tmp_path):
  """Six stills and a table of sentences for them; gives the arguments that caption them."""
  names = make_stills(tmp_path / "in", 6)
  write_sentences(tmp_path / "views.csv", [name[:3] for name in names])
  return ["--input", tmp_path / "in", "--sentences", tmp_path / "views.csv", "--output", tmp_path / "captions.csv"]


@pytest.fixture
def quick(monkeypatch):
  """Pauses between tries that a test can wait for."""
  original = running.Settings.__init__
  monkeypatch.setattr(running.Settings, "__init__",
                      lambda self, *args, **settings: original(self, *args, **{"first_pause": 0.01} | settings))


def caption(capsys, *arguments) -> tuple[str, str]:
  """Runs the subcommand as the command line does; returns what it printed (stdout, stderr)."""
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  command.run(parser.parse_args([str(argument) for argument in arguments]))
  return capsys.readouterr()


def table(path) -> list[list[str]]:
  with open(path, encoding="utf-8", newline="") as file:
    return list(csv.reader(file))


def about(request) -> str:
  """The clip that a request speaks of."""
  return request["messages"][-1]["content"].split()[2]


def echo(number, request):
  return answer(f"The {about(request)} world, “quoted”, with commas.")


def test_with_a_template_no_server_and_no_model_are_needed(six, tmp_path, capsys):
  said, _ = caption(capsys, *six)
  assert "6 captioned, 0 reused, 0 failed" in said
  rows = table(tmp_path / "captions.csv")
  assert rows[0] == ["file", "caption"] and [row[0] for row in rows[1:]] == [f"p0{n}.png" for n in range(6)]
  assert rows[1][1] == "a p00 at 0, a p00 at 90 and a p00 at 180"      # -90 has the same words as 90
  found = find_sources([tmp_path / "in"], tmp_path / "captions.csv")
  assert [source.caption for source in found.sources] == [row[1] for row in rows[1:]] and not found.warnings


def test_a_server_fuses_and_the_table_keeps_the_input_s_order(six, tmp_path, capsys):
  """Whoever answers first."""
  def reply(number, request):
    time.sleep(0.2 if about(request) in ("p00", "p03") else 0)
    return echo(number, request)

  with serving(reply) as stub:
    said, errors = caption(capsys, *six, "--fuse", stub.url, "--model-name", "llama")
  assert "6 captioned" in said and len(stub.requests) == 6
  assert table(tmp_path / "captions.csv")[1:] == [
    [f"p0{n}.png", f"The p0{n} world, “quoted”, with commas."] for n in range(6)]
  written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
  assert KEY not in said + errors and KEY.encode() not in written and stub.keys[0] == f"Bearer {KEY}"


def test_the_same_command_again_asks_nothing_and_new_clips_only(six, tmp_path, capsys):
  with serving(echo) as stub:
    server = ("--fuse", stub.url, "--model-name", "m")
    caption(capsys, *six, *server)
    before = (tmp_path / "captions.csv").read_bytes()
    said, _ = caption(capsys, *six, *server)
    assert "0 captioned, 6 reused" in said and len(stub.requests) == 6
    assert (tmp_path / "captions.csv").read_bytes() == before
    make_stills(tmp_path / "in", 7)
    write_sentences(tmp_path / "views.csv", [f"p0{n}" for n in range(7)])
    said, _ = caption(capsys, *six, *server)
    assert "1 captioned, 6 reused" in said and len(stub.requests) == 7
    assert len(table(tmp_path / "captions.csv")) == 8


def test_a_clip_whose_sentences_or_pictures_changed_is_done_again(six, tmp_path, capsys):
  caption(capsys, *six)
  text = (tmp_path / "views.csv").read_text()
  (tmp_path / "views.csv").write_text(text.replace("a p02 at 90", "a harbour"))
  os.replace(tmp_path / "in" / "p05.png", tmp_path / "in" / "p04.png")      # another picture under an old name
  (tmp_path / "views.csv").write_text(text.replace("a p02 at 90", "a harbour"))
  said, _ = caption(capsys, *six)
  assert "2 captioned, 3 reused" in said and "harbour" in (tmp_path / "captions.csv").read_text()


def test_clips_that_fail_are_named_and_tried_again_the_others_are_kept(six, tmp_path, capsys, quick):
  def reply(number, request):
    bad = {"p01": refusal(400, "content filter"), "p04": (200, {}, b"garbage")}
    return bad.get(about(request), echo(number, request))

  with serving(reply) as stub:
    server = ("--fuse", stub.url, "--model-name", "m", "--tries", 2)
    with pytest.raises(InputError, match="2 of 6 clips failed"):
      caption(capsys, *six, *server)
    said, errors = capsys.readouterr()
    assert "4 captioned, 0 reused, 2 failed" in said
    assert "p01.png got no caption: the server refuses" in errors and "content filter" in errors
    assert "p04.png got no caption: the answer is not what" in errors
    assert [row[0] for row in table(tmp_path / "captions.csv")[1:]] == ["p00.png", "p02.png", "p03.png", "p05.png"]
    stub.reply = echo
    count = len(stub.requests)
    said, _ = caption(capsys, *six, *server)
    assert "2 captioned, 4 reused, 0 failed" in said and len(stub.requests) == count + 2
  assert len(table(tmp_path / "captions.csv")) == 7


@pytest.mark.parametrize("status, why", [
  (401, "does not accept the key in OPENAI_API_KEY"), (404, "knows no model 'm'")])
def test_a_refused_key_stops_at_once_and_what_is_finished_is_kept(six, tmp_path, capsys, status, why):
  def reply(number, request):
    return echo(number, request) if number < 3 else refusal(status, f"bad key {KEY}")

  with serving(reply) as stub:
    server = ("--fuse", stub.url, "--model-name", "m", "--concurrency", 1)
    with pytest.raises(InputError, match=why) as caught:
      caption(capsys, *six, *server)
    assert len(stub.requests) == 4 and KEY not in str(caught.value)
    stub.reply = echo
    said, _ = caption(capsys, *six, *server)
    assert "3 captioned, 3 reused" in said and len(stub.requests) == 7
  assert KEY.encode() not in partial_path(tmp_path / "captions.csv").read_bytes()


def test_a_dead_server_is_not_asked_for_every_clip(six, capsys, quick):
  with serving(lambda number, request: refusal(500)) as stub:
    with pytest.raises(InputError, match="no caption for 5 clips one after the other"):
      caption(capsys, *six, "--fuse", stub.url, "--model-name", "m", "--tries", 1, "--concurrency", 1)
  assert len(stub.requests) == 5


def test_a_clip_without_all_its_sentences_is_named(six, tmp_path, capsys):
  write_sentences(tmp_path / "views.csv", ["p00"])
  with pytest.raises(InputError, match="5 of 6"):
    caption(capsys, *six)
  assert "p01.png has no sentence for the view at 0°, 90°, -90°, 180°" in capsys.readouterr().err


def test_one_view_as_in_videopanda_s_evaluation(tmp_path, capsys):
  make_video(tmp_path / "walk.mp4", 24)
  write_sentences(tmp_path / "s.csv", ["walk"], yaws=(0,))
  caption(capsys, "--input", tmp_path / "walk.mp4", "--style", "view", "--sentences", tmp_path / "s.csv", "--output",
          tmp_path / "captions.csv")
  assert table(tmp_path / "captions.csv")[1] == ["walk.mp4", "A view of a walk at 0"]


def test_views_can_be_exported_filled_in_elsewhere_and_given_back(tmp_path, capsys):
  make_stills(tmp_path / "in", 2)
  said, _ = caption(capsys, "--input", tmp_path / "in", "--export", tmp_path / "out", "--view-size", 32)
  assert "views of 2 clips" in said
  rows = table(tmp_path / "out" / "views.csv")
  assert rows[0] == ["id", "yaw_deg", "picture", "file", "sentence"] and len(rows) == 9
  assert all((tmp_path / "out" / row[2]).is_file() and row[4] == "" for row in rows[1:])
  filled = [row[:4] + [f"a wall, {row[0]} {row[1]}"] for row in rows[1:]]
  with open(tmp_path / "filled.csv", "w", newline="") as file:
    csv.writer(file).writerows([rows[0], *filled])
  caption(capsys, "--input", tmp_path / "in", "--sentences", tmp_path / "filled.csv", "--output", tmp_path / "c.csv")
  assert len(table(tmp_path / "c.csv")) == 3


def test_sentences_of_an_earlier_run_can_be_fused_in_another_way(six, tmp_path, capsys):
  caption(capsys, *six)
  other = [partial_path(tmp_path / "captions.csv") if each == tmp_path / "views.csv" else each for each in six]
  other[-1] = tmp_path / "other.csv"
  caption(capsys, *other, "--directions")
  assert table(tmp_path / "other.csv")[1][1].startswith("ahead a p00 at 0, to the right a p00 at 90")


def test_other_settings_do_not_mix_with_older_captions(six, tmp_path, capsys):
  caption(capsys, *six)
  with pytest.raises(InputError, match="other settings.*directions.*--output"):
    caption(capsys, *six, "--directions")


def test_a_table_that_was_edited_by_hand_is_not_overwritten(six, tmp_path, capsys):
  caption(capsys, *six)
  (tmp_path / "captions.csv").write_text("file,caption\np00.png,better\n")
  with pytest.raises(InputError, match="was changed"):
    caption(capsys, *six)
  partial_path(tmp_path / "captions.csv").unlink()
  with pytest.raises(InputError, match="already exists"):
    caption(capsys, *six)
  assert "better" in (tmp_path / "captions.csv").read_text()


def test_a_flat_film_among_panoramas_is_named(tmp_path, capsys):
  make_stills(tmp_path / "in", 1)
  cv2.imwrite(str(tmp_path / "in" / "film.png"), panorama(200)[40:160, 30:110])
  with pytest.raises(InputError, match="1 of 2 clips failed"):
    caption(capsys, "--input", tmp_path / "in", "--export", tmp_path / "out", "--view-size", 32)
  assert "film.png is 80x120, not 2:1" in capsys.readouterr().err


def test_a_dataset_of_ordinary_films_has_nothing_to_fuse(tmp_path, capsys):
  records.write_records(tmp_path / "data", {"train": [records.Clip("a", "", 8.0, [panorama(32)[:, :32]])]}, kind="flat")
  with pytest.raises(InputError, match="--style view"):
    caption(capsys, "--input", tmp_path / "data", "--export", tmp_path / "out")
  assert "views of 1 clips" in caption(capsys, "--input", tmp_path / "data", "--export", tmp_path / "out", "--style",
                                       "view")[0]


@pytest.mark.parametrize("arguments, why", [
  ([], "who describes the views"), (["--sentences", "x"], "--output"),
  (["--output", "c.csv"], "who describes the views"),
  (["--output", "c.csv", "--export", "out"], "nothing to write"),
  (["--model", "m", "--sentences", "s", "--output", "c.csv"], "one of them"),
  (["--model", "nowhere", "--output", "c.csv"], "no model folder nowhere"),
  (["--sentences", "s", "--output", "gs://b/c.csv"], "not on this machine"),
  ([*GIVEN, *SERVER, "--style", "view"], "nothing to fuse"), ([*GIVEN, *SERVER[:2]], "--model-name"),
  ([*GIVEN, *SERVER[2:]], "--fuse"), ([*GIVEN, *SERVER, "--request", "{"], "no JSON"),
  ([*GIVEN, *SERVER, "--request", "[]"], "JSON object"), ([*GIVEN, "--fuse", "nonsense", *SERVER[2:]], "no address"),
  (["--export", "out", "--view-size", "0"], "--view-size"), (GIVEN, "no sentences file s")])
def test_bad_arguments_leave_nothing_behind(tmp_path, capsys, monkeypatch, arguments, why):
  make_stills(tmp_path / "in", 1)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=why):
    caption(capsys, "--input", "in", *arguments)
  assert os.listdir(tmp_path) == ["in"]


# The journal


@pytest.mark.parametrize("keep", [0, 1, 20, -1, -30])
def test_a_line_that_was_torn_is_not_there(tmp_path, keep):
  """Cut anywhere: whole lines stay, the torn one goes, and what follows it is read again."""
  output = tmp_path / "c.csv"
  with Journal(output, {"a": 1}) as journal:
    journal.add("x", "1", sentences=["é"], caption="one")
    journal.add("y", "1", sentences=["s"], caption="two")
  whole = partial_path(output).read_bytes()
  partial_path(output).write_bytes(whole[:keep])
  with Journal(output, {"a": 1}) as journal:
    journal.add("z", "1", sentences=[], caption="three")
  with Journal(output, {"a": 1}) as journal:
    assert bool(journal.get("x", "1")) == (keep < 0) and journal.get("y", "1") is None
    assert journal.get("z", "1")["caption"] == "three" and journal.unreadable == 0


def test_a_damaged_line_costs_its_clip_only(tmp_path):
  output = tmp_path / "c.csv"
  with Journal(output, {}) as journal:
    journal.add("x", "1", caption="one")
    journal.add("y", "1", caption="two")
  lines = partial_path(output).read_bytes().splitlines(keepends=True)
  partial_path(output).write_bytes(lines[0] + b"\0" * 30 + b"\n" + lines[2])
  with Journal(output, {}) as journal:
    assert journal.get("x", "1") is None and journal.get("y", "1") and journal.unreadable == 1


def test_two_runs_cannot_write_one_table(tmp_path):
  with Journal(tmp_path / "c.csv", {}), pytest.raises(InputError, match="another run"):
    Journal(tmp_path / "c.csv", {})


def test_a_file_of_somebody_else_is_not_taken_for_a_journal(tmp_path):
  partial_path(tmp_path / "c.csv").write_text('{"my": "notes"}\n')
  with pytest.raises(InputError, match="not what panda caption writes"):
    Journal(tmp_path / "c.csv", {})
  assert partial_path(tmp_path / "c.csv").read_text() == '{"my": "notes"}\n'


# Killed


def test_killed_at_any_point_nothing_finished_is_lost_and_little_is_asked_twice(tmp_path):
  """After all the kills every clip was asked for once, plus those whose answers were on their way."""
  names = [name[:3] for name in make_stills(tmp_path / "in", 40)]
  write_sentences(tmp_path / "s.csv", names)

  def reply(number, request):
    time.sleep(0.05)
    return echo(number, request)

  with serving(reply) as stub:
    line = [sys.executable, "-c", "import sys; from panda_jax.cli import caption as c; import argparse\n"
            "p = argparse.ArgumentParser(); c.add_arguments(p); c.run(p.parse_args(sys.argv[1:]))",
            "--input", tmp_path / "in", "--sentences", tmp_path / "s.csv", "--output", tmp_path / "c.csv",
            "--fuse", stub.url, "--model-name", "m", "--concurrency", "2"]
    draw, kills = random.Random(0), 0
    for _ in range(4):
      before = len(stub.requests)
      process = subprocess.Popen(list(map(str, line)), cwd=ROOT, stdout=subprocess.DEVNULL)
      while len(stub.requests) < before + 3 + draw.randrange(4) and process.poll() is None:
        time.sleep(0.01)
      time.sleep(draw.uniform(0, 0.1))
      if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        kills += 1
      process.wait()
    finished = {entry["id"]: entry["caption"] for entry in map(json.loads, _whole_lines(tmp_path / "c.csv")) if
                "caption" in entry}
    assert kills == 4 and 4 <= len(finished) < 40 and not (tmp_path / "c.csv").exists()
    count = len(stub.requests)
    done = subprocess.run(list(map(str, line)), cwd=ROOT, check=True, capture_output=True, text=True)
  assert f"{40 - len(finished)} captioned, {len(finished)} reused, 0 failed" in done.stdout
  later = [about(request) for request in stub.requests[count:]]
  assert sorted(later) == sorted(set(names) - set(finished))
  times_asked = [sum(about(request) == name for request in stub.requests) for name in names]
  assert sum(times_asked) <= 40 + 2 * kills and min(times_asked) == 1      # two requests can be on their way at a kill
  assert table(tmp_path / "c.csv")[1:] == [
    [f"{name}.png", f"The {name} world, “quoted”, with commas."] for name in names]


def _whole_lines(output) -> list[bytes]:
  content = partial_path(output).read_bytes()
  return content[:content.rfind(b"\n") + 1].splitlines()


def test_an_interrupt_does_not_wait_for_answers(tmp_path):
  make_stills(tmp_path / "in", 3)
  write_sentences(tmp_path / "s.csv", ["p00", "p01", "p02"])

  def reply(number, request):
    time.sleep(8)
    return echo(number, request)

  with serving(reply) as stub:
    process = subprocess.Popen(list(map(str, [
      sys.executable, "-c", "import sys; from panda_jax.cli import caption as c; import argparse\n"
      "p = argparse.ArgumentParser(); c.add_arguments(p); c.run(p.parse_args(sys.argv[1:]))",
      "--input", tmp_path / "in", "--sentences", tmp_path / "s.csv", "--output", tmp_path / "c.csv", "--fuse", stub.url,
      "--model-name", "m"])), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(stub.requests) < 3 and process.poll() is None:
      time.sleep(0.02)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert time.monotonic() - begin < 4
    assert "KeyboardInterrupt" in errors and errors.count("Traceback") == 1      # none from the threads


def test_a_full_disk_ends_with_a_sentence_and_half_a_line_is_not_left(six, tmp_path, capsys, monkeypatch):
  """The disk fills up while the third caption is kept."""
  kept = []

  def fsync(descriptor):
    kept.append(descriptor)
    if len(kept) == 5:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr("panda_jax.captioning.journal.os.fsync", fsync)
    with serving(echo) as stub, pytest.raises(OSError) as caught:
      caption(capsys, *six, "--fuse", stub.url, "--model-name", "m", "--concurrency", 1)
  assert "no space left" in main.describe(caught.value)[0]
  lines = partial_path(tmp_path / "captions.csv").read_bytes()
  assert lines.endswith(b"\n") and 2 <= sum("caption" in json.loads(line) for line in lines.splitlines()) < 6
