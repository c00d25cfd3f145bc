"""What every metric asks of its images first."""

import numpy as np

PEAK = 255.0


def checked(images: np.ndarray) -> np.ndarray:
  """The images as an array [... h w c] of pixels, uint8 or floats in [0, 255].

  Raises:
    ValueError: if the shape is another, nothing is in it, or a value is not in [0, 255].
  """
  images = np.asarray(images)
  if images.ndim < 3 or images.size == 0:
    raise ValueError(f"images must be [... h w c] and not empty, got shape {images.shape}")
  if images.dtype != np.uint8:
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= PEAK):      # also false for NaN
      raise ValueError(f"pixels must be uint8 or in [0, 255], got {images.dtype} from {low} to {high}")
  return images


def check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
  """Raises ValueError where two images that are to be compared have two shapes."""
  if a.shape != b.shape:
    raise ValueError(f"images of one comparison must have one shape [... h w c], got {a.shape} and {b.shape}")
