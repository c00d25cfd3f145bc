"""A resampling as a table: every target pixel is a weighted sum of a few source pixels."""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

if TYPE_CHECKING:
  import jax

METHODS = ("nearest", "bilinear", "bicubic")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """A sparse linear map between two grids of pixels. Tables are cached and shared, so their arrays are read-only.

  Attributes:
    indices: [n k] int32, positions in the flattened source grid; n target pixels, k taps each.
    weights: [n k] float32; each row sums to one, or is all zero where the source shows nothing. Unused taps have weight
      zero and index zero.
    source_shape: the source grid, (H, W) for a panorama or (v, h, w) for the views of a rig.
    target_shape: the target grid, likewise.
  """

  indices: np.ndarray
  weights: np.ndarray
  source_shape: tuple[int, ...]
  target_shape: tuple[int, ...]

  def __post_init__(self):
    self.indices.setflags(write=False)
    self.weights.setflags(write=False)

  @functools.cached_property
  def empty(self) -> np.ndarray:
    """[target_shape] bool, the pixels that no source pixel reaches; they come out as zero."""
    empty = ~self.weights.any(axis=1).reshape(self.target_shape)
    empty.setflags(write=False)
    return empty


def apply_table(table: Table, source: "np.ndarray | jax.Array") -> "np.ndarray | jax.Array":
  """Resample an array: NumPy in NumPy (nothing is dispatched to JAX), JAX in JAX (works under jit, differentiable).

  Args:
    table: the geometry.
    source: [... source_shape c]; any leading axes.

  Returns:
    [... target_shape c], of the source's dtype, or float32 if that is an integer. Bicubic overshoots at edges: clip
    before going back to uint8.

  Raises:
    ValueError: if the source does not end in source_shape and a channel axis.
  """
  grid = len(table.source_shape)
  if source.ndim <= grid or source.shape[-grid - 1:-1] != table.source_shape:
    wanted = " ".join(map(str, table.source_shape))
    raise ValueError(f"the table resamples arrays of shape [... {wanted} c], got {tuple(source.shape)}")
  lead, channels = source.shape[:-grid - 1], source.shape[-1]
  pixels = source.reshape(math.prod(lead), math.prod(table.source_shape), channels)
  if isinstance(source, np.ndarray):
    target = _resample_numpy(table, pixels)
  else:
    from panda_jax.geometry.gather import resample      # JAX loads when the first JAX array comes: not in data workers
    target = resample(table.indices, table.weights, pixels)
  return target.reshape(*lead, *table.target_shape, channels)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
  """Resampled NumPy pixels, 0 to 255, rounded and clipped: bicubic weights overshoot at edges."""
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def taps(position: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
  """Neighbouring whole positions and their interpolation weights, along one axis.

  Args:
    position: [...] in pixels.
    method: "nearest", "bilinear", or "bicubic": Catmull-Rom (a = -1/2), exact for quadratics; the a = -3/4 of OpenCV
      and PyTorch is not even exact for straight lines.

  Returns:
    indices [... k] int64, not yet wrapped or clamped to the source, and weights [... k] float64, with k = 1, 2 or 4.

  Raises:
    ValueError: if the method is unknown.
  """
  if method == "nearest":
    return np.rint(position).astype(np.int64)[..., None], np.ones((*position.shape, 1))
  below = np.floor(position)
  t = position - below
  if method == "bilinear":
    offsets, weights = (0, 1), (1 - t, t)
  elif method == "bicubic":
    offsets = (-1, 0, 1, 2)
    weights = (
      ((2 - t) * t - 1) * t / 2,
      ((3 * t - 5) * t * t + 2) / 2,
      ((4 - 3 * t) * t + 1) * t / 2,
      (t - 1) * t * t / 2,
    )
  else:
    raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
  return below.astype(np.int64)[..., None] + np.array(offsets), np.stack(weights, axis=-1)


def _resample_numpy(table: Table, pixels: np.ndarray) -> np.ndarray:
  """[images source c] -> [images target c] by a sparse matrix product, which shares the table's memory."""
  n, k = table.indices.shape
  matrix = scipy.sparse.csr_array(
    (table.weights.reshape(-1), table.indices.reshape(-1), np.arange(0, n * k + 1, k, dtype=np.int32)),
    shape=(n, pixels.shape[1]),
  )
  dtype = np.dtype(np.float32) if pixels.dtype.kind in "biu" else pixels.dtype
  working = np.promote_types(dtype, np.float32)      # half precision is summed in float32
  target = np.empty((len(pixels), n, pixels.shape[2]), dtype)
  for image, resampled in zip(pixels, target, strict=True):
    resampled[...] = matrix @ image.astype(working, copy=False)
  return target
