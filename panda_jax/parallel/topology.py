"""Accelerators: what their makers publish about them, and TPU topologies to compile for without having one."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from typing import TYPE_CHECKING

from panda_jax.errors import InputError

if TYPE_CHECKING:                                              # jax is imported after its environment is set
  import jax

# What libtpu needs to know where there is no TPU. JAX_PLATFORMS has an effect only before jax is imported.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5e-16",
               "TPU_WORKER_HOSTNAMES": "localhost", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
               "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@dataclasses.dataclass(frozen=True)
class Chip:
  """A TPU as JAX sees it: one device. TPU7x has two to a package, each with half of the package's figures.

  Attributes:
    kinds: its names as jax.Device.device_kind.
    dimensions: of the network between chips, a torus.
    peak_flops: bfloat16 FLOP/s.
    clock: Hz, which the cycles of the compiler's cost model are of.
    hbm: bytes that the compiler gives to a program; libtpu 0.0.42 names them when one does not fit.
    hbm_bandwidth: bytes/s.
    ici: bytes/s that it can send to its neighbours, over all links together.
    dcn: bytes/s that it can send to another slice, its share of the host's network.
    options: for jax.experimental.topologies, so that one device is one chip.
    devices: at each place of a topology.
  """

  kinds: tuple[str, ...]
  dimensions: int
  peak_flops: float
  clock: float
  hbm: int
  hbm_bandwidth: float
  ici: float
  dcn: float
  options: tuple[tuple[str, str], ...] = ()
  devices: int = 1


_GIB = 2**30

# docs.cloud.google.com/tpu/docs: v4, v5e, v5p, v6e, tpu7x (ICI there counts both directions); DCN of v4:
# jax-ml.github.io/scaling-book. The clock is the one at which the matrix units reach the peak: eight of 128 x 128
# multiplications per cycle in v4 and v5p, four in v5e, four of 256 x 256 in v6e and in half a TPU7x.
CHIPS = {
    "v4": Chip(("TPU v4",), 3, 275e12, 1.05e9, int(30.75 * _GIB), 1200e9, 300e9, 6.25e9,
               (("chip_config_name", "megacore"),)),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 2, 197e12, 1.5e9, int(15.75 * _GIB), 819e9, 200e9, 3.125e9),
    "v5p": Chip(("TPU v5", "TPU v5p"), 3, 459e12, 1.75e9, int(95.74 * _GIB), 2765e9, 600e9, 6.25e9),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 2, 918e12, 1.75e9, int(31.25 * _GIB), 1600e9, 400e9, 12.5e9),
    "tpu7x": Chip(("TPU7x",), 3, 1153.5e12, 2.2e9, int(94.75 * _GIB), 3690e9, 300e9, 6.25e9, devices=2),
}

# bfloat16 FLOP/s without sparsity by the beginning of jax.Device.device_kind; NVIDIA's data sheets of A100, H100, H200.
_GPUS = {"NVIDIA A100": 312e12, "NVIDIA H100": 989.4e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H100 NVL": 835e12,
         "NVIDIA H200": 989.4e12, "NVIDIA H200 NVL": 835.5e12, "NVIDIA GH200": 989.4e12}


def chip_of(device_kind: str) -> Chip | None:
  """The TPU that calls itself so as jax.Device.device_kind, or None."""
  return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)


def memory(device: jax.Device) -> int | None:
  """Bytes that a program may have on a device, here or in a topology; None where that is not known, as on CPUs."""
  if chip := chip_of(device.device_kind):
    return chip.hbm
  import jax                                                   # the planner's command line does without
  # Those of another process cannot be asked, and are like those here.
  here = next((local for local in jax.local_devices() if local.device_kind == device.device_kind), None)
  return (here and here.memory_stats() or {}).get("bytes_limit")


def peak_flops(device_kind: str) -> float | None:
  """The bfloat16 FLOP/s of a device, or None where they are not known.

  Args:
    device_kind: of a jax.Device, such as "TPU v5 lite" or "NVIDIA H200".
  """
  if chip := chip_of(device_kind):
    return chip.peak_flops
  known = [name for name in _GPUS if device_kind.startswith(name)]
  return _GPUS[max(known, key=len)] if known else None


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the arrangement that a name such as "v5p:4x4x4" stands for.

  Raises:
    InputError: if there is no such chip or arrangement.
  """
  name, colon, size = topology.partition(":")
  if not colon:
    raise InputError(_not_a_topology(topology))
  if name not in CHIPS:
    raise InputError(f"--topology {topology}: no chip is named {name!r}; known are {', '.join(CHIPS)}")
  chip = CHIPS[name]
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size) or size.count("x") + 1 != chip.dimensions:
    raise InputError(f"--topology {topology}: the chips of {name} lie in {chip.dimensions} dimensions: give it as "
                     f"{name}:{'x'.join('4' * chip.dimensions)}")
  return chip, tuple(int(length) for length in size.split("x"))


def devices(topology: str, slices: int = 1) -> list:
  """The devices of a TPU topology, to compile for; nothing can run on them.

  Sets `ENVIRONMENT` for this process, which is why `panda plan` compiles in processes of their own.

  Args:
    topology: such as "v5p:4x4x4".
    slices: how many of them, joined by the data centre's network.

  Raises:
    InputError: if libtpu is not installed or knows no such topology.
  """
  chip, size = parse(topology)
  if slices < 1:
    raise InputError(f"--slices {slices}: give 1 or more")
  require_libtpu()
  os.environ.update(ENVIRONMENT)
  import jax
  from jax.experimental import topologies
  options = dict(chip.options)
  if math.prod(size) < 4:                                      # less than a host's 2 x 2
    options["chips_per_host_bounds"] = (1, 1, 1)
  if slices > 1:
    options["num_slices"] = slices
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition(": ")[2] or str(error)
    raise InputError(f"--topology {topology} does not exist, says libtpu ({reason.strip()}): give one such as "
                     f"{topology.partition(':')[0]}:{_shape_for(16, chip.dimensions)}") from error


def require_libtpu() -> None:
  """Raises InputError if there is no compiler for TPUs here."""
  if importlib.util.find_spec("libtpu") is None:
    raise InputError("compiling for TPUs takes their compiler, which is not installed: pip install libtpu (no TPU is "
                     "needed)")


def compiler_failed(what: str, said: str) -> InputError:
  """What to say where libtpu ends in an error of its own.

  Args:
    what: was compiled for which topology.
    said: all that it said. Of that the last line that names an error is shown.
  """
  lines = [line.strip() for line in said.splitlines() if line.strip()]
  telling = [line for line in lines if re.search(r"unimplemented|internal|check fail|error", line, re.IGNORECASE)]
  last = (telling or lines or ["it said nothing"])[-1]
  version = importlib.metadata.version("libtpu")
  return InputError(f"libtpu {version} failed to compile {what} ({last[:300]}): its other versions may do it (pip "
                    "install libtpu==…)")


def _not_a_topology(name: str) -> str:
  """What to say about names such as v5p-512 and v5litepod-16, which cloud consoles use."""
  found = re.fullmatch(r"(v4|v5p|v5e|v5litepod|v6e)-(\d+)", name)
  if not found:
    return f"--topology {name}: give a chip and how many lie in each dimension, such as v5p:4x4x4 or v6e:16x16"
  chip = "v5e" if found[1] == "v5litepod" else found[1]
  cores = chip in ("v4", "v5p")                                # whose slices are named by cores, two to a chip
  chips = max(int(found[2]) // (2 if cores else 1), 1)
  return (f"--topology {name} is the name of a slice{' by its cores' * cores}: give the arrangement of its {chips} "
          f"chips, such as {chip}:{_shape_for(chips, CHIPS[chip].dimensions)}")


def _shape_for(chips: int, dimensions: int) -> str:
  """An arrangement of about so many chips, as even as powers of two are: 4x8x8 for 256, 2x2x1 for 4."""
  exponent = max(chips, 1).bit_length() - 1
  parts = sorted(2**((exponent + i) // dimensions) for i in range(dimensions))
  return "x".join(map(str, parts if 1 not in parts else reversed(parts)))
