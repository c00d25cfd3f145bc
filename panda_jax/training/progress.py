"""What the terminal shows of a run."""

import sys

import jax
from rich import console as rich_console
from rich import progress as rich_progress

# (metric, label, format, from which value on it is worth a look)
_SHOWN = (("loss", "loss", ".4f", None), ("validation_loss", "validation loss", ".4f", None),
          ("steps_per_second", "steps/s", ".2f", None), ("mfu", "MFU", ".1%", None),
          ("data_wait", "waiting for data", ".0%", 0.05))


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
    note = "  ".join(f"{label} {values[name]:{form}}" for name, label, form, least in _SHOWN
                     if name in values and (least is None or values[name] >= least))
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
