"""Our jitted Stable Diffusion 1.5 UNet against diffusers on torch: same machine, same threads, alternating runs.

  pip install .[parity]
  python benchmarks/unet_vs_diffusers.py                       # everything; about half an hour on 2 cores
  python benchmarks/unet_vs_diffusers.py --cases image1 --dtypes float32 --runs 9

Two processes hold one network each, with random weights; this one has them run in turn and prints the medians and the
median of the ratios of neighbouring runs: below 1, ours is faster. Figures: docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

# case -> (b, f, side of the latents); with more than one frame, with AnimateDiff's motion modules.
CASES = {"image1": (1, 1, 64), "image8": (8, 1, 64), "video16": (1, 16, 32)}
DTYPES = ("float32", "bfloat16")


def run_ours(case: str, dtype: str):
  """Sets the network up; gives a function that runs it once and waits for the result."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from panda_jax.models.functional import Functional
  from panda_jax.models.unet import UNet, UNetConfig

  b, f, side = CASES[case]
  config = UNetConfig(temporal=f > 1, motion_heads=8, motion_norm="cross_frame", multiview=False, view_conditions=False)
  network = Functional(lambda rngs: UNet(config, rngs=rngs))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), dtype),
                        network.abstract)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32), dtype)
  inputs = normal(b, 1, f, side, side, 4), jnp.full((b,), 501), normal(b, 77, 768)
  step = jax.jit(network)
  return lambda: step(params, *inputs).block_until_ready()


def run_diffusers(case: str, dtype: str, channels_last: bool, compiled: bool):
  """The same for diffusers."""
  import diffusers
  import torch

  torch.set_num_threads(os.cpu_count())
  b, f, side = CASES[case]
  device = "cuda" if torch.cuda.is_available() else "cpu"
  sizes = dict(cross_attention_dim=768, sample_size=None)
  torch.manual_seed(0)
  with torch.device(device), torch.inference_mode():
    if f > 1:
      network = diffusers.UNetMotionModel(**sizes, use_motion_mid_block=False, motion_max_seq_length=32)
      sample, text = torch.randn(b, 4, f, side, side), torch.randn(b * f, 77, 768)
    else:
      network = diffusers.UNet2DConditionModel(**sizes)
      sample, text = torch.randn(b, 4, side, side), torch.randn(b, 77, 768)
    network = network.to(getattr(torch, dtype)).eval()
    if channels_last:
      network = network.to(memory_format=torch.channels_last)
  if compiled:
    network = torch.compile(network)
  sample, text = sample.to(network.dtype), text.to(network.dtype)
  timestep = torch.full((b,), 501, device=device)

  def step():
    with torch.inference_mode():
      network(sample, timestep, text)
    if device == "cuda":
      torch.cuda.synchronize()
  return step


def serve(step) -> None:
  """Runs once for every line that comes in, and answers with the seconds."""
  step()
  print("ready", flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    step()
    print(time.perf_counter() - start, flush=True)


def compare(case: str, dtype: str, runs: int, options: list[str]) -> tuple[list[float], list[float]]:
  """Seconds of alternating runs: ours, diffusers'."""
  def start(side: str) -> subprocess.Popen:
    command = [sys.executable, __file__, "--side", side, "--cases", case, "--dtypes", dtype, *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline().strip() != "ready":
      raise SystemExit(f"{side} did not start: see above")
    return process

  def once(process: subprocess.Popen) -> float:
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())

  sides = [start("ours"), start("diffusers")]
  try:
    times = [[once(process) for process in sides] for _ in range(runs)]
  finally:
    for process in sides:
      process.kill()
  return [row[0] for row in times], [row[1] for row in times]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
  parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
  parser.add_argument("--runs", type=int, default=5)
  parser.add_argument("--channels-last", action="store_true", help="torch's other memory layout")
  parser.add_argument("--compile", action="store_true", help="torch.compile")
  parser.add_argument("--side", choices=("ours", "diffusers"), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.side == "ours":
    return serve(run_ours(args.cases[0], args.dtypes[0]))
  if args.side == "diffusers":
    return serve(run_diffusers(args.cases[0], args.dtypes[0], args.channels_last, args.compile))

  options = ["--channels-last"] * args.channels_last + ["--compile"] * args.compile
  print(f"{'case':10}{'dtype':10}{'ours s':>9}{'torch s':>9}{'ratio':>8}  (smallest to largest of {args.runs})")
  for case in args.cases:
    for dtype in args.dtypes:
      ours, theirs = compare(case, dtype, args.runs, options)
      ratios = sorted(a / b for a, b in zip(ours, theirs))
      print(f"{case:10}{dtype:10}{statistics.median(ours):9.2f}{statistics.median(theirs):9.2f}"
            f"{statistics.median(ratios):8.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
  main()
