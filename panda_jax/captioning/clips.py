"""What there is to caption: files, or the clips of a dataset, each with the one frame that is looked at."""

import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from panda_jax.data import checks, records, video
from panda_jax.data.sources import Found, find_sources
from panda_jax.data.tables import printable
from panda_jax.errors import InputError

FRAMES = ("first", "middle")
_STAMP_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Clip:
  """One thing to caption.

  Attributes:
    id: unique among the clips of a run, and a good folder name.
    file: what names it in the table of captions, so that `panda prepare --captions` joins the row.
    stamp: changes when the pictures do.
    read: gives its frame, uint8 [H W 3]; raises InputError.
    kind: what the frame is known to be: "panorama", "flat" (an ordinary picture), or "" (not known).
  """

  id: str
  file: str
  stamp: str
  read: Callable[[], np.ndarray]
  kind: str = ""


def find_clips(inputs: Sequence[str | Path], frame: str = "first", per: str = "file",
               dataset: str = "auto") -> tuple[list[Clip], list[str]]:
  """The clips of a dataset folder, or the videos and stills that `panda prepare` would find in `inputs`.

  Args:
    inputs: one folder that `panda prepare` made, or files and folders of 360° videos and stills.
    frame: which frame of a clip to look at, "first" or "middle".
    per: of a prepared dataset: "file", one for every file it was made of (its first clip), or "clip", one for each.
    dataset: how to read other inputs, see `sources.find_sources`.

  Returns:
    The clips, and sentences about what is left out.

  Raises:
    InputError: if there is nothing to caption, or the dataset holds no whole pictures.
    ValueError: for an unknown frame or per.
  """
  if frame not in FRAMES or per not in ("file", "clip"):
    raise ValueError(f"frame must be one of {FRAMES} and per one of ('file', 'clip'), got {frame!r} and {per!r}")
  folders = [path for path in map(Path, inputs) if (path / "dataset_info.json").is_file()]
  if folders and len(inputs) > 1:
    raise InputError(f"{folders[0]} is a prepared dataset: give it alone, and other inputs in another run")
  if folders:
    return _clips_of_dataset(folders[0], frame, per), []
  return _clips_of_files(find_sources(inputs, dataset=dataset), frame)


def read_file(path: Path, frame: str = "first", start: float = 0.0, end: float | None = None) -> np.ndarray:
  """One frame of a video, or the still.

  Args:
    path: the file.
    frame: "first" or "middle", of the span.
    start, end: the span of a video in seconds; to its end if `end` is None.

  Returns:
    uint8 [H W 3].

  Raises:
    InputError: if it cannot be read as far as that.
  """
  if path.suffix.lower() in checks.STILL_SUFFIXES:
    return checks.read_still(path)
  if frame == "first":
    return _frame_at(path, start, end)
  info = video.probe(path)
  length = end if end is not None else info.duration
  if length is None:                                  # the header does not say: count first
    length = sum(1 for _ in video.decode(path)) / info.fps
  # just above the time of the frame before it, so that of 24 and of 25 frames it is number 12
  return _frame_at(path, max(start, (start + length) / 2 - 0.99 / info.fps), end)


def _frame_at(path: Path, seconds: float, end: float | None) -> np.ndarray:
  """The first frame that is shown `seconds` after the first of all, or later."""
  begin, fps = None, video.probe(path).fps
  for index, frame in enumerate(video.decode(path)):
    time = index / fps if frame.time is None else frame.time
    begin = time if begin is None else begin
    if end is not None and time - begin >= end:
      break
    if time - begin >= seconds - 1e-6:
      return video.to_rgb(frame)
  raise InputError(f"{path} has no frame {seconds:.2f} s after its start: give a span that it covers")


def _clips_of_files(found: Found, frame: str) -> tuple[list[Clip], list[str]]:
  sources, left = [], []
  for source in found.sources:
    problem = source.problem
    if not problem and printable(source.path) != str(source.path):
      problem = "has a name that is no plain text, which no table of captions can hold: rename it"
    if problem:
      left.append(f"{printable(source.path)} {problem}")
    else:
      sources.append(source)
  if not sources:
    raise InputError(f"nothing can be captioned: {left[0]}")
  names = _shortest_endings([source.path for source in sources])
  clips = [Clip(source.id, source.id if source.end is not None else name,      # a film's name would mean all its spans
                f"{_stamp(source.path)}-{source.start:g}-{source.end}",
                functools.partial(read_file, source.path, frame, source.start, source.end))
           for source, name in zip(sources, names)]
  return clips, found.warnings + ([f"{len(left)} files are left out: {'; '.join(left[:3])}"
                                   f"{' …' if len(left) > 3 else ''}"] if left else [])


def _clips_of_dataset(folder: Path, frame: str, per: str) -> list[Clip]:
  info = records.dataset_info(folder)
  if info.get("store", "pixels") != "pixels":
    raise InputError(f"{folder} holds {info['store']} and no whole pictures: caption the videos it was made of")
  manifest = _read_manifest(folder / "manifest.json")
  listed = _listed(manifest, folder, info["splits"])
  count: Counter[str] = Counter()
  places = []                                         # records are in the order of the manifest, split by split
  for entry in listed:
    places.append(count[entry.split])
    count[entry.split] += 1
  if per == "file":
    first = {entry.source: index for index, entry in reversed(list(enumerate(listed)))}
    chosen = sorted(first.values())
  else:
    chosen = range(len(listed))
  opened = {split: records.open_records(folder, split) for split in info["splits"]}
  stamp = hashlib.sha256((folder / "dataset_info.json").read_bytes() + (folder / "metadata.json").read_bytes()
                         + json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
  clips = []
  for index in chosen:
    entry = listed[index]
    name, file = (entry.source, entry.file) if per == "file" else (entry.clip, entry.clip)
    read = functools.partial(_read_record, opened[entry.split], places[index], entry.clip, frame)
    clips.append(Clip(name, file, stamp, read, info["kind"]))
  return clips


@dataclasses.dataclass(frozen=True)
class _Listed:
  """A clip of a dataset: its id and split, and the id of its source and what names that in a table of captions."""

  clip: str
  split: str
  source: str
  file: str


def _read_manifest(path: Path) -> dict | None:
  try:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
  except (OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read ({error}): prepare the dataset again") from error


def _listed(manifest: dict | None, folder: Path, splits: Iterable[str]) -> list[_Listed]:
  """Every clip, those of a file together and in order; without a manifest each clip counts as a file."""
  if manifest is None:
    return [_Listed(record["id"], split, record["id"], record["id"])
            for split in splits for record in records.open_records(folder, split)]
  try:
    files = [entry for entry in manifest["files"] if entry["used"]]
    names = _shortest_endings([Path(entry["file"]) for entry in files])
    listed = []
    for entry, name in zip(files, names):
      ids = [(split, clip) for split, clips in entry["clips"].items() for clip in clips]
      source = entry.get("id") or re.sub(r"_\d{3,}$", "", ids[0][1])      # older manifests do not say
      listed += [_Listed(clip, split, source, source if entry.get("end") is not None else name) for split, clip in ids]
    return listed
  except (KeyError, TypeError, AttributeError, IndexError) as error:
    raise InputError(f"the manifest of {folder} is not one that panda prepare writes: prepare the dataset again"
                     ) from error


def _read_record(opened: records.Records, index: int, clip_id: str, frame: str) -> np.ndarray:
  record = opened[index]
  if record["id"] != clip_id:
    raise InputError(f"clip {clip_id} is not where its manifest puts it (there is {record['id']}): prepare the dataset "
                     "again")
  frames = record["frames"]
  return records.decode_frame(frames[0 if frame == "first" else len(frames) // 2])


def _shortest_endings(paths: Sequence[Path]) -> list[str]:
  """Every path's name, with as many of its folders as it takes to tell it from the others."""
  count = Counter(ending for path in set(paths) for ending in _endings(path))
  return [next((ending for ending in _endings(path) if count[ending] == 1), str(path)) for path in paths]


def _endings(path: Path) -> list[str]:
  return ["/".join(path.parts[-n:]) for n in range(1, len(path.parts) + 1)]


def _stamp(path: Path) -> str:
  """A digest of a file's length, beginning and end: enough to tell a replaced file, whatever its dates say."""
  try:
    size = path.stat().st_size
    with open(path, "rb") as file:
      head = file.read(_STAMP_BYTES)
      file.seek(max(0, size - _STAMP_BYTES))
      return hashlib.sha256(f"{size} ".encode() + head + file.read()).hexdigest()[:16]
  except OSError:                                     # reading the frame says so, with the reason
    return "unreadable"
