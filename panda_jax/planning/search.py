"""The smallest mesh that fits: chips share a matrix only if nothing else helps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from panda_jax.errors import InputError
from panda_jax.planning.plan import Request

# Of panda_jax.models.remat, from what costs least time to what needs least memory.
REMAT = ("none", "block", "offload")


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to lay a step out: how many chips share a matrix and the parameters, and what is computed twice."""

  context: int
  remat: str
  fsdp: int

  def __str__(self) -> str:
    return f"context {self.context}, remat {self.remat}, fsdp {self.fsdp}"

  def applied(self, config: dict) -> dict:
    """The config, as `to_plain` gives it, with this layout."""
    config = copy.deepcopy(config)
    config["mesh"] = {**config["mesh"], "data": -1, "fsdp": self.fsdp, "context": self.context}
    config["training"]["remat"] = self.remat
    return config


@dataclasses.dataclass(frozen=True)
class Tried:
  """What became of a candidate.

  Attributes:
    candidate: the layout.
    fits: whether all programs did.
    needed: bytes per chip of the program that decided, or of the state alone; None if it could not be laid out so.
    why: in words.
    reports: of the programs that were compiled.
  """

  candidate: Candidate
  fits: bool
  needed: int | None
  why: str
  reports: tuple[dict, ...] = ()


def candidates(chips: int) -> Iterator[Candidate]:
  """All layouts in the order in which they are tried: context 1, 2, 4 …, in each remat, in each fsdp 1, 2, 4 …"""
  for context in _divisors(chips):
    for remat in REMAT:
      for fsdp in _divisors(chips // context):
        yield Candidate(context, remat, fsdp)


def search(requests: Sequence[Request], chips: int, limit: int, ask: Callable[[Request], dict],
           say: Callable[[Tried], None] = lambda tried: None) -> list[Tried]:
  """Tries layouts until one fits.

  What is sure not to fit is not compiled: a state larger than the memory, and layouts that differ from one that did not
  fit in fsdp alone, if all that this can save is not enough.

  Args:
    requests: the programs that must fit, of one config; its mesh and remat are replaced.
    chips: of the topology, all slices together.
    limit: bytes per chip.
    ask: gives the report of a request.
    say: is told of each attempt.

  Returns:
    the attempts; the last one fits, or none does.
  """
  attempts: list[Tried] = []
  missed: dict[tuple, tuple[int, int]] = {}                     # (context, remat) -> needed and state of the last miss
  # Most views first: their attention needs most memory, so that what does not fit is found out early.
  requests = sorted(requests, key=lambda request: request.shape or (0, 0), reverse=True)
  for candidate in candidates(chips):
    laid_out = [dataclasses.replace(request, config=candidate.applied(request.config)) for request in requests]
    group = (candidate.context, candidate.remat)
    try:
      state = ask(dataclasses.replace(laid_out[0], state_alone=True))["state"]
      # Gradients and updates shrink with the state, and are smaller than it.
      lacking = missed[group][0] - 2 * (missed[group][1] - state) if group in missed else 0
      if state > limit:
        tried = Tried(candidate, False, state, "the state alone is too large")
      elif lacking > limit:
        tried = Tried(candidate, False, lacking, "sharing parameters saves too little")
      else:
        tried = _compile(candidate, laid_out, ask)
        if not tried.fits:
          missed[group] = tried.needed, state
    except InputError as error:
      tried = Tried(candidate, False, None, str(error))
    attempts.append(tried)
    say(tried)
    if tried.fits:
      break
  return attempts


def _compile(candidate: Candidate, requests: Sequence[Request], ask: Callable[[Request], dict]) -> Tried:
  reports = []
  for request in requests:
    reports.append(ask(request))
    if not reports[-1]["fits"]:
      return Tried(candidate, False, reports[-1]["memory"]["needed"], f"{reports[-1]['name']} does not fit",
                   tuple(reports))
  needed = max(report["memory"]["needed"] for report in reports)
  return Tried(candidate, True, needed, "fits", tuple(reports))


def _divisors(number: int) -> list[int]:
  """Powers of two that divide a number, and the number itself."""
  powers = [2**i for i in range(number.bit_length()) if number % 2**i == 0]
  return powers if number in powers else [*powers, number]
