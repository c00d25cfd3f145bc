"""The tables of a study say what one computes by hand."""

import pytest

from panda_jax.evaluation.study_tables import Run, difference, numbers, report, spread


def sampled(psnr, sharpness=(1.0, 2.0)):
  return {"psnr": psnr, "ssim": 0.5, "sharpness": list(sharpness), "flicker": [0.0, 0.0]}


def run(row, seed, *psnrs, **parts):
  worlds = [{"all": sampled(psnr) | {"horizon": psnr + 1}, "early": sampled(psnr), "late": sampled(psnr)}
            for psnr in psnrs]
  return Run(row, seed, **{"loss": [], "sampling": worlds, "long": []} | parts)


RUNS = [run("full", 0, 20.0, 22.0), run("full", 1, 23.0, 23.0), run("full", 2, 25.0, 25.0),
        run("fixed_matrix", 0, 20.5, 20.5), run("fixed_matrix", 1, 20.0, 20.0), run("fixed_matrix", 2, 19.0, 19.0),
        run("single_task", 1, 24.0, 24.0)]


def rows_of(text, heading):
  """The cells of the first table behind a line that begins so, by the first cell."""
  lines = text[text.index(heading):].splitlines()
  first = next(number for number, line in enumerate(lines) if line.startswith("|"))
  table = []
  for line in lines[first:]:
    if not line.startswith("|"):
      break
    table.append([cell.strip() for cell in line.strip("|").split("|")])
  return {line[0]: dict(zip(table[0], line)) for line in table[2:]}


def test_a_row_has_mean_and_deviation_over_its_seeds():
  """Means over worlds are 21, 23, 25: 23 and a deviation (of n - 1) of 2. One seed has no deviation."""
  table = rows_of(report(RUNS), "### Sampled")
  assert list(table) == ["full", "fixed_matrix", "single_task"]                # what the others are compared with first
  assert table["full"]["PSNR dB ↑"] == "23.00 ± 2.00" and table["full"]["seeds"] == "3"
  assert table["fixed_matrix"]["PSNR dB ↑"] == "19.83 ± 0.76"                  # sqrt((0.67² + 0.17² + 0.83²) / 2)
  assert table["single_task"]["PSNR dB ↑"] == "24.00" and table["single_task"]["seeds"] == "1"
  assert table["full"]["PSNR dB within 35° of the horizon ↑"] == "24.00 ± 2.00"


def test_every_run_has_its_own_line():
  table = rows_of(report(RUNS), "Every run:")
  assert [table[f"full-{seed}"]["PSNR dB ↑"] for seed in range(3)] == ["21.00", "23.00", "25.00"]
  assert len(table) == len(RUNS)


def test_differences_are_paired_by_seed_and_say_how_many_agree():
  """Less full: -0.5, -3 and -6. A row with one seed is compared with that seed alone, not with the mean."""
  table = rows_of(report(RUNS), "Less full")
  assert set(table) == {"fixed_matrix", "single_task"}
  assert table["fixed_matrix"]["PSNR dB ↑"] == "-3.17 (3 of 3)"
  assert table["single_task"]["PSNR dB ↑"] == "+1.00 (1 of 1)"
  assert difference([0.5, -2.0, -6.0], 1) == "-2.5 (2 of 3)"
  assert difference([], 1) == spread([], 1) == spread([None], 1) == "–"


def test_another_row_can_be_what_is_compared_with_and_an_absent_one_compares_nothing():
  assert set(rows_of(report(RUNS, "fixed_matrix"), "Less fixed_matrix")) == {"full", "single_task"}
  assert "Less" not in report(RUNS, "no_shift")


def test_ratios_are_of_sums_over_the_worlds():
  """A world that stands still has no flicker of its own, and must not decide the mean of all."""
  worlds = [sampled(20.0, (4.0, 1.0)), sampled(20.0, (2.0, 3.0)), sampled(20.0, (1.0, 0.0))]
  score = numbers(Run("full", 0, [], [{"all": world, "early": world, "late": world} for world in worlds], []))
  assert score["all sharpness"] == pytest.approx(7 / 4)
  assert "all flicker" not in score                                            # nothing moves in any of them


def test_losses_are_means_over_worlds_and_timesteps():
  """A noise level that the run's schedule does not reach is left out, not counted as nothing."""
  worlds = [{"loss text 0100": 0.2, "loss text 0900": 0.4, "clean text 0100": 0.1, "clean text 0900": None},
            {"loss text 0100": 0.4, "loss text 0900": 0.6, "clean text 0100": 0.3, "clean text 0900": None}]
  score = numbers(Run("no_shift", 0, worlds, [], []))
  assert score["loss text"] == pytest.approx(0.4) and score["loss text 0900"] == pytest.approx(0.5)
  assert score["clean text 0100"] == pytest.approx(0.2) and "clean text 0900" not in score
  text = report([run("full", 0, loss=[worlds[0] | {"clean text 0900": 2.0}]), Run("no_shift", 0, worlds, [], [])])
  assert rows_of(text, "### Loss")["no_shift"]["text alone"] == "0.4000"
  levels = rows_of(text, "### Squared error of the clean latents by noise level (text)")
  assert levels["no_shift"]["as at 900"] == "–" and levels["full"]["as at 900"] == "2.0000"


def test_long_videos_have_a_slope_per_window():
  """PSNR 24, 22, 20 falls by 2 dB a window; the sharpness of sums 1, 1.5, 2 rises by a half."""
  windows = [sampled(psnr, (sharpness, 1.0)) for psnr, sharpness in ((24.0, 1.0), (22.0, 1.5), (20.0, 2.0))]
  long = [{"windows": windows, "jump": 1.5}, {"windows": windows, "jump": 2.5}, {"windows": windows, "jump": None}]
  score = numbers(run("full", 0, long=long))
  assert (score["slope psnr"], score["slope sharpness"], score["jump"]) == pytest.approx((-2.0, 0.5, 2.0))
  text = report([run("full", 0, 20.0, long=long), run("fixed_matrix", 0, 20.0)])
  table = rows_of(text, "### Long video: PSNR")
  assert set(table) == {"full"} and table["full"]["3"] == "20.00" and table["full"]["slope per window"] == "-2.00"
  assert rows_of(text, "### Long video: sharpness")["full"]["jump at borders → 1"] == "2.00"
