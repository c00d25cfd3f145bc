"""verdicts.jsonl: what was found out about files so far, kept for the run that comes after an interruption."""

import json
import time

from etils import epath

from panda_jax.data.shards import said_plainly
from panda_jax.paths import is_remote, write_text


class VerdictLog:
  """Verdicts, a line of JSON each, of which a run that is killed loses none; in a bucket, those since the last minute.

  With no path nothing is kept.
  """

  def __init__(self, path: epath.Path | None):
    self._path = path
    self._remote = path is not None and is_remote(path)
    self._lines = path.read_text() if self._remote and path.exists() else ""
    self._saved = time.monotonic()

  @staticmethod
  def read(path: epath.Path) -> list[dict]:
    """The lines that are whole; one that was cut off is removed."""
    text = path.read_text() if path.exists() else ""
    whole = text[:text.rfind("\n") + 1]
    if whole != text:
      write_text(path, whole)
    return [json.loads(line) for line in whole.splitlines()]

  def write(self, line: dict) -> None:
    if self._path is None:
      return
    text = json.dumps(line) + "\n"
    if not self._remote:
      with said_plainly(self._path.parent, "verdicts so far are kept"):
        self._file.write(text)
        self._file.flush()
      return
    self._lines += text                               # an object is written whole or not at all
    if time.monotonic() > self._saved + 60:
      self._save()

  def __enter__(self) -> "VerdictLog":
    if self._path is not None and not self._remote:
      self._file = open(self._path, "a", encoding="utf-8")
    return self

  def __exit__(self, *_) -> None:
    if self._remote:
      self._save()
    elif self._path is not None:
      self._file.close()

  def _save(self) -> None:
    write_text(self._path, self._lines)
    self._saved = time.monotonic()
