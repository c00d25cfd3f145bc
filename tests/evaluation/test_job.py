"""A job measures every clip once, wherever its parts run, and what it reports is what was measured."""

import dataclasses
import shutil

import numpy as np
import pytest

from panda_jax.data.clips import find_methods, read_clips
from panda_jax.errors import InputError
from panda_jax.evaluation import job as jobs
from panda_jax.evaluation.catalogue import METRICS, choose
from panda_jax.evaluation.extractors import Weights
from panda_jax.evaluation.frechet import Moments, frechet_distance
from panda_jax.evaluation.measure import images_of
from panda_jax.evaluation.metrics import psnr, ws_psnr
from panda_jax.evaluation.protocol import Protocol
from panda_jax.evaluation.reading import read_frames
from panda_jax.evaluation.seams import discontinuity_score
from panda_jax.evaluation.summary import summarise
from tests.evaluation.benchmarks import HEIGHT, darker, world, write_benchmark, write_clip, write_table

PROTOCOL = Protocol(frames=4, height=HEIGHT, surfaces=("panorama", "horizontal4"), samples=50, groups=3)


class Thumbnails:
  """Stands for InceptionV3 and I3D: an image is 2x2x3 numbers, a video their mean."""

  input = "thumbnails"

  def __init__(self):
    self.seen = 0

  def features(self, images):
    self.seen += len(images)
    *n, h, w, c = images.shape
    cells = images.reshape(*n, 2, h // 2, 2, w // 2, c).mean((-4, -2)).astype(np.float32) / 255
    return cells.reshape(*n, -1) if len(n) == 1 else cells.mean(1).reshape(n[0], -1)


def open_job(folder, output, **changes):
  clips = read_clips(folder / "clips")
  networks = ("inception", "i3d")
  metrics, left_out = choose(("all",), networks, truth=True, prompts=True, frames=9)      # a stand-in takes any number
  protocol = dataclasses.replace(PROTOCOL, **changes)
  job = jobs.Job(tuple(clips), find_methods(folder / "made"), output, protocol, tuple(m.name for m in metrics), {},
                 {kind: Weights(kind, "thumbnails", "00") for kind in networks})
  return job, metrics, left_out


def measure_all(job):
  network = Thumbnails()
  for clip in job.clips:
    jobs.measure_clip(job, clip, {"inception": network, "i3d": network})
  return network.seen


def tables(job, metrics, left_out, **more):
  return summarise(job, metrics, left_out, **more)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
  folder = tmp_path_factory.mktemp("benchmark")
  write_benchmark(folder)
  return folder


@pytest.fixture(scope="module")
def measured(benchmark, tmp_path_factory):
  job, metrics, left_out = open_job(benchmark, tmp_path_factory.mktemp("scores"))
  assert measure_all(job) > 0
  return job, *tables(job, metrics, left_out)


def value(summary, method, metric, surface="panorama", split=""):
  rows = [row for row in summary["rows"] if (row["method"], row["metric"], row["surface"], row["split"]) ==
          (method, metric, surface, split)]
  assert len(rows) == 1
  return rows[0]["value"]


def frames_of(job, method, clip):
  return read_frames(job.video_of(method, clip), job.protocol).panoramas


def test_every_number_is_that_of_its_function(measured):
  """From the files again: means over clips of PSNR on the sphere and on views, of the seam, and distances of all features."""
  job, summary, _ = measured
  pairs = [(frames_of(job, "reference", clip), frames_of(job, "darker", clip)) for clip in job.clips]
  assert value(summary, "darker", "ws_psnr") == pytest.approx(np.mean([ws_psnr(*pair) for pair in pairs]))
  views = [tuple(images_of(x, "horizontal4", job.protocol) for x in pair) for pair in pairs]
  assert value(summary, "darker", "psnr", "horizontal4") == pytest.approx(np.mean([psnr(*pair) for pair in views]))
  assert value(summary, "seam", "discontinuity_score") == pytest.approx(
    np.mean([discontinuity_score(frames_of(job, "seam", clip)) for clip in job.clips]))
  of = lambda side: Moments.of_all(Thumbnails().features(x[side].reshape(-1, *x[side].shape[2:])) for x in views)
  assert value(summary, "darker", "fid", "horizontal4") == pytest.approx(frechet_distance(of(1), of(0)), rel=1e-6)
  of = lambda side: Moments.of_all(Thumbnails().features(x[side]) for x in views)
  assert value(summary, "darker", "fvd", "horizontal4") == pytest.approx(frechet_distance(of(1), of(0)), rel=1e-6)


def test_omni_fid_is_the_mean_of_up_down_and_averaged_sides(measured):
  """Christensen et al. 2024: cube faces, the four sides as one feature."""
  job, summary, _ = measured

  def of(method, part):
    cubes = (images_of(frames_of(job, method, clip), "cubemap", job.protocol) for clip in job.clips)
    faces = (np.stack([Thumbnails().features(face) for face in cube]) for cube in cubes)
    return Moments.of_all(part(face) for face in faces)

  parts = (lambda x: x[4], lambda x: x[5], lambda x: x[:4].mean(0))
  expected = np.mean([frechet_distance(of("darker", part), of("reference", part)) for part in parts])
  assert value(summary, "darker", "omni_fid") == pytest.approx(expected, rel=1e-6)


def test_methods_are_ranked_as_they_were_made(measured):
  _, summary, _ = measured
  assert value(summary, "same", "psnr") > 45 > 30 > value(summary, "darker", "psnr")
  assert value(summary, "same", "fid") < 0.01 * value(summary, "darker", "fid")
  assert value(summary, "seam", "discontinuity_score") > 5 * value(summary, "same", "discontinuity_score")
  assert value(summary, "reference", "seam_ratio") == pytest.approx(value(summary, "same", "seam_ratio"), rel=0.3)
  assert value(summary, "darker", "seam_ratio") < 3 < value(summary, "seam", "seam_ratio")


def test_splits_are_counted_by_themselves(measured):
  _, summary, _ = measured
  assert summary["clips"]["splits"] == {"even": 2, "odd": 2}
  parts = [value(summary, "darker", "psnr", split=split) for split in ("even", "odd")]
  assert value(summary, "darker", "psnr") == pytest.approx(np.mean(parts))


def test_a_method_is_compared_clip_by_clip_with_the_baseline(measured):
  """The mean of differences is the difference of means here, and its interval is that of the differences."""
  _, summary, _ = measured
  assert summary["baseline"] == "darker"
  row = next(row for row in summary["differences"] if (row["metric"], row["surface"], row["method"]) ==
             ("psnr", "panorama", "same"))
  assert row["value"] == pytest.approx(value(summary, "same", "psnr") - value(summary, "darker", "psnr"))
  assert row["low"] <= row["value"] <= row["high"] and row["clips"] == 4
  assert {row["metric"] for row in summary["differences"]} >= {"fid", "fvd", "omni_fid", "psnr", "seam_ratio"}


def test_every_row_says_how_it_was_made(measured):
  _, summary, scores = measured
  for row in summary["rows"]:
    assert row["variant"] or row["metric"] in ("end_continuity", "flicker", "colour_shift", "border_jump")
    assert row["resize"] and row["height"] == HEIGHT and row["frames"] in (4, "all") and row["fps"] == 8
    if METRICS[row["metric"]].network:
      assert row["network"] == "thumbnails" and row["sha256"] == "00"
    assert (row["normaliser"] == "n-1") == METRICS[row["metric"]].of_a_set
    assert bool(row["views"]) == (row["surface"] == "horizontal4")
  fid = next(row for row in summary["rows"] if row["metric"] == "fid" and row["surface"] == "horizontal4")
  assert (fid["clips"], fid["items"]) == (4, 4 * 4 * 4)
  assert len(scores) == sum(4 for row in summary["rows"] if not row["split"] and not METRICS[row["metric"]].of_a_set)


def test_too_few_features_are_said_to_be(measured):
  _, summary, _ = measured
  note = next(row["note"] for row in summary["rows"] if row["metric"] == "fvd" and row["surface"] == "panorama")
  assert "4 features of 12 dimensions" in note


def test_random_features_never_pass_for_the_real_ones(benchmark, tmp_path):
  """They have a name of their own, which says so, in every file."""
  job, metrics, left_out = open_job(benchmark, tmp_path / "scores")
  job = dataclasses.replace(job, weights={kind: Weights(kind, "random", "") for kind in job.weights})
  measure_all(job)
  summary, _ = tables(job, metrics, left_out)
  names = {row["metric"] for row in summary["rows"]}
  assert {"random_fid", "random_fvd", "random_omni_fid"} <= names and not names & {"fid", "fvd", "omni_fid"}
  assert summary["metrics"]["random_fid"]["title"] == "FID of random features"
  assert all("NOT comparable" in row["variant"] for row in summary["rows"] if row["metric"].startswith("random_"))


def test_nothing_is_measured_twice_and_what_has_changed_is(benchmark, tmp_path):
  shutil.copytree(benchmark, tmp_path / "benchmark")
  job, metrics, left_out = open_job(tmp_path / "benchmark", tmp_path / "scores")
  everything = measure_all(job)
  before = tables(job, metrics, left_out)
  assert measure_all(job) == 0
  aggregated, *_ = open_job(tmp_path / "benchmark", tmp_path / "scores", normaliser="n", samples=7)
  assert measure_all(aggregated) == 0
  assert value(tables(aggregated, metrics, left_out)[0], "darker", "fid") < value(before[0], "darker", "fid")
  write_clip(job.video_of("darker", job.clips[0]), darker(darker(world(0))))
  with pytest.raises(InputError, match="even::00 of darker is not measured yet"):
    tables(job, metrics, left_out)
  assert 0 < measure_all(job) < everything / 6
  assert value(tables(job, metrics, left_out)[0], "darker", "psnr") < value(before[0], "darker", "psnr")
  other, *_ = open_job(tmp_path / "benchmark", tmp_path / "scores", frames=3)
  assert measure_all(other) > 0.7 * everything


def test_parts_of_a_job_give_the_tables_of_the_whole(benchmark, measured, tmp_path):
  """Two shards, in processes of their own, into one folder: the same bytes; none before both are done."""
  plain = lambda job: dataclasses.replace(job, metrics=tuple(
    name for name in job.metrics if not METRICS[name].network), weights={})
  job, metrics, left_out = open_job(benchmark, tmp_path / "scores")
  job, metrics = plain(job), [metric for metric in metrics if not metric.network]
  whole = dataclasses.replace(job, output=tmp_path / "whole")
  assert jobs.run(whole) == 4
  assert jobs.run(job, shard=(0, 2)) == 2 and not jobs.complete(job)
  assert jobs.run(job, shard=(1, 2), processes=2) == 2 and jobs.complete(job)
  assert tables(job, metrics, left_out) == tables(whole, metrics, left_out)
  files = sorted(path.relative_to(job.output) for path in job.output.rglob("*") if path.is_file())
  assert files == sorted(path.relative_to(whole.output) for path in whole.output.rglob("*") if path.is_file())
  assert all((job.output / file).read_bytes() == (whole.output / file).read_bytes() for file in files)


# --- what is wrong with clips


@pytest.fixture
def damaged(benchmark, tmp_path):
  """One clip of each kind of trouble in the method "darker", and a method that is whole."""
  shutil.copytree(benchmark, tmp_path / "benchmark")
  made = tmp_path / "benchmark" / "made" / "darker"
  names = sorted(path for path in made.iterdir())
  names[0].unlink()
  names[1].write_bytes(b"not a film")
  write_clip(names[2], darker(world(1))[:2])
  write_clip(names[3], darker(world(3)), fps=30)
  return tmp_path


def test_clips_that_cannot_be_compared_are_named_and_counted(damaged):
  job, metrics, left_out = open_job(damaged / "benchmark", damaged / "scores")
  measure_all(job)
  summary, scores = tables(job, metrics, left_out)
  assert summary["methods"]["darker"] | {"folder": ""} == {"folder": "", "scored": 0, "missing": 1, "unusable": 3}
  assert summary["methods"]["same"]["scored"] == 4
  kinds = {row["clip"]: row["kind"] for row in summary["problems"] if row["method"] == "darker"}
  assert sorted(kinds.values()) == ["damaged", "fps", "missing", "short"]
  assert value(summary, "darker", "psnr") is None and value(summary, "darker", "fid") is None
  whys = [row["why"] for row in scores if (row["method"], row["metric"], row["surface"]) == ("darker", "psnr", "panorama")]
  assert sorted(whys) == ["damaged", "fps", "missing", "short"]
  assert not [row for row in summary["differences"] if row["method"] == "same" and row["metric"] == "psnr"]


def test_nothing_that_can_be_compared_is_an_error(damaged):
  job, metrics, left_out = open_job(damaged / "benchmark", damaged / "scores")
  job = dataclasses.replace(job, methods={"darker": job.methods["darker"]})
  measure_all(job)
  with pytest.raises(InputError, match="none of the 4 videos could be compared"):
    tables(job, metrics, left_out)


def test_a_broken_truth_is_the_truths_fault(benchmark, tmp_path):
  shutil.copytree(benchmark, tmp_path / "benchmark")
  (tmp_path / "benchmark" / "clips" / "videos" / "odd__01.mp4").unlink()
  job, metrics, left_out = open_job(tmp_path / "benchmark", tmp_path / "scores")
  measure_all(job)
  summary, _ = tables(job, metrics, left_out)
  sentences = {row["method"]: row["sentence"] for row in summary["problems"]}
  assert sentences.keys() == {"reference", "darker", "same", "seam"}
  assert sentences["darker"].endswith("(the true video)")
  assert summary["methods"]["same"]["scored"] == 3


def test_a_clip_without_a_true_video_is_measured_without(benchmark, tmp_path):
  shutil.copytree(benchmark, tmp_path / "benchmark")
  table = tmp_path / "benchmark" / "clips" / "master.csv"
  clips = read_clips(table)
  write_table(table, [{"clip_id": clip.id, "video_path": "" if number == 0 else f"videos/{clip.name}.mp4"}
                      for number, clip in enumerate(clips)])
  job, metrics, left_out = open_job(tmp_path / "benchmark", tmp_path / "scores")
  measure_all(job)
  summary, scores = tables(job, metrics, left_out)
  rows = {(row["metric"], row["method"], row["surface"]): row for row in summary["rows"]}
  assert rows["psnr", "darker", "panorama"]["clips"] == 3
  assert rows["psnr", "darker", "panorama"]["note"] == "1 of 4 clips have no value"
  assert rows["seam_ratio", "darker", "panorama"]["clips"] == 4
  assert "the clip has no true video" in {row["why"] for row in scores}


def test_black_clips_and_equal_clips_are_scored(benchmark, tmp_path):
  """A generator that gives black is told so and pays for it; equal clips count as the cap and not as infinity."""
  shutil.copytree(benchmark, tmp_path / "benchmark")
  for method in ("darker", "seam", "same"):
    shutil.rmtree(tmp_path / "benchmark" / "made" / method)
  for clip in read_clips(benchmark / "clips"):
    write_clip(tmp_path / "benchmark" / "made" / "black" / f"{clip.name}.mp4", np.zeros((4, HEIGHT, 2 * HEIGHT, 3), np.uint8))
    target = tmp_path / "benchmark" / "made" / "copy" / f"{clip.name}.mp4"
    target.parent.mkdir(exist_ok=True)
    shutil.copy(clip.video, target)
  job, metrics, left_out = open_job(tmp_path / "benchmark", tmp_path / "scores")
  measure_all(job)
  summary, scores = tables(job, metrics, left_out)
  assert [row["kind"] for row in summary["problems"]] == ["one colour"] * 4
  assert value(summary, "black", "psnr") < 12 and value(summary, "black", "discontinuity_score") == 0
  assert value(summary, "copy", "psnr") == value(summary, "copy", "ws_psnr") == 100
  assert "equal to the truth, counted as 100 dB" in {row["why"] for row in scores}
  assert value(summary, "copy", "fid") < 1e-6 and value(summary, "copy", "fvd", "horizontal4") < 1e-6


def test_features_that_are_no_numbers_leave_their_clip_out(benchmark, tmp_path):
  class Broken(Thumbnails):
    def features(self, images):
      features = super().features(images)
      features[0, 0] = np.nan if self.seen == len(images) else features[0, 0]              # of the very first call
      return features

  job, metrics, left_out = open_job(benchmark, tmp_path / "scores")
  network = Broken()
  for clip in job.clips:
    jobs.measure_clip(job, clip, {"inception": network, "i3d": network})
  summary, _ = tables(job, metrics, left_out)
  assert [(row["method"], row["clip"], row["kind"]) for row in summary["problems"]] == [("reference", "even::00", "features")]
  assert next(row["clips"] for row in summary["rows"] if row["metric"] == "fid" and row["method"] == "same") == 3


def test_a_folder_with_other_files_is_not_written_over(benchmark, tmp_path):
  job, *_ = open_job(benchmark, tmp_path / "scores")
  place = tmp_path / "scores" / "clips" / "darker" / "even__00.json"
  place.parent.mkdir(parents=True)
  for content in ("{", "[]"):
    place.write_text(content)
    with pytest.raises(InputError, match="even__00.json"):
      measure_all(job)
