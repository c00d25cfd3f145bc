"""The whole way through the command line, the real network at its smallest: clips, records, training, a panorama."""

import json

import numpy as np
import pytest

from panda_jax.cli.main import main
from panda_jax.data.video import probe, read_frames, write_video
from panda_jax.data.worlds import draw_world, render
from panda_jax.evaluation import held_out
from panda_jax.generate.load import open_system, settings_of
from panda_jax.generate.spherical import spherical_metadata
from panda_jax.generate.windows import Generator
from panda_jax.training.metrics import read_metrics
from panda_jax.tree import flatten
from panda_jax.weights import load_model

SMALL = ["--config.matrix.shapes=((2, 3),)", "--config.training.validate_every=2",
         "--config.training.checkpoint_every=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two world clips, prepared by `panda prepare`, and a cache that lets the three runs share their compilations."""
  folder = tmp_path_factory.mktemp("whole")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PANDA_CACHE", str(folder / "cache"))
    patch.chdir(folder)
    (folder / "clips").mkdir()
    rows = ["file,caption"]
    for seed in range(2):
      world = draw_world(seed)
      write_video(folder / "clips" / f"w{seed}.mp4", render(world, 16, (64, 128)), 8.0)
      rows.append(f'w{seed},"{world.caption}"')
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    assert main("prepare --input clips --output records --captions captions.csv --height 64".split()) == 0
    for workdir, steps, pictures in (("straight", 4, 4), ("resumed", 2, 0), ("resumed", 4, 0)):
      assert main(["train", "--config", f"configs/tiny.py:runlocal,steps={steps}", "--workdir", workdir,
                   "--config.data.path=records", f"--config.training.sample_every={pictures}",
                   "--config.model.sampling.steps=2", *SMALL]) == 0
    yield folder


def test_two_steps_resume_and_two_steps_are_four_steps_bit_for_bit(folder):
  """Parameters and every loss, with the real system, the real records and the real pipeline."""
  straight, _ = load_model(folder / "straight" / "model")
  resumed, _ = load_model(folder / "resumed" / "model")
  for (path, a), (other, b) in zip(flatten(straight).items(), flatten(resumed).items(), strict=True):
    assert path == other
    np.testing.assert_array_equal(a, b, err_msg=path)
  losses = [{line["step"]: line["loss"] for line in read_metrics(folder / run / "metrics.jsonl") if "loss" in line}
            for run in ("straight", "resumed")]
  assert losses[0] == losses[1] and set(losses[0]) == {1, 2, 3, 4}


def test_tensorboard_holds_losses_and_a_picture_of_a_sample(folder):
  events = b"".join(path.read_bytes() for path in (folder / "straight" / "tensorboard").iterdir())
  assert b"validation_loss" in events and b"sample" in events and b"\x89PNG" in events


def test_an_unfinished_run_gives_the_weights_that_it_would_export(folder):
  _, from_workdir, _ = open_system(workdir=str(folder / "straight"))
  exported, _ = load_model(folder / "straight" / "model")
  for (path, a), b in zip(flatten(from_workdir).items(), flatten(exported).values(), strict=True):
    np.testing.assert_array_equal(a, b, err_msg=path)


def test_generate_writes_a_spherical_video_with_viewer_and_sheet(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  assert main(["generate", "--workdir", "straight", "--video", "clips/w0.mp4", "--prompt", "noon", "--frames", "4",
               "--steps", "2", "--height", "32", "--output", "samples", "--name", "out"]) == 2      # w0 is itself 2:1
  assert "twice as wide" in capsys.readouterr().err
  square = [np.ascontiguousarray(frame[:, :64]) for frame in read_frames(folder / "clips" / "w0.mp4")]
  write_video(folder / "square.mp4", square, 8.0)
  assert main(["generate", "--workdir", "straight", "--video", "square.mp4", "--prompt", "noon", "--frames", "4",
               "--steps", "2", "--height", "32", "--output", "samples", "--name", "out"]) == 0
  printed = capsys.readouterr().out.split()
  assert [path.rsplit(".", 1)[1] for path in printed] == ["mp4", "html", "png"]
  video = folder / "samples" / "out_360.mp4"
  info = probe(video)
  assert (info.width, info.height, len(list(read_frames(video)))) == (64, 32, 4)
  assert {"v1", "v2"} <= set(spherical_metadata(video))


def test_the_held_out_table_scores_the_model_and_both_guesses(folder):
  system, params, config = open_system(workdir=str(folder / "straight"))
  settings = settings_of(config, steps=2, frames=4, panorama_height=32)
  clips = list(held_out.read_clips(folder / "records", "validation", 4, 8.0, 64))
  mean = held_out.training_mean(folder / "records", "train", 64)
  rows = held_out.evaluate(Generator(system, params, settings), clips, mean)
  assert len(rows) == 2 and json.dumps(rows)
  table = {row[0]: row[1:] for row in held_out.summary(rows)}
  assert set(table) == set(held_out.METHODS) and all(5 < row[0] < 60 for row in table.values())


def test_the_truth_scores_perfectly_and_the_given_view_comes_back():
  """A model that paints the true panorama has infinite PSNR, SSIM 1, the truth's seam, and the given view's pixels."""
  from panda_jax.geometry import VIDEOPANDA_RIG, project, to_uint8
  truth = np.stack(list(render(draw_world(3), 2, (64, 128))))
  given = to_uint8(project(truth, VIDEOPANDA_RIG[0], (32, 32)))
  row = held_out.score(truth, truth, given, VIDEOPANDA_RIG[0], truth.mean((0, 1, 2)) * np.ones((64, 128, 3)))
  assert row["psnr/model"] == np.inf and row["ssim/model"] > 0.999 and row["seam"] == row["seam truth"]
  assert row["given view"] > 50
