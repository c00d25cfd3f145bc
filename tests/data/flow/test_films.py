"""The motion of some frames of a film is that of each pair alone, however the estimator is asked."""

import numpy as np
import pytest

from panda_jax.data.flow import DISFlow, encode_flow, films
from tests.data.made_clips import panorama
from tests.data.test_prepare import turning


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_estimators_are_given_short_runs_and_the_outcome_is_the_same(monkeypatch, at_once):
  """Places with gaps, a cut at 10, a shot of one frame at 20."""
  given, film = [], np.stack(list(turning(panorama(16), 21)))

  def estimator(frames):
    given.append(len(frames))
    return DISFlow("fast")(frames)

  monkeypatch.setattr(films, "_AT_ONCE", at_once)
  monkeypatch.setattr(films, "estimator", lambda name: estimator)
  places = [0, 1, 2, 5, 6, 8, 9, 10, 11, 13, 16, 19, 20]
  starts = [start for shot in ((0, 10), (10, 20), (20, 21))
            for start in films.flow_starts([place for place in places if shot[0] <= place < shot[1]], shot)]
  assert starts == [0, 1, 2, 5, 6, 8, 8, 10, 11, 13, 16, 18, None]
  pairs = list(films.estimated(lambda wanted: (film[place] for place in wanted), places, starts, "any"))
  np.testing.assert_array_equal([frame for frame, _ in pairs], film[places])
  for start, (_, found) in zip(starts, pairs, strict=True):
    flow = np.zeros((16, 32, 2), np.float32) if start is None else DISFlow("fast")(film[start:start + 2])[0]
    np.testing.assert_array_equal(found, encode_flow(flow, 32))
  assert max(given) <= at_once + 1
