"""The launch scripts: sound shell, clear refusals, and the whole way to a TPU VM, which a stub of gcloud plays."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
TRAIN = ("--config", "configs/tiny.py", "--workdir", "runs/my run")

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("bash", "git", "tar", "flock"))),
                                reason="the scripts need bash, git, tar and flock")

# `describe` says how many hosts there are; a copy goes into the VM's folder, a command runs in it.
GCLOUD = r'''#!/usr/bin/env bash
echo "$*" >> "$VM.log"
case "$4" in
  describe) echo "$HOSTS" ;;
  scp) cp "$5" "$VM/" ;;
  ssh) cd "$VM"; for word in "$@"; do case $word in --command=*) HOME=$VM exec bash -c "${word#*=}" ;; esac; done ;;
esac
'''
# Answers for the VM's Python: makes an environment in which pip does nothing and panda says what it was given.
PYTHON = r'''#!/usr/bin/env bash
[[ $1 == -m && $2 == venv ]] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\n' > "$3/bin/python"
printf '#!/bin/sh\nprintf "<%%s>" "$@"; echo; echo "flags $LIBTPU_INIT_ARGS"; exit 7\n' > "$3/bin/panda"
chmod +x "$3/bin/python" "$3/bin/panda"
'''


@pytest.fixture
def vm(tmp_path, monkeypatch):
  """An empty home folder of a VM, a checkout with one ignored and one new file, and a gcloud that reaches that VM."""
  for name in ("vm", "bin", "checkout"):
    (tmp_path / name).mkdir()
  for name, text in (("gcloud", GCLOUD), ("python3", PYTHON)):
    (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / name).chmod(0o755)
  shutil.copytree(LAUNCH, tmp_path / "checkout" / "launch", ignore=shutil.ignore_patterns("__pycache__"))
  subprocess.run(["git", "init", "--quiet", tmp_path / "checkout"], check=True)
  (tmp_path / "checkout" / ".gitignore").write_text("runs\n")
  (tmp_path / "checkout" / "runs").write_text("large")
  (tmp_path / "checkout" / "new file.py").write_text("mine")
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setenv("VM", str(tmp_path / "vm"))
  monkeypatch.setenv("HOSTS", "1")
  monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
  return tmp_path / "vm"


def start(vm: Path, *words: str) -> subprocess.CompletedProcess:
  script = vm.parent / "checkout" / "launch" / "tpu_vm.sh"
  return subprocess.run(["bash", script, *words], capture_output=True, text=True)


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_sound_shell(script):
  assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("words, named", [
  ((), "name, its zone"),
  (("my-tpu",), "name, its zone"),
  (TRAIN, "name, its zone"),
  (("my-tpu", "zone"), "needs --config"),
  (("my-tpu", "zone", "--config", "configs/tiny.py"), "needs --workdir"),
])
def test_missing_arguments_are_one_sentence_and_reach_no_machine(vm, words, named):
  done = start(vm, *words)
  assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
  assert done.stderr.startswith("tpu_vm: ") and named in done.stderr and "--workdir runs/tiny" in done.stderr
  assert not Path(f"{vm}.log").exists()


def test_a_pod_is_refused_before_anything_is_copied(vm, monkeypatch):
  monkeypatch.setenv("HOSTS", "4")
  done = start(vm, "my-tpu", "zone", *TRAIN)
  assert done.returncode == 2 and "my-tpu has 4 hosts" in done.stderr and "v6e-8" in done.stderr
  assert list(vm.iterdir()) == []


def test_the_checkout_is_copied_and_trains_there_with_the_arguments_as_given(vm):
  """New files go along and ignored ones do not; the log is shown; the training's exit status comes back."""
  done = start(vm, "my-tpu", "zone", *TRAIN, "--config.data.path=a 'b' $HOME")
  assert done.returncode == 7, done.stderr
  line, flags = done.stdout.splitlines()
  assert line == "<train><--config><configs/tiny.py><--workdir><runs/my run><--config.data.path=a 'b' $HOME>"
  assert "--xla_tpu_enable_async_collective_fusion=true" in flags
  assert (vm / "panda_jax" / "new file.py").read_text() == "mine"
  assert not (vm / "panda_jax" / "runs").exists()
  assert (vm / "panda_train.log").read_text() == done.stdout
  calls = Path(f"{vm}.log").read_text()
  assert calls.count("--zone=zone") == 3 and calls.count("--worker=all") == 2


def test_a_training_that_runs_is_left_alone(vm):
  with open(vm / "panda_train.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = start(vm, "my-tpu", "zone", *TRAIN)
  assert done.returncode == 2 and "a training runs there already" in done.stderr
  assert not (vm / "panda_jax").exists()


def test_the_tpu_flags_stand_before_the_users_own():
  """The last of two equal flags counts, so what the user has set wins; nothing else is left in the shell."""
  flags = LAUNCH / "tpu_flags.sh"
  script = f"set -euo pipefail; source '{flags}'; echo $LIBTPU_INIT_ARGS; compgen -v | grep panda || true"
  own = "--xla_tpu_scoped_vmem_limit_kib=98304"
  outputs = [subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"], **env}, capture_output=True,
                            text=True, check=True).stdout.split() for env in ({}, {"LIBTPU_INIT_ARGS": own})]
  assert all(flag.startswith("--xla_") and "=" in flag for flag in outputs[0])
  assert outputs[1] == [*outputs[0], own]
