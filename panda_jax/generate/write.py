"""Frames become the files that a person opens: the spherical mp4, the one-file viewer, the contact sheet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from panda_jax.data.video import decode, probe, to_rgb
from panda_jax.errors import InputError
from panda_jax.generate.contact_sheet import contact_sheet, write_png
from panda_jax.generate.spherical import write_360_video
from panda_jax.generate.viewer import LARGEST, write_viewer

_MOMENTS = 4


def slug(text: str | Path | None, longest: int = 60) -> str:
  """A file name made of a prompt or of a file's stem: "Dusk over the sea" -> "dusk_over_the_sea"."""
  stem = text.stem if isinstance(text, Path) else re.sub(r"\.\w{2,4}$", "", str(text or "").rsplit("/", 1)[-1])
  return re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:longest].rstrip("_")


def make_folder(folder: str | Path) -> Path:
  """The folder for the results; made if it does not exist.

  Raises:
    InputError: if it cannot be made.
  """
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise InputError(f"--output {folder} is a file or lies below one: name a folder") from error
  return folder


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
  video = make_folder(folder) / f"{name}_360.mp4"
  write_360_video(video, frames, fps)
  return [video, *(write_extras(video, title) if extras else ())]


def write_extras(video: str | Path, title: str = "", say: Callable[[str], None] = lambda line: None) -> list[Path]:
  """Writes the one-file viewer and the contact sheet beside a 360° video of any length.

  Args:
    video: the mp4.
    title: shown by both.
    say: told where the video is too large for a viewer, and there is none.

  Returns:
    The files.
  """
  video = Path(video)
  page, sheet = video.with_suffix(".html"), video.with_suffix(".png")
  written = [sheet]
  if video.stat().st_size > LARGEST:
    say(f"{video.name} has more than the {LARGEST >> 20} MiB that fit into one page, so it gets no viewer: open it in a "
        "360° player such as VLC")
  else:
    write_viewer(video, page, title=title)
    written = [page, sheet]
  frames, numbers = read_moments(video, _MOMENTS)
  write_png(sheet, contact_sheet(frames, numbers=numbers, fps=probe(video).fps, title=title, moments=_MOMENTS))
  return written


def read_moments(video: str | Path, moments: int) -> tuple[np.ndarray, list[int]]:
  """A few frames spread evenly from the first to the last: uint8 [f H W 3], and their numbers. No others are kept."""
  count = probe(video).frames or sum(1 for _ in decode(video))
  numbers = np.unique(np.linspace(0, count - 1, min(moments, count)).round().astype(int)).tolist()
  return np.stack([to_rgb(frame) for number, frame in enumerate(decode(video)) if number in numbers]), numbers
