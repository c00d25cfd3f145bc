"""Asks for reports: those that were made before from the store, the others from a worker, one after the other."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import panda_jax
from panda_jax.errors import InputError
from panda_jax.parallel.topology import ENVIRONMENT, compiler_failed
from panda_jax.planning import store as store_lib
from panda_jax.planning.store import Store


@dataclasses.dataclass(frozen=True)
class Request:
  """One program to report on; plain values throughout, for it travels as JSON.

  Attributes:
    config: of the run, as `panda_jax.training.config.to_plain` gives it.
    topology, slices: see `panda_jax.parallel.topology.devices`.
    program, shape, clips_per_chip, guidance: see `panda_jax.planning.programs.make_program`.
    effort: see `panda_jax.planning.measure`.
    state_alone: nothing is compiled; the report says what the state takes.
  """

  config: dict
  topology: str
  slices: int
  program: str
  shape: tuple[int, int] | None
  clips_per_chip: int | None = None
  guidance: float | None = None
  effort: str = "quick"
  state_alone: bool = False

  @property
  def name(self) -> str:
    return self.program if self.shape is None else f"{self.program} {self.shape[0]}x{self.shape[1]}"


class Planner:
  """Answers requests."""

  def __init__(self, store: Store, say: Callable[[str], None] = lambda line: None):
    """`say` is told what is compiled."""
    self._store, self._say = store, say
    self._source = store_lib.source_digest()

  def __call__(self, request: Request) -> dict:
    """The report; see `panda_jax.planning`. "kept" tells whether it was made before.

    Raises:
      InputError: for what cannot be planned, or if this machine has not enough memory to compile it.
    """
    name = store_lib.key(self._source, dataclasses.asdict(request))
    report = self._store.get(name)
    if report is not None:
      return report | {"kept": True}
    if not request.state_alone:
      self._say(f"compiling {request.name} for {request.topology}")
    report = run_worker(request, self._store.folder)
    self._store.put(name, report)
    return report | {"kept": False}


def run_worker(request: Request, folder: Path | None) -> dict:
  """Makes a report in a process that sees no accelerator but those it compiles for.

  Args:
    request: what to compile.
    folder: of the store, or None.

  Raises:
    InputError: as the worker says, or if it was killed, or if the compiler crashed.
  """
  path = os.pathsep.join([str(Path(panda_jax.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
  # JAX's own cache of programs can write those for other machines' TPUs but not read them (jax 0.10).
  environment = {**os.environ, **ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONPATH": path}
  with tempfile.TemporaryDirectory(prefix="panda_plan_") as place:
    out = Path(place) / "report.json"
    command = [sys.executable, "-m", "panda_jax.planning.worker", str(out), *([str(folder)] if folder else [])]
    done = subprocess.run(command, input=json.dumps(dataclasses.asdict(request)), env=environment, text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode == -signal.SIGKILL:
      raise InputError(f"compiling {request.name} was killed, which Linux does when memory runs out: plan it on a "
                       "machine with more, or with less running beside it")
    if done.returncode < 0:
      raise compiler_failed(f"{request.name} for {request.topology}", done.stderr)
    if done.returncode:
      raise RuntimeError(f"compiling {request.name} for {request.topology} failed:\n{done.stderr[-10_000:]}")
    answer = json.loads(out.read_text(encoding="utf-8"))
  if "error" in answer:
    raise InputError(answer["error"])
  return answer["report"]
