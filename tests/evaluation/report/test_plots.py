"""The report's plots: round numbers on the axes, every mark inside, and the truth of what they mark."""

import re

import pytest

from panda_jax.evaluation.report.markup import Metric
from panda_jax.evaluation.report.plots import Difference, Group, forest, strips, ticks
from tests.evaluation.report.reading import Page

PSNR = Metric("psnr", "PSNR", "dB", "higher", 2)


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 7.9), (1e-6, 3e-6), (1234, 98765), (0.999, 1.001), (-5e-4, 0)])
def test_ticks_are_round_inside_and_told_apart(low, high):
  marks = ticks(low, high)
  assert 2 <= len(marks) <= 6 and len({text for _, text in marks}) == len(marks)
  assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in marks)
  assert [float(text) for _, text in marks] == pytest.approx([value for value, _ in marks], abs=1e-12)


def points(svg):
  return [float(x) for x in re.findall(r'<circle[^>]* cx="([^"]+)"', svg)]


def test_differences_lie_left_and_right_of_zero():
  better = Difference("a", 1, 1.5, 0.5, 2.5, 9)
  worse = Difference("b", 2, -0.5, -0.9, -0.1, 9)
  unclear = Difference("c", 3, 0.2, -0.4, 0.8, 1)
  svg = forest(PSNR, [better, worse, unclear])
  zero = float(re.search(r'class="zero" x1="([^"]+)"', svg)[1])
  a, b, c = points(svg)
  assert b < zero < c < a
  assert re.findall(r'class="difference ([a-z ]+)"', svg) == ["clear better", "clear worse", "unclear"]
  lower = forest(Metric("fid", "FID", "", "lower", 1), [better, worse])
  assert re.findall(r'class="difference ([a-z ]+)"', lower) == ["clear worse", "clear better"]
  assert "0.20 [-0.40, 0.80]" in svg and "c, 1 clip<" in svg


def test_a_difference_without_an_interval_is_a_point():
  svg = forest(PSNR, [Difference("a", 1, 0.0, None, None, 1)])
  assert re.findall(r'class="difference ([a-z ]+)"', svg) == ["unclear"] and ">0.00<" in svg


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0, 50.0], [-1e6, 1e6], [0.0] * 9])
def test_every_clip_is_inside_the_plot(values):
  clips = [f"clip {n}" for n in range(len(values))]
  svg = strips(PSNR, [Group("a method of a very long name indeed", 0, range(len(values)), clips, values)])
  Page(svg)
  assert len(points(svg)) == len(values) and all(120 < x < 380 for x in points(svg))
  assert ("class=\"box\"" in svg) == (len(values) >= 5), "quartiles of a few clips say nothing"


def test_a_clip_lies_at_one_height_in_every_band():
  groups = [Group(name, place, [0, 1], ["x", "y"], [1.0, 2.0]) for place, name in enumerate("ab")]
  heights = [float(y) for y in re.findall(r'cy="([^"]+)"', strips(PSNR, groups))]
  assert heights[2] - heights[0] == heights[3] - heights[1] == 36
