"""What sampling costs on a TPU: compiles for one on this machine, which needs none, and reports memory, FLOPs, time.

  pip install libtpu==0.0.42.1
  python benchmarks/sampling_cost.py --program sample --topology v5p:1x1x1      # the 25 steps of one 8x16 matrix
  python benchmarks/sampling_cost.py --program sample --guidance 1              # the share of one chip of two
  python benchmarks/sampling_cost.py --program decode                           # VAE and stitching of its 128 images
  python benchmarks/sampling_cost.py --program sample --topology none           # FLOPs alone: nothing is compiled

The programs are those of `panda generate`, with parameters in bfloat16. Nothing runs. Memory is the compiler's plan;
time is its cost model's, operation by operation with loops multiplied out, and no TPU has confirmed it. FLOPs are
counted from the shapes of the products in the traced program, with all rounds of loops and with padding: XLA counts a
loop's body once. Compiling takes 8 GiB of memory and 10 minutes or more. Figures: docs/performance.md.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import pathlib
import re
import time
from collections import Counter

# What libtpu needs to know before JAX loads it where there is no TPU.
os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="v5e-16", TPU_MIN_LOG_LEVEL="3",
                  TPU_WORKER_HOSTNAMES="localhost", TPU_STDERR_LOG_LEVEL="3", ALLOW_MULTIPLE_LIBTPU_LOAD="1")

import jax
import jax.extend
import jax.numpy as jnp
from jax.experimental import topologies

from panda_jax import systems
from panda_jax.generate.windows import stitch_frames
from panda_jax.training.config import load_config

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# Of one chip: clock in Hz, which the cost model's cycles are of, bfloat16 FLOP/s, and the GiB that a program may have.
CHIPS = {"v5e": (1.5e9, 197e12, 15.75), "v5p": (1.75e9, 459e12, 95.74), "v6e": (1.75e9, 918e12, 31.25)}


def sampling(system, views: int, frames: int, guidance: float, steps: int):
  """The denoising of one matrix, and the shapes of its arguments."""
  b, (h, w), text = 1, system.rays_size, system.words.length
  shape = jax.ShapeDtypeStruct
  request = {"text": shape((b, text), jnp.int32), "rays": shape((b, views, h, w, 3), jnp.float32),
             "mask": shape((b, views, frames), jnp.float32), "sigma": shape((b, views, frames), jnp.float32)}
  given = shape((b, views, frames, h, w, system.codec.channels), jnp.float32)
  program = lambda params, given, request, rng: system.sample_latents(params, given, request, rng, steps=steps,
                                                                      guidance=guidance)
  return program, (given, request, jax.eval_shape(lambda: jax.random.key(0)))


def decoding(system, views: int, frames: int, height: int):
  """Latents of one matrix to the panorama's pixels, and the shapes of its arguments."""
  latents = jax.ShapeDtypeStruct((1, views, frames, *system.rays_size, system.codec.channels), jnp.float32)

  def program(params, latents):
    return stitch_frames(system.decode(params, latents)[0], system.rig, (height, 2 * height), "uniform")
  return program, (latents,)


def count_flops(jaxpr: jax.extend.core.Jaxpr, times: int = 1) -> Counter:
  """Two for each multiplication of products and convolutions, by kind, as they are computed on accelerators."""
  flops = Counter()
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), (batch, _) = params["dimension_numbers"]
      depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
      # Only attention has products of two activations, and so with leading axes in common.
      flops["attention" if batch else "linear"] += 2 * times * depth * equation.outvars[0].aval.size
    elif name == "conv_general_dilated":
      kernel, images = equation.invars[1].aval, equation.outvars[0].aval
      flops["convolution"] += 2 * times * images.size * (kernel.size // kernel.shape[-1])
    elif name == "cond" and params.get("branches_platforms"):
      chosen = next(i for i, platforms in enumerate(params["branches_platforms"]) if platforms != ("cpu",))
      flops += count_flops(params["branches"][chosen].jaxpr, times)
    else:
      rounds = params["length"] if name == "scan" else 1
      for value in params.values():
        inner = getattr(value, "jaxpr", value)
        if isinstance(inner, jax.extend.core.Jaxpr):
          flops += count_flops(inner, times * rounds)
  return flops


def estimated_cycles(program: str) -> tuple[int, int]:
  """The sum of the cost model's cycles in a compiled program's text, loops multiplied out.

  Returns:
    The sum, and how many loops do not tell their number of rounds: they count once.
  """
  cycles, loops, calls, constants, name, main = Counter(), {}, {}, {}, "", ""
  for line in program.splitlines():
    if found := re.match(r"(ENTRY )?%(\S+) \(.*\{$", line):
      name = found[2]
      main = name if found[1] else main
    elif found := re.search(r" while\(.*condition=%([^,\s]+), body=%([^,\s]+)", line):
      loops.setdefault(name, []).append((found[1], found[2]))
    elif found := re.search(r" call\(.*to_apply=%([^,\s]+)", line):
      calls.setdefault(name, []).append(found[1])
    elif found := re.search(r'"estimated_cycles":"(\d+)"', line):
      cycles[name] += int(found[1])
    elif found := re.match(r"\s*%\S+ = s32\[\]\S* constant\((\d+)\)", line):
      constants[name] = int(found[1])          # the one of a loop's condition is its number of rounds

  @functools.cache
  def total(name: str) -> int:
    return (cycles[name] + sum(constants.get(condition, 1) * total(body) for condition, body in loops.get(name, ()))
            + sum(total(callee) for callee in calls.get(name, ())))
  return total(main), sum(condition not in constants for inner in loops.values() for condition, _ in inner)


def compile_for(topology: str, program, arguments):
  """Compiles for the first chip of a topology, such as v5p:1x1x1."""
  chips = topology.split(":")[1]
  options = {"chips_per_host_bounds": (1, 1, 1)} if set(chips) <= set("1x") else {}
  device = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices[0]
  sharding = jax.sharding.SingleDeviceSharding(device)
  arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
  return jax.jit(program).trace(*arguments).lower(lowering_platforms=("tpu",)).compile()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--program", choices=("sample", "decode"), default="sample")
  parser.add_argument("--topology", default="v5p:1x1x1", help="a TPU's, or none")
  parser.add_argument("--size", default="sd15", help="of configs/videopanda.py")
  parser.add_argument("--dtype", default="bfloat16", help="of the parameters, and so of the products")
  parser.add_argument("--views", type=int, default=8)
  parser.add_argument("--frames", type=int, default=16)
  parser.add_argument("--guidance", type=float, default=8.0, help="1: one branch instead of two")
  args = parser.parse_args()

  config = load_config(f"{CONFIGS / 'videopanda.py'}:size={args.size}")
  system = systems.build(config)
  options = config.model.sampling
  steps = options.steps if args.program == "sample" else 1
  if args.program == "sample":
    program, arguments = sampling(system, args.views, args.frames, args.guidance, steps)
    networks = ("unet", "text")
  else:
    program, arguments = decoding(system, args.views, args.frames, options.panorama_height)
    networks = ("vae",)
  abstract = {name: network.abstract for name, network in system.networks.items() if name in networks}
  params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, args.dtype), abstract)
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  flops = count_flops(jax.make_jaxpr(program)(params, *arguments).jaxpr)
  each = " per step" if steps > 1 else ""
  print(f"{args.program}, size {args.size}, {args.views} x {args.frames}, {args.dtype}, {count / 1e6:.0f} M parameters")
  parts = ", ".join(f"{kind} {value / steps / 1e12:.4g}" for kind, value in flops.most_common())
  print(f"TFLOP{each}: {flops.total() / steps / 1e12:.4g} ({parts})", flush=True)
  if args.topology == "none":
    return

  start = time.monotonic()
  compiled = compile_for(args.topology, program, (params, *arguments))
  seconds = time.monotonic() - start
  memory, (clock, peak, capacity) = compiled.memory_analysis(), CHIPS[args.topology.split(":")[0]]
  sizes = {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes,
           "program": memory.generated_code_size_in_bytes, "peak": memory.peak_memory_in_bytes}
  print(f"GiB per chip of {args.topology}, which has {capacity}: "
        + ", ".join(f"{name} {size / 2**30:.2f}" for name, size in sizes.items()), flush=True)
  cycles, unknown = estimated_cycles(compiled.as_text())
  print(f"seconds{each}: {cycles / clock / steps:.3g} by the compiler's cost model, "
        f"{flops.total() / steps / peak:.3g} at the chip's peak"
        + f"; {unknown} loops of unknown length count once" * (unknown > 0))
  analysis = compiled.cost_analysis()
  print(f"XLA's own count, loop bodies once: {analysis['flops'] / 1e12:.4g} TFLOP, "
        f"{analysis['bytes accessed'] / 1e9:.0f} GB accessed; compiled in {seconds:.0f} s")


if __name__ == "__main__":
  main()
