"""The run of `panda prepare`: judge every file, plan, write what is missing, put it together.

Everything happens in `<output>.incomplete`. Verdicts are appended to a file as they come, units leave receipts, so that
the same command after any interruption does only what is missing, and ends with the same bytes; then the dataset is
moved to its name in one step.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from etils import epath

from panda_jax.data import checks, records
from panda_jax.data.checks import Verdict
from panda_jax.data.prepare import manifest as manifests
from panda_jax.data.prepare import motion
from panda_jax.data.prepare.inputs import Work, find_work
from panda_jax.data.prepare.manifest import MANIFEST
from panda_jax.data.prepare.options import Options
from panda_jax.data.prepare.plan import place_images, plan_clips, plan_units
from panda_jax.data.prepare.pool import Died, Pool
from panda_jax.data.prepare.verdict_log import VerdictLog
from panda_jax.data.prepare.work import (
  IMAGES, Job, Origin, check_source, read_receipt, receipt_name, unusable, write_unit)
from panda_jax.data.shards import Split, describe, put_in_place, said_plainly
from panda_jax.data.stores import Store
from panda_jax.data.tables import printable
from panda_jax.errors import InputError
from panda_jax.paths import absolute, as_path, is_remote, write_bytes, write_text

Progress = Callable[..., AbstractContextManager[Callable[..., None]]]

_KEPT = "finished shards are kept"
_FINISHING, _LAST = "finishing", "dataset_info.json"


@dataclasses.dataclass
class Result:
  """What came of it; `already` if the folder was there before, made from the same inputs in the same way."""

  manifest: dict
  warnings: list[str]
  already: bool = False


@contextlib.contextmanager
def _silent(description: str, total: int, completed: int = 0):
  yield lambda n=1, note=None: None


def prepare(inputs: Sequence[str | Path], output: str | Path, options: Options = Options(),
            captions: str | Path | None = None, progress: Progress = _silent, pool: Pool = Pool(0),
            store: Store | None = None) -> Result:
  """Makes a dataset of clips from videos, stills and folders of them, or from the clips of another dataset.

  Args:
    inputs: files, folders to search through, WEB360 or YouTube360 as they are distributed; or one dataset folder of
      panoramas in pixels, of which crops or latents are made.
    output: the dataset's folder, here or in a bucket; appears only when it is complete (in a bucket its
      dataset_info.json does). Until then `<output>.incomplete` holds what is done; the same call continues from there.
    options: sizes, encodings, what is stored, what to hold out, the thresholds of the rules.
    captions: a csv file with a header `file,caption` or `videoid,name`, or None.
    progress: `progress(description, total, completed)` is a context manager that gives `advance(n, note=None)`: first
      files are checked, then frames are written (`panda_jax.cli.console.progress` draws a bar).
    pool: of processes that share the work; without any, it is done in this one, as latents are in any case.
    store: what makes the images of options.store; None for "pixels".

  Returns:
    The manifest (also in `output/manifest.json`) and what is worth a warning. Files that are broken, or no panoramas
    where those are wanted, are in it with the reason; they are not in the dataset.

  Raises:
    InputError: if nothing usable is found, the output folder is taken or cannot be written, the one file that was
      named is bad, or an input changes or vanishes meanwhile.
  """
  output = as_path(output)
  work = find_work(inputs, options, captions)
  recipe = manifests.recipe(work.sources, options, captions, {**(store.about() if store else {}), **motion.about(options)})
  place = absolute(output)
  place = place.with_name(place.name + ".incomplete")
  if _is_taken(output):
    already = Result(_same_or_refuse(output, recipe), [], already=True)
    _remove_finished(place, recipe)
    return already
  with _claimed(place, output):
    _begin(place, recipe)
    run = _Run(work, options, place, pool, store, progress)
    try:
      manifest = run.manifest(run.judge(), recipe, inputs)
    except _NothingUsable as error:
      place.rmtree()
      raise InputError(str(error)) from None
    with said_plainly(output, _KEPT):
      run.finish(manifest, absolute(output))
  return Result(manifest, work.warnings)


def judge(inputs: Sequence[str | Path], options: Options = Options(), captions: str | Path | None = None,
          progress: Progress = _silent, pool: Pool = Pool(0)) -> Result:
  """What `prepare` would find, without writing anything (`panda prepare --dry-run`).

  Returns:
    A manifest whose clips are only planned.

  Raises:
    InputError: as `prepare`, but not because nothing is usable.
  """
  work = find_work(inputs, options, captions)
  if work.clips is not None:
    raise InputError(f"{inputs[0]} is a dataset, whose clips were judged when it was made: `panda inspect` shows what is "
                     "in it; --dry-run is for files")
  recipe = manifests.recipe(work.sources, options, captions, motion.about(options))
  run = _Run(work, options, None, pool, None, progress)
  return Result(run.manifest(run.judge(), recipe, None), work.warnings)


class _NothingUsable(InputError):
  """No file of the input can be used."""


class _Run:
  """One run over sources that were found."""

  def __init__(self, work: Work, options: Options, place: epath.Path | None, pool: Pool, store: Store | None,
               progress: Progress):
    self.work, self.options, self.place = work, options, place
    self.pool, self.store, self.progress = pool, store, progress
    self.captions = [options.default_caption if source.caption is None else source.caption for source in work.sources]

  # Checking

  def judge(self) -> list[Verdict]:
    """The verdict of every source; those that an earlier run has left are not asked for again."""
    sources = self.work.sources
    if self.work.clips is not None:
      return []
    done = self._read_verdicts()
    missing = [number for number in range(len(sources)) if number not in done]
    log = VerdictLog(self.place and self.place / "verdicts.jsonl")
    with self.progress("checking", len(sources), len(done)) as advance, log:
      for place, found in self.pool.map(check_source, [(sources[number], self.options) for number in missing]):
        number = missing[place]
        if isinstance(found, Died):
          found = unusable(sources[number], "unreadable", "ends the process that decodes it: it is badly damaged")
        done[number] = found
        log.write({"source": number, "verdict": found.to_json()})
        advance(note=printable(sources[number].path.name))
    return [done[number] for number in range(len(sources))]

  def _read_verdicts(self) -> dict[int, Verdict]:
    lines = [] if self.place is None else VerdictLog.read(self.place / "verdicts.jsonl")
    return {line["source"]: Verdict.from_json(line["verdict"]) for line in lines}

  # Planning and writing

  def manifest(self, verdicts: list[Verdict], recipe: dict, inputs: Sequence[str | Path] | None) -> dict:
    """Writes all units that are missing, and says what the dataset holds; with no place to write, only the latter.

    Args:
      verdicts: from `judge`.
      recipe: of the run.
      inputs: as given, for the sentence if nothing can be used; None: that is all right.
    """
    if self.work.clips is not None:
      entries, origins = [], self.work.origins
      clips = place_images(self.work.clips, [origins[number].caption for number in range(len(origins))], self.store)
    else:
      if inputs is not None:
        _refuse_if_nothing(verdicts, inputs, self.options)
      clips = plan_clips(self.work.sources, verdicts, self.captions, self.options, self.store)
      entries = manifests.file_entries(self.work.sources, verdicts, self.captions, clips)
      origins = {number: Origin(printable(source.path), caption, verdict, _stamp_in(entry), flow=source.flow,
                                flow_stamp=_stamp_in(entry.get("flow", {})))
                 for number, (source, caption, verdict, entry) in enumerate(zip(
                   self.work.sources, self.captions, verdicts, recipe["inputs"], strict=True)) if verdict.ok}
    self.units = plan_units(clips, self.options)
    if self.place is not None:
      self._write([Job(unit, {clip.source: origins[clip.source] for clip in unit.clips}) for unit in self.units])
    counts: dict[str, dict[str, int]] = {"clips": {}, "frames": {}}
    self.shortest: dict[str, tuple[int, str]] = {}
    for clip in clips:
      counts["clips"][clip.split] = counts["clips"].get(clip.split, 0) + 1
      counts["frames"][clip.split] = counts["frames"].get(clip.split, 0) + clip.frames
      shortest = (clip.frames, clip.id)
      self.shortest[clip.split] = min(self.shortest.get(clip.split, shortest), shortest)
    used = sum(entry["used"] for entry in entries)
    return {
      **recipe,
      "dataset": self.work.dataset,
      "kind": self.options.kind,
      "store": self.options.store,
      "size": list(self.options.size),
      "counts": {"files": len(entries), "used": used, "skipped": len(entries) - used, **counts},
      "rules": manifests.rule_table(entries, checks.RULES | (motion.RULES if self.options.flow_videos else {})),
      "files": entries,
    }

  def _write(self, jobs: list[Job]) -> None:
    folder = self.place / "work"
    folder.mkdir(exist_ok=True)
    if (self.place / _FINISHING).exists():            # every unit is written; an earlier run was putting them together
      return
    missing = [job for job in jobs if read_receipt(job.unit, folder) is None]
    pool = self.pool if self.store is None or self.options.store == "crops" else Pool(0)
    total, left = (sum(job.unit.frames for job in some) for some in (jobs, missing))
    with self.progress("writing", total, total - left) as advance:
      for place, receipt in pool.map(write_unit, [(job, self.options, folder, self.store) for job in missing]):
        if isinstance(receipt, Died):
          names = ", ".join(origin.name for origin in missing[place].origins.values())
          raise InputError(f"the process that wrote the clips of {names} died, twice: it may have run out of memory; run "
                           "the same command again with fewer --processes")
        advance(missing[place].unit.frames)

  # The end

  def finish(self, manifest: dict, output: epath.Path) -> None:
    """Puts shards and descriptions together and gives the dataset its name."""
    work = self.place / "work"
    # A bucket cannot rename a folder: there the shards go to their place at once, and dataset_info.json comes last.
    dataset = output if is_remote(output) else self.place / "dataset"
    write_text(self.place / _FINISHING, "")
    dataset.mkdir(exist_ok=True)
    write_text(dataset / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    splits: dict[str, Split] = {}
    for unit in self.units:
      for kind, shards in json.loads((work / receipt_name(unit)).read_text())["shards"].items():
        splits.setdefault(kind, Split()).add([work / file for file in shards["files"]], shards["lengths"],
                                             shards["bytes"])
    clips = {kind: shards for kind, shards in splits.items() if not kind.startswith(f"{IMAGES}-")}
    put_in_place(dataset, self.work.dataset, clips)
    put_in_place(dataset, IMAGES, {kind.removeprefix(f"{IMAGES}-"): shards for kind, shards in splits.items()
                                   if kind not in clips})
    with tempfile.TemporaryDirectory() as described:
      describe(Path(described), clips, {
        "kind": self.options.kind, "size": list(self.options.size), "encoding": self.options.encoding,
        "quality": self.options.quality, "shortest": self.shortest, "about": manifest["about"],
        "metadata": {"options": manifest["options"], "counts": manifest["counts"]},
      }, self.work.dataset, self.options.store)
      for file in sorted(Path(described).iterdir(), key=lambda file: file.name == _LAST):
        write_bytes(dataset / file.name, file.read_bytes())
    if dataset != output:
      dataset.replace(output)
    self.place.rmtree()


@contextlib.contextmanager
def _claimed(place: epath.Path, output: epath.Path) -> Iterator[None]:
  """The working folder as this process's alone; a bucket has no locks."""
  if is_remote(place):
    yield
    return
  with said_plainly(output, _KEPT):
    lock = records.claim(Path(place))
  try:
    yield
  finally:
    os.close(lock)


def _stamp_in(entry: dict) -> tuple[int | None, int | None]:
  """(bytes, modified_ns) of a file in a recipe."""
  return entry.get("bytes"), entry.get("modified_ns")


def _is_taken(output: epath.Path) -> bool:
  """Whether something is in the place of the dataset; an empty folder is nothing."""
  if is_remote(output):
    return (output / _LAST).exists()
  return output.exists() and not (output.is_dir() and not any(output.iterdir()))


def _begin(place: epath.Path, recipe: dict) -> None:
  """Ties the working folder to this recipe, or refuses one that holds the work of another."""
  path = place / "recipe.json"
  if path.exists():
    differing = manifests.differences(json.loads(path.read_text()), recipe)
    if differing is not None:
      how = f"with other options ({differing})" if differing else "from other or older input files"
      raise InputError(f"{place} is the unfinished work of a run {how}: give the same command again to finish it, choose "
                       "another --output, or remove that folder")
    return
  with said_plainly(place, _KEPT):
    if not is_remote(place):
      records.clear(Path(place))
    write_text(path, json.dumps(recipe))


def _remove_finished(place: epath.Path, recipe: dict) -> None:
  """Removes what a run left that was killed after its dataset had got its name."""
  path = place / "recipe.json"
  if path.exists() and manifests.differences(json.loads(path.read_text()), recipe) is None:
    place.rmtree()


def _same_or_refuse(output: epath.Path, recipe: dict) -> dict:
  """The manifest of a finished dataset made by this very recipe; InputError for anything else."""
  advice = "choose another --output folder, or remove this one first"
  try:
    if not is_remote(output):
      records.dataset_info(output)
    manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    differing = manifests.differences(manifest, recipe)
  except (InputError, OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"{output} exists and is no dataset that panda prepare made: {advice}") from error
  if differing:
    raise InputError(f"{output} is a dataset made with other options ({differing}): {advice}")
  if differing is not None:
    raise InputError(f"{output} is a dataset made from other or older input files: {advice}")
  return manifest


def _refuse_if_nothing(verdicts: Sequence[Verdict], inputs: Sequence[str | Path], options: Options) -> None:
  if any(found.ok for found in verdicts):
    return
  if len(verdicts) == 1:
    raise _NothingUsable(f"{printable(verdicts[0].path)} {verdicts[0].why}")
  listed = [f"  {printable(found.path)} {found.why}" for found in verdicts[:20]]
  more = [f"  … and {len(verdicts) - 20} more"] if len(verdicts) > 20 else []
  wanted = "film" if options.flat else "panorama"
  raise _NothingUsable("\n".join((
    f"none of the {len(verdicts)} files of {', '.join(map(str, inputs))} is a usable {wanted}:", *listed, *more)))
