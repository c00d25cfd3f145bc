"""panda plan: what a training step or the sampler needs of a TPU pod, without having one."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re

SUMMARY = "compile for a TPU pod that is not there: does it fit, what does it send, how long may it take"
EXAMPLE = """panda plan --config configs/videopanda.py --topology v5p:2x2x1 --clips-per-chip 1 --config.mesh.fsdp=4
panda plan --config configs/videopanda.py --topology v6e:4x4 --clips-per-chip 1 --search
panda plan --config configs/videopanda.py:size=sd21 --topology v5p:1x1x1 --program sample"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments; `--config.a.b=value` come in args.overrides."""
  parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]",
                      help="as for `panda train`; --config.mesh.context=4 and the like set single values")
  parser.add_argument("--topology", required=True, metavar="CHIP:AxBxC",
                      help="chips and how they lie: v5p:4x4x4, v6e:16x16, v5e:4x4, v4:2x2x2 …")
  parser.add_argument("--slices", type=int, default=1, metavar="N", help="so many of them (default 1)")
  parser.add_argument("--program", choices=("step", "sample", "decode", "all"), default="step",
                      help="the training step, the sampler's denoising, its decoding to a panorama (default step)")
  parser.add_argument("--shape", metavar="VIEWSxFRAMES",
                      help="of a matrix (default: for a step all of config.matrix.shapes, for the sampler a window)")
  parser.add_argument("--clips-per-chip", type=int, metavar="N",
                      help="instead of config.batch_size; chips that share a matrix (context) count as one here")
  parser.add_argument("--guidance", type=float, metavar="X", help="of the sampler; 1 is none and half of the work")
  parser.add_argument("--search", action="store_true",
                      help="find the smallest config.mesh, and config.training.remat, with which the step fits")
  parser.add_argument("--effort", choices=("quick", "full"), default="quick",
                      help="of the compiler: quick finds memory, FLOPs and collectives; full takes several times as "
                           "long, and also estimates the time of the program that a run would have")
  parser.add_argument("--json", metavar="FILE", help="write all of it as JSON; - is standard output, instead of tables")
  parser.add_argument("--no-cache", action="store_true", help="compile again what was compiled before")


def run(args: argparse.Namespace) -> None:
  """Prints the plan.

  Raises:
    InputError: for bad input, in one sentence.
    SystemExit: with status 1 if a program does not fit.
  """
  from panda_jax.cli import console
  from panda_jax.errors import InputError
  from panda_jax.parallel import topology
  from panda_jax.planning import plan, tables
  from panda_jax.planning.store import Store
  from panda_jax.training.config import check_config, load_config, to_plain

  chip, size = topology.parse(args.topology)
  topology.require_libtpu()
  shape = _shape(args.shape)
  for name in ("slices", "clips_per_chip"):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
  if args.guidance is not None and args.program not in ("sample", "all"):
    raise InputError(f"--guidance {args.guidance:g} is for the sampler: add --program sample, or leave it out")
  if args.search and args.program != "step":
    raise InputError("--search is for the training step: leave out --program")
  config = load_config(args.config, getattr(args, "overrides", ()))
  check_config(config)
  requests = _requests(args, to_plain(config), shape)
  folder = None if args.no_cache else console.cache_folder()
  planner = plan.Planner(Store(folder and folder / "plans", console.note), console.note)
  place = f"{args.slices} x {args.topology}" if args.slices > 1 else args.topology

  attempts = []
  if args.search:
    from panda_jax.planning.search import search
    attempts = search(requests, math.prod(size) * args.slices * chip.devices, chip.hbm, planner,
                      lambda tried: console.note(f"{tried.candidate}: {tried.why}"))
    reports = list(attempts[-1].reports)
  else:
    reports = [planner(request) for request in requests]
  if args.json:
    tables.write_json(args.json, _as_json(args, reports, attempts))
  if args.json != "-":
    if attempts:
      tables.print_search(attempts, place, chip.hbm)
    if reports:
      tables.print_plan(reports, place)
  if not reports or not all(report["fits"] for report in reports):
    raise SystemExit(1)


def _requests(args: argparse.Namespace, config: dict, shape: tuple[int, int] | None) -> list:
  """One for each program, a step for each shape."""
  from panda_jax.planning.plan import Request
  kinds = ("step", "sample", "decode") if args.program == "all" else (args.program,)
  requests = []
  for kind in kinds:
    shapes = config["matrix"]["shapes"] if kind == "step" and shape is None else [shape]
    requests += [Request(config, args.topology, args.slices, kind, shape and tuple(shape), args.clips_per_chip,
                         args.guidance if kind == "sample" else None, args.effort) for shape in shapes]
  return requests


def _shape(text: str | None) -> tuple[int, int] | None:
  from panda_jax.errors import InputError
  if text is None:
    return None
  found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
  if not found:
    raise InputError(f"--shape {text}: give views x frames, such as 8x6")
  return int(found[1]), int(found[2])


def _as_json(args: argparse.Namespace, reports: list[dict], attempts: list) -> dict:
  """The plan with what it was made for; the keys of `programs` are those of `panda_jax.planning`."""
  tried = [{**dataclasses.asdict(attempt.candidate), "fits": attempt.fits, "needed": attempt.needed,
            "why": attempt.why} for attempt in attempts]
  return {"config": args.config, "overrides": list(getattr(args, "overrides", ())), "topology": args.topology,
          "slices": args.slices, "programs": reports, "search": tried}
