"""How an evaluation is made: everything that changes a number beside the videos themselves.

The same networks on the same videos give an FVD of 94 or of 167, by the way that frames are resized. So the protocol is
one object, it is written beside every number, and nothing that matters is anywhere else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from panda_jax.errors import InputError
from panda_jax.evaluation.frechet import NORMALISERS
from panda_jax.geometry import Camera, Rig, make_rig

PANORAMA = "panorama"
_CAMERAS = "cameras:"
# What is done with the numbers of clips afterwards.
_AGGREGATING = ("metrics", "normaliser", "psnr_cap_db", "confidence", "samples", "groups", "seed")
RESIZE = "panoramas: area when shrinking, bicubic when growing (swscale, 8 bits)"
INCEPTION_INPUTS = {
  "bicubic": "299x299, bicubic with antialiasing (Pillow, float32), (x - 128) / 128, as clean-fid",
  "bilinear": "299x299, bilinear without antialiasing, in [-1, 1], as pytorch-fid",
}
I3D_INPUT = "224x224, bilinear without antialiasing, in [-1, 1]; logits averaged over time"


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How clips are compared; the defaults are the paper's where it says, see docs/evaluation.md.

  Attributes:
    frames: of each clip that are compared: those at start, start + stride, …
    start: number of the first frame.
    stride: distance of two frames.
    fps: instead of a stride, take the frames nearest to this rate of both videos; 0 takes frames by their number, and
      then a video of another rate than the truth's is refused.
    height: rows of the panoramas, to which all are resized.
    surfaces: what images are compared: "panorama", and rigs by name, such as "horizontal8" (VideoPanda's table 2), or
      camera by camera, "cameras:0,0,90;45,20,75" (yaw, pitch, field of view and perhaps roll of each, in degrees).
    view_size: side of the views in pixels; 0 is half the height, the panorama's own resolution for views of 90°.
    metrics: names of the catalogue, or "all".
    inception_resize: how images become Inception's, "bicubic" or "bilinear".
    normaliser: of covariances, "n-1" or "n".
    window, overlap: frames of a long video's windows, for its drift.
    views_rig: of the views that lie beside a panorama as CLIP_views.mp4.
    psnr_cap_db: what equal clips count as in a mean.
    confidence: of the intervals.
    samples: of the bootstrap.
    groups: of the jackknife.
    seed: of the bootstrap.
  """

  frames: int = 16
  start: int = 0
  stride: int = 1
  fps: float = 0.0
  height: int = 512
  surfaces: tuple[str, ...] = (PANORAMA, "horizontal8")
  view_size: int = 0
  metrics: tuple[str, ...] = ("all",)
  inception_resize: str = "bicubic"
  normaliser: str = "n-1"
  window: int = 16
  overlap: int = 1
  views_rig: str = "videopanda"
  psnr_cap_db: float = 100.0
  confidence: float = 0.95
  samples: int = 1000
  groups: int = 10
  seed: int = 0

  def __post_init__(self):
    for name in ("frames", "stride", "samples", "groups"):
      if getattr(self, name) < 1:
        raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.start < 0 or not 0 <= self.fps < math.inf or self.view_size < 0:
      raise InputError(f"start, fps and view_size must be at least 0, got {self.start}, {self.fps:g} and {self.view_size}")
    if self.fps and self.stride != 1:
      raise InputError(f"fps {self.fps:g} and stride {self.stride} are two ways to choose frames: give one of them")
    if self.height < 16 or self.height % 2:
      raise InputError(f"height must be an even number of rows from 16 on, got {self.height}")
    if not self.surfaces or len(set(self.surfaces)) < len(self.surfaces):
      raise InputError(f"surfaces must be {PANORAMA} and names of rigs, each once, got {', '.join(self.surfaces) or 'none'}")
    for name in (*self.surfaces, self.views_rig):
      self.rig(name)
    if self.inception_resize not in INCEPTION_INPUTS:
      raise InputError(f"inception_resize must be {' or '.join(INCEPTION_INPUTS)}, got {self.inception_resize!r}")
    if self.normaliser not in NORMALISERS:
      raise InputError(f"normaliser must be {' or '.join(NORMALISERS)}, got {self.normaliser!r}")
    if not 0 <= self.overlap < self.window:
      raise InputError(f"windows of {self.window} frames cannot overlap by {self.overlap}")
    if not 0 < self.confidence < 1 or not 0 < self.psnr_cap_db < math.inf:
      raise InputError(f"confidence must be between 0 and 1 and psnr_cap_db above 0, got {self.confidence:g} and "
                       f"{self.psnr_cap_db:g}")

  @classmethod
  def of(cls, config: ConfigDict) -> Protocol:
    """From a config, such as that of configs/evaluation.py.

    Raises:
      InputError: for a value that it cannot have.
    """
    values = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in config.items()}
    unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(cls)})
    if unknown:
      raise InputError(f"the protocol has no {unknown[0]}: it has {', '.join(f.name for f in dataclasses.fields(cls))}")
    return cls(**values)

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the panoramas."""
    return self.height, 2 * self.height

  @property
  def view_shape(self) -> tuple[int, int]:
    """(h, w) of the views."""
    side = self.view_size or self.height // 2
    return side, side

  def rig(self, surface: str) -> Rig | None:
    """The cameras of a surface; None for the panorama.

    Raises:
      InputError: if there is no rig of that name.
    """
    if surface == PANORAMA:
      return None
    try:
      if surface.startswith(_CAMERAS):
        angles = surface.removeprefix(_CAMERAS).split(";")
        return Rig(tuple(Camera(*map(float, camera.split(","))) for camera in angles), surface)
      return make_rig(surface)
    except (ValueError, TypeError) as error:
      raise InputError(f"{surface!r} is neither {PANORAMA} nor a rig: {error}") from error

  def measuring(self) -> dict[str, Any]:
    """What the numbers of one clip depend on: where it says the same, they need not be taken again."""
    return {name: value for name, value in self.described().items() if name not in _AGGREGATING}

  def described(self) -> dict[str, Any]:
    """The protocol as it is written beside the results: plain values, and every camera."""
    described = {name: list(value) if isinstance(value, tuple) else value
                 for name, value in dataclasses.asdict(self).items()}
    described["view_size"] = list(self.view_shape)
    described["resize"] = RESIZE
    described["views"] = {name: [dataclasses.asdict(camera) for camera in self.rig(name)]
                          for name in self.surfaces if name != PANORAMA}
    return described


def said_views(protocol: Mapping[str, Any], surface: str) -> str:
  """A surface in a few words: "8 views of 256x256, 90°"; empty for the panorama."""
  cameras = protocol["views"].get(surface)
  if not cameras:
    return ""
  h, w = protocol["view_size"]
  fields = sorted({camera["fov_deg"] for camera in cameras})
  return f"{len(cameras)} views of {w}x{h}, {' and '.join(f'{fov:g}°' for fov in fields)}"
