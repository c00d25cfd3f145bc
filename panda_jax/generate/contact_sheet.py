"""One picture that shows a panoramic video at a glance: moments, views, and the seam."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from panda_jax.generate import written_whole
from panda_jax.geometry import VIDEOPANDA_RIG, Camera, Rig, project, to_uint8

_PAPER, _INK, _SOFT = (21, 23, 28), (240, 241, 244), (160, 166, 178)
_MARGIN, _GAP = 32, 12
_LABEL, _HEADING, _TITLE = 15, 19, 28      # font sizes in pixels

Tile = tuple[str, np.ndarray]              # a label and a picture, uint8 [h w 3]


def contact_sheet(
  frames: np.ndarray,
  *,
  numbers: Sequence[int] | None = None,
  fps: float | None = None,
  title: str = "",
  lines: Sequence[str] = (),
  moments: int = 4,
  columns: int = 2,
  rig: Rig = VIDEOPANDA_RIG,
  width: int = 1600,
) -> np.ndarray:
  """Draws a few moments of a video, the first one seen by each camera of a rig, and its seam brought to the middle.

  Args:
    frames: [f H W 3] uint8 equirectangular.
    numbers: which frames of the video these are, increasing; all from the first on unless told.
    fps: frames per second, to label the moments in seconds too.
    title: in large letters at the top.
    lines: further lines under it, such as the prompt; long ones are wrapped.
    moments: how many frames to show, spread evenly from the first to the last.
    columns: how many of them stand side by side.
    rig: the cameras to look through.
    width: of the sheet, in pixels.

  Returns:
    [H' W' 3] uint8 with W' = width; H' follows from what is on it.

  Raises:
    ValueError: if frames is not uint8 [f H W 3] with f >= 1, there is not a number for each, or a count is not
      positive.
  """
  frames = np.asarray(frames)
  if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
    raise ValueError(f"frames must be uint8 [f H W 3], got {frames.dtype} {list(frames.shape)}")
  if moments < 1 or columns < 1 or width < 400:
    raise ValueError(f"moments and columns must be >= 1 and width >= 400, got {moments}, {columns}, {width}")
  numbers = range(len(frames)) if numbers is None else numbers
  if len(numbers) != len(frames):
    raise ValueError(f"there are {len(frames)} frames and {len(numbers)} numbers for them")
  inner = width - 2 * _MARGIN
  first = frames[0]

  rows = []
  if title:
    rows.append(_text([title], _TITLE, _INK, inner))
  if lines:
    rows.append(_text(lines, _LABEL + 2, _SOFT, inner))
  shown = np.unique(np.linspace(0, len(frames) - 1, min(moments, len(frames))).round().astype(int))
  rows.append(_heading("Moments", inner))
  rows += _grid([(_moment(numbers[index], fps), frames[index]) for index in shown], min(columns, len(shown)), inner)

  rows.append(_heading(f"Views of frame {numbers[0]}" + (f", rig {rig.name}" if rig.name else ""), inner))
  per_row = -(-len(rig) // -(-len(rig) // 4))          # at most four, in rows as equal as can be
  side = (inner - _GAP * (per_row - 1)) // per_row
  rows += _grid([(_direction(camera), _view(first, camera, side)) for camera in rig], per_row, inner)

  rows.append(_heading(f"The seam of frame {numbers[0]}, where the left and the right edge meet", inner))
  side = (inner - _GAP) // 3
  behind = Camera(yaw_deg=180, pitch_deg=0)
  tiles = [("turned by 180°: the seam is in the middle", np.roll(first, first.shape[1] // 2, axis=1)),
           (_direction(behind), _view(first, behind, side))]
  rows.append(_row(tiles, side, inner))

  content = np.concatenate([part for row in rows for part in (row, _blank(_GAP, inner))])[:-_GAP]
  sheet = np.full((len(content) + 2 * _MARGIN, width, 3), _PAPER, np.uint8)
  sheet[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = content
  return sheet


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes uint8 [H W 3] as a png, at once.

  Raises:
    ValueError: if the image is not uint8 [H W 3].
    InputError: if the place cannot be written.
  """
  if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
    raise ValueError(f"an image must be uint8 [H W 3], got {image.dtype} {list(image.shape)}")
  with written_whole(path) as unfinished:
    Image.fromarray(image).save(unfinished, format="PNG")


def _moment(index: int, fps: float | None) -> str:
  return f"frame {index}" + (f" · {index / fps:.2f} s" if fps else "")


def _direction(camera: Camera) -> str:
  return f"yaw {camera.yaw_deg:g}°, pitch {camera.pitch_deg:g}°, field of view {camera.fov_deg:g}°"


def _view(panorama: np.ndarray, camera: Camera, side: int) -> np.ndarray:
  """[side side 3] uint8. A panorama much finer than the view is shrunk first, or it would alias."""
  height = min(panorama.shape[0], 2 * side)
  panorama = _resized(panorama, height, round(panorama.shape[1] * height / panorama.shape[0]))
  return to_uint8(project(panorama, camera, (side, side)))


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
  if image.shape[:2] == (height, width):
    return image
  return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _blank(height: int, width: int) -> np.ndarray:
  return np.broadcast_to(np.uint8(_PAPER), (height, width, 3))


def _text(lines: Sequence[str], size: int, colour: tuple[int, int, int], width: int, above: int = 0) -> np.ndarray:
  """Lines of text on the paper, wrapped to the width, under `above` pixels of empty paper: [_ width 3]."""
  font = ImageFont.load_default(size)
  lines = [part for line in lines for part in _wrapped(line, font, width)]
  line_height = round(1.4 * size)
  picture = Image.new("RGB", (width, above + line_height * len(lines)), _PAPER)
  draw = ImageDraw.Draw(picture)
  for index, line in enumerate(lines):
    draw.text((0, above + line_height * index), line, fill=colour, font=font)
  return np.asarray(picture)


def _wrapped(line: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
  parts = [""]
  for word in line.split():
    longer = f"{parts[-1]} {word}".lstrip()
    if not parts[-1] or font.getlength(longer) <= width:
      parts[-1] = longer
    else:
      parts.append(word)
  return parts


def _heading(text: str, width: int) -> np.ndarray:
  return _text([text], _HEADING, _INK, width, above=_GAP)


def _row(tiles: Sequence[Tile], height: int, width: int) -> np.ndarray:
  """Tiles of one height side by side, each under its label, on a strip [_ width 3]."""
  shapes = [(height, round(image.shape[1] * height / image.shape[0])) for _, image in tiles]
  labels = [_text([label], _LABEL, _SOFT, shape[1]) for (label, _), shape in zip(tiles, shapes)]
  top = max(len(label) for label in labels)              # a narrow tile's label may take two lines
  strip = np.full((top + height, width, 3), _PAPER, np.uint8)
  left = 0
  for (_, image), label, shape in zip(tiles, labels, shapes):
    right = left + shape[1]
    strip[top - len(label):top, left:right] = label
    strip[top:, left:right] = _resized(image, *shape)
    left = right + _GAP
  return strip


def _grid(tiles: Sequence[Tile], columns: int, width: int) -> list[np.ndarray]:
  """Rows of `columns` tiles of one shape that fill the width together."""
  tile_width = (width - _GAP * (columns - 1)) // columns
  shape = tiles[0][1].shape
  height = tile_width * shape[0] // shape[1]
  return [_row(tiles[start:start + columns], height, width) for start in range(0, len(tiles), columns)]
