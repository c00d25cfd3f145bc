"""Where a given clip's camera looks while it films: flags or a CSV table become cameras.

A table has a header, a column `frame` (of the clip as filmed, from 0) or `time` (seconds), and any of `yaw`, `pitch`,
`roll` and `fov`, with or without `_deg`:

  time,yaw_deg,pitch_deg
  0,0,10
  2.5,45,10

Between its rows everything is linear, before the first and after the last it stays as it is there.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panda_jax.errors import InputError
from panda_jax.geometry import Camera, crop_fov_deg

ANGLES = ("yaw", "pitch", "roll", "fov")
UNITS = ("frame", "time")


@dataclasses.dataclass(frozen=True)
class CameraTrack:
  """The camera of a clip over time; one entry stands for a camera that never moves.

  Attributes:
    positions: where the entries lie, increasing: frames of the clip as filmed, from 0, or seconds.
    unit: "frame" or "time".
    yaw_deg, pitch_deg, roll_deg: an entry per position; they may pass 360, so that linear means the shorter way round.
    fov_deg: horizontal field of view of the clip as filmed, before its central square is cut; None: not known.
  """

  positions: tuple[float, ...] = (0.0,)
  unit: str = "frame"
  yaw_deg: tuple[float, ...] = (0.0,)
  pitch_deg: tuple[float, ...] = (0.0,)
  roll_deg: tuple[float, ...] = (0.0,)
  fov_deg: tuple[float, ...] | None = None

  @classmethod
  def still(cls, camera: Camera) -> CameraTrack:
    """A camera that does not move; its field of view is that of the clip as filmed."""
    return cls(yaw_deg=(camera.yaw_deg,), pitch_deg=(camera.pitch_deg,), roll_deg=(camera.roll_deg,),
               fov_deg=(camera.fov_deg,))

  def cameras(self, frames: Sequence[int], fps: float | None, size: tuple[int, int],
              unknown_fov_deg: float) -> list[Camera]:
    """The cameras of the clip's central square.

    Args:
      frames: frames of the clip as filmed, from 0.
      fps: the clip's frames per second, which a track in seconds needs.
      size: (h, w) of the clip as filmed.
      unknown_fov_deg: the square's field of view where the track does not know the clip's.

    Returns:
      One per frame.

    Raises:
      ValueError: if the track is in seconds and the clip has no rate.
    """
    at = np.asarray(frames, np.float64)
    if self.unit == "time":
      if not fps:
        raise ValueError("a camera track in seconds needs a clip with a frame rate: give it in frames")
      at = at / fps
    angles = [np.interp(at, self.positions, values) for values in (self.yaw_deg, self.pitch_deg, self.roll_deg)]
    fovs = np.full(len(at), unknown_fov_deg)
    if self.fov_deg is not None:
      fovs = [crop_fov_deg(fov, size) for fov in np.interp(at, self.positions, self.fov_deg)]
    return [Camera(float(yaw), float(pitch), float(fov), float(roll)) for yaw, pitch, roll, fov in zip(*angles, fovs)]


def camera_track(table: str | Path | None = None, *, fov_deg: float | None = None, pitch_deg: float | None = None,
                 yaw_deg: float | None = None, roll_deg: float | None = None) -> CameraTrack | None:
  """What the user says of the given clip's camera; None if nothing.

  Args:
    table: a CSV file, see the top of this file.
    fov_deg, pitch_deg, yaw_deg, roll_deg: for the whole clip, what the table has no column for.

  Raises:
    InputError: for a bad table, a bad number, or one that the table has a column for.
  """
  flags = {name: value for name, value in zip(ANGLES, (yaw_deg, pitch_deg, roll_deg, fov_deg)) if value is not None}
  for name, value in flags.items():
    _check_angle(name, value, f"--{name} {value:g}")
  if table is None:
    return CameraTrack(**{f"{name}_deg": (float(value),) for name, value in flags.items()}) if flags else None
  unit, positions, columns = _read_table(Path(table))
  if both := [name for name in flags if name in columns]:
    raise InputError(f"--{both[0]} was given and {table} has a column {both[0]}: leave one of them out")
  for name, value in flags.items():
    columns[name] = (value,) * len(positions)
  columns = {name: _unwrapped(values) if name != "fov" else values for name, values in columns.items()}
  still = {name: (0.0,) * len(positions) for name in ("yaw", "pitch", "roll")}
  return CameraTrack(positions, unit, **{f"{name}_deg": tuple(map(float, values))
                                         for name, values in (still | columns).items()})


def _read_table(path: Path) -> tuple[str, tuple[float, ...], dict[str, tuple[float, ...]]]:
  """(unit, positions, values by angle) of a CSV table."""
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file, strict=True, skipinitialspace=True)
      lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
  except OSError as error:
    raise InputError(f"the camera table {path} cannot be read ({error.strerror}): give a CSV file") from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"{path} is no CSV table ({error}): write one with a header such as time,yaw,pitch") from error
  if not lines:
    raise InputError(f"{path} is empty: write a header such as time,yaw,pitch and a row per moment")
  (header_line, header), *rows = lines
  names = _column_names(path, header_line, header)
  if not rows:
    raise InputError(f"{path} has a header and no rows: write a row per moment")
  values: dict[str, list[float]] = {name: [] for name in names}
  for line, cells in rows:
    if len(cells) != len(names):
      raise InputError(f"{path} line {line} has {len(cells)} cells and the header {len(names)}: write one per column")
    for name, title, cell in zip(names, header, cells):
      where = f"{path} line {line}, column {title}"
      values[name].append(_number(name, cell, where))
      if name in UNITS and len(values[name]) > 1 and values[name][-1] <= values[name][-2]:
        raise InputError(f"{where}: {cell} does not come after {values[name][-2]:g} of the row before: sort the rows")
  unit = next(name for name in names if name in UNITS)
  return unit, tuple(values.pop(unit)), {name: tuple(column) for name, column in values.items()}


def _column_names(path: Path, line: int, header: list[str]) -> list[str]:
  names = []
  for number, title in enumerate(header, 1):
    name = title.lower().removesuffix("_deg")
    if name not in (*UNITS, *ANGLES):
      raise InputError(f"{path} line {line}, column {number}: there is no column {title!r}; it may have "
                       f"{' or '.join(UNITS)}, and {', '.join(ANGLES)}")
    if name in names:
      raise InputError(f"{path} line {line}, column {number}: {name} is there twice")
    names.append(name)
  if len(set(names) & set(UNITS)) != 1:
    raise InputError(f"{path} line {line}: a camera table needs a column frame or a column time, and not both")
  if len(names) < 2:
    raise InputError(f"{path} line {line}: there is no column of yaw, pitch, roll or fov")
  return names


def _number(name: str, cell: str, where: str) -> float:
  try:
    value = float(cell)
  except ValueError:
    raise InputError(f"{where}: {cell!r} is no number") from None
  if name in ANGLES:
    _check_angle(name, value, f"{where}: {cell}")
  elif not (math.isfinite(value) and value >= 0):
    raise InputError(f"{where}: {cell} is no moment of a clip: they count from 0")
  return value


def _check_angle(name: str, degrees: float, what: str) -> None:
  if not math.isfinite(degrees):
    raise InputError(f"{what} is no angle: give degrees")
  if name == "fov" and not 0 < degrees < 180:
    raise InputError(f"{what} is no field of view: it lies between 0 and 180 degrees")


def _unwrapped(degrees: Sequence[float]) -> Sequence[float]:
  """350, 10 -> 350, 370: the shorter way round is the one that was filmed."""
  return np.unwrap(degrees, period=360)
