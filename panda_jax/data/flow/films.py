"""The motion of some frames of a film, estimated between neighbours: in little memory, whatever the length."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from panda_jax.data.flow.colours import encode_flow
from panda_jax.data.flow.estimating import Flow, estimate, make_flow

Pairs = Iterator[tuple[np.ndarray, np.ndarray]]       # a frame and the colours of its motion, uint8 [H W 3] both

_AT_ONCE = 16                                         # flows that an estimator is asked for


@functools.cache
def estimator(name: str) -> Flow:
  """`make_flow`, once in every process: a network loads its weights."""
  return make_flow(name)


def flow_starts(places: Sequence[int], shot: tuple[int, int]) -> list[int | None]:
  """For frames of a shot [start, stop), the frames whose flow to the next is theirs; None in a shot of one frame."""
  start, stop = shot
  return [None if stop - start < 2 else min(place, stop - 2) for place in places]


def estimated(read: Callable[[Sequence[int]], Iterator[np.ndarray]], places: Sequence[int],
              starts: Sequence[int | None], name: str) -> Pairs:
  """Frames and the motion that an estimator sees.

  It is given runs of neighbouring frames, at most `_AT_ONCE` + 1, so its memory does not grow with the clip.

  Args:
    read: frames of a source by their places, which increase.
    places: of the frames that are wanted.
    starts: of `flow_starts`.
    name: of the estimator.
  """
  known = [start for start in starts if start is not None]
  needed = sorted({*places, *known, *(start + 1 for start in known)})
  coming = zip(needed, read(needed), strict=True)
  held: dict[int, np.ndarray] = {}
  for run in _runs(list(zip(places, starts, strict=True))):
    first, last = run[0][1], run[-1][1]
    end = run[-1][0] if first is None else last + 1
    while end not in held:
      held.update([next(coming)])
    if first is None:
      yield held[end], np.zeros_like(held[end])
      continue
    flows = estimate(estimator(name), np.stack([held[place] for place in range(first, last + 2)]), name)
    for place, start in run:
      yield held[place], encode_flow(flows[start - first], flows.shape[2])
    held = {place: frame for place, frame in held.items() if place > last}


def _runs(wanted: list[tuple[int, int | None]]) -> Iterator[list[tuple[int, int | None]]]:
  """(place, start) in groups whose starts follow on one another."""
  run: list[tuple[int, int | None]] = []
  for place, start in wanted:
    if run and (start is None or run[0][1] is None or start > run[-1][1] + 1 or start - run[0][1] >= _AT_ONCE):
      yield run
      run = []
    run.append((place, start))
  if run:
    yield run
