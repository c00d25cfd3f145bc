"""What leaves the house: tagged 360° videos, a one-file viewer, contact sheets."""

import contextlib
import errno
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
    InputError: if `path` is a folder, in a place that cannot be written, or on a full disk.
  """
  path = Path(path)
  if path.is_dir():
    raise InputError(f"{path} is a folder: give the name of a file to write")
  unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield unfinished
      os.replace(unfinished, path)
    finally:
      unfinished.unlink(missing_ok=True)
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise InputError(f"cannot write {path} ({error.strerror}): choose another place") from error
  except (OSError, InputError) as error:
    cause = error.__cause__ if isinstance(error, InputError) else error       # write_video knows the other name only
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
      raise InputError(f"no space left on the disk while writing {path}: free some space or choose another folder, and "
                       "run again") from error
    raise
