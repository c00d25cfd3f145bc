"""What a complete checkpoint consists of: files.json names its files with their sizes and checksums.

The storage layer notices a file that is absent or too short, but hands out some flipped bytes as numbers.
"""

from concurrent.futures import ThreadPoolExecutor
import json
import os
import zlib

from etils import epath

from panda_jax.paths import files_below, is_remote

MANIFEST = "files.json"
# Written, or changed by orbax, after the rest.
_LATER = (MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt")
_THREADS = 8                                                   # zlib lets go of the interpreter while it counts


def write_manifest(folder: epath.Path) -> None:
  """Lists every file of a checkpoint that is complete but for its commit; reads it all once, on this machine."""
  files = {name: path for name, path in files_below(folder).items() if name not in _LATER}
  with ThreadPoolExecutor(_THREADS) as pool:
    facts = dict(zip(files, pool.map(_facts, files.values()), strict=True))
  (folder / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def has_manifest(folder: epath.Path) -> bool:
  """Whether there is one; checkpoints of earlier versions have none."""
  return (folder / MANIFEST).exists()


def find_damage(folder: epath.Path) -> str | None:
  """What is wrong with a checkpoint that has a manifest, such as "state/d/0a1b is cut short"; None if it is whole.

  In a bucket sizes are compared and not contents: the bucket keeps checksums of its own.
  """
  try:
    expected = json.loads((folder / MANIFEST).read_text())
    json.loads((folder / "_CHECKPOINT_METADATA").read_text())
  except (OSError, ValueError) as error:
    return f"{type(error).__name__} while its list of files was read"
  there = files_below(folder)
  absent = sorted(expected.keys() - there.keys())
  if absent:
    return f"{absent[0]} is absent"
  with ThreadPoolExecutor(_THREADS) as pool:
    for name, facts in zip(expected, pool.map(lambda name: _facts(there[name]), expected), strict=True):
      for what, value in expected[name].items():
        if what in facts and facts[what] != value:
          return f"{name} has {what} {facts[what]}, and had {value} when it was written"
  return None


def _facts(path: epath.Path) -> dict[str, int]:
  facts = {"bytes": path.stat().length}
  if is_remote(path):
    return facts
  checksum = 0
  with open(os.fspath(path), "rb") as file:
    while block := file.read(2**22):
      checksum = zlib.crc32(block, checksum)
  return facts | {"crc32": checksum}
