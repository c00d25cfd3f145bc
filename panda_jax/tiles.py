"""Sheets of labelled pictures: text, rows and grids of tiles on dark paper, and the png they end up in.

Everything is uint8 [_ width 3]; parts of one width are put under each other by `paper`.
"""

import os
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from panda_jax.paths import written_whole

PAPER, INK, SOFT = (21, 23, 28), (240, 241, 244), (160, 166, 178)
MARGIN, GAP = 32, 12
LABEL, HEADING, TITLE = 15, 19, 28         # font sizes in pixels

Tile = tuple[str, np.ndarray]              # a label, of one or more lines, and a picture, uint8 [h w 3]


def paper(parts: Iterable[np.ndarray], width: int) -> np.ndarray:
  """A sheet [_ width 3] with the parts under each other; they are `inner(width)` wide."""
  content = np.concatenate([piece for part in parts for piece in (part, _blank(GAP, part.shape[1]))])[:-GAP]
  sheet = np.full((len(content) + 2 * MARGIN, width, 3), PAPER, np.uint8)
  sheet[MARGIN:-MARGIN, MARGIN:-MARGIN] = content
  return sheet


def inner(width: int) -> int:
  """What the margins leave of a sheet's width."""
  return width - 2 * MARGIN


def text(lines: Iterable[str], size: int, colour: tuple[int, int, int], width: int, above: int = 0,
         most: int | None = None) -> np.ndarray:
  """Lines of text on the paper, wrapped to the width.

  Args:
    lines: to write.
    size: of the letters, in pixels.
    colour: RGB.
    width: of the result.
    above: rows of empty paper over it.
    most: write so many lines at most, after wrapping; the last one then ends in "…".

  Returns:
    uint8 [_ width 3].
  """
  font = ImageFont.load_default(size)
  wrapped = [part for line in lines for part in _wrapped(_plain(line), font, width)]
  if most is not None and len(wrapped) > most:
    wrapped = [*wrapped[:most - 1], _shortened(wrapped[most - 1], font, width)]
  line_height = round(1.4 * size)
  picture = Image.new("RGB", (width, above + line_height * len(wrapped)), PAPER)
  draw = ImageDraw.Draw(picture)
  for index, line in enumerate(wrapped):
    draw.text((0, above + line_height * index), line, fill=colour, font=font)
  return np.asarray(picture)


def heading(line: str, width: int) -> np.ndarray:
  """A heading, with some room above it: [_ width 3]."""
  return text([line], HEADING, INK, width, above=GAP)


def row(tiles: Sequence[Tile], height: int, width: int, most: int | None = None) -> np.ndarray:
  """Tiles of one height side by side, each under its label, on a strip [_ width 3]; `most`: see `grid`."""
  shapes = [(height, max(1, round(image.shape[1] * height / image.shape[0]))) for _, image in tiles]
  labels = [_label(label, shape[1], most) for (label, _), shape in zip(tiles, shapes)]
  top = max(len(label) for label in labels)              # a narrow tile's label may take two lines
  strip = np.full((top + height, width, 3), PAPER, np.uint8)
  left = 0
  for (_, image), label, shape in zip(tiles, labels, shapes):
    right = left + shape[1]
    strip[top - len(label):top, left:right] = label
    strip[top:, left:right] = resized(image, *shape)
    left = right + GAP
  return strip


def grid(tiles: Sequence[Tile], columns: int, width: int, most: int | None = None) -> list[np.ndarray]:
  """Rows of `columns` tiles of one shape that fill the width together.

  A label of several lines begins with a name, which stands out and has lines of its own; `most`: lines of each part.
  """
  tile_width = (width - GAP * (columns - 1)) // columns
  shape = tiles[0][1].shape
  height = tile_width * shape[0] // shape[1]
  return [row(tiles[start:start + columns], height, width, most) for start in range(0, len(tiles), columns)]


def columns_of(count: int, most: int) -> int:
  """Columns of a grid of `count` tiles, at most `most`, so that its rows are as equal as can be."""
  return -(-count // -(-count // most))


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """A picture in another size: uint8 [height width 3]."""
  if image.shape[:2] == (height, width):
    return image
  return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


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


def _label(label: str, width: int, most: int | None) -> np.ndarray:
  """One line is soft; of several, the first stands out."""
  first, *rest = label.splitlines() or [""]
  if not rest:
    return text([first], LABEL, SOFT, width, most=most)
  name = text([first], LABEL, INK, width, above=GAP // 2, most=most)
  return np.concatenate([name, text(rest, LABEL, SOFT, width, most=most)])


def _blank(height: int, width: int) -> np.ndarray:
  return np.broadcast_to(np.uint8(PAPER), (height, width, 3))


def _plain(line: str) -> str:
  """Without accents and long dashes: Pillow's own font has neither. Other scripts come out as boxes."""
  letters = unicodedata.normalize("NFD", line).replace("—", "-").replace("–", "-")
  return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _wrapped(line: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
  parts = [""]
  for word in line.split():
    longer = f"{parts[-1]} {word}".lstrip()
    if font.getlength(longer) <= width:
      parts[-1] = longer
      continue
    parts.append("")
    for letter in word:                                  # a word longer than a line is broken
      if parts[-1] and font.getlength(parts[-1] + letter) > width:
        parts.append("")
      parts[-1] += letter
  return parts if parts[0] or len(parts) == 1 else parts[1:]


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
  while line and font.getlength(f"{line} …") > width:
    line = line[:-1]
  return f"{line.rstrip()} …"
