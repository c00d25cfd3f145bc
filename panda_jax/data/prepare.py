"""`panda prepare`: folders of 360° video and photographs, or of ordinary films, become one dataset with a manifest.

Two passes over every file: one that decodes it whole and judges it (`checks`), one that resizes, cuts and writes.
Neither holds more than one encoded clip in memory. A photograph becomes a clip by a slow turn of the camera.
"""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from panda_jax.data import checks, records, video
from panda_jax.errors import InputError

MANIFEST = "manifest.json"
DEFAULT_CAPTION = "a 360 degree video"
DEFAULT_FLAT_CAPTION = "a video"

# A still turns for 8 s at 6°/s: slow enough for a photograph's sharpness, 48 frames to train on and 16 (the longest
# matrix) to validate on at the default holdout. It turns by whole pixels, so no frame is resampled.
STILL_FRAMES = 64
STILL_FPS = 8.0
STILL_DEGREES_PER_SECOND = 6.0

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


@dataclasses.dataclass(frozen=True)
class Options:
  """What `panda prepare` can be told; the command line's help says what each means."""

  height: int = 512
  encoding: str = "jpeg"
  quality: int = 95
  fps: float | None = None
  max_frames_per_clip: int = 100
  holdout: float = 0.25
  allow_flat: bool = False
  flat: bool = False

  def __post_init__(self):
    if self.height < 16 or self.height % 2:
      raise InputError(f"--height must be an even number of at least 16, got {self.height}")
    if self.flat and self.allow_flat:
      raise InputError("--flat and --allow-flat are two ways to keep ordinary films: --flat makes a dataset of their "
                       "central squares, --allow-flat stretches them to panoramas; give one of them")
    if self.encoding not in records.ENCODINGS:
      raise InputError(f"--encoding must be one of {', '.join(records.ENCODINGS)}, got {self.encoding!r}")
    if not 1 <= self.quality <= 100:
      raise InputError(f"--quality must be between 1 and 100, got {self.quality}")
    if self.fps is not None and not 0 < self.fps < math.inf:
      raise InputError(f"--fps must be above 0, got {self.fps}")
    if self.max_frames_per_clip < 1:
      raise InputError(f"--max-frames-per-clip must be at least 1, got {self.max_frames_per_clip}")
    if not 0 <= self.holdout < 1:
      raise InputError(f"--holdout must be at least 0 and below 1, got {self.holdout}")

  @property
  def kind(self) -> str:
    """Of the dataset, one of `records.KINDS`."""
    return "flat" if self.flat else "panorama"

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the stored frames."""
    return self.height, self.height if self.flat else 2 * self.height

  @property
  def default_caption(self) -> str:
    """Of files that the table of captions does not name."""
    return DEFAULT_FLAT_CAPTION if self.flat else DEFAULT_CAPTION


@dataclasses.dataclass
class Result:
  """What came of it; `already` if the folder was there before, made from the same inputs in the same way."""

  manifest: dict
  warnings: list[str]
  already: bool = False


@contextlib.contextmanager
def _silent(description: str, total: int):
  yield lambda n=1, note=None: None


def prepare(inputs: Sequence[str | Path], output: str | Path, options: Options = Options(),
            captions: str | Path | None = None, progress: Progress = _silent) -> Result:
  """Makes a dataset of clips from videos, stills and folders of them.

  Args:
    inputs: files, and folders to search through.
    output: the dataset's folder; appears only when it is complete.
    options: sizes, encodings, what to hold out.
    captions: a csv file with a header `file,caption` or `videoid,name`, or None.
    progress: `progress(description, total)` is a context manager that gives `advance(n, note=None)`; both passes
      report their frames to one (`panda_jax.cli.console.progress` draws a bar).

  Returns:
    The manifest (also in `output/manifest.json`) and what is worth a warning. Files that are broken, or no panoramas
    where those are wanted, are in it with the reason; they are not in the dataset.

  Raises:
    InputError: if nothing usable is found, the output folder is taken or cannot be written, or the one file that was
      named is bad.
  """
  if "://" in str(output):
    raise InputError(f"--output {output} is not a folder of this machine: prepare into one, then copy it there")
  output = Path(output)
  files = find_files(inputs)
  recipe = _recipe(files, options, captions)
  if output.exists() and not (output.is_dir() and not any(output.iterdir())):
    return Result(_same_or_refuse(output, recipe), [], already=True)
  texts, warnings = ({}, []) if captions is None else read_captions(captions, files, options.default_caption)
  verdicts = _check_all(files, options, progress)
  _refuse_if_nothing(verdicts, inputs, options)
  with records.RecordWriter(output, options.encoding, options.quality, kind=options.kind) as writer:
    manifest = _write_all(verdicts, texts, options, recipe, writer, progress)
    writer.metadata.update({"options": manifest["options"], "counts": manifest["counts"]})
    writer.attach(MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
  return Result(manifest, warnings)


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
  """The videos and stills among and under `inputs`, sorted within each folder, each once.

  Raises:
    InputError: for a path that is missing or of another kind, or if there is none at all.
  """
  suffixes = checks.VIDEO_SUFFIXES + checks.STILL_SUFFIXES
  kinds = ", ".join(suffix[1:] for suffix in suffixes)
  found: dict[Path, Path] = {}
  for given in map(Path, inputs):
    if given.is_dir():
      for path in _walk(given):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
          found.setdefault(path.resolve(), path)
    elif not given.exists():
      raise InputError(f"there is no file or folder {given}: give a folder of 360° videos, or files ({kinds})")
    elif given.suffix.lower() not in suffixes:
      raise InputError(f"{given} is neither a video nor a still by its name: give {kinds} files or a folder")
    else:
      found.setdefault(given.resolve(), given)
  if not found:
    raise InputError(f"{', '.join(map(str, inputs))} holds no video or still: give a folder with {kinds} files in it")
  return list(found.values())


def read_captions(path: str | Path, files: Sequence[Path],
                  default: str = DEFAULT_CAPTION) -> tuple[dict[Path, str], list[str]]:
  """Joins a table of captions to files by path ending, file name or stem.

  Args:
    path: a csv file with a header `file,caption`, or `videoid,name` as WEB360 has it; other columns are ignored.
    files: what the rows may name.
    default: what files without a row are captioned, for the warning.

  Returns:
    file -> caption, and a warning for rows that name no file, repeat one, or files no row names.

  Raises:
    InputError: if the table cannot be read or lacks the two columns.
  """
  try:
    with open(path, encoding="utf-8-sig", newline="") as table:
      reader = csv.DictReader(table, strict=True)
      columns, rows = reader.fieldnames or (), list(reader)
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"the captions {path} cannot be read ({error}): give a csv file in UTF-8") from error
  pair = next((pair for pair in (("file", "caption"), ("videoid", "name")) if set(pair) <= set(columns)), None)
  if pair is None:
    raise InputError(f"the captions {path} lack a header: the first line must be `file,caption` or `videoid,name`, "
                     f"it has {', '.join(columns) or 'nothing'}")
  by_name: dict[str, list[Path]] = {}
  for file in files:
    endings = ("/".join(file.parts[-n:]) for n in range(1, len(file.parts) + 1))
    for name in {*endings, file.stem}:
      by_name.setdefault(name, []).append(file)
  captions: dict[Path, str] = {}
  unknown, repeated = [], []
  for row in rows:
    name, caption = ((row[column] or "").strip() for column in pair)
    named = by_name.get(name.removeprefix("./"), [])
    if not named:
      unknown.append(name)
    for file in named:
      if file in captions:
        repeated.append(name)
      elif caption:
        captions[file] = caption
  missing = [file.name for file in files if file not in captions]
  return captions, [sentence for names, sentence in (
    (unknown, f"{len(unknown)} rows of {path} name no file of the input: {_some(unknown)}"),
    (repeated, f"{len(repeated)} rows of {path} repeat a file, the first row counts: {_some(repeated)}"),
    (missing, f'{len(missing)} files have no caption in {path} and get "{default}": {_some(missing)}'),
  ) if names]


def still_frames(image: np.ndarray, height: int, fps: float) -> Iterator[np.ndarray]:
  """A photograph as a slow turn of the camera to the right.

  Args:
    image: uint8 [H W 3] equirectangular.
    height: rows of the frames; they have twice as many columns.
    fps: frames per second of the clip.

  Yields:
    STILL_FRAMES frames, uint8 [height 2*height 3], about STILL_DEGREES_PER_SECOND apart.
  """
  frame = video.resize(image, (height, 2 * height))
  step = max(1, round(2 * height * STILL_DEGREES_PER_SECOND / fps / 360))
  for index in range(STILL_FRAMES):
    yield np.roll(frame, -step * index, axis=1)


def cut(frames: int, holdout: float, longest: int) -> list[tuple[str, int]]:
  """How a file's frames are shared out: (split, frames) of each clip, in order.

  The last `holdout` of the frames validate, unless that would leave one side empty. Each side is cut into clips of
  at most `longest` frames, as equal as can be, so that no clip of a few frames is left over.
  """
  held = round(frames * holdout)
  sides = [("train", frames - held), ("validation", held)] if 0 < held < frames else [("train", frames)]
  clips = []
  for split, count in sides:
    pieces = math.ceil(count / longest)
    clips += [(split, count * (k + 1) // pieces - count * k // pieces) for k in range(pieces)]
  return clips


def _walk(folder: Path) -> Iterator[Path]:
  """Every file under a folder, in order; linked folders are followed once."""
  seen: set[str] = set()

  def complain(error: OSError):
    raise InputError(f"cannot look into {error.filename} ({error.strerror})") from error

  for root, folders, names in os.walk(folder, onerror=complain, followlinks=True):
    real = os.path.realpath(root)
    if real in seen:
      folders.clear()
      continue
    seen.add(real)
    folders.sort()
    yield from (Path(root, name) for name in sorted(names))


def _recipe(files: Sequence[Path], options: Options, captions: str | Path | None) -> dict:
  """All that decides the dataset's content, to tell whether a folder holds just that already."""
  inputs = []
  for path in files:
    entry = {"file": str(path.resolve())}
    if path.exists():                                 # a dangling link is for the check to report
      stat = path.stat()
      entry |= {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
    inputs.append(entry)
  digest = None
  if captions is not None:
    if not Path(captions).is_file():
      raise InputError(f"there is no captions file {captions}: give a csv file with a header `file,caption`, or leave "
                       "--captions out")
    digest = hashlib.sha256(Path(captions).read_bytes()).hexdigest()
  return {"inputs": inputs, "options": dataclasses.asdict(options) | {"captions_sha256": digest}}


def _same_or_refuse(output: Path, recipe: dict) -> dict:
  """The manifest of a finished dataset made by this very recipe; InputError for anything else."""
  advice = "choose another --output folder, or remove this one first"
  try:
    records.dataset_info(output)
    manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    options, inputs = dataclasses.asdict(Options()) | manifest["options"], manifest["inputs"]      # it may be older
  except (InputError, OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"{output} exists and is no dataset that panda prepare made: {advice}") from error
  changed = [name for name, value in recipe["options"].items() if options.get(name) != value]
  if changed:
    said = ", ".join("captions" if name == "captions_sha256" else
                     f"{name} {options.get(name)} instead of {recipe['options'][name]}" for name in changed)
    raise InputError(f"{output} is a dataset made with other options ({said}): {advice}")
  if inputs != recipe["inputs"]:
    raise InputError(f"{output} is a dataset made from other or older input files: {advice}")
  return manifest


def _check_all(files: Sequence[Path], options: Options, progress: Progress) -> list[checks.Verdict]:
  with progress("checking", sum(map(_expected_frames, files))) as advance:
    return [checks.check(path, options.allow_flat, functools.partial(advance, 1, path.name), options.flat)
            for path in files]


def _expected_frames(path: Path) -> int:
  """A header's guess, for the progress bar only."""
  if path.suffix.lower() in checks.STILL_SUFFIXES:
    return 1
  try:
    info = video.probe(path)
  except InputError:                                  # the check that follows says so, with the reason
    return 0
  return info.frames or round((info.duration or 0) * info.fps)


def _refuse_if_nothing(verdicts: Sequence[checks.Verdict], inputs: Sequence[str | Path], options: Options) -> None:
  if any(found.ok for found in verdicts):
    return
  if len(verdicts) == 1:
    raise InputError(f"{verdicts[0].path} {verdicts[0].why}")
  listed = [f"  {found.path} {found.why}" for found in verdicts[:20]]
  more = [f"  … and {len(verdicts) - 20} more"] if len(verdicts) > 20 else []
  wanted = "film" if options.flat else "panorama"
  raise InputError("\n".join((
    f"none of the {len(verdicts)} files of {', '.join(map(str, inputs))} is a usable {wanted}:", *listed, *more)))


def _write_all(verdicts: Sequence[checks.Verdict], captions: dict[Path, str], options: Options, recipe: dict,
               writer: records.RecordWriter, progress: Progress) -> dict:
  """Writes every usable file's clips and returns the manifest."""
  usable = [found for found in verdicts if found.ok]
  stems = dict(zip((found.path for found in usable), _distinct_stems([found.path for found in usable])))
  files, frame_counts = [], {}
  with progress("writing", sum(_length(found, options) for found in usable)) as advance:
    for found in verdicts:
      entry = _about(found)
      files.append(entry)
      if not found.ok:
        continue
      entry["caption"], entry["clips"] = captions.get(found.path, options.default_caption), {}
      frames, fps = _frames_of(found, options), _fps_of(found, options)
      shares = cut(_length(found, options), options.holdout, options.max_frames_per_clip)
      for index, (split, count) in enumerate(shares):
        name = f"{stems[found.path]}_{index:03d}"
        writer.add(split, records.Clip(name, entry["caption"], fps, itertools.islice(frames, count)))
        entry["clips"].setdefault(split, []).append(name)
        frame_counts[split] = frame_counts.get(split, 0) + count
        advance(count, found.path.name)
  return {
    **recipe,
    "kind": options.kind,
    "size": list(options.size),
    "counts": {"files": len(verdicts), "used": len(usable), "skipped": len(verdicts) - len(usable),
               "clips": writer.counts(), "frames": frame_counts},
    "files": files,
  }


def _about(found: checks.Verdict) -> dict:
  """A file's line in the manifest."""
  entry = {"file": str(found.path), "used": found.ok, "kind": found.kind, "verdict": found.verdict, "why": found.why,
           "size": [found.height, found.width], "fps": found.fps, "frames": found.frames}
  if found.seam:
    entry |= {"edge_difference": round(found.seam.edge, 2), "edge_limit": round(found.seam.limit, 2)}
  return entry


def _fps_of(found: checks.Verdict, options: Options) -> float:
  """The rate of a file's clips: frames are dropped, never made up, and a still turns at any rate."""
  if found.kind == "still":
    return options.fps or STILL_FPS
  return min(found.fps, options.fps or found.fps)


def _length(found: checks.Verdict, options: Options) -> int:
  """How many frames a file gives."""
  if found.kind == "still":
    return STILL_FRAMES
  return sum(1 for _ in _kept(found.frames, found.fps / _fps_of(found, options)))


def _kept(frames: int, ratio: float) -> Iterator[int]:
  """The indices that stay when only every ratio-th frame does (ratio >= 1, need not be whole)."""
  for count in itertools.count():
    index = int(count * ratio + 0.5)
    if index >= frames:
      return
    yield index


def _frames_of(found: checks.Verdict, options: Options) -> Iterator[np.ndarray]:
  if found.kind == "still":
    yield from still_frames(checks.read_still(found.path), options.height, _fps_of(found, options))
    return
  wanted = _kept(found.frames, found.fps / _fps_of(found, options))
  take = next(wanted, None)
  for index, frame in enumerate(video.decode(found.path)):
    if index == take:
      if options.flat:                                # cut before it is resized: the square stays exactly square
        yield video.resize(video.centre_square(video.to_rgb(frame)), options.size)
      else:
        yield video.to_rgb(frame, options.size)
      take = next(wanted, None)


def _distinct_stems(paths: Sequence[Path]) -> list[str]:
  """The files' stems, numbered from the second on where they meet again: beach, beach-2."""
  taken: set[str] = set()
  stems = []
  for path in paths:
    names = itertools.chain([path.stem], (f"{path.stem}-{n}" for n in itertools.count(2)))
    stems.append(next(name for name in names if name not in taken))
    taken.add(stems[-1])
  return stems


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
