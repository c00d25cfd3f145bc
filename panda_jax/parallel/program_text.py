"""What a compiled program says about itself: collectives, the compiler's estimate of time, large arrays.

All of it is read from the text of jax.stages.Compiled.as_text(), which is no stable format: what is not understood is
passed over.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

_HEADER = re.compile(r"(ENTRY )?%?(\S+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([^\s=]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)", re.DOTALL)
_STARTS = re.compile(r"\s+(?:ROOT )?%?[^\s=]+ = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
                "collective-broadcast")
# Their results are another instruction's array, or no array at all.
_NO_BUFFER = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
                        "call", "opt-barrier", "after-all", "send", "recv"))


@dataclasses.dataclass(frozen=True)
class Collective:
  """Exchanges of one kind.

  Attributes:
    kind: such as "all-gather".
    network: "ici", between the chips of a slice, or "dcn", between slices.
    count: how often one run of the program does it.
    bytes: that one chip sends in them, all together, if chips pass them round in a ring.
  """

  kind: str
  network: str
  count: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Buffer:
  """Results of instructions that have the same shape and come from the same layer.

  Attributes:
    bytes: of one, with the padding of its layout.
    shape: such as "bf16[8,4096,320]".
    layer: JAX's name for where it comes from, of a copy for where its original does; or "".
    count: how many instructions. Not all of them need exist at the same time, and some write over their operand.
  """

  bytes: int
  shape: str
  layer: str
  count: int


@dataclasses.dataclass(frozen=True)
class ProgramText:
  """What `read_program` finds.

  Attributes:
    collectives: sorted, most bytes first.
    cycles: the cost model's, of all but collectives and Pallas kernels, loops multiplied out.
    unknown_loops: loops that do not tell their number of rounds: all that is inside counts once.
    kernels: how often a custom kernel is run, which `cycles` do not know.
    buffers: the largest arrays of the device's main memory that instructions make, largest first.
  """

  collectives: list[Collective]
  cycles: int
  unknown_loops: int
  kernels: int
  buffers: list[Buffer]


@dataclasses.dataclass
class _Computation:
  """One function of the program: what its own instructions say, and whom they call how often."""

  cycles: int = 0
  kernels: int = 0
  calls: list = dataclasses.field(default_factory=list)         # (name, rounds), each as often as this one
  fusions: list = dataclasses.field(default_factory=list)
  loops: list = dataclasses.field(default_factory=list)         # (condition, body, rounds or None)
  constants: set = dataclasses.field(default_factory=set)
  collectives: list = dataclasses.field(default_factory=list)   # (kind, network, bytes)
  buffers: list = dataclasses.field(default_factory=list)       # (bytes, shape, layer)
  layers: dict = dataclasses.field(default_factory=dict)        # instruction -> layer


def read_program(text: str, largest: int = 10) -> ProgramText:
  """Reads a compiled program's text.

  Args:
    text: of jax.stages.Compiled.as_text(), for one device of those that run it together.
    largest: how many buffers to name.
  """
  computations, main = _computations(text)
  times, fused, unknown = _executions(computations, main)
  exchanged = defaultdict(lambda: [0, 0])
  buffers, cycles, kernels = Counter(), 0, 0
  for name, count in times.items():
    computation = computations[name]
    for kind, network, size in computation.collectives:
      exchanged[kind, network][0] += count
      exchanged[kind, network][1] += count * size
    if name in fused:                                           # its caller speaks for its time and memory
      continue
    cycles += count * computation.cycles
    kernels += count * computation.kernels
    buffers.update(computation.buffers)
  collectives = [Collective(*key, *values) for key, values in exchanged.items()]
  return ProgramText(
      collectives=sorted(collectives, key=lambda item: (-item.bytes, item.kind, item.network)),
      cycles=cycles, unknown_loops=unknown, kernels=kernels,
      buffers=[Buffer(*key, count) for key, count in sorted(buffers.items(), reverse=True)[:largest]])


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
  """The program's functions by name, callees before callers as the compiler prints them, and the main one's name."""
  found = re.search(r"num_partitions=(\d+)", text[:text.find("\n")])
  devices = int(found[1]) if found else None
  computations, main, current, name = {}, "", None, ""
  for line in _instructions(text):
    if header := _HEADER.match(line):
      name = header[2]
      main = name if header[1] else main
      current = computations.setdefault(name, _Computation())
    elif current is not None and (found := _INSTRUCTION.match(line)):
      _add(current, name, devices, *found.groups())
  return computations, main


def _instructions(text: str) -> Iterator[str]:
  """The lines, with those joined that an instruction's attributes are broken into."""
  pending = ""
  for line in text.splitlines():
    begins = _STARTS.match(line)
    if pending and not begins and line != "}" and not _HEADER.match(line):
      pending += line
      continue
    if pending:
      yield pending
    pending = line if begins else ""
    if not begins:
      yield line
  if pending:
    yield pending


def _add(computation: _Computation, name: str, devices: int | None, result: str, shape: str, opcode: str,
         rest: str) -> None:
  """One instruction's part in its computation, which has a name as the result has."""
  named, operand = re.search(r'op_name="([^"]*)"', rest), re.match(r"%?([^\s,)]+)", rest)
  layer = named[1] if named else computation.layers.get(operand[1] if operand else "", "")
  computation.layers[result] = layer
  if found := re.search(r'"estimated_cycles":"(\d+)"', rest):
    computation.cycles += int(found[1])
  if opcode == "constant" and (found := re.match(r"(\d+)\)", rest)) and shape.startswith(("s32[]", "u32[]", "s64[]")):
    computation.constants.add(int(found[1]))
  elif opcode == "while":
    rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
    ends = re.search(r"condition=%?([^,\s]+), body=%?([^,\s]+)", rest)
    if ends:
      computation.loops.append((ends[1], ends[2], int(rounds[1]) if rounds else None))
  elif opcode == "conditional":
    for names in re.findall(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=([^,\s]+))", rest):
      computation.calls += [part.strip().lstrip("%") for part in "".join(names).split(",")]
  elif found := re.search(r"(?:calls|to_apply)=%?([^,\s]+)", rest):
    if opcode == "fusion":
      computation.fusions.append(found[1])
    elif opcode in ("call", "async-start"):
      computation.calls.append(found[1])
  if opcode == "custom-call" and "tpu_custom_call" in rest:
    computation.kernels += 1
  if exchange := _collective(name, opcode, shape, rest, devices):
    computation.collectives.append(exchange)
  if opcode not in _NO_BUFFER and not opcode.endswith("-done"):
    computation.buffers += [(*array, layer) for array in _buffers(opcode, shape)]


def _collective(computation: str, opcode: str, shape: str, rest: str,
                devices: int | None) -> tuple[str, str, int] | None:
  """(kind, network, bytes that a chip sends) if the instruction is a collective."""
  sizes = [_bytes(*array.groups()[:2]) for array in _ARRAY.finditer(shape)]
  if opcode == "send":                                          # slices: to the host, which has the network
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', rest)
    return (found[1].lower().replace("_", "-"), "dcn", sizes[0]) if found and sizes else None
  kind = opcode.removesuffix("-start")
  if kind not in _COLLECTIVES:
    return None
  size = sum(sizes)
  if opcode.endswith("-start") and kind != "all-reduce":        # (operands, results, and sometimes two counters)
    arrays = [size for size in sizes if size > 4]
    size = sum(arrays[len(arrays) // 2:])
  group = _group(rest) or devices
  others = (group - 1) / group if group else 1.0
  if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
    return "reduce-scatter", "ici", round(size * others)        # how a TPU's compiler writes one that it has fused
  sent = {"all-reduce": 2 * size * others, "all-gather": size * others, "all-to-all": size * others,
          "ragged-all-to-all": size * others, "reduce-scatter": size * ((group or 2) - 1)}.get(kind, size)
  return kind, "ici", round(sent)


def _group(rest: str) -> int | None:
  """How many devices exchange with each other; None if the text does not say."""
  if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
    return int(found[2])
  found = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
  return found[1].count(",") + 1 if found else None


def _buffers(opcode: str, shape: str) -> list[tuple[int, str]]:
  """(bytes, shape) of the arrays that an instruction makes in the main memory."""
  arrays = [array for array in _ARRAY.finditer(shape) if not re.search(r"S\([1-9]", array[4] or "")]
  sized = [(_bytes(*array.groups()), f"{array[1]}[{array[2]}]") for array in arrays]
  if opcode.endswith("-start"):                                 # its operand is an array of its own
    return [max(sized)] if sized else []
  return sized


def _bytes(kind: str, dimensions: str, order: str | None = None, layout: str | None = None) -> int:
  """The size of an array; with the order of its dimensions and its layout as it lies in memory, padded to tiles."""
  shape = [int(length) for length in dimensions.split(",") if length]
  tile = re.match(r"T\(([\d,]+)\)", layout or "")
  if tile and order:
    shape = [shape[int(axis)] for axis in reversed(order.split(","))]
    lengths = [int(length) for length in tile[1].split(",")][-len(shape):]
    for axis, length in enumerate(lengths, len(shape) - len(lengths)):
      shape[axis] = math.ceil(shape[axis] / length) * length
  bits = 8 if kind == "pred" else int(next(iter(re.findall(r"\d+", kind)), 0))
  return math.prod(shape) * bits // 8


def _executions(computations: dict[str, _Computation], main: str) -> tuple[Counter, set[str], int]:
  """How often each computation runs, which of them are parts of a fusion, and how many loops hide their rounds."""
  times, fused, unknown = Counter({main: 1} if main else {}), set(), 0
  for name in reversed(computations):                           # callers before callees
    count = times[name]
    if not count:
      del times[name]
      continue
    computation = computations[name]
    for condition, body, rounds in computation.loops:
      rounds = rounds or _rounds(computations, condition)
      unknown += rounds is None
      times[body] += count * (rounds or 1)
    for callee in computation.calls:
      times[callee] += count
      fused |= {callee} if name in fused else set()
    for callee in computation.fusions:
      times[callee] += count
      fused.add(callee)
  return Counter({name: count for name, count in times.items() if name in computations}), fused, unknown


def _rounds(computations: dict[str, _Computation], condition: str) -> int | None:
  """The one number that a loop's condition compares its counter with."""
  if condition not in computations:
    return None
  constants = set(computations[condition].constants)
  for callee in computations[condition].fusions:
    constants |= computations[callee].constants if callee in computations else set()
  return max(constants) if constants else None
