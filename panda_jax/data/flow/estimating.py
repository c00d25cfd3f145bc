"""Optical flow of panoramas: OpenCV's DIS around the seam, and the place for a learned network."""

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np

from panda_jax.data.flow.colours import flip_flow
from panda_jax.errors import InputError


class FlowError(InputError):
  """An estimator that does not give what it should."""


class Flow(Protocol):
  """An estimator of optical flow: any callable of this signature, a function or a network that is called."""

  def __call__(self, frames: np.ndarray) -> np.ndarray:
    """The motion of every pixel from each panorama to the next.

    Args:
      frames: uint8 [f H W 3], consecutive panoramas.

    Returns:
      float32 [f H W 2], pixels to the right and down, around the seam the short way. The last frame has no next one: it
      repeats the flow of the frame before, and a single frame has none. Source: 360DVD's PanoFlow films.
    """


class DISFlow:
  """Dense inverse search (Kroeger et al., 2016) as OpenCV has it, on panoramas continued past the seam.

  A band of the other end is added on each side and cut off again, so that motion is seen across the seam, up to 45
  degrees per frame; it costs a quarter more. PanoFlow estimates twice instead, with the halves exchanged. Nothing is
  added beyond the poles: what crosses one turns by half a circle in a few rows, and the opposite meridian past the edge
  made that no better (mean errors of 0.36 pixels with it, 0.32 without, for a pitch of 1 degree per frame).

  Args:
    preset: "ultrafast", "fast" or "medium", OpenCV's own.
    symmetric: estimate the mirrored frames, too, and take the mean: twice the time, and then the flow of a mirrored
      film is exactly the mirrored flow. Without it they differ where the estimate is poor, since the search goes from
      left to right (medians of 0.04 to 0.1 pixels on films).

  Raises:
    ValueError: if there is no such preset.
  """

  PRESETS = {"ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
             "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM}
  SEAM = 1 / 8                                        # of the width: each band

  def __init__(self, preset: str = "medium", symmetric: bool = False):
    if preset not in self.PRESETS:
      raise ValueError(f"preset must be one of {', '.join(self.PRESETS)}, got {preset!r}")
    self.preset, self.symmetric = preset, symmetric

  def about(self) -> dict[str, Any]:
    """JSON: what decides its numbers."""
    return {"estimator": "dis", "preset": self.preset, "symmetric": self.symmetric, "seam": self.SEAM}

  def __call__(self, frames: np.ndarray) -> np.ndarray:
    """As `Flow`: uint8 [f H W 3] -> float32 [f H W 2].

    Raises:
      ValueError: if the frames are not uint8 [f H W 3], or smaller than 8 rows.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
      raise ValueError(f"frames must be uint8 [f H W 3], got {frames.dtype} {list(frames.shape)}")
    f, height, width, _ = frames.shape
    if height < 8 or width < 16:
      raise ValueError(f"flow needs panoramas of 16x8 pixels or more, got {width}x{height}")
    flow = np.zeros((f, height, width, 2), np.float32)
    grey = map(functools.partial(cv2.cvtColor, code=cv2.COLOR_RGB2GRAY), frames)
    for target, (before, after) in zip(flow, itertools.pairwise(grey)):
      target[...] = self._pair(before, after)
      if self.symmetric:
        other = self._pair(before[:, ::-1], after[:, ::-1])
        target[...] = (target + flip_flow(other)) / 2
    flow[..., 0] -= width * np.rint(flow[..., 0] / width)
    if f > 1:
      flow[-1] = flow[-2]
    return flow

  def _pair(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The flow from one grey panorama [H W] to another, [H W 2]."""
    width = before.shape[1]
    band = round(self.SEAM * width)
    before, after = (np.pad(image, ((0, 0), (band, band)), mode="wrap") for image in (before, after))
    search = cv2.DISOpticalFlow_create(self.PRESETS[self.preset])      # a used one has other scales for small pictures
    return search.calc(before, after, None)[:, band:band + width]


ESTIMATORS: dict[str, Callable[[], Flow]] = {
  "dis": DISFlow,
  "dis-symmetric": functools.partial(DISFlow, symmetric=True),
}
"""Estimators by the names that `panda prepare --flow` takes."""


def make_flow(name: str) -> Flow:
  """An estimator by its name.

  Args:
    name: one of `ESTIMATORS`, or "module:attribute", where Python can import the module (PYTHONPATH): a `Flow`, or a
      class that makes one without arguments, such as a network that loads its weights. Where it has `about()`, that
      JSON goes into the manifest, and a dataset that was made with another is another.

  Raises:
    InputError: if there is none of that name.
  """
  if name in ESTIMATORS:
    return ESTIMATORS[name]()
  module, _, attribute = name.partition(":")
  if not module or not attribute:
    raise InputError(f"there is no flow estimator {name!r}: give {', '.join(ESTIMATORS)}, or your own as "
                     "module:function")
  try:
    found = importlib.import_module(module)
    for part in attribute.split("."):
      found = getattr(found, part)
  except (ImportError, AttributeError) as error:
    raise InputError(f"the flow estimator {name} cannot be loaded ({error}): it is module:function, and the folder of "
                     "the module must be in PYTHONPATH") from error
  flow = found() if isinstance(found, type) else found
  if not callable(flow):
    raise InputError(f"{name} is no flow estimator: it cannot be called with frames")
  return flow


def describe_flow(name: str, flow: Flow) -> dict[str, Any]:
  """JSON: what an estimator says of itself, or its name if it says nothing."""
  about = getattr(flow, "about", None)
  return {"estimator": name} | (about() if callable(about) else {})


def estimate(flow: Flow, frames: np.ndarray, name: str = "the estimator") -> np.ndarray:
  """Calls an estimator and holds what comes back against its contract: float32 [f H W 2].

  Raises:
    FlowError: if it is of another shape, or not all numbers are finite.
  """
  found = np.asarray(flow(frames))
  expected = (*frames.shape[:-1], 2)
  if found.shape != expected or not np.issubdtype(found.dtype, np.floating):
    raise FlowError(f"{name} gave {found.dtype} {list(found.shape)} for {len(frames)} frames: a flow is floating-point "
                    f"{list(expected)}, one for each frame, the last one repeated")
  if not np.isfinite(found).all():
    raise FlowError(f"{name} gave NaN or infinity as flow")
  return found.astype(np.float32, copy=False)

