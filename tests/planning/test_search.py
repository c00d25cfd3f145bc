"""The search tries layouts in order, does not compile what cannot fit, and stops at the first that does."""

import pytest

from panda_jax.errors import InputError
from panda_jax.planning.plan import Request
from panda_jax.planning.search import Candidate, candidates, search
from tests.planning.toy_reports import GIB, report

LIMIT = 16 * GIB
CONFIG = {"mesh": {"data": -1, "fsdp": 1, "context": 1}, "training": {"remat": "none"}, "batch_size": 8}


def requests(*shapes):
  return [Request(CONFIG, "v5e:2x2", 1, "step", shape) for shape in shapes]


def pretend(needed, state=lambda fsdp: GIB, compiled=None):
  """A planner whose steps need what `needed(context, remat, fsdp, shape)` says."""
  def ask(request):
    mesh, remat = request.config["mesh"], request.config["training"]["remat"]
    assert mesh["data"] == -1
    if request.state_alone:
      return {"state": state(mesh["fsdp"])}
    if compiled is not None:
      compiled.append((mesh["context"], remat, mesh["fsdp"], request.shape))
    return report(needed=needed(mesh["context"], remat, mesh["fsdp"], request.shape), limit=LIMIT)
  return ask


def test_the_order_is_context_then_remat_then_fsdp():
  tried = list(candidates(4))
  assert tried[:3] == [Candidate(1, "none", 1), Candidate(1, "none", 2), Candidate(1, "none", 4)]
  assert tried[3] == Candidate(1, "block", 1)
  assert [candidate.context for candidate in tried] == sorted(candidate.context for candidate in tried)
  assert tried[-1] == Candidate(4, "offload", 1)
  assert {candidate.context * candidate.fsdp for candidate in candidates(6)} == {1, 2, 6}


def test_it_stops_at_the_first_that_fits():
  compiled = []
  attempts = search(requests((8, 6)), 4, LIMIT, pretend(lambda *_: 10 * GIB, compiled=compiled))
  assert [attempt.candidate for attempt in attempts] == [Candidate(1, "none", 1)] and attempts[0].fits
  assert compiled == [(1, "none", 1, (8, 6))]


def test_all_shapes_must_fit_and_the_one_with_most_views_goes_first():
  compiled = []
  needs = lambda context, remat, fsdp, shape: 10 * GIB if remat == "offload" or shape == (3, 16) else 40 * GIB
  attempts = search(requests((3, 16), (8, 6)), 1, LIMIT, pretend(needs, compiled=compiled))
  assert compiled == [(1, "none", 1, (8, 6)), (1, "block", 1, (8, 6)), (1, "offload", 1, (8, 6)),
                      (1, "offload", 1, (3, 16))]
  assert attempts[-1].fits and attempts[-1].needed == 10 * GIB and len(attempts[-1].reports) == 2


def test_a_state_that_is_too_large_is_not_compiled():
  compiled = []
  attempts = search(requests((8, 6)), 4, LIMIT,
                    pretend(lambda *_: 10 * GIB, state=lambda fsdp: 40 * GIB // fsdp, compiled=compiled))
  assert [(attempt.candidate.fsdp, attempt.fits) for attempt in attempts] == [(1, False), (2, False), (4, True)]
  assert compiled == [(1, "none", 4, (8, 6))]


def test_fsdp_is_not_compiled_where_it_saves_too_little():
  compiled = []
  attempts = search(requests((8, 6)), 4, LIMIT,
                    pretend(lambda context, remat, *_: (60 if remat == "none" else 18) * GIB // context,
                            state=lambda fsdp: 2 * GIB // fsdp, compiled=compiled))
  # 18 GiB are two too many: fsdp=2 may save that much, with the gradients. It does not, and fsdp=4 could save one more.
  assert [layout[1:3] for layout in compiled if layout[0] == 1] == [
      ("none", 1), ("block", 1), ("block", 2), ("offload", 1), ("offload", 2)]
  assert attempts[-1].candidate == Candidate(2, "block", 1)


def test_what_the_config_cannot_do_is_passed_over():
  def ask(request):
    if request.config["mesh"]["context"] == 1:
      raise InputError("batch_size 8 cannot be shared out")
    return pretend(lambda *_: GIB)(request)
  attempts = search(requests((8, 6)), 2, LIMIT, ask)
  assert "cannot be shared out" in attempts[0].why and attempts[0].needed is None
  assert attempts[-1].candidate == Candidate(2, "none", 1)


def test_where_nothing_fits_all_is_tried():
  said = []
  attempts = search(requests((8, 6)), 2, LIMIT, pretend(lambda *_: 100 * GIB), said.append)
  assert not any(attempt.fits for attempt in attempts)
  assert said == attempts and len(attempts) == len(list(candidates(2)))


@pytest.mark.parametrize("shape", [(8, 6)])
def test_the_config_that_was_given_stays_as_it_is(shape):
  search(requests(shape), 2, LIMIT, pretend(lambda *_: GIB))
  assert CONFIG == {"mesh": {"data": -1, "fsdp": 1, "context": 1}, "training": {"remat": "none"}, "batch_size": 8}
