"""Where a run's numbers and pictures go: metrics.jsonl, samples/, TensorBoard, and the terminal."""

import json
import os
from pathlib import Path
import sys
import time

import jax
import numpy as np
from PIL import Image
from rich import console as rich_console
from rich import progress as rich_progress
import tensorboardX

METRICS_FILE = "metrics.jsonl"
SAMPLES = "samples"


class MetricWriter:
  """Appends one JSON object per logged step and mirrors it to TensorBoard. Only the first process writes.

  On resume the lines beyond the restored step are dropped, so no step appears twice.
  """

  def __init__(self, workdir: str | os.PathLike, restored_step: int):
    self._active = jax.process_index() == 0
    self._workdir = Path(workdir)
    self._began, self._earlier = time.monotonic(), 0.0
    if not self._active:
      return
    path = Path(workdir) / METRICS_FILE
    kept = [line for line in read_metrics(path) if line["step"] <= restored_step] if restored_step else []
    if kept:
      self._earlier = kept[-1].get("wall_seconds", 0.0)
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(fresh, path)
    self._file = open(path, "a", encoding="utf-8")
    self._board = tensorboardX.SummaryWriter(str(Path(workdir) / "tensorboard"),
                                             purge_step=restored_step + 1 if restored_step else 0)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line: step, the values, and the seconds spent on this run so far (earlier sessions included)."""
    if not self._active:
      return
    seconds = round(self._earlier + time.monotonic() - self._began, 3)
    self._file.write(json.dumps({"step": step, **values, "wall_seconds": seconds}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def sample(self, step: int, image: np.ndarray) -> None:
    """Writes a picture of what the model makes, uint8 [H W 3]: to samples/step_000100.png and to TensorBoard."""
    if not self._active:
      return
    folder = self._workdir / SAMPLES
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:06d}.png"
    fresh = path.with_suffix(".tmp")
    Image.fromarray(image).save(fresh, format="png")
    os.replace(fresh, path)
    self._board.add_image("sample", image, step, dataformats="HWC")

  def close(self) -> None:
    if self._active:
      self._file.close()
      self._board.close()


def read_metrics(path: str | os.PathLike) -> list[dict]:
  """The lines of a metrics.jsonl, or [] where there is none. A last line cut short by a kill is left out."""
  path = Path(path)
  if not path.exists():
    return []
  lines = []
  for text in path.read_text(encoding="utf-8").splitlines():
    try:
      lines.append(json.loads(text))
    except ValueError:
      break
  return lines


class Progress:
  """A bar with rate and ETA on a terminal; plain lines everywhere else. Only the first process speaks."""

  def __init__(self, start: int, total: int):
    self._active = jax.process_index() == 0
    self._console = rich_console.Console(stderr=True)
    self._bar = None
    self._total = total
    if self._active and self._console.is_terminal:
      self._bar = rich_progress.Progress(
          rich_progress.TextColumn("training"), rich_progress.BarColumn(), rich_progress.MofNCompleteColumn(),
          rich_progress.TextColumn("{task.fields[note]}"), rich_progress.TimeRemainingColumn(),
          console=self._console)
      self._task = self._bar.add_task("training", completed=start, total=total, note="")
      self._bar.start()

  def say(self, text: str) -> None:
    """One line of news."""
    if not self._active:
      return
    if self._bar:
      self._console.print(text, highlight=False, markup=False)
    else:
      print(text, file=sys.stderr, flush=True)

  def advance(self, step: int) -> None:
    """Moves the bar."""
    if self._bar:
      self._bar.update(self._task, completed=step)

  def report(self, step: int, values: dict[str, float]) -> None:
    """Shows a logged step: under the bar's note, or as a line of its own."""
    note = "  ".join(f"{label} {values[name]:{form}}" for name, label, form in (
        ("loss", "loss", ".4f"), ("validation_loss", "validation loss", ".4f"),
        ("steps_per_second", "steps/s", ".2f")) if name in values)
    if self._bar:
      self._bar.update(self._task, completed=step, note=note)
      return
    left = ""
    if values.get("steps_per_second"):
      left = f"  about {_duration((self._total - step) / values['steps_per_second'])} left"
    self.say(f"step {step}/{self._total}  {note}{left}")

  def close(self) -> None:
    if self._bar:
      self._bar.stop()


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours} h {minutes:02d} min"
  return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
