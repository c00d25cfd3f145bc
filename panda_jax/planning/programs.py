"""The programs of a config, ready to be traced for a mesh."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from panda_jax.parallel.mesh import make_mesh
from panda_jax.parallel.sharding import clip_shards

KINDS = ("step", "sample", "decode")


@dataclasses.dataclass(frozen=True)
class Program:
  """What is to be compiled.

  Attributes:
    kind: of `KINDS`.
    shape: (views, frames).
    clips: on all devices together.
    mesh: axis -> size.
    trace: makes the jax.stages.Traced; may raise InputError.
    state: bytes that one device holds between steps; 0 if there is nothing to hold.
    denoising_steps: of the sampler.
  """

  kind: str
  shape: tuple[int, int]
  clips: int
  mesh: dict[str, int]
  trace: Callable[[], jax.stages.Traced]
  state: int = 0
  denoising_steps: int | None = None

  @property
  def name(self) -> str:
    return f"{self.kind} {self.shape[0]}x{self.shape[1]}"


def make_program(config: ConfigDict, devices: list, kind: str, shape: tuple[int, int] | None,
                 clips_per_chip: int | None, guidance: float | None) -> Program:
  """The program of a config on these devices.

  Args:
    config: of a run.
    devices: all of them, in a mesh as config.mesh says.
    kind: of `KINDS`.
    shape: (views, frames); by default all views that there are, and the frames of a window that is sampled.
    clips_per_chip: clips that a place along data and fsdp holds at a time. None: as config.batch_size has it, and one
      of those that are sampled.
    guidance: of the sampler; None as in config.model.sampling.

  Raises:
    InputError: for a config that cannot be used so.
  """
  # Sizes of 0 are chosen by the clips there are; where these follow from the mesh, every matrix has one chip.
  if clips_per_chip or kind != "step":
    config.mesh.context = config.mesh.context or 1
  if kind == "step":
    groups = len(devices) // config.mesh.context if clips_per_chip else 0
    return _step(config, devices, shape, clips_per_chip and clips_per_chip * groups)
  config.mesh.fsdp = config.mesh.fsdp or 1
  mesh = make_mesh(config.mesh.to_dict(), devices)
  return _generation(config, mesh, kind, shape, (clips_per_chip or 1) * clip_shards(mesh), guidance)


def _step(config: ConfigDict, devices: list, shape: tuple[int, int], batch_size: int | None) -> Program:
  from panda_jax.training.setup import Setup
  config.matrix.shapes = (shape,)                               # others may not be shared out evenly
  if batch_size:
    config.batch_size = batch_size * config.training.accumulate
  setup = Setup.make(config, devices)
  return Program("step", shape, config.batch_size, dict(setup.mesh.shape), lambda: setup.trace_step(shape),
                 device_bytes(setup.abstract))


def _generation(config: ConfigDict, mesh: jax.sharding.Mesh, kind: str, shape: tuple[int, int] | None, clips: int,
                guidance: float | None) -> Program:
  from panda_jax import systems
  from panda_jax.generate import programs
  system, options = systems.build(config), config.model.sampling
  shape = shape or (system.shows.most_views, options.frames)
  if kind == "sample":
    trace = lambda: programs.trace_sampler(system, mesh, shape, clips=clips, steps=options.steps, dtype="bfloat16",
                                           guidance=options.text_guidance if guidance is None else guidance)
  else:
    trace = lambda: programs.trace_decode(system, mesh, shape, clips=clips, dtype="bfloat16",
                                          panorama_height=options.panorama_height)
  return Program(kind, shape, clips, dict(mesh.shape), trace,
                 denoising_steps=options.steps if kind == "sample" else None)


def device_bytes(tree) -> int:
  """Bytes of a tree of jax.ShapeDtypeStruct with shardings that one device holds."""
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
