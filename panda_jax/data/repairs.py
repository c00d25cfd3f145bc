"""A file's frames as they go into a dataset: repaired as its verdict says, resized, each decoded once."""

from collections.abc import Iterable, Iterator

import av
import cv2
import numpy as np

from panda_jax.data import video
from panda_jax.data.checks import Verdict, read_still
from panda_jax.errors import InputError
from panda_jax.geometry.eac import PADDING, eac_table
from panda_jax.geometry.table import apply_table, to_uint8


def frames(verdict: Verdict, size: tuple[int, int], keep: Iterable[int], flat: bool = False) -> Iterator[np.ndarray]:
  """Decodes a file up to the last frame that is kept and converts only those.

  Args:
    verdict: of the file; its span and its repairs are applied.
    size: (H, W) of the frames given.
    keep: increasing indices of frames, counted from the span's first. A still has frame 0 only.
    flat: cut the central square out before resizing.

  Yields:
    uint8 [H W 3] RGB.

  Raises:
    InputError: if the file cannot be read (any more), or has fewer frames than `keep` asks for.
  """
  wanted = iter(keep)
  take = next(wanted, None)
  if take is None:
    return
  if verdict.kind == "still":
    yield repair(read_still(verdict.path), verdict.repairs, size, flat)
    return
  plain = not flat and set(verdict.repairs) <= {"resize"}
  for index, frame in enumerate(video.decode(verdict.path, verdict.start, verdict.end)):
    if index == take:
      yield _to_rgb(verdict.path, frame, size) if plain else \
        repair(_to_rgb(verdict.path, frame), verdict.repairs, size, flat)
      take = next(wanted, None)
      if take is None:
        return
  raise InputError(f"{verdict.path} had {verdict.frames} frames when it was checked and ends before frame {take} now: "
                   "it has changed; run again")


def repair(image: np.ndarray, repairs: Iterable[str], size: tuple[int, int], flat: bool = False) -> np.ndarray:
  """One frame, uint8 [h w 3] -> uint8 [H W 3].

  Args:
    image: as stored in the file.
    repairs: `Verdict.repairs`.
    size: (H, W) wanted.
    flat: cut the central square out before resizing.
  """
  for name in repairs:
    if name == "top_half":
      image = image[:image.shape[0] // 2]
    elif name == "left_half":
      image = image[:, :image.shape[1] // 2]
    elif name == "eac":
      image = from_eac(image, size)
    elif name != "resize":
      raise ValueError(f"there is no repair called {name!r}")
  return video.resize(video.centre_square(image) if flat else image, size)


def from_eac(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """An equi-angular cubemap [h w 3] as a panorama [H W 3], uint8; shrunk first where it is finer than the panorama."""
  h, w = image.shape[:2]
  rows, columns = min(h, max(2, 2 * round(size[0] / 2))), min(w, max(3, 3 * round(size[1] / 4)))
  if (rows, columns) != (h, w):                       # strip by strip: they are no neighbours on the sphere
    image = np.concatenate([cv2.resize(strip, (columns, rows // 2), interpolation=cv2.INTER_AREA)
                            for strip in (image[:h // 2], image[h // 2:2 * (h // 2)])])
  table = eac_table((rows, columns), size, "bicubic", (PADDING * rows / h, PADDING * columns / w))
  return to_uint8(apply_table(table, image))


def _to_rgb(path: str, frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
  try:
    return video.to_rgb(frame, size)
  except av.FFmpegError as error:
    raise InputError(f"{path} holds frames that cannot be converted ({error}): it is damaged") from error
