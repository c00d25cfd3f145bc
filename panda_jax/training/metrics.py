"""Where a run's numbers and pictures go: metrics.jsonl, samples/ and TensorBoard."""

import io
import json
import os
import time

import jax
import numpy as np
from einops import rearrange
from PIL import Image
import tensorboardX

from panda_jax.paths import as_path, is_remote, write_bytes, write_text
from panda_jax.training.metrics_file import METRICS_FILE, read_metrics

__all__ = ["METRICS_FILE", "SAMPLES", "MetricWriter", "read_metrics"]

SAMPLES = "samples"


class MetricWriter:
  """Appends one JSON object per logged step and mirrors it to TensorBoard. Only the first process writes.

  On resume the lines beyond the restored step are dropped, so no step appears twice. Nothing can be appended to a file
  of a bucket: there it is written anew with each line. TensorBoard's file follows there every two minutes, so a kill
  costs as much of it.
  """

  def __init__(self, workdir: str | os.PathLike, restored_step: int):
    self._active = jax.process_index() == 0
    self._workdir = as_path(workdir)
    self._began, self._earlier = time.monotonic(), 0.0
    if not self._active:
      return
    self._path = self._workdir / METRICS_FILE
    kept = [line for line in read_metrics(self._path) if line["step"] <= restored_step] if restored_step else []
    if kept:
      self._earlier = kept[-1].get("wall_seconds", 0.0)
    self._text = "".join(json.dumps(line) + "\n" for line in kept)
    write_text(self._path, self._text)
    self._file = None if is_remote(self._path) else open(self._path, "a", encoding="utf-8")
    self._board = tensorboardX.SummaryWriter(str(self._workdir / "tensorboard"),
                                             purge_step=restored_step + 1 if restored_step else 0)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line: step, the values, and the seconds spent on this run so far (earlier sessions included)."""
    if not self._active:
      return
    seconds = round(self._earlier + time.monotonic() - self._began, 3)
    line = json.dumps({"step": step, **values, "wall_seconds": seconds}) + "\n"
    if self._file:
      self._file.write(line)
      self._file.flush()
    else:
      self._text += line
      write_text(self._path, self._text)
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def sample(self, step: int, image: np.ndarray) -> None:
    """Writes a picture of what the model makes, uint8 [H W 3]: to samples/step_000100.png and to TensorBoard."""
    if not self._active:
      return
    folder = self._workdir / SAMPLES
    folder.mkdir(exist_ok=True)
    png = io.BytesIO()
    Image.fromarray(image).save(png, format="png")
    write_bytes(folder / f"step_{step:06d}.png", png.getvalue())
    self._board.add_image("sample", image, step, dataformats="HWC")

  def close(self) -> None:
    if self._active:
      if self._file:
        self._file.close()
      self._board.close()


def preview_picture(images: np.ndarray) -> np.ndarray:
  """uint8 [row v f h w 3] -> [H W 3]: columns are views; the rows show the first frame, then the last one likewise."""
  return rearrange(images[:, :, [0, -1]], "row v f h w c -> (f row h) (v w) c")
