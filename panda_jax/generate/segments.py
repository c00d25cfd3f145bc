"""A long video that grows as its windows finish, and goes on after an interruption.

Beside NAME_360.mp4 stands, until it is finished, the folder NAME_360.parts:

  request.json        what is being made
  window_0003.mp4     the frames of a window; one file per finished window
  row_0003.npy        the latents that the newest finished window hands on: with this file the window counts as finished

After every window the files are joined, without encoding anything again, so that NAME_360.mp4 is always a whole video
of all frames so far. It says in its comment what it was made from. Every file appears whole or not at all, so a kill at
any moment loses no more than the window under way. Videos of other names, such as NAME_views.mp4, grow likewise.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np

from panda_jax.data.video import open_container, write_video
from panda_jax.errors import InputError
from panda_jax.generate import written_whole
from panda_jax.generate.spherical import add_spherical_metadata, check_360_video

_REQUEST = "request.json"
_JOINED = "joined.mp4"
_OURS = re.compile(r"\.?(request\.json|joined\.mp4|window_\d+\.mp4|row_\d+\.npy)(\.part|\.\d+\.unfinished)?")
_COMMENT = "panda_jax"

Fingerprint = Mapping[str, str | int | float | bool | None]
"""Everything that decides the frames, by name; what is long stands as a digest that begins with "sha256:"."""


class GrowingVideo:
  """One video under way. Use it in a `with` block: an attempt that finishes no window leaves nothing behind.

  Attributes:
    path: the video.
    finished: how many windows are finished; the next to be added has this number.
    complete: whether all are, and the video is too.
  """

  def __init__(self, path: str | os.PathLike, fps: float, fingerprint: Fingerprint, windows: int,
               overwrite: bool = False, *, spherical: bool = True, any_name: bool = False, crf: int = 16,
               elsewhere: str = "--name"):
    """Begins, or goes on where an interrupted run of the same request ended.

    Args:
      path: the video, NAME_360.mp4; its folder is made.
      fps: frames per second.
      fingerprint: what is to be made.
      windows: how many windows that takes.
      overwrite: whether to start over where something else, or a damaged part, stands under this name.
      spherical: whether it is a panorama, and to be marked as one.
      any_name: whether its name may end otherwise than headset players want it.
      crf: see `write_video`.
      elsewhere: the option with which the user gives it another name or place.

    Raises:
      InputError: if another request was begun or finished under this name, or parts are damaged.
      CannotWrite: if the place cannot be written.
    """
    self.path, self._fps, self._windows = Path(path), fps, windows
    self._spherical, self._crf, self._elsewhere = spherical, crf, elsewhere
    self._fingerprint = dict(fingerprint)
    self._parts = self.path.with_suffix(".parts")
    self.finished, self.complete = 0, False
    self._row: np.ndarray | None = None
    if spherical and not any_name:
      check_360_video(self.path)
    with self._disk():
      if not overwrite:
        self._refuse_others()
      same = self._begun() == self._fingerprint or not (self._parts / _REQUEST).exists()
      if same and _comment(self.path) == self._comment(windows):
        self.finished, self.complete = windows, True
        self._remove_parts()
        return
      try:
        if self._begun() == self._fingerprint:
          self._go_on()
      except _Damaged:
        if not overwrite:
          raise
        self.finished, self._row = 0, None
      if not self.finished:
        self._remove_parts()
        try:
          self._parts.mkdir(parents=True, exist_ok=True)
          with written_whole(self._parts / _REQUEST) as unfinished:
            unfinished.write_text(json.dumps(self._fingerprint, indent=1) + "\n", encoding="utf-8")
        except BaseException:
          self._remove_parts()
          raise

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_) -> None:
    if not self.finished:
      self._remove_parts()

  def row(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """The latents that the last finished window handed on, as they were; None if there is none.

    Raises:
      InputError: if they have another size.
    """
    if self._row is None:
      return None
    if self._row.nbytes != np.dtype(dtype).itemsize * int(np.prod(shape)):
      raise self._damaged(self._row_file(self.finished - 1))
    return self._row.view(dtype).reshape(shape)

  def add(self, frames: Iterable[np.ndarray], row: np.ndarray) -> None:
    """Adds the next window; when this returns, it is in the video and safe.

    Args:
      frames: uint8 [H W 3] each.
      row: the latents that the window hands on; copied from the device here.

    Raises:
      CannotWrite: if the disk is full; what was finished before is not touched.
    """
    number = self.finished
    with self._disk():
      write_video(self._window_file(number), frames, self._fps, self._crf)
      with written_whole(self._row_file(number)) as unfinished, open(unfinished, "wb") as file:
        # As bytes: NumPy's format does not know bfloat16.
        np.save(file, np.frombuffer(np.ascontiguousarray(np.asarray(row)).tobytes(), np.uint8))
      self.finished += 1
      if number:
        self._row_file(number - 1).unlink(missing_ok=True)
      self._join()

  def _refuse_others(self) -> None:
    begun, where = self._begun(), self._parts
    if begun is None and self.path.exists():
      begun, where = (_comment(self.path) or {}).get("request"), self.path
      if begun is None:
        raise InputError(f"{self.path} exists, and not from this request: give another {self._elsewhere}, or "
                         "--overwrite to replace it")
    if begun is not None and begun != self._fingerprint:
      raise InputError(f"{where} is from another request ({differences(begun, self._fingerprint)}): give another "
                       f"{self._elsewhere}, or --overwrite to start over")

  def _begun(self) -> dict | None:
    """The request whose parts are there."""
    try:
      return json.loads((self._parts / _REQUEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
      return None
    except ValueError:
      return {}                                       # somebody's own file: no request is like it

  def _go_on(self) -> None:
    rows = sorted(self._parts.glob("row_*.npy"))
    if not rows:
      return
    self.finished = int(rows[-1].stem.removeprefix("row_")) + 1
    try:
      self._row = np.load(rows[-1], allow_pickle=False)
    except (ValueError, EOFError) as error:
      raise self._damaged(rows[-1]) from error
    for old in rows[:-1]:
      old.unlink()
    self._join()                                      # a kill may have come between the window and this

  def _join(self) -> None:
    """Makes the video of all finished windows; with the last of them it is complete and needs its parts no longer."""
    segments = [self._window_file(number) for number in range(self.finished)]
    joined = self._parts / _JOINED
    try:
      join(segments, joined, self._fps, json.dumps(self._comment(self.finished)))
      if self._spherical:
        add_spherical_metadata(joined, joined)
      os.replace(joined, self.path)
    except _BadSegment as error:
      raise self._damaged(error.path) from error
    finally:
      joined.unlink(missing_ok=True)
    if self.finished == self._windows:
      self.complete = True
      self._remove_parts()

  def _comment(self, finished: int) -> dict:
    return {"made_by": _COMMENT, "windows": [finished, self._windows], "request": self._fingerprint}

  def _remove_parts(self) -> None:
    """The request first: parts without one are nobody's, and the next run clears them away. Other files stay."""
    if not self._parts.is_dir():
      return
    (self._parts / _REQUEST).unlink(missing_ok=True)
    for part in list(self._parts.iterdir()):
      if _OURS.fullmatch(part.name):
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):                # not empty
      self._parts.rmdir()

  def _window_file(self, number: int) -> Path:
    return self._parts / f"window_{number:04d}.mp4"

  def _row_file(self, number: int) -> Path:
    return self._parts / f"row_{number:04d}.npy"

  def _damaged(self, part: Path) -> _Damaged:
    return _Damaged(f"{part} is missing or damaged, so {self.path.name} cannot go on: start over with --overwrite")

  @contextlib.contextmanager
  def _disk(self) -> Iterator[None]:
    """A full disk or a forbidden place is one sentence that says what is safe."""
    try:
      yield
    except (OSError, InputError) as error:
      cause: BaseException | None = error
      while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
      if cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        kept = f"; {_count(self.finished, 'window')} of {self._windows} kept" if self.finished else ""
        raise CannotWrite(f"no space left on the disk while writing {self.path}{kept}: free some space or choose "
                          "another folder, and run again") from error
      if cause is not None and isinstance(cause, PermissionError | NotADirectoryError | FileExistsError):
        raise CannotWrite(f"cannot write {self.path} ({cause.strerror.lower()}): choose another --output") from error
      raise


class CannotWrite(InputError):
  """A full disk or a forbidden place: whatever else is to be written there will fail, too."""


def discard_other(path: str | os.PathLike, fingerprint: Fingerprint) -> None:
  """Removes a video of ours that is of another request; any other file stays."""
  comment = _comment(Path(path))
  if comment is not None and comment.get("request") != dict(fingerprint):
    Path(path).unlink()


def differences(before: Mapping, now: Mapping) -> str:
  """In which entries two fingerprints differ, for a person: "seed was 0, is now 1; the weights are others"."""
  found = []
  for name in dict.fromkeys([*now, *before]):
    old, new = before.get(name), now.get(name)
    if old != new:
      digest = any(isinstance(value, str) and value.startswith("sha256:") for value in (old, new))
      found.append(f"{name} is another" if digest and None not in (old, new) else
                   f"{name} was {_shown(old)}, is now {_shown(new)}")
  return "; ".join(found)


def join(segments: Sequence[str | os.PathLike], path: str | os.PathLike, fps: float, comment: str = "") -> None:
  """Joins videos that one encoder made with one setting; their pictures are copied, not encoded again.

  Args:
    segments: mp4 files of one video stream each.
    path: the mp4 to write.
    fps: their frames per second.
    comment: for the file's metadata.

  Raises:
    OSError: if the place cannot be written.
  """
  start, stream, ticks, first_dts = 0, None, Fraction(0), 0
  with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as target:
    target.metadata["comment"] = comment
    for segment in segments:
      count = 0
      for packet in _packets(segment):
        if stream is None:
          stream = target.add_stream_from_template(packet.stream)
          ticks = 1 / (Fraction(fps).limit_denominator(1001) * packet.time_base)      # of a frame
          first_dts = packet.dts                     # below zero by as much as the encoder reorders
        if not count and _encoding(packet.stream) != _encoding(stream):
          raise _BadSegment(segment)                 # another version of the encoder: players would stumble
        packet.pts += round(start * ticks)
        packet.dts = first_dts + round((start + count) * ticks)      # the encoder reorders less in a very short segment
        packet.stream = stream
        target.mux(packet)
        count += 1
      start += count


def _packets(segment: str | os.PathLike) -> Iterator[av.Packet]:
  """The pictures of a segment as they are stored; at least one."""
  count = 0
  try:
    with av.open(str(segment)) as source:
      for packet in source.demux(source.streams.video[0]):
        if packet.dts is not None:                   # otherwise the end of the stream
          count += 1
          yield packet
  except (OSError, ValueError, IndexError) as error:
    raise _BadSegment(segment) from error
  if not count:
    raise _BadSegment(segment)


def _encoding(stream: av.VideoStream) -> tuple:
  context = stream.codec_context
  return context.width, context.height, bytes(context.extradata or b"")


class _Damaged(InputError):
  """Parts of a video that it cannot be continued from."""


class _BadSegment(Exception):
  """A segment that is missing, damaged, or of another encoder."""

  def __init__(self, path: str | os.PathLike):
    super().__init__(path)
    self.path = path


def _comment(path: Path) -> dict | None:
  """What one of our videos says that it was made from; None for any other file, and for none."""
  if not path.is_file():
    return None
  try:
    with open_container(path) as container:
      comment = json.loads(container.metadata.get("comment", "null"))
  except (OSError, ValueError):
    return None
  return comment if isinstance(comment, dict) and comment.get("made_by") == _COMMENT else None


def _shown(value: object) -> str:
  text = "nothing" if value is None or value == "" else repr(value) if isinstance(value, str) else str(value)
  return text if len(text) <= 60 else text[:57] + "…"


def _count(count: int, what: str) -> str:
  return f"{count} {what}{'' if count == 1 else 's'}"
