"""Frames become the files that a person opens: the spherical mp4, the one-file viewer, the contact sheet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterable

import numpy as np

from panda_jax.data.video import read_frames
from panda_jax.errors import InputError
from panda_jax.generate.contact_sheet import contact_sheet, write_png
from panda_jax.generate.spherical import write_360_video
from panda_jax.generate.viewer import write_viewer


def slug(text: str | Path | None, longest: int = 60) -> str:
  """A file name made of a prompt or of a file's stem: "Dusk over the sea" -> "dusk_over_the_sea"."""
  stem = text.stem if isinstance(text, Path) else re.sub(r"\.\w{2,4}$", "", str(text or "").rsplit("/", 1)[-1])
  return re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:longest].rstrip("_")


def write_results(frames: Iterable[np.ndarray], folder: str | Path, name: str, fps: float, *, title: str = "",
                  extras: bool = True) -> list[Path]:
  """Writes `<name>_360.mp4`, and with `extras` `<name>_360.html` and `<name>_360.png`.

  Args:
    frames: uint8 [H W 3] each, 2:1; read once, written as they come.
    folder: made if it does not exist.
    name: stem of the files.
    fps: frames per second.
    title: shown by the viewer and on the sheet.

  Returns:
    The files, the video first.

  Raises:
    InputError: if the folder cannot be made.
  """
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise InputError(f"--output {folder} is a file or lies below one: name a folder") from error
  video = folder / f"{name}_360.mp4"
  write_360_video(video, frames, fps)
  if not extras:
    return [video]
  page, sheet = video.with_suffix(".html"), video.with_suffix(".png")
  write_viewer(video, page, title=title)
  write_png(sheet, contact_sheet(np.stack(list(read_frames(video))), fps=fps, title=title))
  return [video, page, sheet]
