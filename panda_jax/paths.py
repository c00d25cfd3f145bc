"""Folders on this machine and in a bucket (gs://bucket/folder) alike.

pathlib would turn "gs://bucket" into "gs:/bucket", a folder of this machine: whatever may be in a bucket goes through
`as_path`.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
from pathlib import Path
import shutil
import tempfile

from etils import epath
import fsspec

from panda_jax.errors import InputError

_SCHEME = "gs://"


def is_remote(path: str | os.PathLike) -> bool:
  """Whether it is in a bucket."""
  return "://" in os.fspath(path)


def absolute(path: epath.Path) -> epath.Path:
  """The path from the root of this machine, or that in a bucket, which is absolute."""
  return path if is_remote(path) else epath.Path(os.path.abspath(path))


def bucket_of(path: str | os.PathLike) -> epath.Path:
  """gs://bucket of gs://bucket/folder."""
  return epath.Path(_SCHEME + os.fspath(path).removeprefix(_SCHEME).partition("/")[0])


def as_path(path: str | os.PathLike) -> epath.Path:
  """The path, to be used like a pathlib.Path.

  Raises:
    InputError: for another kind of address than gs://, or if what reads buckets is not installed.
  """
  text = os.fspath(path)
  if not is_remote(text):
    return epath.Path(text)
  if not text.startswith(_SCHEME) or not text.removeprefix(_SCHEME).strip("/"):
    raise InputError(f"{text} cannot be used: give a folder of this machine, or {_SCHEME}bucket/folder")
  try:
    fsspec.get_filesystem_class("gs")
  except ImportError as error:
    raise InputError(f"{text} is in a bucket, and gcsfs, which reads and writes those, is not installed: "
                     'pip install "panda_jax[gs]"') from error
  return epath.Path(text)


def write_bytes(path: epath.Path, content: bytes) -> None:
  """Writes a file whole or not at all: a kill in the middle leaves what was there before."""
  if is_remote(path):
    path.write_bytes(content)                                  # an object appears when all of it is there
    return
  fresh = path.with_suffix(".tmp")
  fresh.write_bytes(content)
  fresh.replace(path)


def write_text(path: epath.Path, text: str) -> None:
  """`write_bytes` of text in UTF-8."""
  write_bytes(path, text.encode())


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


def files_below(folder: epath.Path) -> dict[str, epath.Path]:
  """Every file in a folder and its subfolders, by its name from there: "state/d/0a1b"."""
  found = {}
  for path in folder.iterdir():
    below = files_below(path) if path.is_dir() else {"": path}
    found |= {f"{path.name}/{name}".rstrip("/"): file for name, file in below.items()}
  return found


@contextlib.contextmanager
def local_copy(folder: str | os.PathLike) -> Iterator[Path]:
  """Gives the folder itself if it is on this machine, otherwise a copy that is gone afterwards."""
  if not is_remote(folder):
    yield Path(folder)
    return
  with tempfile.TemporaryDirectory() as place:
    for name, file in files_below(as_path(folder)).items():
      copy = Path(place) / name
      copy.parent.mkdir(parents=True, exist_ok=True)
      _fetch(file, copy)
    yield Path(place)


@contextlib.contextmanager
def local_file(path: str | os.PathLike) -> Iterator[Path]:
  """Gives the file itself if it is on this machine, otherwise a copy of the same name that is gone afterwards."""
  if not is_remote(path):
    yield Path(path)
    return
  with tempfile.TemporaryDirectory() as place:
    copy = Path(place) / as_path(path).name
    _fetch(as_path(path), copy)
    yield copy


def _fetch(file: epath.Path, copy: Path) -> None:
  with file.open("rb") as source, open(copy, "wb") as target:
    shutil.copyfileobj(source, target, 2**24)


def size_of(path: epath.Path) -> int:
  """Bytes of a file, here or in a bucket."""
  return as_path(path).stat().length


def upload(folder: Path, target: epath.Path) -> None:
  """Copies every file of a local folder below `target`; a file that was there before is replaced."""
  for file in sorted(path for path in folder.rglob("*") if path.is_file()):
    place = target / file.relative_to(folder).as_posix()
    with open(file, "rb") as source, place.open("wb") as sink:
      shutil.copyfileobj(source, sink, 2**24)


def holds_run(path: str | os.PathLike) -> bool:
  """Whether a folder is the workdir of a training run, and not a model folder."""
  return (as_path(path) / "checkpoints").is_dir()
