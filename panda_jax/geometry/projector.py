"""Panoramas to views on the host, uint8 to uint8: what `project` gives, in less than a fifth of its time.

`project` reads 16 pixels through a table of 34 MB for every view of 512². There are three ways around that, by camera:

  Horizon   pitch 0, no roll. Longitude depends on a view's column alone, so the weights are a product: once along the
            rows, then along each column. The second pass is the same for all such cameras of one field of view and for
            the four quarters of each view, mirrored: a small table, of which all of them are channels.
  Pole      pitch 90 or -90, no roll. The quarters are mirror images here, too, and down is up upside down.
  Anywhere  the rest. Catmull-Rom is linear interpolation with a correction: between f(0) and f(1), with the second
            differences D at both, f(t) = lerp(f, t) - t (1 - t) / 2 * lerp(D, t). In two dimensions that takes four
            images, read linearly at one place, which OpenCV does in float32.
"""

from collections.abc import Sequence
import functools
import math

import cv2
import numpy as np
import scipy.sparse

from panda_jax.geometry.camera import Camera, check_size, local_rays
from panda_jax.geometry.sampling import projection_table
from panda_jax.geometry.sphere import equirect_pixels
from panda_jax.geometry.table import METHODS, apply_table, taps, to_uint8

# What lies between two passes should stay in the processor's caches.
STRIP = 64              # columns of a quarter at once in Horizon
BLOCK = 4096            # pixels of a quarter at once in Horizon and Pole
BAND = 32               # rows of a view at once in Anywhere
LARGEST_SIDE = 32_000   # of the images that cv2.remap reads, with their margins


class Projector:
  """Views of panoramas for the input pipeline and for preparing data; NumPy in, NumPy out, uint8 both.

  Gives what `to_uint8(project(...))` gives, but where the last digits of float32 decide between two levels: of white
  noise about one value in 100,000 comes out one level off, and for cameras that are pitched or rolled one in 1,000. A
  frame gives the same bytes alone and in a clip, whichever other cameras are asked for. Threads may share a projector,
  and processes may be sent one. It holds 11 MB for the paper's rig at 512 x 512, and 2 MB for every such view that is
  pitched or rolled. "nearest" and panoramas of an odd width go through the tables of `project`, 34 MB each; so do
  pitched and rolled cameras where OpenCV is older than 5.

  Args:
    panorama_size: (H, W).
    cameras: where to look.
    view_size: (h, w) of every view.
    method: "nearest", "bilinear" or "bicubic".

  Raises:
    ValueError: if a size is not positive, there is no camera, or the method is unknown.
  """

  def __init__(self, panorama_size: tuple[int, int], cameras: Sequence[Camera], view_size: tuple[int, int],
               method: str = "bicubic"):
    self.panorama_size = check_size(panorama_size, "panorama size (H, W)")
    self.view_size = check_size(view_size, "view size (h, w)")
    self.cameras, self.method = tuple(cameras), method
    if not self.cameras:
      raise ValueError("a projector needs at least one camera")
    if method not in METHODS:
      raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    groups = {}
    for index, camera in enumerate(self.cameras):
      groups.setdefault(self._way(camera), []).append(index)
    self._groups = [way(self.panorama_size, {index: self.cameras[index] for index in indices}, self.view_size, method)
                    for (way, *_), indices in groups.items()]

  def __call__(self, panoramas: np.ndarray, cameras: Sequence[int] | None = None) -> np.ndarray:
    """Projects frames.

    Args:
      panoramas: uint8 [f H W 3].
      cameras: positions in `self.cameras`, in the order wanted; all by default.

    Returns:
      uint8 [v f h w 3].

    Raises:
      ValueError: if the panoramas are not uint8 [f H W 3] of the projector's size, or there is no such camera.
    """
    panoramas = np.asarray(panoramas)
    height, width = self.panorama_size
    if panoramas.dtype != np.uint8 or panoramas.ndim != 4 or panoramas.shape[1:] != (height, width, 3):
      raise ValueError(f"panoramas must be uint8 [f {height} {width} 3], got {panoramas.dtype} "
                       f"{list(panoramas.shape)}")
    wanted = range(len(self.cameras)) if cameras is None else [int(index) for index in cameras]
    unknown = [index for index in wanted if not 0 <= index < len(self.cameras)]
    if unknown:
      raise ValueError(f"the projector has cameras 0 to {len(self.cameras) - 1}, got {unknown[0]}")
    views = np.empty((len(wanted), len(panoramas), *self.view_size, 3), np.uint8)
    for group in self._groups:
      places = [(place, index) for place, index in enumerate(wanted) if index in group.cameras]
      if places:
        group.project(panoramas, [index for _, index in places], [views[place] for place, _ in places])
    return views

  def _way(self, camera: Camera) -> tuple:
    """The class that projects a camera, and what the cameras that it projects together have in common."""
    width, sides = self.panorama_size[1], (*self.panorama_size, *self.view_size)
    if self.method == "nearest" or width % 2 or width < 16 or max(sides) > LARGEST_SIDE:
      return (Exactly,)                         # a half-turn of an odd number of pixels is one more resampling
    if camera.roll_deg == 0 and camera.pitch_deg == 0:
      return Horizon, camera.fov_deg
    even = all(side % 2 == 0 for side in self.view_size)
    if camera.roll_deg == 0 and abs(camera.pitch_deg) == 90 and even and _whole(camera, width) is not None:
      return Pole, camera.fov_deg
    return (Anywhere if _remap_is_exact() else Exactly,)


class Horizon:
  """Cameras of one field of view that look at the horizon."""

  def __init__(self, panorama_size, cameras: dict[int, Camera], view_size, method: str):
    self.cameras, self.width = cameras, panorama_size[1]
    directions = local_rays(next(iter(cameras.values())), view_size)                        # [h w 3], yaw 0
    h, w = (-(-side // 2) for side in view_size)
    rows, weights = taps(equirect_pixels(directions[:h, :w], panorama_size)[1], method)     # [h/2 w/2 k]
    self.first_row, self.rows = int(rows.min()), int(np.ptp(rows)) + 1
    self.strips = []
    for left in range(0, w, STRIP):
      strip = slice(left, min(left + STRIP, w))
      count = strip.stop - left
      indices = (rows[:, strip] - self.first_row) * count + np.arange(count)[:, None]       # of pixels (r count)
      self.strips.append((strip, Quarters(view_size, indices, weights[:, strip], self.rows * count, left)))
    self.columns = {}
    for index, camera in cameras.items():
      x = equirect_pixels(directions[h - 1] @ camera.rotation().T, panorama_size)[0]        # [w], the same in all rows
      columns, column_weights = taps(np.stack([x[:w], x[::-1][:w]], axis=1), method)        # [w/2 2 k], left and right
      self.columns[index] = (columns % self.width).astype(np.int32), column_weights.astype(np.float32)

  def project(self, panoramas: np.ndarray, cameras: list[int], views: list[np.ndarray]) -> None:
    """Fills views [f h w 3], one for each camera."""
    columns, weights = (np.stack(arrays, axis=1) for arrays in zip(*(self.columns[index] for index in cameras)))
    across = [_matrix(columns[strip], weights[strip], self.width) for strip, _ in self.strips]      # W to (count v 2)
    for start, stop in _spans(len(panoramas), 6 // len(cameras)):
      upper = _rows(panoramas[start:stop], self.first_row, self.rows)                       # [f r W 3]
      lower = _rows(panoramas[start:stop, ::-1], self.first_row, self.rows)
      source = np.stack([upper, lower], axis=1).reshape(-1, self.width, 3)                  # (f 2 r) W 3
      source = cv2.transpose(source).reshape(self.width, -1).astype(np.float32)             # W (f 2 r 3)
      images = len(cameras) * 2 * (stop - start) * 2
      for matrix, (_, quarters) in zip(across, self.strips, strict=True):
        seen = cv2.transpose((matrix @ source).reshape(-1, self.rows, 3))                   # r (count v 2 f 2) 3
        quarters.project(seen.reshape(-1, images * 3), [view[start:stop] for view in views])


class Pole:
  """Cameras of one field of view that look straight up or down, turned by whole pixels of the panorama."""

  def __init__(self, panorama_size, cameras: dict[int, Camera], view_size, method: str):
    self.cameras, self.width = cameras, panorama_size[1]
    up = Camera(0, 90, next(iter(cameras.values())).fov_deg)
    h, w = (side // 2 for side in view_size)
    x, y = equirect_pixels(local_rays(up, view_size)[:h, :w] @ up.rotation().T, panorama_size)
    (rows, row_weights), (columns, column_weights) = taps(y, method), taps(x, method)       # [h/2 w/2 k]
    self.first_row, self.rows = int(rows.min()), int(np.ptp(rows)) + 1
    self.first_column, self.columns = int(columns.min()), int(np.ptp(columns)) + 1
    indices = (rows[..., None] - self.first_row) * self.columns + (columns[..., None, :] - self.first_column)
    weights = row_weights[..., None] * column_weights[..., None, :]
    indices, weights = (array.reshape(h, w, -1) for array in (indices, weights))
    self.quarters = Quarters(view_size, indices, weights, self.rows * self.columns)

  def project(self, panoramas: np.ndarray, cameras: list[int], views: list[np.ndarray]) -> None:
    """Fills views [f h w 3], one for each camera."""
    for start, stop in _spans(len(panoramas), 8 // len(cameras)):
      seen = np.empty((len(cameras), 2, stop - start, 2, self.rows, self.columns, 3), np.uint8)
      for number, index in enumerate(cameras):
        down = self.cameras[index].pitch_deg < 0
        rows = _rows(panoramas[start:stop, ::-1 if down else 1], self.first_row, self.rows)
        self._fill(rows, _whole(self.cameras[index], self.width), seen[number, :, :, ::-1 if down else 1])
      images = len(cameras) * 2 * (stop - start) * 2
      seen = cv2.transpose(seen.reshape(images, -1, 3)).reshape(-1, images * 3).astype(np.float32)
      self.quarters.project(seen, [view[start:stop] for view in views])

  def _fill(self, rows: np.ndarray, turn: int, seen: np.ndarray) -> None:
    """What the quarters see of rows [f r W 3]: [2 f 2 r c 3], left and right, upper and lower.

    Where the upper left one sees lon, its mirror image on the right sees -lon, and the one below pi - lon.
    """
    around = np.concatenate([rows, rows[:, :, :self.columns]], axis=2)
    last, half = self.first_column + self.columns - 1, self.width // 2
    starts = ((self.first_column, half - 1 - last), (self.width - 1 - last, half + self.first_column))
    for right in range(2):
      for lower in range(2):
        start = (starts[right][lower] + turn) % self.width
        columns = around[:, :, start:start + self.columns]
        seen[right, :, lower] = columns[:, :, ::-1] if right != lower else columns


class Quarters:
  """Views whose quarters are one resampling of four sources, each quarter mirrored towards the upper left one.

  Args:
    view_size: (h, w); the quarters of an odd side share its middle.
    indices, weights: [h/2 columns taps] of the upper left quarter, or of some columns of it.
    sources: how many pixels the indices count.
    left: the first of the columns.
  """

  def __init__(self, view_size: tuple[int, int], indices: np.ndarray, weights: np.ndarray, sources: int, left: int = 0):
    (h, w), (height, width) = view_size, weights.shape[:2]
    self.rows = slice(0, height), slice(h - height, h)
    self.columns = slice(left, left + width), slice(w - left - width, w - left)
    self.shape = height, width
    count = -(-BLOCK // width)
    self.blocks = [_matrix(indices[top:top + count], weights[top:top + count], sources)
                   for top in range(0, height, count)]

  def project(self, seen: np.ndarray, views: list[np.ndarray]) -> None:
    """Sources float32 [n (v 2 f 2 3)], left and right, upper and lower, into views uint8 [f h w 3]."""
    images = seen.shape[1] // 3
    quarters, done = np.empty((images, math.prod(self.shape), 3), np.uint8), 0
    for matrix in self.blocks:
      pixels = _rounded(matrix @ seen).reshape(-1, images, 3)
      cv2.transpose(pixels, dst=quarters[:, done:done + len(pixels)])
      done += len(pixels)
    quarters = quarters.reshape(len(views), 2, -1, 2, *self.shape, 3)
    for (view, right, frame, lower), _ in np.ndenumerate(quarters[..., 0, 0, 0]):
      target = views[view][frame, self.rows[lower], self.columns[right]]
      if right or lower:
        cv2.flip(quarters[view, right, frame, lower], -1 if right and lower else right, dst=target)
      else:
        target[...] = quarters[view, right, frame, lower]


class Anywhere:
  """Any camera, one by one; bilinear or bicubic, from panoramas of an even width."""

  MARGIN = 2      # pixels around what the views see, for the outer taps

  def __init__(self, panorama_size, cameras: dict[int, Camera], view_size, method: str):
    self.cameras, self.bicubic = cameras, method == "bicubic"
    positions = {}
    for index, camera in cameras.items():
      # not with @: BLAS would start threads of its own in every thread of the pipeline, for a product this small
      directions = np.einsum("hwc,dc->hwd", local_rays(camera, view_size), camera.rotation())
      positions[index] = equirect_pixels(directions, panorama_size)                         # x, y [h w]
    self.first_row = min(math.floor(y.min()) for _, y in positions.values()) - self.MARGIN
    self.rows = max(math.ceil(y.max()) for _, y in positions.values()) + self.MARGIN + 1 - self.first_row
    self.maps = {index: ((x + self.MARGIN).astype(np.float32), (y - self.first_row).astype(np.float32))
                 for index, (x, y) in positions.items()}

  def project(self, panoramas: np.ndarray, cameras: list[int], views: list[np.ndarray]) -> None:
    """Fills views [f h w 3], one for each camera."""
    for frame in range(len(panoramas)):
      seen = _rows(panoramas[frame:frame + 1], self.first_row, self.rows)[0]
      seen = np.concatenate([seen[:, -self.MARGIN:], seen, seen[:, :self.MARGIN]], axis=1)
      images = [self._image(colour) for colour in cv2.split(seen)]
      for index, view in zip(cameras, views, strict=True):
        for top in range(0, view.shape[1], BAND):
          x, y = (position[top:top + BAND] for position in self.maps[index])
          self._band(images, x, y, view[frame, top:top + BAND])

  def _image(self, colour: np.ndarray) -> np.ndarray:
    """What is interpolated linearly: float32 [H W] or, for bicubic, [H W 4], a colour and its second differences."""
    colour = colour.astype(np.float32)
    if not self.bicubic:
      return colour
    across = cv2.filter2D(colour, -1, np.array([[1, -2, 1]], np.float32))
    down, both = (cv2.filter2D(image, -1, np.array([[1], [-2], [1]], np.float32)) for image in (colour, across))
    return cv2.merge([colour, across, down, both])

  def _band(self, images: list[np.ndarray], x: np.ndarray, y: np.ndarray, view: np.ndarray) -> None:
    """Some rows of a view, of all colours."""
    colours, (bulge_x, bulge_y) = [], (_bulge(position) for position in (x, y))
    for image in images:
      colour = cv2.remap(image, x, y, cv2.INTER_LINEAR)
      if self.bicubic:
        # (lerp - bulge_x * lerp D_x) of (lerp - bulge_y * lerp D_y), multiplied out
        colour, across, down, both = cv2.split(colour)
        both *= bulge_x
        down -= both
        down *= bulge_y
        across *= bulge_x
        colour -= across
        colour -= down
      colours.append(_rounded(colour))
    cv2.merge(colours, dst=view)


class Exactly:
  """Any camera, any method, any panorama: the table of `project` itself, one frame and one camera at a time."""

  def __init__(self, panorama_size, cameras: dict[int, Camera], view_size, method: str):
    self.cameras, self.tables = cameras, {}
    for index, camera in cameras.items():
      self.tables[index] = projection_table(panorama_size, camera, view_size, method)

  def project(self, panoramas: np.ndarray, cameras: list[int], views: list[np.ndarray]) -> None:
    """Fills views [f h w 3], one for each camera."""
    for index, view in zip(cameras, views, strict=True):
      for panorama, image in zip(panoramas, view, strict=True):
        image[...] = to_uint8(apply_table(self.tables[index], panorama))


def _matrix(indices: np.ndarray, weights: np.ndarray, sources: int) -> scipy.sparse.csr_array:
  """Positions among `sources` pixels and weights, both [... taps], as a sparse matrix with a row for each target."""
  ends = np.arange(0, weights.size + 1, weights.shape[-1], dtype=np.int32)
  return scipy.sparse.csr_array((weights.astype(np.float32).reshape(-1), indices.astype(np.int32).reshape(-1), ends),
                                shape=(len(ends) - 1, sources))


def _rows(panoramas: np.ndarray, first: int, count: int) -> np.ndarray:
  """Rows of panoramas [f H W 3], of an even width, from `first` on; beyond a pole lies the opposite meridian."""
  height, width = panoramas.shape[1:3]
  if first >= 0 and first + count <= height:
    return panoramas[:, first:first + count]
  rows = np.arange(first, first + count) % (2 * height)
  opposite = rows >= height
  taken = panoramas[:, np.where(opposite, 2 * height - 1 - rows, rows)]
  taken[:, opposite] = np.roll(taken[:, opposite], width // 2, axis=2)
  return taken


def _spans(frames: int, many: int) -> list[tuple[int, int]]:
  """(start, stop) of runs of `many` frames, at least one."""
  many = max(many, 1)
  return [(start, min(start + many, frames)) for start in range(0, frames, many)]


def _rounded(values: np.ndarray) -> np.ndarray:
  """float32 [h w] -> uint8, as `to_uint8`, in one pass: OpenCV rounds to even and saturates."""
  return cv2.addWeighted(values, 1, values, 0, 0, dtype=cv2.CV_8U)


@functools.cache
def _remap_is_exact() -> bool:
  """Whether OpenCV interpolates where it is told to; before version 5 it rounds positions to 1/32 pixel."""
  x, y = np.linspace([1, 2], [6, 5], 64, dtype=np.float32).T.reshape(2, 8, 8).copy()
  ramp = np.tile(np.arange(8, dtype=np.float32)[:, None], (8, 1, 4))                        # of x
  return bool(abs(cv2.remap(ramp, x, y, cv2.INTER_LINEAR) - x[..., None]).max() < 1e-4)


def _bulge(position: np.ndarray) -> np.ndarray:
  """t (1 - t) / 2 between whole positions."""
  t = position - np.floor(position)
  return t * (0.5 - 0.5 * t)


def _whole(camera: Camera, width: int) -> int | None:
  """How many columns of the panorama a camera is turned by, or None if that is not a whole number."""
  columns = camera.yaw_deg * width / 360
  return round(columns) if abs(columns - round(columns)) < 1e-9 else None
