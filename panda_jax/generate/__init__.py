"""What leaves the house: tagged 360° videos, a one-file viewer, contact sheets."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from panda_jax.errors import InputError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
  """Gives a name beside `path` to write to and moves it there at the end, so that nobody ever sees half a file.

  Args:
    path: the file to be written; missing folders are made. After an error it is as it was before.

  Yields:
    A path in the same folder that no other process uses.

  Raises:
    InputError: if `path` is a folder or in a place that cannot be written.
  """
  path = Path(path)
  if path.is_dir():
    raise InputError(f"{path} is a folder: give the name of a file to write")
  unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield unfinished
    os.replace(unfinished, path)
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise InputError(f"cannot write {path} ({error.strerror}): choose another place") from error
  finally:
    unfinished.unlink(missing_ok=True)
