"""`panda caption` from its input to captions.csv. What costs something is kept at once and never repeated."""

import collections
import contextlib
import dataclasses
import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from panda_jax.captioning import fusion, views
from panda_jax.captioning.clips import FRAMES, Clip, find_clips
from panda_jax.captioning.endpoint import Endpoint, NoCaption, Settings, Stopped
from panda_jax.captioning.image_to_text import DTYPES, ImageToText, fingerprint
from panda_jax.captioning.journal import Journal, table_text, write_whole
from panda_jax.captioning.sentences import Sentences, read_sentences
from panda_jax.errors import InputError

STYLES = ("fusion", "view")
VIEWS_TABLE = "views.csv"
_GIVE_UP_AFTER = 5
_READERS, _READ_AHEAD = 2, 8

Progress = Callable[..., AbstractContextManager[Callable[..., None]]]


@dataclasses.dataclass(frozen=True)
class Options:
  """What `panda caption` can be told; the command line's help says what each means.

  Raises:
    InputError: for a value that cannot be meant, or settings that exclude each other.
  """

  inputs: Sequence[str | Path]
  output: str | Path | None = None
  style: str = "fusion"
  frame: str | None = None                            # None: the first for "fusion", the middle one for "view"
  yaw_deg: int = 0                                    # of the one view of the style "view"
  per: str = "file"
  dataset: str = "auto"
  view_size: int = 512
  allow_flat: bool = False
  export: str | Path | None = None
  model: str | Path | None = None
  prompt: str | None = None                           # None: what suits the model
  beams: int = 3
  longest_sentence: int = 40
  batch_size: int = 16
  device: str = "auto"
  dtype: str = "auto"
  sentences: str | Path | None = None
  server: Settings | None = None                      # None: the template
  directions: bool = False
  instructions: str = ""

  def __post_init__(self):
    for name, value, known in (("style", self.style, STYLES), ("frame", self.frame, (None, *FRAMES)),
                               ("per", self.per, ("file", "clip")), ("dtype", self.dtype, DTYPES)):
      if value not in known:
        raise InputError(f"--{name} must be one of {', '.join(each for each in known if each)}, got {value!r}")
    for name, value, least in (("view-size", self.view_size, 16), ("batch-size", self.batch_size, 1),
                               ("beams", self.beams, 1), ("longest-sentence", self.longest_sentence, 1)):
      if value < least:
        raise InputError(f"--{name} must be at least {least}, got {value}")
    if self.model and self.sentences:
      raise InputError("--model and --sentences both say what is to be seen: give one of them")
    if not (self.model or self.sentences or self.export):
      raise InputError("who describes the views? Give --model FOLDER (an image-to-text model), --sentences FILE "
                       "(written elsewhere), or --export DIR alone to get the views as pictures")
    if (self.model or self.sentences) and not self.output:
      raise InputError("--output is missing: name the csv file to write")
    if self.output and not (self.model or self.sentences):
      raise InputError("--output has nothing to write: give --model FOLDER or --sentences FILE, or leave --output out")
    for name, value in (("output", self.output), ("export", self.export)):
      if "://" in str(value or ""):
        raise InputError(f"--{name} {value} is not on this machine: write here, then copy it there")
    if self.style == "view" and (self.server or self.directions):
      raise InputError("--style view has one sentence per clip and nothing to fuse: leave out --fuse and --directions")

  @property
  def yaws_deg(self) -> tuple[int, ...]:
    """Where the views look."""
    return views.YAWS_DEG if self.style == "fusion" else (self.yaw_deg,)

  def recipe(self) -> dict[str, Any]:
    """All that decides a caption besides the clip; sentences from elsewhere are compared clip by clip."""
    fuse: Any = "none"
    if self.style == "fusion":
      fuse = {"directions": self.directions, "by": "template"}
      if self.server:
        asked = fusion.messages(("…",) * 4, views.YAWS_DEG, self.directions, self.instructions)
        fuse |= {"by": self.server.recipe(), "prompt": hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}
    seen: Any = "given"
    if self.model:
      seen = {"model": fingerprint(self.model), "prompt": self.prompt, "beams": self.beams, "dtype": self.dtype,
              "longest": self.longest_sentence, "view_size": self.view_size}
    return {"style": self.style, "frame": self.looked_at, "yaws_deg": list(self.yaws_deg), "sentences": seen,
            "fuse": fuse}

  @property
  def looked_at(self) -> str:
    """Which frame."""
    return self.frame or ("first" if self.style == "fusion" else "middle")


@dataclasses.dataclass
class Result:
  """What came of it: how many clips, (name, why) of those that have no caption, and sentences for the user."""

  clips: int = 0
  captioned: int = 0
  reused: int = 0
  failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  warnings: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def _silent(description: str, total: int, completed: int = 0):
  yield lambda n=1, note=None: None


def caption(options: Options, progress: Progress = _silent) -> Result:
  """Captions clips, or only exports their views.

  Args:
    options: what and how.
    progress: `progress(description, total, completed)` is a context manager that gives `advance(n, note=None)`
      (`panda_jax.cli.console.progress` draws a bar).

  Returns:
    The counts. `options.output` holds a row for every clip that has a caption, in the order of the input, also if
    others failed; the same call tries only those again.

  Raises:
    InputError: if the input, the model or the settings are wrong, or the server answers nobody. What is finished by
      then is kept in `journal.partial_path(output)`, and the same call goes on from there.
  """
  clips, warnings = find_clips(options.inputs, options.looked_at, options.per, options.dataset)
  flat = next((clip.file for clip in clips if clip.kind == "flat"), None)
  if flat and options.style == "fusion":
    raise InputError(f"{flat} and the other clips of this dataset are ordinary films with one view each: give "
                     "--style view")
  if not options.output:
    return dataclasses.replace(_export_only(options, clips, progress), warnings=warnings)
  given = read_sentences(options.sentences, clips, options.yaws_deg) if options.sentences else None
  with Journal(Path(options.output), options.recipe()) as journal:
    run = _Run(options, clips, given, journal)
    todo = [clip for clip in clips if not run.is_finished(clip)]
    with progress("captioning", len(clips), completed=len(clips) - len(todo)) as advance:
      run.work(todo, advance)
    if journal.unreadable:
      warnings.append(f"{journal.unreadable} damaged lines of {journal.path} are left out, their clips were done again")
    return dataclasses.replace(run.finish(reused=len(clips) - len(todo)), warnings=warnings + run.warnings)


class _Run:
  """One run over clips with a journal."""

  def __init__(self, options: Options, clips: Sequence[Clip], given: Sentences | None, journal: Journal):
    self.options, self.clips, self.given, self.journal = options, clips, given, journal
    self.failed: dict[str, str] = {}
    self.warnings: list[str] = []

  def is_finished(self, clip: Clip) -> bool:
    entry = self.journal.get(clip.id, clip.stamp)
    if not entry or not entry.get("caption"):
      return False
    return self.given is None or entry["sentences"] == self._given_to(clip)

  def work(self, todo: Sequence[Clip], advance: Callable[..., None]) -> None:
    def finished(clip: Clip, why: str = "") -> None:
      if why:
        self.failed[clip.id] = why.removeprefix(clip.file).strip()
      advance(1, clip.file)

    missing = self._missing_exports()
    with _Fusing(self.options, self.journal, finished) as fusing:
      for clip, sentences in self._sentences(todo, finished):
        fusing.submit(clip, sentences)
    lost: list[str] = []
    for _ in self._looks(missing, lambda clip, why: lost.append(why)):
      pass
    self.warnings += [f"{len(lost)} clips could not be exported: {lost[0]}"] if lost else []

  def finish(self, reused: int) -> Result:
    rows, sentences = [], {}
    for clip in self.clips:
      entry = self.journal.get(clip.id, clip.stamp) or {}
      if entry.get("caption") and clip.id not in self.failed:
        rows.append((clip.file, entry["caption"]))
      sentences[clip.id] = entry.get("sentences", ())
    if rows:
      self.journal.write_table(rows)
    if self.options.export:
      _write_views_table(self.options, self.clips, sentences)
    failed = [(clip.file, self.failed[clip.id]) for clip in self.clips if clip.id in self.failed]
    return Result(len(self.clips), len(rows) - reused, reused, failed)

  def _given_to(self, clip: Clip) -> list[str] | None:
    found = self.given.get(clip.id, {})
    wanted = self.options.yaws_deg
    return [found[yaw] for yaw in wanted] if all(yaw in found for yaw in wanted) else None

  def _missing_exports(self) -> list[Clip]:
    """Clips whose views `_sentences` will not look at, and that are to be exported."""
    return [clip for clip in self.clips if self.options.export and (self.given is not None or self._kept(clip))
            and not views.is_exported(Path(self.options.export), clip, self.options.yaws_deg)]

  def _kept(self, clip: Clip) -> list[str] | None:
    """The sentences that an earlier run got from the model."""
    return (self.journal.get(clip.id, clip.stamp) or {}).get("sentences") if self.given is None else None

  def _sentences(self, todo: Sequence[Clip], finished: Callable[..., None]) -> Iterator[tuple[Clip, list[str]]]:
    if self.given is not None:
      for clip in todo:
        sentences = self._given_to(clip)
        if sentences:
          yield clip, sentences
        else:
          lacks = [f"{yaw}°" for yaw in self.options.yaws_deg if yaw not in self.given.get(clip.id, {})]
          finished(clip, f"has no sentence for the view at {', '.join(lacks)} in {self.options.sentences}")
      return
    for clip in todo:
      if self._kept(clip):
        yield clip, self._kept(clip)
    new = [clip for clip in todo if not self._kept(clip)]
    if not new:
      return
    options = self.options
    model = ImageToText(options.model, options.prompt, "a view of" if options.style == "view" else "", options.device,
                        options.dtype, options.beams, options.longest_sentence)
    per_batch = max(1, options.batch_size // len(options.yaws_deg))
    for batch in _batches(self._looks(new, finished), per_batch):
      sentences = iter(model([image for _, images in batch for image in images]))
      for clip, images in batch:
        told = [next(sentences) for _ in images]
        if not any(told):
          finished(clip, "has views about which the model says nothing")
          continue
        if options.server:                          # the template needs no time in which they could be lost
          self.journal.add(clip.id, clip.stamp, sentences=told)
        yield clip, told

  def _looks(self, clips: Sequence[Clip], finished: Callable[..., None]) -> Iterator[tuple[Clip, np.ndarray]]:
    return _looks(self.options, clips, finished)


class _Fusing:
  """Makes captions of sentences and keeps them: at once by the template, in threads where a server is asked.

  Leaving it waits for all that was submitted. Leaving it by an exception waits for requests on their way only if the
  exception is an `InputError`: an interrupt must not take a minute.
  """

  def __init__(self, options: Options, journal: Journal, finished: Callable[..., None]):
    self.options, self.journal, self.finished = options, journal, finished
    self._stop, self._lock = threading.Event(), threading.Lock()
    self._error: BaseException | None = None
    self._failures = 0                                # one after the other, without an answer between them
    self._threads: list[threading.Thread] = []
    if options.server:
      self._endpoint = Endpoint(options.server, self._stop)
      self._queue: queue.Queue = queue.Queue(2 * options.server.concurrency)
      self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(options.server.concurrency)]

  def __enter__(self) -> "_Fusing":
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if kind is None:
      for _ in self._threads:
        self._put(None)
    else:
      self._stop.set()
    if kind is None or issubclass(kind, InputError):
      for thread in self._threads:
        thread.join()
    if kind is None and self._error:
      raise self._error

  def submit(self, clip: Clip, sentences: list[str]) -> None:
    """Makes the caption, or has it made while others are being described."""
    if self._threads:
      self._put((clip, sentences))
      if self._error:
        raise self._error
    elif self.options.style == "view":
      self._keep(clip, sentences, fusion.view_of(sentences[0]))
    else:
      self._keep(clip, sentences, fusion.fuse(sentences, self.options.yaws_deg, self.options.directions))

  def _put(self, work: tuple[Clip, list[str]] | None) -> None:
    while not self._stop.is_set():
      with contextlib.suppress(queue.Full):
        self._queue.put(work, timeout=0.2)
        return

  def _serve(self) -> None:
    while not self._stop.is_set():
      try:
        work = self._queue.get(timeout=0.2)
      except queue.Empty:
        continue
      if work is None:
        return
      try:
        self._ask(*work)
      except Stopped:
        return
      except BaseException as error:                  # raised again by the main thread
        with self._lock:
          self._error = self._error or error
        self._stop.set()

  def _ask(self, clip: Clip, sentences: list[str]) -> None:
    options = self.options
    asked = fusion.messages(sentences, options.yaws_deg, options.directions, options.instructions)
    try:
      text = self._endpoint.ask(asked, clip.id)
    except NoCaption as error:
      with self._lock:
        self._failures += 1
        enough = self._failures >= _GIVE_UP_AFTER
      if enough:
        raise InputError(f"{options.server.address} gave no caption for {_GIVE_UP_AFTER} clips one after the other, "
                         f"the last time because {error}; finished captions are kept, run the same command again "
                         "when that is mended") from None
      self.finished(clip, f"got no caption: {error}")
      return
    self._keep(clip, sentences, text)
    with self._lock:
      self._failures = 0

  def _keep(self, clip: Clip, sentences: list[str], text: str) -> None:
    if not text:
      self.finished(clip, "has sentences that say nothing")
      return
    self.journal.add(clip.id, clip.stamp, sentences=sentences, caption=text)
    self.finished(clip)


def _export_only(options: Options, clips: Sequence[Clip], progress: Progress) -> Result:
  folder, failed = Path(options.export), {}
  todo = [clip for clip in clips if not views.is_exported(folder, clip, options.yaws_deg)]

  with progress("exporting", len(clips), completed=len(clips) - len(todo)) as advance:
    def finished(clip: Clip, why: str) -> None:
      failed[clip.id] = why.removeprefix(clip.file).strip()
      advance(1, clip.file)

    for clip, _ in _looks(options, todo, finished):
      advance(1, clip.file)
  _write_views_table(options, [clip for clip in clips if clip.id not in failed], {})
  named = [(clip.file, failed[clip.id]) for clip in clips if clip.id in failed]
  return Result(len(clips), 0, len(clips) - len(todo), named)


def _looks(options: Options, clips: Sequence[Clip], failed: Callable[[Clip, str], None],
           ) -> Iterator[tuple[Clip, np.ndarray]]:
  """The views of clips in order, read ahead by threads, and exported where that is wanted."""
  def read(clip: Clip) -> np.ndarray | InputError:
    try:
      found = views.look(clip, options.yaws_deg, options.view_size, options.allow_flat)
    except InputError as error:
      return error
    if options.export:
      views.export(Path(options.export), clip, options.yaws_deg, found)
    return found

  for clip, found in _ahead(read, clips):
    if isinstance(found, InputError):
      failed(clip, str(found))
    else:
      yield clip, found


def _ahead(function: Callable[[Clip], Any], clips: Iterable[Clip]) -> Iterator[tuple[Clip, Any]]:
  """(clip, function(clip)) in order, a few of them ahead of the one that is asked for."""
  waiting: collections.deque = collections.deque()
  pool = ThreadPoolExecutor(_READERS)
  try:
    for clip in clips:
      waiting.append((clip, pool.submit(function, clip)))
      if len(waiting) > _READ_AHEAD:
        done, future = waiting.popleft()
        yield done, future.result()
    while waiting:
      done, future = waiting.popleft()
      yield done, future.result()
  finally:
    pool.shutdown(cancel_futures=True)


def _batches(items: Iterable, size: int) -> Iterator[list]:
  batch = []
  for item in items:
    batch.append(item)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch


def _write_views_table(options: Options, clips: Sequence[Clip], sentences: dict[str, Sequence[str]]) -> None:
  """views.csv beside the pictures: what each shows and its sentence, or room for one."""
  folder = Path(options.export)
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for clip in clips:
    told = sentences.get(clip.id) or [""] * len(options.yaws_deg)
    rows += [(clip.id, yaw, views.view_path(folder, clip, yaw).relative_to(folder).as_posix(), clip.file, sentence)
             for yaw, sentence in zip(options.yaws_deg, told)]
  write_whole(folder / VIEWS_TABLE, table_text(("id", "yaw_deg", "picture", "file", "sentence"), rows))
