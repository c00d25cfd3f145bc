"""The compiled programs of a run: one for each kind and batch shape, all of them made before the first step."""

from concurrent import futures
import dataclasses
import os
import time
from typing import Any, Callable

import jax
import numpy as np

from panda_jax.parallel.flops import count_flops


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program, to be called.

  Attributes:
    compiled: jax.stages.Compiled. It takes arguments of the shapes and shardings it was made for and refuses others:
      nothing is ever compiled again.
    images: b·v·f of its batch.
    flops: model FLOPs of one call, on one device: two for each multiplication of a product or convolution in what the
      device traces, forward and backward, padding included; without what is computed a second time to save memory, and
      without everything that is no product. See `panda_jax.parallel.flops`.
  """
  compiled: Callable
  images: int
  flops: float

  def __call__(self, *arguments: Any) -> Any:
    return self.compiled(*arguments)


class Programs:
  """Collects what is to be compiled, compiles it, and finds the program for a batch."""

  def __init__(self):
    self._lowered: dict[tuple, tuple] = {}                     # (name, lowered, images, flops)
    self._programs: dict[tuple, Program] = {}

  def has(self, kind: str, batch: dict) -> bool:
    """Whether a program of this kind was added for batches of this shape."""
    return _key(kind, batch) in self._lowered

  def add(self, kind: str, batch: dict, name: str, traced: Any, images: int = 0) -> None:
    """Adds a program.

    Args:
      kind: "step" or "validation".
      batch: arrays or ShapeDtypeStructs.
      name: in words, for the line that says how long it took.
      traced: jax.stages.Traced.
      images: b·v·f of the batch.
    """
    flops = count_flops(traced.jaxpr, recomputed=False).total()
    self._lowered[_key(kind, batch)] = name, traced.lower(), images, flops

  def compile(self, say: Callable[[str], None], alone: bool) -> None:
    """Compiles all that was added, `alone` one after the other and otherwise one per core at a time."""

    def compile_one(added):
      name, lowered, images, flops = added
      began = time.monotonic()
      compiled = lowered.compile()
      say(f"compiled {name} in {time.monotonic() - began:.1f} s")
      return Program(compiled, images, flops)

    if self._lowered and jax.config.jax_compilation_cache_dir:
      say(f"compiled programs are kept in {jax.config.jax_compilation_cache_dir}")
    with futures.ThreadPoolExecutor(1 if alone else os.cpu_count()) as pool:
      self._programs = dict(zip(self._lowered, pool.map(compile_one, self._lowered.values())))

  def find(self, kind: str, batch: dict[str, jax.Array]) -> Program:
    """The program for a batch.

    Raises:
      ValueError: if none was made for this shape.
    """
    program = self._programs.get(_key(kind, batch))
    if program is None:
      shapes = ", ".join(f"{name} {list(leaf.shape)} {leaf.dtype}" for name, leaf in batch.items())
      raise ValueError(f"the data gave a batch no {kind} was compiled for ({shapes}): system.batch_spec and the "
                       "pipeline disagree")
    return program


def _key(kind: str, batch: dict) -> tuple:
  return kind, tuple(sorted((name, tuple(leaf.shape), np.dtype(leaf.dtype).name) for name, leaf in batch.items()))
