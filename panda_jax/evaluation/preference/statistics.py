"""How often one method is preferred, and how sure that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from panda_jax.evaluation.preference.answers import Answer, Sheet
from panda_jax.evaluation.preference.trials import Study

CONFIDENCE = 0.95
RESAMPLES = 10_000

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Tally:
  """Answers of one kind, counted.

  Attributes:
    name: whose they are: a clip's or a participant's.
    a, b: how often each method was preferred.
    ties: how often neither.
  """

  name: str
  a: int
  b: int
  ties: int

  @property
  def preference(self) -> float | None:
    """Share of a among the answers that are no ties; None if there are none."""
    return self.a / (self.a + self.b) if self.a + self.b else None


@dataclasses.dataclass(frozen=True)
class Preference:
  """What was answered to one question about one pair of methods. Shares are in [0, 1].

  Attributes:
    a, b: the methods.
    question: as it was asked.
    total: all its answers.
    bootstrap: of total.preference, see `two_way_bootstrap`; None if there were fewer than two participants or clips.
    wilson: of total.preference, see `wilson`; None without answers that are no ties.
    p: see `binomial_p`; None without answers that are no ties.
    clips, participants: the same by clip and by participant, in the order of their names.
  """

  a: str
  b: str
  question: str
  total: Tally
  bootstrap: Interval | None
  wilson: Interval | None
  p: float | None
  clips: tuple[Tally, ...]
  participants: tuple[Tally, ...]


def preferences(study: Study, sheets: Sequence[Sheet], seed: int = 0) -> list[Preference]:
  """The result of a study: for every question, every pair of methods that it compares.

  Args:
    study: from the key.
    sheets: one per participant.
    seed: of the bootstrap; the same for each result, so that none depends on which others there are.
  """
  answers = [answer for sheet in sheets for answer in sheet.answers]
  pairs = sorted({study.sides(trial) for trial in study.trials}, key=lambda pair: [*map(study.methods.index, pair)])
  results = []
  for index, question in enumerate(study.questions):
    for a, b in pairs:
      mine = [answer for answer in answers if (answer.a, answer.b, answer.question) == (a, b, index)]
      total = _tally("all", mine)
      decided = total.a + total.b
      results.append(Preference(
        a, b, question, total,
        two_way_bootstrap(mine, seed),
        wilson(total.a, decided) if decided else None,
        binomial_p(total.a, decided) if decided else None,
        _by([answer.clip for answer in mine], mine),
        _by([answer.participant for answer in mine], mine),
      ))
  return results


def wilson(successes: int, n: int) -> Interval:
  """Wilson's 95 % interval of a share, as if every answer were independent of all others."""
  from scipy.stats import binomtest
  interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
  return float(interval.low), float(interval.high)


def binomial_p(successes: int, n: int) -> float:
  """Exact two-sided p of a share of one half, as if every answer were independent of all others."""
  from scipy.stats import binomtest
  return float(binomtest(successes, n).pvalue)


def two_way_bootstrap(answers: Sequence[Answer], seed: int, resamples: int = RESAMPLES) -> Interval | None:
  """The 95 % percentile interval of the share of a when participants and clips are drawn anew, each with replacement.

  An answer counts as often as its participant times as often as its clip was drawn. So the interval is for other people
  and other clips of the same kind, and answers of one person, or about one clip, need not be independent. It is rather
  wide than narrow: chance in single answers counts up to three times (Owen 2007), and with few participants the
  bootstrap knows too little of how people differ. Where answers are few, draws that meet none are left out.

  Args:
    answers: to one question about one pair of methods; ties are left out.
    seed: of the draws.
    resamples: how many draws.

  Returns:
    (low, high), or None if fewer than two participants or two clips have decided answers.

  Source: A. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007.
  """
  decided = [answer for answer in answers if answer.chosen is not None]
  people = sorted({answer.participant for answer in decided})
  clips = sorted({answer.clip for answer in decided})
  if len(people) < 2 or len(clips) < 2:
    return None
  count, won = np.zeros((2, len(people), len(clips)))
  for answer in decided:
    where = people.index(answer.participant), clips.index(answer.clip)
    count[where] += 1
    won[where] += answer.chosen == answer.a
  rng = np.random.default_rng(seed)
  drawn_people = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=resamples)
  drawn_clips = rng.multinomial(len(clips), np.full(len(clips), 1 / len(clips)), size=resamples)
  weight = np.einsum("rp,pc,rc->r", drawn_people, count, drawn_clips, optimize=True)
  shares = np.einsum("rp,pc,rc->r", drawn_people, won, drawn_clips, optimize=True)[weight > 0] / weight[weight > 0]
  low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
  return float(low), float(high)


def _by(names: Sequence[str], answers: Sequence[Answer]) -> tuple[Tally, ...]:
  return tuple(_tally(name, [answer for own, answer in zip(names, answers) if own == name])
               for name in sorted(set(names)))


def _tally(name: str, answers: Sequence[Answer]) -> Tally:
  chosen = [answer.chosen for answer in answers]
  a = sum(answer.chosen == answer.a for answer in answers)
  ties = chosen.count(None)
  return Tally(name, a, len(answers) - a - ties, ties)
