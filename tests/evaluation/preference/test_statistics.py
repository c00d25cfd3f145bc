"""Preference and its intervals, against closed forms and by simulation."""

import numpy as np
import pytest
from scipy import stats

from panda_jax.evaluation.preference.answers import Answer, Sheet
from panda_jax.evaluation.preference.statistics import binomial_p, preferences, two_way_bootstrap, wilson
from panda_jax.evaluation.preference.trials import Study, Trial


def answers(table, a="ours", b="baseline", question=0):
  """Answers from rows of participants and columns of clips: 1 for a, 0 for b, None for a tie, "" for no answer."""
  return [Answer(f"p{person}", f"c{clip:02d}", a, b, question, {1: a, 0: b, None: None}[value], "left", 2.0, True)
          for person, row in enumerate(table) for clip, value in enumerate(row) if value != ""]


def study(answers, questions=("Which?",)):
  pairs = sorted({(answer.clip, answer.a, answer.b) for answer in answers})
  trials = tuple(Trial(f"t{i}", clip, (f"m{i}a", f"m{i}b")) for i, (clip, _, _) in enumerate(pairs))
  media = {f"m{i}{side}": pair[1 + (side == "b")] for i, pair in enumerate(pairs) for side in "ab"}
  methods = tuple(dict.fromkeys(name for answer in answers for name in (answer.a, answer.b)))
  return Study("x", 0, questions, True, methods, media, trials)


def result(table, **more):
  given = answers(table)
  (only,) = preferences(study(given), [Sheet("all", None, tuple(given), len(given))], **more)
  return only


@pytest.mark.parametrize("successes, n", [(0, 7), (5, 7), (7, 7), (66, 120)])
def test_wilsons_interval_is_its_formula(successes, n):
  z, share = stats.norm.ppf(0.975), successes / n
  middle = (share + z * z / (2 * n)) / (1 + z * z / n)
  half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
  np.testing.assert_allclose(wilson(successes, n), (middle - half, middle + half), atol=1e-12)
  expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
  assert wilson(successes, n) == (expected.low, expected.high)


def test_the_p_of_a_binomial_counts_all_that_is_no_likelier():
  assert binomial_p(6, 6) == pytest.approx(2 / 64)
  assert binomial_p(3, 6) == 1
  assert binomial_p(5, 6) == pytest.approx(2 * 7 / 64)


@pytest.mark.parametrize("way", ["participants", "clips"])
def test_where_all_depends_on_one_way_alone_the_bootstrap_is_the_binomial_distribution_of_that_way(way):
  """Four of six participants always choose ours: the share among six drawn anew is binomial. Likewise for clips."""
  table = np.array([[1] * 9] * 4 + [[0] * 9] * 2)
  low, high = two_way_bootstrap(answers((table if way == "participants" else table.T).tolist()), seed=1)
  assert (low, high) == pytest.approx(tuple(stats.binom.ppf([0.025, 0.975], 6, 4 / 6) / 6))


def test_the_bootstrap_mirrors_when_the_methods_change_places_and_follows_its_seed():
  table = np.random.default_rng(0).integers(0, 2, (5, 8))
  low, high = two_way_bootstrap(answers(table.tolist()), seed=3)
  mirrored = two_way_bootstrap(answers((1 - table).tolist()), seed=3)
  np.testing.assert_allclose(mirrored, (1 - high, 1 - low), atol=1e-12)
  assert two_way_bootstrap(answers(table.tolist())[::-1], seed=3) == (low, high), "whatever the order of files"
  assert two_way_bootstrap(answers(table.tolist()), seed=4, resamples=99) != (low, high)


def test_the_bootstrap_needs_two_participants_and_two_clips():
  assert two_way_bootstrap(answers([[1, 0, 1]]), seed=0) is None
  assert two_way_bootstrap(answers([[1], [0], [1]]), seed=0) is None
  assert two_way_bootstrap(answers([[1, 1], [None, None]]), seed=0) is None
  assert two_way_bootstrap(answers([[1, ""], ["", 0]]), seed=0) == (0, 1), "draws that meet no answer are left out"


def test_the_bootstrap_covers_what_other_people_say_of_other_clips_and_wilson_does_not():
  """12 participants of various tastes and 20 clips of various difficulty: the truth is the mean over all of either."""
  rng, runs = np.random.default_rng(0), 100
  tastes, mean = 1.0, 0.7
  truth = (1 / (1 + np.exp(-rng.normal(mean, np.sqrt(2) * tastes, 1_000_000)))).mean()
  covered = np.zeros(2)
  for seed in range(runs):
    logits = mean + tastes * rng.normal(size=(12, 1)) + tastes * rng.normal(size=(1, 20))
    table = (rng.random((12, 20)) < 1 / (1 + np.exp(-logits))).astype(int)
    intervals = two_way_bootstrap(answers(table.tolist()), seed, resamples=400), wilson(table.sum(), table.size)
    covered += [low <= truth <= high for low, high in intervals]
  assert covered[0] / runs >= 0.9
  assert covered[1] / runs <= 0.75


def test_ties_are_counted_and_no_preference():
  found = result([[1, None, 0], [1, 1, None]])
  assert (found.total.a, found.total.b, found.total.ties) == (3, 1, 2)
  assert found.total.preference == 0.75
  assert found.wilson == wilson(3, 4) and found.p == binomial_p(3, 4)
  nothing = result([[None, None], [None, None]])
  assert (nothing.total.preference, nothing.wilson, nothing.p, nothing.bootstrap) == (None,) * 4


def test_clips_and_participants_have_their_own_counts():
  found = result([[1, 0], [1, None], [1, ""]])
  assert [(t.name, t.a, t.b, t.ties) for t in found.clips] == [("c00", 3, 0, 0), ("c01", 0, 1, 1)]
  assert [(t.name, t.a, t.b, t.ties) for t in found.participants] == [("p0", 1, 1, 0), ("p1", 1, 0, 1), ("p2", 1, 0, 0)]


def test_every_pair_and_question_has_its_own_result_that_does_not_depend_on_the_others():
  table = [[1, 0, 1], [1, 1, 0], [0, 1, 1]]
  given = [*answers(table), *answers(table, "ours", "third"), *answers([[0] * 3] * 3, "ours", "third", question=1)]
  found = preferences(study(given, ("Which?", "Which moves better?")), [Sheet("all", None, tuple(given), 27)])
  assert [(r.question, r.a, r.b, r.total.a) for r in found] == [
    ("Which?", "ours", "baseline", 6), ("Which?", "ours", "third", 6),
    ("Which moves better?", "ours", "baseline", 0), ("Which moves better?", "ours", "third", 0)]
  assert found[0].bootstrap == found[1].bootstrap == result(table).bootstrap
  assert found[2].total.preference is None and found[3].bootstrap == (0, 0)
