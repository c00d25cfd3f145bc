"""A toy run in one or several processes of eight pretended devices in all; and how tests start them.

  python -m tests.parallel.two_processes WORKDIR '{"mesh": {"fsdp": 4, "context": 2}, "steps": 8}' HOST:PORT 2 0
"""

import contextlib
import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import grain

ROOT = Path(__file__).resolve().parents[2]
DEVICES = 8
WIDTH = 512                                                    # large enough for parameters to be split


def free_port() -> int:
  """A port of this machine that nobody uses."""
  with socket.socket() as probe:
    probe.bind(("", 0))
    return probe.getsockname()[1]


@contextlib.contextmanager
def started(commands: list[list[str]], environment: dict[str, str]):
  """The processes of these commands, with their output piped; none is left behind."""
  processes = []
  try:
    for command in commands:
      processes.append(subprocess.Popen(
          [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
          env=os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "XLA_FLAGS":
                            f"--xla_force_host_platform_device_count={DEVICES // len(commands)}"} | environment))
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.communicate()


def run(commands: list[list[str]], environment: dict[str, str], seconds: float = 120) -> list[tuple[int, str, str]]:
  """(status, standard output, standard error) of processes that run side by side."""
  with started(commands, environment) as processes:
    outputs = [process.communicate(timeout=seconds) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs)]


def toy_commands(workdir: Path, processes: int, each: tuple[dict, ...] = (), **options) -> list[list[str]]:
  """The command lines of a toy run; `each` are options of single processes."""
  coordinator = f"localhost:{free_port()}"
  each = each or ({},) * processes
  return [["-m", "tests.parallel.two_processes", str(workdir), json.dumps(options | own), coordinator, str(processes),
           str(process)] for process, own in enumerate(each)]


def config_of(steps: int, mesh: dict[str, int]):
  """Of a run that all meshes of eight devices can make."""
  from tests.training.toy import toy_config
  config = toy_config(shapes=((2, 4),), steps=steps, validation_batches=0)
  config.mesh.update(mesh)
  return config


class Part(grain.DatasetIterator):
  """This process's clips of whole batches. `at` is called with the number of each step before its clips are read."""

  def __init__(self, whole: grain.DatasetIterator, index: int, count: int, at):
    super().__init__()
    self._whole, self._index, self._count, self._at = whole, index, count, at

  def part(self, batch):
    """One part of a whole batch."""
    return {name: x.reshape(self._count, -1, *x.shape[1:])[self._index] for name, x in batch.items()}

  def __next__(self):
    self._at(self.get_state()["next_index"] + 1)
    return self.part(next(self._whole))

  def get_state(self):
    return self._whole.get_state()

  def set_state(self, state):
    self._whole.set_state(state)


def main(workdir: Path, options: dict, coordinator: str, processes: int, process: int) -> None:
  """Trains.

  Options: mesh and steps; kill, the step that this process is killed before, once there is a checkpoint; poison, the
  step whose clips of this process are not numbers; shards, meshes to print the `data_shard` of.
  """
  from panda_jax.cli.train import describe
  from panda_jax.parallel import data_shard, distributed, make_mesh
  from panda_jax.training import loop
  from tests.training.toy import ToySystem, toy_data

  def at(step):
    while step == options.get("kill"):
      if list(workdir.glob("checkpoints/4/_CHECKPOINT_METADATA")):
        print(json.dumps({"killed": time.time()}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
      time.sleep(0.01)

  def data(config, system):
    whole = toy_data(config, system, poisoned_step=options.get("poison"))
    part = Part(whole.train, *data_shard(make_mesh(config.mesh.to_dict())), at)
    return loop.Data(part, [part.part(batch) for batch in whole.validation])

  with distributed.together(distributed.find_place(coordinator, processes, process), name="toy", describe=describe):
    for mesh in options.get("shards", ()):
      print(json.dumps({"shard": data_shard(make_mesh(mesh))}), flush=True)
    loop.train(config_of(options["steps"], options["mesh"]), workdir, ToySystem(WIDTH), data)


if __name__ == "__main__":
  main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
