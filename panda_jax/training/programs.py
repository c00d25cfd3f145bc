"""The compiled programs of a run: one for each kind and batch shape, all of them made before the first step."""

from concurrent import futures
import os
import time
from typing import Any, Callable

import jax
import numpy as np


class Programs:
  """Collects what is to be compiled, compiles it, and finds the program for a batch."""

  def __init__(self):
    self._lowered: dict[tuple, tuple[str, Any]] = {}
    self._compiled: dict[tuple, Callable] = {}

  def has(self, kind: str, batch: dict) -> bool:
    """Whether a program of this kind was added for batches of this shape."""
    return _key(kind, batch) in self._lowered

  def add(self, kind: str, batch: dict, name: str, lowered: Any) -> None:
    """Adds a program.

    Args:
      kind: "step" or "validation".
      batch: arrays or ShapeDtypeStructs.
      name: in words, for the line that says how long it took.
      lowered: jax.stages.Lowered.
    """
    self._lowered[_key(kind, batch)] = name, lowered

  def compile(self, say: Callable[[str], None], alone: bool) -> None:
    """Compiles all that was added, `alone` one after the other and otherwise one per core at a time."""

    def compile_one(program):
      name, lowered = program
      began = time.monotonic()
      compiled = lowered.compile()
      say(f"compiled {name} in {time.monotonic() - began:.1f} s")
      return compiled

    with futures.ThreadPoolExecutor(1 if alone else os.cpu_count()) as pool:
      self._compiled = dict(zip(self._lowered, pool.map(compile_one, self._lowered.values())))

  def find(self, kind: str, batch: dict[str, jax.Array]) -> Callable:
    """The compiled program.

    Raises:
      ValueError: if none was made for this shape.
    """
    program = self._compiled.get(_key(kind, batch))
    if program is None:
      shapes = ", ".join(f"{name} {list(leaf.shape)} {leaf.dtype}" for name, leaf in batch.items())
      raise ValueError(f"the data gave a batch no {kind} was compiled for ({shapes}): system.batch_spec and the "
                       "pipeline disagree")
    return program


def _key(kind: str, batch: dict) -> tuple:
  return kind, tuple(sorted((name, tuple(leaf.shape), np.dtype(leaf.dtype).name) for name, leaf in batch.items()))
