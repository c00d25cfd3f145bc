"""What a dataset says of how it was made: its recipe, every file's verdict, and how often each rule decided."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from panda_jax.data import checks
from panda_jax.data.checks import Verdict
from panda_jax.data.prepare.options import Options
from panda_jax.data.prepare.plan import ClipPlan
from panda_jax.data.sources import Source
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.paths import absolute, as_path, is_remote

MANIFEST = "manifest.json"


def recipe(sources: Sequence[Source], options: Options, captions: str | Path | None, about: dict | None) -> dict:
  """All that decides a dataset's content, to tell whether a folder holds just that already.

  Args:
    sources: in order.
    options: of the run.
    captions: the table, whose content counts.
    about: what the images of the store, and motion, are made with.

  Raises:
    InputError: if the table of captions is missing.
  """
  inputs = []
  for source in sources:
    entry = {"file": printable(absolute(source.path)), "id": source.id}
    if source.start or source.end is not None:
      entry |= {"start": source.start, "end": source.end}
    if source.caption is not None:
      entry["caption"] = source.caption
    if source.path.exists():                          # a dangling link is for the check to report
      entry |= dict(zip(("bytes", "modified_ns"), stamp(source.path)))
    if source.flow is not None:
      entry["flow"] = {"file": printable(absolute(source.flow)),
                       **dict(zip(("bytes", "modified_ns"), stamp(source.flow)))}
    inputs.append(entry)
  if captions is not None and not Path(captions).is_file():
    raise InputError(f"there is no captions file {captions}: give a csv file with a header `file,caption`, or leave "
                     "--captions out")
  digest = None if captions is None else hashlib.sha256(Path(captions).read_bytes()).hexdigest()
  return {"inputs": inputs, "options": options.to_json() | {"captions_sha256": digest}, "about": about or {}}


def stamp(path: epath.Path) -> tuple[int, int]:
  """(bytes, modified_ns) of a file."""
  if not is_remote(path):
    stat = os.stat(path)                              # to the nanosecond
    return stat.st_size, stat.st_mtime_ns
  stat = as_path(path).stat()
  return stat.length, round((stat.mtime or 0) * 1e9)


def differences(begun: dict, wanted: dict) -> str | None:
  """In which options two recipes differ, for a sentence; "" if only in their inputs, None if not at all."""
  options = Options().to_json() | begun["options"]    # it may be older
  said = []
  for name, value in ({name: None for name in options} | wanted["options"]).items():
    if name == "captions_sha256" and options.get(name) != value:
      said.append("captions")
    elif name == "checks":
      said += [f"checks.{rule} {options[name].get(rule)} instead of {number}" for rule, number in value.items()
               if options[name].get(rule, number) != number]
    elif options.get(name) != value:
      said.append(f"{name} {options.get(name)} instead of {value}")
  if said:
    return ", ".join(said)
  about = begun.get("about", {})
  if about.get("motion") != wanted["about"].get("motion"):
    return f"{wanted['options'].get('flow', 'flow')} with other settings"
  if about != wanted["about"]:
    return "other weights or another rig behind --model"
  return None if _inputs(begun) == _inputs(wanted) else ""


def _inputs(recipe: dict) -> list[tuple]:
  """What older manifests know of the inputs."""
  return [tuple(entry.get(name) for name in ("file", "bytes", "modified_ns", "start", "end", "flow"))
          for entry in recipe["inputs"]]


def file_entries(sources: Sequence[Source], verdicts: Sequence[Verdict], captions: Sequence[str],
                 clips: Sequence[ClipPlan]) -> list[dict]:
  """A line for every source."""
  by_source: dict[int, dict[str, list[str]]] = {}
  for clip in clips:
    by_source.setdefault(clip.source, {}).setdefault(clip.split, []).append(clip.id)
  entries = []
  for number, (source, found, caption) in enumerate(zip(sources, verdicts, captions, strict=True)):
    entry = {"file": printable(source.path), "id": source.id, "used": found.ok, "kind": found.kind,
             "verdict": found.verdict, "why": printable(found.why), "size": [found.height, found.width],
             "fps": found.fps, "frames": found.frames,
             "findings": [{"rule": each.rule, "effect": each.effect, "why": printable(each.why)}
                          for each in found.findings], "repairs": list(found.repairs)}
    if source.start or source.end is not None:
      entry |= {"start": source.start, "end": source.end}
    if source.flow is not None:
      entry["flow"] = printable(source.flow)
    if found.seam:
      entry |= {"edge_difference": round(found.seam.edge, 2), "edge_limit": round(found.seam.limit, 2)}
    if found.ok:
      entry |= {"caption": caption, "clips": by_source.get(number, {})}
    entries.append(entry)
  return entries


def rule_table(entries: Sequence[dict], rules: Mapping[str, str] = checks.RULES) -> dict[str, dict[str, Any]]:
  """How often each rule fired, what it does, and the first file that it fired for; `rules`: what they mean."""
  table: dict[str, dict[str, Any]] = {rule: {"count": 0, "means": means} for rule, means in rules.items()}
  for entry in entries:
    for finding in entry["findings"]:
      row = table[finding["rule"]]
      row["count"] += 1
      row.setdefault("effect", finding["effect"])
      row.setdefault("example", {"file": entry["file"], "why": finding["why"]})
  return table

