"""What people have on their disks, as a list of files to make clips of.

  web360       WEB360 as its zip unpacks: WEB360_360TF_train.csv (videoid,name) beside videos_512x1024x100/{videoid}.mp4
  youtube360   YouTube360's list, youtube360.csv, and films that were downloaded: one source per row, a span of a film
  folder360    any videos and stills, and folders of them, with or without a table of captions

No file is opened here except the tables. What cannot be used whatever it holds (no such file, a named pipe, a second
row for one clip) is in the list with the reason, so that it is counted.
"""

import dataclasses
import hashlib
import itertools
import math
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from panda_jax.data.checks import STILL_SUFFIXES, VIDEO_SUFFIXES
from panda_jax.data.tables import Row, Table, first_of_each, printable, read_table
from panda_jax.errors import InputError
from panda_jax.paths import as_path, files_below, is_remote

DATASETS = ("web360", "youtube360", "folder360")
DEFAULT_CAPTION = "a 360 degree video"

_WEB360_TABLE = "WEB360_360TF_train.csv"
_WEB360_PLACES = (".", "WEB360", "datasets/WEB360")
_YOUTUBE360_TABLE = "youtube360.csv"
_YOUTUBE360_PLACES = (".", "dataset")
_WEB360_LAYOUT = ("videoid", "name")
_YOUTUBE360_LAYOUT = ("youtubeid", "videoid", "caption", "tstart", "tend")
_CAPTION_LAYOUTS = (("file", "caption"), _WEB360_LAYOUT)
_SUFFIXES = VIDEO_SUFFIXES + STILL_SUFFIXES
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_LONGEST_ID = 96                                       # bytes, so that ids fit into names with something added


@dataclasses.dataclass(frozen=True)
class Source:
  """One file to make clips of, or a span of one. Print its path through `tables.printable`: it may hold any bytes."""

  path: Path                                          # as found, below the given input
  id: str                                             # unique in a run, safe in a file name; clips are "<id>_000", …
  caption: str | None = None                          # None: the default caption
  start: float = 0.0                                  # seconds
  end: float | None = None
  problem: str = ""                                   # why it cannot be used: a clause that follows the file's name
  rule: str = ""                                      # the rule that `problem` counts under
  flow: Path | None = None                            # a film of its optical flow, for `panda prepare --flow-videos`


@dataclasses.dataclass(frozen=True)
class Found:
  """The sources, which data set they are (one of DATASETS), and sentences for the user."""

  dataset: str
  sources: list[Source]
  warnings: list[str]


def find_sources(inputs: Sequence[str | Path], captions: str | Path | None = None, dataset: str = "auto",
                 default_caption: str = DEFAULT_CAPTION, flat: bool = False) -> Found:
  """Lists what the inputs hold, each file or span once, in an order that depends on names only.

  Args:
    inputs: files, and folders to search through.
    captions: a csv file with a header `file,caption` or `videoid,name`, which names files by the end of their path,
      file name or stem, and counts before a data set's own table; or YouTube360's list; or None.
    dataset: one of DATASETS, or "auto" to tell by the tables that lie in the folders.
    default_caption: what sources without a caption will get, for the warnings.
    flat: ordinary films are looked for, which matters to the sentences only.

  Raises:
    InputError: for an input that is not there or of another kind, nothing to be found at all, a table that cannot be
      read, or a data set that was named and is not there.
  """
  if dataset not in ("auto", *DATASETS):
    raise InputError(f"there is no dataset {dataset!r}: choose auto, {', '.join(DATASETS)}")
  if any(map(is_remote, inputs)):
    return _in_buckets(inputs, captions, dataset, default_caption)
  inputs = [Path(given) for given in inputs]
  if not inputs:
    raise InputError(f"no input was given: name a folder of {_wanted(flat)}, or files")
  _refuse_missing(inputs, flat)
  table = None
  if captions is not None:
    table = read_table(captions, (_YOUTUBE360_LAYOUT, *_CAPTION_LAYOUTS), "captions")
  is_list = table is not None and table.layout == _YOUTUBE360_LAYOUT
  if is_list and dataset not in ("auto", "youtube360"):
    raise InputError(f"the captions {printable(captions)} are a list like YouTube360's: give them with the "
                     "dataset auto or youtube360, or give a csv file with a header `file,caption`")
  warnings = []
  if dataset == "auto":
    dataset, warnings = _recognise(inputs, is_list)
  if dataset == "web360":
    sources, more = _web360(inputs, default_caption)
  elif dataset == "youtube360":
    sources, more = _youtube360(inputs, table if is_list else _youtube360_table(inputs))
  else:
    sources, more = _files(inputs, flat), []
  warnings += more
  if table is not None and not is_list:
    sources, more = _join_captions(table, sources, dataset != "folder360", default_caption)
    warnings += table.warnings + more
  return Found(dataset, _with_ids(sources), warnings)


def safe_id(name: str) -> str:
  """A name as an id: letters, digits, "_", "." and "-" of any script, at most 96 bytes.

  What is cut off, or holds no letter and no digit, ends in a digest of the whole name instead.
  """
  safe = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name))
  safe = re.sub(r"^[.-]", "_", safe)
  digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
  if not any(map(str.isalnum, safe)):
    return f"clip-{digest}"
  if len(safe.encode()) > _LONGEST_ID:
    return safe.encode()[:_LONGEST_ID - 9].decode(errors="ignore") + f"-{digest}"
  return safe


# WEB360


def _web360(inputs: Sequence[Path], default_caption: str) -> tuple[list[Source], list[str]]:
  sources, warnings = [], []
  for given in inputs:
    table_path = _place(given, _WEB360_TABLE, _WEB360_PLACES)
    if table_path is None:
      raise InputError(f"{printable(given)} is no WEB360: {_looked_for(_WEB360_TABLE, _WEB360_PLACES)}; give the "
                       "folder that WEB360.zip unpacks to")
    table = read_table(table_path, [_WEB360_LAYOUT])
    folder, more = _web360_videos(table_path, given)
    warnings += table.warnings + more
    here, more = _web360_sources(table, folder, default_caption)
    sources += here
    warnings += more
  return sources, warnings


def _web360_sources(table: Table, folder: Path, default_caption: str) -> tuple[list[Source], list[str]]:
  """One source for every row of the table, in order, then the clips that no row names."""
  clips = list(_walk(folder, VIDEO_SUFFIXES))
  by_name: dict[str, Source] = {}
  for clip in sorted(clips, key=lambda clip: bool(clip.problem)):
    by_name.setdefault(clip.path.stem, clip)
  _, repeats = first_of_each(table.rows, "videoid")
  again = {row.line for row in repeats}
  sources, used = [], set()
  for row in table.rows:
    name = row["videoid"]
    clip = by_name.get(name) or Source(folder / f"{safe_id(name)}.mp4", name,
                                       problem=_not_there(row, table), rule="missing")
    if row.line in again:
      clip = dataclasses.replace(clip, problem=_named_again(row, table), rule="duplicate")
    used.add(clip.path)
    sources.append(dataclasses.replace(clip, id=name, caption=row["name"] or None))
  if not any(clip.path in used for clip in clips):
    raise InputError(f"none of the {len(table.rows)} rows of {printable(table.path)} has its clip in "
                     f"{printable(folder)}: looked for {{videoid}}.mp4; is the folder unpacked whole?")
  unnamed = [clip for clip in clips if clip.path not in used]
  silent = [source.id for source in sources if not source.caption and not source.problem]
  where = printable(table.path)
  return sources + unnamed, [
    *_counted([clip.path.name for clip in unnamed],
              f'clips of {printable(folder)} have no row in {where} and get "{default_caption}"'),
    *_counted(silent, f'rows of {where} have no text, their clips get "{default_caption}"')]


def _web360_videos(table: Path, given: Path) -> tuple[Path, list[str]]:
  """The folder of the clips, beside the table or in the input; the one of the largest frames if there are several."""
  bases = [table.parent] + ([given] if given.is_dir() else [])
  for base in bases:
    folders = sorted((path for path in base.glob("videos_*") if path.is_dir()), key=_by_size)
    if folders:
      left = ", ".join(printable(path.name) for path in folders[1:])
      return folders[0], [f"takes the clips of {printable(folders[0])} and leaves {left} alone"] if left else []
  raise InputError(f"there is no folder videos_* beside {printable(table)}: WEB360 keeps its clips in "
                   "videos_512x1024x100; for clips that lie elsewhere give their folder, this table as the captions, "
                   "and the dataset folder360")


def _by_size(folder: Path) -> tuple[int, str]:
  height = re.match(r"videos_(\d{1,5})x", folder.name)
  return -int(height[1]) if height else 0, folder.name


# YouTube360


def _youtube360(inputs: Sequence[Path], table: Table) -> tuple[list[Source], list[str]]:
  """One source for every row of the list, in order."""
  folders = [given for given in inputs if given.suffix.lower() != ".csv"] or [table.path.parent]
  films = _films_by_name(_files(folders, flat=False, any_kind=VIDEO_SUFFIXES))
  _, repeats = first_of_each(table.rows, "videoid")
  again = {row.line for row in repeats}
  sources, used = [], set()
  for row in table.rows:
    cut, film = films.get(row["videoid"]), films.get(row["youtubeid"])
    is_cut = cut is not None and cut is not film       # a file of the row's own name is the span itself
    film = cut if is_cut else film
    if film is None:
      base = folders[0] if folders[0].is_dir() else folders[0].parent
      source = Source(base / f"{safe_id(row['youtubeid'])}.mp4", "",
                      problem=_not_there(row, table), rule="missing")
    else:
      used.add(film.path)
      source = film if is_cut or film.problem else _with_span(film, row, table)
    if row.line in again:
      source = dataclasses.replace(source, problem=_named_again(row, table), rule="duplicate")
    sources.append(dataclasses.replace(source, id=row["videoid"], caption=row["caption"] or None))
  if not used:
    raise InputError(f"none of the {len(table.rows)} rows of {printable(table.path)} has its film in {_all(folders)}: "
                     "looked for files named by youtubeid or videoid, or whose name ends in [youtubeid] or -youtubeid")
  left = sorted({film.path.name for film in films.values() if film.path not in used})
  return sources, table.warnings + _counted(left, f"films are left out, no row of {printable(table.path)} names them")


def _youtube360_table(inputs: Sequence[Path]) -> Table:
  for given in inputs:
    path = given if given.suffix.lower() == ".csv" else _place(given, _YOUTUBE360_TABLE, _YOUTUBE360_PLACES)
    if path is not None:
      return read_table(path, [_YOUTUBE360_LAYOUT], "list of films")
  raise InputError(f"{_all(inputs)} holds no YouTube360: {_looked_for(_YOUTUBE360_TABLE, _YOUTUBE360_PLACES)}; give it "
                   "beside the films, or as the captions")


def _films_by_name(files: Iterable[Source]) -> dict[str, Source]:
  """Films by all the ids that their names may stand for, the plainest reading first."""
  readings: list[dict[str, Source]] = [{}, {}, {}]
  for film in sorted(files, key=lambda film: bool(film.problem)):
    stem = film.path.stem
    whole = re.sub(r"\.f\d+$", "", stem)               # what a downloader adds to a stream of its own
    bracket = re.search(r"\[([^\[\]]+)\]$", whole)
    for reading, names in zip(readings, (
        (stem, whole), (bracket[1],) if bracket else (),
        (whole[dash.end():] for dash in re.finditer("-", whole)))):
      for name in names:
        reading.setdefault(name, film)
  return {**readings[2], **readings[1], **readings[0]}


def _with_span(film: Source, row: Row, table: Table) -> Source:
  try:
    start, end = float(row["tstart"]), float(row["tend"])
  except ValueError:
    start = end = math.nan
  if not 0 <= start < end < math.inf:
    span = printable(f"{row['tstart']} to {row['tend']}")
    return dataclasses.replace(film, rule="unreadable", problem=(
      f"has no usable span: line {row.line} of {printable(table.path.name)} says {span} seconds"))
  return dataclasses.replace(film, start=start, end=end)


# Any files


def _files(inputs: Sequence[Path], flat: bool, any_kind: Sequence[str] = _SUFFIXES) -> list[Source]:
  """The videos and stills among and under the inputs, sorted within each folder, each once."""
  found: dict[str, Source] = {}
  kinds = ", ".join(suffix[1:] for suffix in any_kind)
  for given in inputs:
    if os.path.isdir(given):
      media = _walk(given, any_kind)
    elif given.suffix.lower() in any_kind:
      media = [_look(given)]
    else:
      hint = " (a table goes to the captions)" if given.suffix.lower() == ".csv" else ""
      raise InputError(f"{printable(given)} is neither a video nor a still by its name{hint}: give {kinds} files or a "
                       "folder")
    for source in media:
      found.setdefault(os.path.realpath(source.path), source)
  if not found:
    folder = "a folder of films" if flat else "a folder"
    raise InputError(f"{_all(inputs)} holds no video or still: give {folder} with {kinds} files in it")
  return list(found.values())


def _in_buckets(inputs: Sequence[str | Path], captions: str | Path | None, dataset: str, default_caption: str) -> Found:
  """What folders of buckets hold, as "folder360": a table of captions is read from this machine."""
  if not all(map(is_remote, inputs)) or dataset not in ("auto", "folder360"):
    raise InputError(f"{_all(inputs)}: inputs in a bucket are given together, as folders of videos and stills; a data set's "
                     "own table goes to the captions, from this machine")
  sources = []
  for given in inputs:
    files = files_below(as_path(given))
    sources += [Source(files[name], files[name].stem) for name in sorted(files, key=_files_first)
                if files[name].suffix.lower() in _SUFFIXES and not files[name].name.startswith(".")]
  if not sources:
    raise InputError(f"{_all(inputs)} holds no video or still: give a folder with "
                     f"{', '.join(suffix[1:] for suffix in _SUFFIXES)} files in it")
  warnings = []
  if captions is not None:
    table = read_table(captions, _CAPTION_LAYOUTS, "captions")
    sources, more = _join_captions(table, sources, False, default_caption)
    warnings = table.warnings + more
  return Found("folder360", _with_ids(sources), warnings)


def _files_first(name: str) -> list[tuple[bool, str]]:
  """Sorts as `_walk` goes: in every folder its files, then its folders."""
  *folders, file = name.split("/")
  return [(True, folder) for folder in folders] + [(False, file)]


def _walk(folder: Path, suffixes: Sequence[str] = _SUFFIXES) -> Iterator[Source]:
  """Every file of these kinds under a folder, in order; linked folders are followed once."""
  seen: set[tuple[int, int] | str] = set()
  waiting = [folder]
  while waiting:
    here = waiting.pop()
    try:
      about = os.stat(here)
      real = (about.st_dev, about.st_ino) if about.st_ino else os.path.realpath(here)     # some disks number nothing
      names = sorted(os.listdir(here)) if real not in seen else []
      seen.add(real)
    except OSError as error:
      if here == folder:
        raise InputError(f"cannot look into {printable(here)} ({error.strerror})") from error
      yield Source(here, here.name, problem=f"cannot be looked into ({error.strerror})", rule="unreadable")
      continue
    paths = [here / name for name in names]
    yield from (_look(path) for path in paths if path.suffix.lower() in suffixes and not path.name.startswith("."))
    waiting += reversed([path for path in paths if os.path.isdir(path)])


def _look(path: Path) -> Source:
  """A file as a source; only what kind of file it is is asked for, since opening a pipe would wait for ever."""
  still = path.suffix.lower() in STILL_SUFFIXES
  problem, rule = "", "unreadable"
  try:
    mode = os.stat(path).st_mode
  except FileNotFoundError:
    what = "is a link that leads nowhere" if os.path.islink(path) else "is gone"
    problem, rule = f"{what}: there is no {'image' if still else 'video'} file", "missing"
  except OSError as error:                             # links in a circle, no permission on the way
    problem = f"cannot be read ({error.strerror})"
  else:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
             (stat.S_ISREG, ""))
    kind = next((kind for test, kind in kinds if test(mode)), "a device")
    problem = kind and f"is {kind}, not {'an image' if still else 'a video'}: only its name looks like one"
  return Source(path, path.stem, problem=problem, rule=rule if problem else "")


def _join_captions(table: Table, sources: Sequence[Source], by_id: bool,
                   default_caption: str) -> tuple[list[Source], list[str]]:
  """Gives sources the captions of rows that name them by path ending, file name or stem, or also by id."""
  by_name: dict[str, list[int]] = {}
  for index, source in enumerate(sources):
    parts = source.path.parts
    names = {*("/".join(parts[-n:]) for n in range(1, len(parts) + 1)), str(source.path), source.path.stem}
    # the rows of a list share one film: its own name would caption them all
    for name in {source.id, *(() if source.end is not None else names)} if by_id else names:
      by_name.setdefault(unicodedata.normalize("NFC", name), []).append(index)
  texts: dict[int, str] = {}
  unknown, repeated = [], []
  for row in table.rows:
    name, caption = (row[column] for column in table.layout)
    named = by_name.get(unicodedata.normalize("NFC", name.removeprefix("./")), [])
    if not named:
      unknown.append(name)
    for index in named:
      if index in texts:
        repeated.append(name)
      elif caption:
        texts[index] = caption
  joined = [dataclasses.replace(source, caption=texts.get(index, source.caption))
            for index, source in enumerate(sources)]
  silent = [source.path.name for source in joined if source.caption is None and not source.problem]
  path = printable(table.path)
  return joined, [
    *_counted(unknown, f"rows of {path} name no file of the input"),
    *_counted(repeated, f"rows of {path} repeat a file, the first row counts"),
    *_counted(silent, f'files have no caption in {path} and get "{default_caption}"')]


def _with_ids(sources: Sequence[Source]) -> list[Source]:
  """Ids that are safe and differ, numbered from the second on where they meet again: beach, beach-2."""
  taken: set[str] = set()
  numbers: dict[str, Iterator[int]] = {}
  ids: dict[int, str] = {}
  for index in sorted(range(len(sources)), key=lambda index: bool(sources[index].problem)):    # first what is used
    wanted = safe_id(sources[index].id)
    name = wanted
    while name.casefold() in taken:                    # some disks take Beach for beach
      name = f"{wanted}-{next(numbers.setdefault(wanted.casefold(), itertools.count(2)))}"
    ids[index] = name
    taken.add(name.casefold())
  return [dataclasses.replace(source, id=ids[index]) for index, source in enumerate(sources)]


# What was given


def _recognise(inputs: Sequence[Path], is_list: bool) -> tuple[str, list[str]]:
  """Which data set the inputs are, and what to say about it."""
  if is_list or any(_place(given, _YOUTUBE360_TABLE, _YOUTUBE360_PLACES) for given in inputs):
    return "youtube360", []
  web360 = [given for given in inputs if _place(given, _WEB360_TABLE, _WEB360_PLACES)]
  if len(web360) == len(inputs):
    return "web360", []
  return "folder360", [f"{printable(given)} looks like WEB360 but is one input among others, so its table is not read: "
                       "give it alone, or its table as the captions" for given in web360]


def _place(given: Path, name: str, places: Sequence[str]) -> Path | None:
  """Where a table lies: the input itself, or one of a few places below it."""
  candidates = [given] if given.name == name else [given / place / name for place in places]
  return next((path for path in candidates if os.path.isfile(path)), None)


def _refuse_missing(inputs: Sequence[Path], flat: bool) -> None:
  for given in inputs:
    if not os.path.exists(given):
      raise InputError(f"there is no file or folder {printable(given)}: give a folder of {_wanted(flat)}, or files "
                       f"({', '.join(suffix[1:] for suffix in _SUFFIXES)})")
    if given.suffix.lower() in _ARCHIVES and not os.path.isdir(given):
      raise InputError(f"{printable(given)} is packed: unpack it first (a zip with unzip {printable(given.name)}) and "
                       "give the folder that comes out")


def _looked_for(table: str, places: Sequence[str]) -> str:
  below = ", ".join(f"{place}/" for place in places if place != ".")
  return f"there is no {table} in it or in {below}"


def _not_there(row: Row, table: Table) -> str:
  return f"is not there: line {row.line} of {printable(table.path.name)} names it"


def _named_again(row: Row, table: Table) -> str:
  return f"is named again by line {row.line} of {printable(table.path.name)}: the first row counts"


def _wanted(flat: bool) -> str:
  return "films" if flat else "360° videos"


def _all(paths: Sequence[Path]) -> str:
  return ", ".join(map(printable, paths))


def _counted(names: Sequence[str], clause: str) -> list[str]:
  """A sentence about some names, if there are any."""
  return [f"{len(names)} {clause}: {_some(names)}"] if names else []


def _some(names: Sequence[str]) -> str:
  return ", ".join(map(printable, names[:3])) + (" …" if len(names) > 3 else "")
