"""Photographs: read whole, or refused in one sentence."""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from panda_jax.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv")
STILL_SUFFIXES = (".jpg", ".jpeg", ".png")


class TooLarge(InputError):
  """A picture of more pixels than anybody wants to decode; `width` and `height` are what its header says."""

  def __init__(self, message: str, width: int, height: int):
    super().__init__(message)
    self.width, self.height = width, height


def read_still(path: str | Path, most_pixels: int | None = None) -> np.ndarray:
  """Reads a jpg or png as uint8 [H W 3] RGB.

  Args:
    path: the file.
    most_pixels: refuse larger pictures by their header, before they are decoded; None: read all.

  Raises:
    InputError: if it is missing, cut off or no image.
    TooLarge: if it has more than `most_pixels`.
  """
  try:
    data = Path(path).read_bytes()
  except (OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
  # libjpeg fills what is missing with grey and reports success
  jpeg_cut = data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0
  png_cut = data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]
  if jpeg_cut or png_cut:
    raise InputError(f"{path} is cut off: its end is missing; get a whole copy")
  if most_pixels is not None:
    width, height = _header_size(path, data)
    if width * height > most_pixels:
      raise TooLarge(f"{path} is {too_large(width, height, most_pixels)}", width, height)
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
  except cv2.error as error:
    raise InputError(f"{path} cannot be read as an image ({error.err})") from error
  if image is None:
    raise InputError(f"{path} cannot be read as an image: it is damaged or something else")
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def too_large(width: int, height: int, most_pixels: int) -> str:
  """The end of a sentence that starts with "<file> is"."""
  return (f"{width}x{height} by its header, {width * height / 1e6:.0f} million pixels where {most_pixels / 1e6:.0f} "
          "are the most: its header is damaged, or shrink it first")


def _header_size(path: str | Path, data: bytes) -> tuple[int, int]:
  """(width, height), without decoding."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(data)) as image:
        return image.size
  except Image.DecompressionBombError as error:       # beyond Pillow's own limit, which is above ours
    raise TooLarge(f"{path} is a picture of hundreds of millions of pixels by its header: its header is damaged, or "
                   "shrink it first", 0, 0) from error
  except (OSError, ValueError, SyntaxError) as error:
    raise InputError(f"{path} cannot be read as an image: it is damaged or something else") from error
