"""Compiles one program for a chip and reports what it needs; see `panda_jax.planning` for the report's keys."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import resource
import sys
import time
from pathlib import Path

import jax

from panda_jax.parallel import program_text
from panda_jax.parallel.flops import count_flops, kernel_flops
from panda_jax.parallel.topology import Chip, compiler_failed
from panda_jax.planning.programs import Program
from panda_jax.planning.store import Store, key

# How hard the compiler tries. A run is compiled at full effort. At quick effort it takes the first layout that it finds
# for every operation: FLOPs and collectives are the same and memory is to a few per cent, in a fraction of the time, but
# the cycles of its cost model are those of worse code and say nothing about a run.
EFFORTS = {"quick": {"xla_optimization_level": "EFFORT_O0"}, "full": None}

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def measure(program: Program, chip: Chip, topology: str, effort: str, store: Store) -> dict:
  """The report of a program.

  Args:
    program: traced for the devices of `topology`.
    chip: of which they are.
    topology: its name and number of slices, for the store and for errors.
    effort: of `EFFORTS`.
    store: has the results of programs whose lowered text was the same.
  """
  report = {"name": program.name, "program": program.kind, "shape": list(program.shape), "clips": program.clips,
            "mesh": program.mesh, "state": program.state, "denoising_steps": program.denoising_steps,
            "effort": effort}
  if program.state > chip.hbm:
    return report | {"fits": False, "memory": {"limit": chip.hbm, "needed": program.state},
                     "reason": "the state alone is larger than the chip's memory: nothing was compiled"} | _made()
  began = time.monotonic()
  traced = program.trace()
  flops = count_flops(traced.jaxpr)
  flops = {**flops, "total": flops.total(), "model": count_flops(traced.jaxpr, recomputed=False).total(),
           "kernels": kernel_flops(traced.jaxpr)}
  lowered = traced.lower(lowering_platforms=("tpu",))
  report["compiling"] = {"trace": time.monotonic() - began}
  name = key("compiled", topology, effort, program.mesh, _reader(), hashlib.sha256(lowered.as_text().encode()).hexdigest())
  compiled = store.get(name)
  if compiled is None:
    compiled = _compile(lowered, chip, effort, f"{program.name} for {topology.split()[0]}")
    store.put(name, compiled)
  report["compiling"] |= compiled.pop("compiling")
  report |= compiled | {"flops": flops | compiled.get("flops", {})}
  if report["fits"]:
    report |= _estimates(report, chip)
  return report | _made()


def _compile(lowered: jax.stages.Lowered, chip: Chip, effort: str, name: str) -> dict:
  """What only the compiler knows; InputError, which calls the program by `name`, if it fails."""
  began = time.monotonic()
  try:
    compiled = lowered.compile(compiler_options=EFFORTS[effort])
  except jax.errors.JaxRuntimeError as error:
    needed = needed_memory(str(error))
    if needed is None:
      raise compiler_failed(name, str(error)) from error
    return {"fits": False, "memory": {"limit": chip.hbm, "needed": needed},
            "reason": str(error).strip().splitlines()[0], "compiling": _effort(began)}
  text = program_text.read_program(compiled.as_text())
  memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
  sizes = {"arguments": memory.argument_size_in_bytes, "outputs": memory.output_size_in_bytes,
           "aliased": memory.alias_size_in_bytes, "temporaries": memory.temp_size_in_bytes,
           "program": memory.generated_code_size_in_bytes, "peak": memory.peak_memory_in_bytes,
           "host": memory.host_argument_size_in_bytes + memory.host_temp_size_in_bytes}
  # Temporaries are one piece of memory for the whole run of the program, whatever of it is in use.
  needed = sizes["arguments"] + sizes["outputs"] - sizes["aliased"] + sizes["temporaries"] + sizes["program"]
  return {"fits": True, "reason": "", "memory": {"limit": chip.hbm, "needed": needed, **sizes},
          "flops": {"xla": costs["flops"]}, "bytes_accessed": costs["bytes accessed"], "cycles": text.cycles,
          "roofline": roofline(costs, chip),
          "unknown_loops": text.unknown_loops, "kernels": text.kernels,
          "collectives": [dataclasses.asdict(item) for item in text.collectives],
          "buffers": [dataclasses.asdict(item) for item in text.buffers], "compiling": _effort(began)}


def roofline(costs: dict[str, float], chip: Chip) -> float:
  """Seconds by the compiler's roofline of every operation.

  Where it takes some for unknown, as those between slices, its sum is negative: then all operations' FLOPs or all their
  bytes at the chip's rate, whichever takes longer, which is less.
  """
  together = max(costs["flops"] / chip.peak_flops, costs["bytes accessed"] / chip.hbm_bandwidth)
  return costs["optimal_seconds"] if costs["optimal_seconds"] > 0 else together


def _reader() -> str:
  """Changes with the code that reads what the compiler says."""
  files = (Path(__file__), Path(program_text.__file__))
  return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def needed_memory(message: str) -> int | None:
  """The bytes that a program needs, from the compiler's refusal to place it; None if that is not what it says."""
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  found = (re.search(r"\(([\d.]+)([KMGT]?)B?\) exceeds available HBM", message)
           or re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message))
  return int(float(found[1]) * _UNITS[found[2]]) if found else None


def _estimates(report: dict, chip: Chip) -> dict:
  """Seconds and MFU; see `panda_jax.planning`."""
  flops, sent = report["flops"], {"ici": 0, "dcn": 0}
  for item in report["collectives"]:
    sent[item["network"]] += item["bytes"]
  # The roofline takes the sampler's loop once, and next to it nothing else counts.
  quick = report["roofline"] * (report["denoising_steps"] or 1)
  seconds = {"roofline": report["roofline"],
             "compiler": report["cycles"] / chip.clock if report["effort"] == "full" else quick,
             "kernels": flops["kernels"] / chip.peak_flops,
             "ici": sent["ici"] / chip.ici, "dcn": sent["dcn"] / chip.dcn,
             "at_peak": flops["total"] / chip.peak_flops}
  alone = seconds["compiler"] + seconds["kernels"]
  at_peak = flops["model"] / chip.peak_flops
  exposed = alone + seconds["ici"] + seconds["dcn"]
  return {"seconds": seconds, "mfu": {"hidden": at_peak / alone if alone else 0.0,
                                      "exposed": at_peak / exposed if exposed else 0.0}}


def _effort(began: float) -> dict:
  unit = 1 if sys.platform == "darwin" else 1024                # of ru_maxrss
  return {"compile": time.monotonic() - began, "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _made() -> dict:
  return {"made": time.strftime("%Y-%m-%d %H:%M", time.localtime())}
