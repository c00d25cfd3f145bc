"""What is finished is safe: a file to which every caption is appended at once, and the table written at the end.

One JSON value per line: first the recipe, then {"id", "stamp", "sentences"} when a clip's views have their sentences
and {"id", "stamp", "sentences", "caption"} when it has its caption. A line that a kill tore is not there.
"""

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from panda_jax.errors import InputError

_FORMAT = "panda caption 1"


def partial_path(output: Path) -> Path:
  """The journal of a table of captions."""
  return output.with_name(output.name + ".partial.jsonl")


class Journal:
  """The finished work of one table of captions; `add` and `get` may be called from several threads.

  Args:
    output: the table; the journal is beside it.
    recipe: all settings that decide the captions, anything JSON can hold.

  Raises:
    InputError: if another run is writing it, it was made with other settings, or a table is there that it does not
      know.
  """

  def __init__(self, output: Path, recipe: Mapping[str, Any]):
    self.output, self.path = output, partial_path(output)
    self.unreadable = 0
    self._lock = threading.Lock()
    self._entries: dict[tuple[str, str], dict] = {}
    self._written: str | None = None
    if output.is_dir():
      raise InputError(f"{output} is a folder: give the name of a csv file with --output")
    recipe = json.loads(json.dumps(recipe))           # as it comes back from a file
    if output.exists() and not self.path.exists():
      raise InputError(f"{output} already exists: choose another --output, or remove it first")
    output.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(self.path, "a+b", buffering=0)
    try:
      self._claim()
      self._read(recipe)
      self._refuse_edited()
    except BaseException:
      self._file.close()
      raise

  def __enter__(self) -> "Journal":
    return self

  def __exit__(self, *_) -> None:
    with self._lock:
      if not self._entries:                           # nothing came of it
        self.path.unlink(missing_ok=True)
      self._file.close()

  def get(self, clip_id: str, stamp: str) -> dict | None:
    """The newest entry of a clip, if its pictures are the same: {"sentences", "caption" if finished}."""
    return self._entries.get((clip_id, stamp))

  def add(self, clip_id: str, stamp: str, **entry: Any) -> None:
    """Keeps an entry: when this returns, it is on the disk."""
    with self._lock:
      if not self._file.closed:                       # by an interrupt: the run is over
        self._append({"id": clip_id, "stamp": stamp, **entry})
        self._entries[clip_id, stamp] = entry

  def write_table(self, rows: Iterable[tuple[str, str]]) -> None:
    """Writes `file,caption`, whole or not at all."""
    text = table_text(("file", "caption"), rows)
    digest = hashlib.sha256(text).hexdigest()
    if digest != self._written or not self.output.exists():
      # noted first: a kill between the two leaves the older table, which `_refuse_edited` also knows
      self._append({"written": digest})
      write_whole(self.output, text)

  def _claim(self) -> None:
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if not self.path.exists() or self.path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
        raise BlockingIOError(errno.EAGAIN, "removed")      # by a run that ended between our two steps
    except OSError as error:                          # some network disks have no locks: there, two runs can collide
      if error.errno in (errno.EACCES, errno.EAGAIN):
        raise InputError(f"another run is writing {self.path}: wait for it, or choose another --output") from None
      if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
        raise

  def _read(self, recipe: dict) -> None:
    self._file.seek(0)
    text = self._file.read()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
      self._file.truncate(whole)
    lines = text[:whole].splitlines()
    self._known: set[str] = set()                     # digests of the tables it wrote
    if not lines:
      self._begin(recipe)
      return
    first = _parse(lines[0]) or {}
    if first.get("format") != _FORMAT or not isinstance(first.get("recipe"), dict):
      raise InputError(f"{self.path} is not what panda caption writes: choose another --output, or remove it first")
    changed = [f"{name} was {_short(first['recipe'].get(name))} and is {_short(recipe.get(name))}"
               for name in first["recipe"] | recipe if first["recipe"].get(name) != recipe.get(name)]
    if changed and len(lines) == 1:                   # nothing is finished: nothing is lost
      self._file.truncate(0)
      self._begin(recipe)
    elif changed:
      raise InputError(f"{self.path} was begun with other settings ({', '.join(changed)}): choose another --output, or "
                       f"remove that file to begin anew (or keep its sentences: --sentences {self.path})")
    for entry in map(_parse, lines[1:]):
      if entry is None or not ({"id", "stamp"} <= set(entry) or "written" in entry):
        self.unreadable += 1
      elif "written" in entry:
        self._written = entry["written"]
        self._known.add(entry["written"])
      else:
        self._entries[entry["id"], entry["stamp"]] = entry

  def _begin(self, recipe: dict) -> None:
    self._append({"format": _FORMAT, "recipe": recipe})
    _sync_folder(self.path.parent)

  def _refuse_edited(self) -> None:
    if self.output.exists() and hashlib.sha256(self.output.read_bytes()).hexdigest() not in self._known:
      raise InputError(f"{self.output} was changed since panda caption wrote it: choose another --output, or remove "
                       "it, so that no work of yours is overwritten")

  def _append(self, entry: Mapping[str, Any]) -> None:
    begin = self._file.seek(0, os.SEEK_END)
    rest = memoryview(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    try:
      while rest:
        rest = rest[self._file.write(rest):]
      os.fsync(self._file.fileno())
    except OSError:
      os.ftruncate(self._file.fileno(), begin)        # half a line would spoil the one that follows
      raise


def table_text(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
  """A csv table in UTF-8."""
  text = io.StringIO(newline="")
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(columns)
  writer.writerows(rows)
  return text.getvalue().encode()


def write_whole(path: Path, content: bytes) -> None:
  """Writes a file to the disk, whole or not at all."""
  part = path.with_name(path.name + ".part")
  try:
    with open(part, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)
  _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _parse(line: bytes) -> dict | None:
  try:
    entry = json.loads(line)
  except ValueError:
    return None
  return entry if isinstance(entry, dict) else None


def _short(value: Any) -> str:
  text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
  return text if len(text) <= 120 else text[:117] + "…"
