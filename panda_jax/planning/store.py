"""Reports that were made before: compiling takes minutes, and the same program needs the same again."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panda_jax


def key(*parts: Any) -> str:
  """A name for plain values, as this version of the package, of JAX and of libtpu understands them."""
  return hashlib.sha256(json.dumps([_versions(), parts], sort_keys=True).encode()).hexdigest()


def source_digest() -> str:
  """Changes with every Python file of the package that a program can depend on."""
  package = Path(panda_jax.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(package.rglob("*.py")):
    if path.relative_to(package).parts[0] != "cli":             # the command line has no part in what is compiled
      digest.update(f"{path.relative_to(package)} {path.stat().st_size}\n".encode() + path.read_bytes())
  return digest.hexdigest()


class Store:
  """One JSON file per report in a folder; without a folder nothing is kept."""

  def __init__(self, folder: Path | None, say: Callable[[str], None] = lambda line: None):
    """`say` is told of an entry that cannot be read, which is then made again."""
    self.folder, self._say = folder, say

  def get(self, name: str) -> dict | None:
    """What was kept under this name."""
    if self.folder is None:
      return None
    path = self.folder / f"{name}.json"
    try:
      kept = json.loads(path.read_text(encoding="utf-8"))
      if isinstance(kept, dict) and kept.get("key") == name and isinstance(kept.get("report"), dict):
        return kept["report"]
    except FileNotFoundError:
      return None
    except (OSError, ValueError):
      pass
    self._say(f"{path} is damaged: it is made again")
    return None

  def put(self, name: str, report: dict) -> None:
    """Keeps a report; where the folder cannot be written, says so and goes on."""
    if self.folder is None:
      return
    fresh = self.folder / f"{name}.{os.getpid()}.tmp"
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      fresh.write_text(json.dumps({"key": name, "report": report}), encoding="utf-8")
      os.replace(fresh, self.folder / f"{name}.json")
    except OSError as error:
      with contextlib.suppress(OSError):
        fresh.unlink()
      self._say(f"the report is not kept: {self.folder} cannot be written ({error.strerror})")


def _versions() -> dict[str, str]:
  found = {"panda_jax": panda_jax.__version__}
  for name in ("jax", "jaxlib", "libtpu"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = ""
  return found
