"""The files of one request: the panorama and, if they are wanted, the views that it was stitched from.

  NAME_360.mp4      NAME.mp4 in a batch, where files are named after their clips
  NAME_views.mp4    the views side by side in one row, in the rig's order, before they were stitched

Both grow window by window and each goes on by itself, so that views can be asked for later: what is there of the
panorama stays, and the windows whose views are missing are made once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from panda_jax.data.clips import VIEWS_MARK
from panda_jax.generate.segments import Fingerprint, GrowingVideo, discard_other
from panda_jax.generate.windows import Generator, Request

VIEWS_CRF = 12                          # what is measured in the views should be the model's doing, not the encoder's


class Results:
  """What is written of one request; use it in a `with` block, see `GrowingVideo`.

  Attributes:
    windows: how many the request takes.
  """

  def __init__(self, generate: Generator, request: Request, folder: Path, name: str, fps: float, made_from: Fingerprint,
               *, views: bool = False, overwrite: bool = False, in_batch: bool = False):
    """Begins, or goes on where an interrupted run of the same request ended.

    Args:
      generate: the model.
      request: what is to be made.
      folder: where to.
      name: stem of the files.
      fps: frames per second.
      made_from: the request's fingerprint.
      views: whether the views are wanted, too.
      overwrite: whether to start over where something else stands under these names.
      in_batch: whether the files are named after a clip.

    Raises:
      InputError: as `GrowingVideo`.
    """
    self._generate, self._request = generate, request
    self.windows = len(generate.plan(request))
    options = dict(overwrite=overwrite, elsewhere="--output" if in_batch else "--name")
    views_path = folder / f"{name}{VIEWS_MARK}.mp4"
    if overwrite and not views:
      discard_other(views_path, made_from)                 # they would stand beside a panorama that is not theirs
    with contextlib.ExitStack() as stack:
      self._panorama = stack.enter_context(GrowingVideo(
          folder / (f"{name}.mp4" if in_batch else f"{name}_360.mp4"), fps, made_from, self.windows, any_name=in_batch,
          **options))
      self._views = stack.enter_context(GrowingVideo(
          views_path, fps, made_from, self.windows, spherical=False, crf=VIEWS_CRF, **options)) if views else None
      self._stack = stack.pop_all()
    self._files = [self._panorama, *([self._views] if views else [])]

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error) -> None:
    self._stack.__exit__(*error)

  @property
  def paths(self) -> list[Path]:
    """The panorama's first."""
    return [file.path for file in self._files]

  @property
  def finished(self) -> int:
    """How many windows are in all of the files."""
    return min(file.finished for file in self._files)

  @property
  def complete(self) -> bool:
    """Whether all are, and the files are whole."""
    return all(file.complete for file in self._files)

  def make(self, on_step: Callable[[], None] | None = None) -> Iterator[int]:
    """Makes the windows that one of the files lacks, and yields the number of each when it is safe on the disk.

    Raises:
      InputError: as `Generator.windows` and `GrowingVideo`.
    """
    if self.complete:
      return
    behind = min(self._files, key=lambda file: file.finished)
    spec = self._generate.row_spec(self._request)
    row = behind.row(spec.shape, spec.dtype)
    for made in self._generate.windows(self._request, behind.finished, row, on_step, self._views is not None):
      if self._views is not None and self._views.finished == made.number:
        self._views.add(side_by_side(made.views), made.row)
      if self._panorama.finished == made.number:
        self._panorama.add(made.frames, made.row)
      yield made.number


def side_by_side(views: np.ndarray) -> np.ndarray:
  """[v f h w 3] -> [f h v*w 3]."""
  return np.concatenate(list(views), axis=2)
