"""Which images are given: the three regimes, how often each and each drop occurs, and what guidance does."""

import functools

import jax
import numpy as np
import pytest

from panda_jax.diffusion.conditioning import REGIMES, draw_conditions, group_sigma, guided, regime_mask

VIEWS, FRAMES, DRAWS = 3, 4, 20_000
VIDEO = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
CONTINUATION = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]])
ROW = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
NOTHING = np.zeros((VIEWS, FRAMES), int)


@functools.cache
def drawer():
  """One compiled program for all probabilities."""
  return jax.jit(functools.partial(draw_conditions, batch=DRAWS, views=VIEWS, frames=FRAMES))


def draw(seed=0, **changes):
  """(mask, sigma, keep_text) of many clips."""
  options = dict(max_view_sigma=0.7, max_row_sigma=0.7, drop_images=0.0, drop_text=0.0, drop_both=0.0, drop_video=0.0)
  return [np.asarray(x) for x in drawer()(jax.random.key(seed), **options | changes)]


def share(mask, pattern) -> float:
  """How many of the clips have this mask."""
  return float((mask == pattern).all((1, 2)).mean())


def close(value, expected) -> bool:
  """Within five standard errors of a share among DRAWS."""
  return abs(value - expected) <= 5 * max(expected * (1 - expected) / DRAWS, 1e-12) ** 0.5


def test_masks_are_those_of_the_papers_figure_3():
  assert REGIMES == ("text", "video", "continuation")
  masks = regime_mask(np.array([0, 1, 2, 1]), VIEWS, FRAMES)
  assert masks.dtype == np.float32
  np.testing.assert_array_equal(masks, [NOTHING, VIDEO, CONTINUATION, VIDEO])


def test_the_three_regimes_are_equally_likely():
  mask, _, keep_text = draw()
  assert all(close(share(mask, pattern), 1 / 3) for pattern in (NOTHING, VIDEO, CONTINUATION))
  assert (keep_text == 1).all()


def test_dropped_images_leave_nothing_given_and_the_text_alone():
  mask, _, keep_text = draw(drop_images=0.25)
  assert close(share(mask, VIDEO), 0.75 / 3) and close(share(mask, CONTINUATION), 0.75 / 3)
  assert close(share(mask, NOTHING), 1 / 3 + 0.25 * 2 / 3)
  assert (keep_text == 1).all()


def test_text_is_dropped_whatever_is_given():
  mask, _, keep_text = draw(drop_text=0.2)
  assert set(np.unique(keep_text)) == {0, 1}
  for pattern in (NOTHING, VIDEO, CONTINUATION):
    with_pattern = (mask == pattern).all((1, 2))
    assert close(((keep_text == 0) & with_pattern).mean(), 0.2 / 3)


def test_dropping_both_trains_the_branch_without_text_or_images():
  mask, _, keep_text = draw(drop_both=0.1)
  nothing = (mask == 0).all((1, 2))
  assert close((keep_text == 0).mean(), 0.1)
  assert nothing[keep_text == 0].all()


def test_all_drops_together_are_independent():
  mask, _, keep_text = draw(drop_images=0.1, drop_text=0.1, drop_both=0.1, drop_video=0.3)
  assert close((keep_text == 0).mean(), 1 - 0.9 * 0.9)
  given = 0.9 * 0.9 / 3
  assert close(share(mask, VIDEO), given)
  assert close(share(mask, CONTINUATION), given * 0.7) and close(share(mask, ROW), given * 0.3)
  assert close(share(mask, NOTHING), 1 - 2 * given)


def test_dropping_the_video_of_a_continuation_leaves_only_the_row():
  mask, _, _ = draw(drop_video=1.0)
  assert share(mask, CONTINUATION) == 0
  assert close(share(mask, ROW), 1 / 3) and close(share(mask, VIDEO), 1 / 3)


def test_only_given_images_are_noised_at_one_level_for_the_video_and_one_for_the_row():
  mask, sigma, _ = draw(drop_video=0.3)
  assert (sigma[mask == 0] == 0).all()
  assert 0 <= sigma.min() and sigma.max() < 0.7
  video = sigma[(mask == VIDEO).all((1, 2))]
  assert (video[:, :1] == video[:, :1, :1]).all()
  long = sigma[(mask == CONTINUATION).all((1, 2))]
  view_level, row_level = long[:, 0, 0], long[:, 1, 0]
  assert (long[:, 0] == view_level[:, None]).all() and (long[:, 1:, 0] == row_level[:, None]).all()
  for level in (video[:, 0, 0], view_level, row_level):              # uniform
    np.testing.assert_allclose(np.quantile(level, (0.1, 0.5, 0.9)), (0.07, 0.35, 0.63), atol=0.02)
  assert abs(np.corrcoef(view_level, row_level)[0, 1]) < 0.05


def test_sigma_never_exceeds_its_maximum():
  _, sigma, _ = draw(max_view_sigma=0.1, max_row_sigma=0.1)
  assert 0.099 < sigma.max() < 0.1


def test_group_sigma_gives_each_clip_its_own_two_levels():
  mask = np.stack([CONTINUATION, VIDEO]).astype(np.float32)
  sigma = group_sigma(mask, np.array([0.1, 0.2]), np.array([0.5, 0.6]))
  expected = np.stack([np.where([[True], [False], [False]], 0.1, 0.5), np.full((VIEWS, 1), 0.2)]) * mask
  np.testing.assert_allclose(sigma, expected, rtol=1e-6)


def test_draws_follow_from_the_key_alone():
  first, again, other = draw(seed=3), draw(seed=3), draw(seed=4)
  for x, y in zip(first, again):
    np.testing.assert_array_equal(x, y)
  assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("scale, expected", [(1.0, 3.0), (0.0, 2.0), (4.0, 6.0)])
def test_guidance_goes_from_the_unconditional_through_the_conditional(scale, expected):
  np.testing.assert_allclose(guided(np.full(2, 3.0), np.full(2, 2.0), scale), expected)
