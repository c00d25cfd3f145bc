import numpy as np
from PIL import Image

from panda_jax.training.metrics import MetricWriter, read_metrics


def write(workdir, restored, steps):
  writer = MetricWriter(workdir, restored)
  for step in steps:
    writer.write(step, {"loss": float(step)})
  writer.close()


def test_a_resumed_run_has_every_step_once(tmp_path):
  """Lines beyond the restored checkpoint, and one torn by a kill, are written anew."""
  write(tmp_path, 0, range(8))
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 8, "lo')
  write(tmp_path, 5, range(6, 10))
  lines = read_metrics(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == list(range(10))
  assert all(later["wall_seconds"] >= earlier["wall_seconds"] for earlier, later in zip(lines, lines[1:]))


def test_a_run_without_a_checkpoint_begins_a_new_file(tmp_path):
  write(tmp_path, 0, range(3))
  write(tmp_path, 0, range(2))
  assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


def test_pictures_and_numbers_reach_tensorboard_and_pictures_a_folder(tmp_path):
  writer = MetricWriter(tmp_path, 0)
  writer.write(1, {"loss": 1.0})
  picture = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
  writer.sample(100, picture)
  writer.close()
  [events] = (tmp_path / "tensorboard").iterdir()
  content = events.read_bytes()
  assert b"loss" in content and b"sample" in content and b"PNG" in content
  [file] = (tmp_path / "samples").iterdir()
  assert file.name == "step_000100.png"
  np.testing.assert_array_equal(np.asarray(Image.open(file)), picture)


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
  assert read_metrics(tmp_path / "metrics.jsonl") == []
