"""How a frame lays the sphere out: an equi-angular cubemap, two eyes, half of it; bars and patches.

Two eyes. The halves of a frame show nearly the same picture: at 64x32 they differ by no more than 0.45 of what they
differ when one is turned by a quarter or a half, and their details (64x128, without what is coarser than 4 pixels,
each block shifted sideways by up to 4 pixels to allow for parallax) correlate by 0.7 or more. As measured:

  64 panoramas above and beside themselves with 3° of parallax, and as VR180     difference … 0.20   detail 0.82 …
  the same 64 alone: camera-made and procedural (sea and sky, a tunnel)          difference 0.74 …   detail … 0.61

Bars of one colour at the same place in both halves are cut off first. One of the two eyes wraps around (`edges`: at
most 0.95 of the limit), half a sphere does not (1.6 … of it).

An equi-angular cubemap. The eight edges of the cube that lie on the strips' borders are put together: across them the
frame differs by no more than 0.6 of what pixels far apart on them differ, and the two strips differ by more where they
meet:

  256 of the same, as frames of 144 to 960 rows, with two pixels of border around each strip     … 0.49, strips 2.1 x …
  1600 panoramas, crops and perspective views that are no cubemap                                0.66 …, strips … 0.6 x

A patch over a pole is even (99 % of it within 12 levels of one colour, in every image) and ends in a step at nearly one
latitude, which a sky does not; or it has texture and keeps still while the rest of the picture changes. Reported of 8
photographs with a white nadir and of a clip with a black one, of none of the other 9, nor of 40 procedural worlds.
"""

import functools

import cv2
import numpy as np

from panda_jax.data.checks.verdict import Thresholds
from panda_jax.geometry.eac import PADDING, eac_pixels, strip_border_rays

_POINTS = 128                                         # along an edge of a face


def halves(image: np.ndarray, way: str) -> tuple[np.ndarray, np.ndarray]:
  """The two halves of a frame: way "stereo_top_bottom" or "stereo_side_by_side"."""
  h, w = image.shape[0] // 2, image.shape[1] // 2
  return (image[:h], image[h:2 * h]) if way == "stereo_top_bottom" else (image[:, :w], image[:, w:2 * w])


def are_alike(one: np.ndarray, other: np.ndarray, thresholds: Thresholds) -> bool:
  """Whether two halves [h w 3] show the same from two eyes."""
  bars = (one.std(0) < 3).all(-1) & (other.std(0) < 3).all(-1)                  # [w] they would be alike in any film
  if (~bars).sum() < 16:
    return False
  one, other = one[:, ~bars], other[:, ~bars]
  difference, variety = halves_differ(one, other)
  return (variety >= thresholds.stereo_variety and difference <= thresholds.stereo_difference
          and details_correlate(one, other) >= thresholds.stereo_detail)


def halves_differ(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
  """How much two halves differ, as a share of how much they differ when one is turned; and the latter, in levels."""
  a, b = (cv2.resize(half, (64, 32), interpolation=cv2.INTER_AREA).astype(np.float32) for half in (one, other))
  variety = min(float(np.abs(a - np.roll(b, turn, axis=1)).mean()) for turn in (16, 32))
  return float(np.abs(a - b).mean()) / max(variety, 1e-3), variety


def details_correlate(one: np.ndarray, other: np.ndarray) -> float:
  """The correlation of two halves' details, block by block at the best shift sideways, weighted by their strength."""
  a, b = (_detail(half) for half in (one, other))
  box = functools.partial(cv2.boxFilter, ddepth=-1, ksize=(16, 8))
  strength = box(a * a)
  best = np.full(a.shape, -1, np.float32)
  for shift in range(-4, 5):
    shifted = np.roll(b, shift, axis=1)
    best = np.maximum(best, box(a * shifted) / np.sqrt(strength * box(shifted * shifted) + 1))
  weight = np.sqrt(strength)
  return float((best * weight).sum() / max(weight.sum(), 1e-3))


def _detail(half: np.ndarray) -> np.ndarray:
  """Luma [64 128] without what is coarser than a few pixels."""
  grey = cv2.cvtColor(cv2.resize(half, (128, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
  return grey - cv2.GaussianBlur(grey, (0, 0), 4)


def is_eac(image: np.ndarray, rows: int, columns: int, thresholds: Thresholds) -> bool:
  """Whether a frame of rows x columns, shrunk to `image`, is an equi-angular cubemap."""
  difference, variety, middle = face_edges(image, rows, columns)
  return variety >= thresholds.eac_variety and difference <= min(thresholds.eac_difference * variety, middle)


def face_edges(image: np.ndarray, rows: int, columns: int) -> tuple[float, float, float]:
  """How a frame's faces join as an equi-angular cubemap: mean absolute differences in levels.

  Returns:
    Of neighbours across the faces' outer edges; of pixels far apart along them; of the two strips where they meet.
  """
  size = image.shape[:2]
  inside, outside = _edge_pixels(size, (PADDING * size[0] / rows, PADDING * size[1] / columns))
  values = image.astype(np.float32)
  a, b = values[inside], values[outside]
  middle = size[0] // 2
  return (float(np.abs(a - b).mean()), float(np.abs(a - np.roll(a, len(a) // 7, axis=0)).mean()),
          float(np.abs(values[middle - 1] - values[middle]).mean()))


def empty_share(images: list[np.ndarray]) -> float:
  """The widest run of columns of one colour, from an eighth of the rows to seven eighths, in all images: its share."""
  belt = np.stack([image[image.shape[0] // 8:-(image.shape[0] // 8) or None] for image in images]).astype(np.float32)
  mean = belt.mean((0, 1))                                                      # [w 3]
  even = belt.std((0, 1)).max(-1) < 3
  longest = 0
  start = None
  columns = len(even)
  for at in range(2 * columns):                                                 # twice around: a run may cross the edge
    column = at % columns
    if not even[column]:
      start = None
    elif start is None or np.abs(mean[column] - mean[start % columns]).max() > 6:
      start = at
    if start is not None:
      longest = max(longest, at - start + 1)
  return min(longest, columns) / columns


def has_side_bars(images: list[np.ndarray]) -> bool:
  """Whether the outermost columns are dark and even in every frame, so that they join without being neighbours."""
  return all(side.mean() < 24 and side.std() < 4 for image in images for side in (image[:, :2], image[:, -2:]))


def bars(brightest: np.ndarray, thresholds: Thresholds) -> tuple[int, int]:
  """Rows of the black bars at the top and at the bottom, (0, 0) if there are none on both sides of equal height."""
  bright = np.flatnonzero(brightest > thresholds.black_level)
  if not bright.size:
    return 0, 0
  rows, brightest = len(brightest), brightest.astype(int)
  top, bottom = int(bright[0]), int(rows - 1 - bright[-1])
  # a night sky is as dark, but it does not end in a line
  ends = (brightest[min(top + 2, rows - 1)] - brightest[max(top - 2, 0)],
          brightest[max(rows - 3 - bottom, 0)] - brightest[min(rows + 1 - bottom, rows - 1)])
  equal = abs(top - bottom) <= max(2, 0.1 * max(top, bottom))
  high = min(top, bottom) >= thresholds.letterbox_share * rows
  return (top, bottom) if equal and high and min(ends) >= 24 else (0, 0)


def patches(images: list[np.ndarray], moves: bool, thresholds: Thresholds) -> list[tuple[str, str, float]]:
  """Even and unmoving patches around the poles: ("zenith" or "nadir", "even" or "still", share of the height)."""
  stack = np.stack([image[:, ::2] for image in images[::max(1, len(images) // 8)]]).astype(np.float32)   # [n h w 3]
  found = []
  for pole, rows in (("nadir", stack[:, ::-1]), ("zenith", stack)):
    if share := _even_patch(rows, thresholds):
      found.append((pole, "even", share))
    elif moves and len(stack) >= 6 and (share := _still_patch(rows, thresholds)):
      found.append((pole, "still", share))
  return found


def _even_patch(stack: np.ndarray, thresholds: Thresholds) -> float:
  """Height of a patch of one colour at the first rows that ends in an edge at nearly one latitude; 0 for none."""
  _, height, width, _ = stack.shape
  colour = stack[:, :2].mean((0, 1, 2))
  if np.abs(stack[:, :round(thresholds.pole_share * height)] - colour).mean() > 12:
    return 0.0                                        # most skies and grounds
  off = np.abs(stack - colour).max(-1)                                          # [n h w]
  even = (off < 12).mean((0, 2)) > 0.99                                         # [h]
  rows = height if even.all() else int(np.argmin(even))
  if not thresholds.pole_share * height <= rows < 0.45 * height:
    return 0.0
  ahead = off[:, rows:rows + max(3, round(0.1 * height))]                       # where each column leaves the patch
  steps = ahead.max(1) >= thresholds.pole_edge
  sharp = np.diff(np.concatenate([off[:, rows - 1:rows], ahead], 1), axis=1).max(1) >= thresholds.pole_edge
  return rows / height if (steps & sharp).mean() >= 0.6 else 0.0


def _still_patch(stack: np.ndarray, thresholds: Thresholds) -> float:
  """Height of a patch at the first rows that keeps still while the rest moves; 0 for none."""
  height = stack.shape[1]
  change = np.median(stack.std(0).max(-1), axis=1)                              # [h] levels, over time
  texture = np.median(stack.std(2).max(-1), axis=0)                             # [h] levels, along the row
  still = (texture >= 8) & (change < 0.2 * texture)
  rows = height if still.all() else int(np.argmin(still))
  if not thresholds.pole_share * height <= rows < 0.45 * height:
    return 0.0
  return rows / height if np.median(change[rows:]) >= 8 else 0.0


@functools.lru_cache(maxsize=8)
def _edge_pixels(size: tuple[int, int], padding: tuple[float, float]) -> tuple[tuple, tuple]:
  """Rows and columns of pixels just inside the faces' outer edges, and of their neighbours across."""
  found = []
  for beyond in (-1.0, 1.0):
    directions = strip_border_rays(_POINTS, (beyond * 0.75 / (size[0] / 2), beyond * 0.75 / (size[1] / 3)))
    x, y, _ = eac_pixels(directions, size, padding)
    found.append((np.rint(y).astype(int).clip(0, size[0] - 1), np.rint(x).astype(int).clip(0, size[1] - 1)))
  return tuple(found)
