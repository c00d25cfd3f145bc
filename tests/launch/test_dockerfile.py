"""The Dockerfile: what it copies exists and reaches it, the extras exist, and it starts the trainer without root."""

import fnmatch
import json
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = [line.split(maxsplit=1) for line in (ROOT / "launch" / "Dockerfile").read_text().splitlines()
         if line and not line.startswith("#")]
COPIED = [source for word, rest in LINES if word == "COPY" for source in rest.split()[:-1]]


def test_it_begins_with_a_python_that_the_package_supports():
  assert LINES[0] == ["FROM", "python:3.12-slim"]


@pytest.mark.parametrize("source", COPIED)
def test_what_is_copied_exists_and_is_not_ignored(source):
  assert (ROOT / source).exists()
  ignored = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
  assert ignored[0] == "*" and f"!{source}" in ignored
  assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored[1:])


def test_nothing_is_let_in_that_is_not_copied():
  ignored = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
  assert {line[1:] for line in ignored if line.startswith("!")} == set(COPIED)


def test_what_setup_reads_is_there_and_the_extras_exist():
  setup = (ROOT / "setup.py").read_text()
  assert set(re.findall(r'ROOT / "([\w.]+)"\)', setup)) <= {*COPIED, "configs"}
  install = next(rest for word, rest in LINES if word == "RUN" and "pip install" in rest)
  extras = re.search(r"\.\[(.+?)\]", install)[1].replace("${EXTRA}", "tpu").split(",")
  known = re.findall(r'^    "(\w+)": \[', setup, re.MULTILINE)
  assert set(extras) <= set(known) and {"tpu", "cuda"} <= set(known)


def test_it_runs_panda_with_the_tpu_flags_as_an_ordinary_user():
  words = [word for word, _ in LINES]
  assert ["ARG", "RUN_AS=panda"] in LINES and ["USER", "${RUN_AS}"] in LINES
  assert words.index("USER") > max(i for i, word in enumerate(words) if word == "RUN")
  bash, option, script, name = json.loads(dict(LINES)["ENTRYPOINT"])
  assert (bash, option, name) == ("bash", "-c", "panda")
  assert script == 'source /panda_jax/launch/tpu_flags.sh && exec panda "$@"'
  assert ["WORKDIR", "/panda_jax"] in LINES and "launch/tpu_flags.sh" in COPIED
