"""Several processes as one run: where a process finds itself, and two of them on this machine."""

import json
import os
import shutil
import signal
import socket
import time

import jax
from jax._src.clusters import cloud_tpu_cluster
import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.parallel.distributed import Place, find_place, surroundings
from panda_jax.training import loop
from panda_jax.training.metrics import read_metrics
from panda_jax.weights import load_model
from tests.parallel.two_processes import WIDTH, config_of, free_port, run, started, toy_commands
from tests.training.toy import ToySystem, toy_data

# What devices exchange, they exchange with the other process, too: here clips and parameters …
MESH = {"data": 1, "fsdp": 4, "context": 2}
# … and here the images of every clip.
WIDE = {"data": 1, "fsdp": 1, "context": 8}

SLURM = {"SLURM_JOB_ID": "4096", "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
         "SLURM_LOCALID": "0"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.0.0.7:34911", "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_VERSION": "4.1.6"}
GKE = {"TPU_WORKER_HOSTNAMES": "host-0,host-1", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "1",
       "MEGASCALE_COORDINATOR_ADDRESS": "", "MEGASCALE_SLICE_ID": "0"}
MULTI_SLICE = GKE | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_COORDINATOR_ADDRESS": "slice-0-0:8080",
                     "MEGASCALE_SLICE_ID": "1"}


@pytest.fixture
def machine(monkeypatch):
  """machine(variables, tpu=…, metadata=…): this process on such a machine, and what it finds."""
  for name in os.environ:
    if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_COORDINATOR", "JAX_PLATFORMS")):
      monkeypatch.delenv(name)

  def find(variables, tpu=False, metadata=None):
    def get_metadata(key):
      assert tpu and metadata is not None, f"asked the network for {key}"
      return (metadata[key], 200) if key in metadata else ("", 404)

    for name, value in variables.items():
      monkeypatch.setenv(name, value)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", tpu)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", get_metadata)
    monkeypatch.setattr(socket, "gethostbyname", lambda host: "10.0.0.1")
    return surroundings(os.environ)

  return find


def tpu_vm(hosts, number=0, more=""):
  endpoints = ",".join(f"unknown:unknown:10.0.0.{host}" for host in range(hosts))
  return {"agent-worker-number": str(number), "worker-network-endpoints": endpoints, "tpu-env": more}


@pytest.mark.parametrize("variables, tpu, metadata, place", [
    (SLURM, False, None, Place("node07:61440", 2, 1)),
    (SLURM | {"JAX_COORDINATOR_PORT": "1234"}, False, None, Place("node07:1234", 2, 1)),
    (OPEN_MPI, False, None, Place("10.0.0.7:61442", 4, 3)),
    (GKE, True, None, Place("host-0:8482", 2, 1)),
    (MULTI_SLICE, True, None, Place("slice-0-0:8482", 4, 3)),
    ({}, True, tpu_vm(4, 2), Place("10.0.0.0:8482", 4, 2)),
    ({}, True, tpu_vm(1, 0, "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
                            "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9:8080'"), Place("10.0.0.9:8482", 2, 1)),
])
def test_a_scheduler_says_where_the_others_are(machine, variables, tpu, metadata, place):
  assert machine(variables, tpu, metadata) == place


@pytest.mark.parametrize("variables, tpu, metadata", [
    ({}, False, None),                                         # a laptop
    (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False, None),
    ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, False, None),                       # sbatch, outside of srun
    (GKE | {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, True, None),
    ({}, True, tpu_vm(1)),                                     # a TPU VM by itself
    (GKE, False, None),                                        # variables of a TPU without a TPU
    (GKE | {"JAX_PLATFORMS": "cpu"}, True, None),              # one host of a pod is used by itself
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False, None),    # a notebook in a cluster
])
def test_one_process_alone_asks_nobody(machine, variables, tpu, metadata):
  assert machine(variables, tpu, metadata) is None


@pytest.mark.parametrize("variables, tpu", [
    (GKE | {"TPU_WORKER_ID": "?"}, True), (SLURM | {"SLURM_NTASKS": "2(x2)"}, False),
    ({name: value for name, value in OPEN_MPI.items() if "hnp" not in name} | {"OMPI_VERSION": "5.0.1"}, False)])
def test_what_cannot_be_found_out_is_asked_for(machine, variables, tpu):
  with pytest.raises(InputError, match="give --coordinator, --processes and --process, or --processes 1"):
    machine(variables, tpu)


def test_the_command_line_goes_before_the_scheduler(machine):
  machine(SLURM)
  assert find_place("10.0.0.2:8476", 3, 2) == Place("10.0.0.2:8476", 3, 2, "deactivate")
  assert find_place(None, 1, None) is None and find_place("10.0.0.2:8476", 1, 0) is None
  assert find_place(None, None, None) == Place("node07:61440", 2, 1)
  assert Place("[fe80::1]:8476", 2, 0).address == ("fe80::1", 8476)


@pytest.mark.parametrize("arguments, message", [
    (("host:1234", None, 0), "given together, or none of them"),
    ((None, 2, None), "given together"),
    ((None, None, 1), "given together"),
    (("host", 2, 0), "--coordinator host is not HOST:PORT"),
    (("host:", 2, 0), "is not HOST:PORT"),
    (("host:http", 2, 0), "is not HOST:PORT"),
    (("host:65536", 2, 0), "is not HOST:PORT"),
    (("host:1234", 0, 0), "--processes must be 1 or more, got 0"),
    (("host:1234", 2, 2), "--process must be 0 to 1, got 2"),
    (("host:1234", 2, -1), "--process must be 0 to 1, got -1"),
])
def test_arguments_that_make_no_sense(arguments, message):
  with pytest.raises(InputError, match=message):
    find_place(*arguments)


# Two processes of four devices each, beside one of eight


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """The runs share their compiled programs."""
  return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, environment):
  """The workdir of one process that went through eight steps."""
  workdir = tmp_path_factory.mktemp("one")
  [(status, _, err)] = run(toy_commands(workdir, 1, mesh=MESH, steps=8), environment)
  assert status == 0, err
  return workdir


def losses(workdir, steps):
  found = {line["step"]: (line["loss"], line["grad_norm"]) for line in read_metrics(workdir / "metrics.jsonl")}
  return np.array([found[step] for step in steps])


def said(err):
  """What this package said of a run on standard error."""
  return [line for line in err.splitlines() if line.startswith(("toy: ", "panda train: "))]


def printed(out):
  """The JSON on standard output, where gloo speaks, too."""
  return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def kill_one(commands, environment, survivor):
  """Runs two processes of which one kills itself: what the other says, and the seconds that it went on for."""
  with started(commands, environment) as processes:
    _, err = processes[survivor].communicate(timeout=120)
    ended = time.time()
    out, _ = processes[1 - survivor].communicate(timeout=60)
    assert [processes[number].returncode for number in (survivor, 1 - survivor)] == [1, -signal.SIGKILL], err
    return said(err), ended - printed(out)[-1]["killed"]


def test_killed_and_started_again_two_processes_learn_what_one_learns(undisturbed, tmp_path, environment):
  """The other ends at once and says why; the same command goes on from the checkpoint, to the same end."""
  lines, seconds = kill_one(toy_commands(tmp_path, 2, each=({}, {"kill": 6}), mesh=MESH, steps=8), environment, 0)
  assert lines == ["toy: process 1 ended without a word (it was killed, or its machine is lost); the newest checkpoint "
                   "is kept: start all 2 processes again"]
  assert seconds < 60

  meshes = [{"data": 8}, MESH, {"data": 2, "context": 4}, WIDE]
  results = run(toy_commands(tmp_path, 2, mesh=MESH, steps=8, shards=meshes), environment)
  assert [status for status, _, _ in results] == [0, 0], results
  assert "continuing from the checkpoint of step 4" in results[0][2]
  assert not results[1][2], "only process 0 speaks"
  np.testing.assert_allclose(losses(tmp_path, range(1, 9)), losses(undisturbed, range(1, 9)), rtol=1e-6)
  (two, _), (one, _) = load_model(tmp_path / "model"), load_model(undisturbed / "model")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), two, one)

  shards = [[line["shard"] for line in printed(out)] for _, out, _ in results]
  for mesh, *each in zip(meshes, *shards):
    # Clips are shared without overlap and without a rest; a clip that lies on both is read by both.
    assert each == ([[0, 1], [0, 1]] if mesh is WIDE else [[0, 2], [1, 2]]), mesh


def test_a_run_goes_on_in_another_number_of_processes(undisturbed, tmp_path, environment):
  """Two go on where one saved, on a mesh where each clip lies on both, and without process 0 the other ends, too; one
  process of one device does the same steps."""
  for name in ("two", "one"):
    shutil.copytree(undisturbed, tmp_path / name)
  lines, seconds = kill_one(toy_commands(tmp_path / "two", 2, each=({"kill": 13}, {}), mesh=WIDE, steps=14),
                            environment, 1)
  assert lines == ["toy: process 1: process 0 ended without a word (it was killed, or its machine is lost); the newest "
                   "checkpoint is kept: start all 2 processes again"]
  assert seconds < 60
  loop.train(config_of(10, {}), tmp_path / "one", ToySystem(WIDTH), toy_data)
  np.testing.assert_allclose(losses(tmp_path / "two", (9, 10)), losses(tmp_path / "one", (9, 10)), rtol=1e-5)


def test_a_loss_that_is_no_number_ends_all_and_is_said_once(tmp_path, environment):
  (first, _, err), (second, _, other) = run(
      toy_commands(tmp_path, 2, each=({}, {"poison": 3}), mesh=MESH, steps=8), environment)
  assert (first, second) == (1, 1)
  [line] = said(err)
  assert "became nan at step 3; no checkpoint had been written yet" in line and not said(other)


def test_bad_input_ends_all_and_is_said_once(tmp_path, environment):
  """Here input that is bad only because the other process was given something else."""
  coordinator = f"localhost:{free_port()}"
  (first, _, err), (second, _, other) = run([
      ["-m", "panda_jax", "train", "--config", "configs/tiny.py:runlocal", "--workdir", str(tmp_path / "run"),
       "--coordinator", coordinator, "--processes", "2", "--process", str(process), f"--config.seed={process}"]
      for process in range(2)], environment)
  assert (first, second) == (2, 2)
  assert said(err) == ["panda train: process 1 has another config than process 0: give all processes the same"]
  assert not said(other) and not (tmp_path / "run").exists()
