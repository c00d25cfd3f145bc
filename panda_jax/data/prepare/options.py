"""What `panda prepare` can be told."""

import dataclasses
import json
import math
from typing import Any

from panda_jax.data import records
from panda_jax.data.checks import Thresholds
from panda_jax.data.shards import STORES
from panda_jax.data.sources import DEFAULT_CAPTION
from panda_jax.errors import InputError

DEFAULT_FLAT_CAPTION = "a video"


@dataclasses.dataclass(frozen=True)
class Options:
  """All that decides a dataset's content beside its inputs; the command line's help says what each means."""

  height: int = 512
  encoding: str = "jpeg"
  quality: int = 95
  fps: float | None = None
  max_frames_per_clip: int = 100
  holdout: float = 0.25
  holdout_by: str = "frames"
  allow_flat: bool = False
  flat: bool = False
  dataset: str = "auto"
  store: str = "pixels"
  rig: str | None = None
  view_size: int | None = None
  yaws: int = 1
  flips: bool = False
  model: str | None = None
  flow: str | None = None
  flow_videos: str | None = None
  checks: Thresholds = Thresholds()

  def __post_init__(self):
    if self.height < 16 or self.height % 2:
      raise InputError(f"--height must be an even number of at least 16, got {self.height}")
    if self.flat and self.allow_flat:
      raise InputError("--flat and --allow-flat are two ways to keep ordinary films: --flat makes a dataset of their "
                       "central squares, --allow-flat stretches them to panoramas; give one of them")
    if self.encoding not in records.ENCODINGS:
      raise InputError(f"--encoding must be one of {', '.join(records.ENCODINGS)}, got {self.encoding!r}")
    if not 1 <= self.quality <= 100:
      raise InputError(f"--quality must be between 1 and 100, got {self.quality}")
    if self.fps is not None and not 0 < self.fps < math.inf:
      raise InputError(f"--fps must be above 0, got {self.fps}")
    if self.max_frames_per_clip < 1:
      raise InputError(f"--max-frames-per-clip must be at least 1, got {self.max_frames_per_clip}")
    if not 0 <= self.holdout < 1:
      raise InputError(f"--holdout must be at least 0 and below 1, got {self.holdout}")
    if self.holdout_by not in ("frames", "files"):
      raise InputError(f"--holdout-by must be frames or files, got {self.holdout_by!r}")
    if self.store not in STORES:
      raise InputError(f"--store must be one of {', '.join(STORES)}, got {self.store!r}")
    self._check_store()

  def _check_store(self) -> None:
    """Refuses options that the store has no use for, rather than passing over them."""
    by_model = self.store in ("latents", "panorama_latents")
    if self.flat and self.store != "pixels":
      raise InputError(f"--flat clips are no panoramas, of which --store {self.store} could be made: leave out one")
    if by_model and not self.model:
      raise InputError(f"--store {self.store} needs the networks that make latents: give --model, a model folder or "
                       "the workdir of a run")
    if self.model and not by_model:
      raise InputError(f"--model is for --store latents and panorama_latents, not for {self.store}")
    if self.store in ("pixels", "panorama_latents"):
      for name, neutral in (("rig", None), ("view_size", None), ("yaws", 1)):
        if getattr(self, name) != neutral:
          raise InputError(f"--{name.replace('_', '-')} is for --store crops and latents: panoramas have no views yet, "
                           "and are turned by any angle when they are read")
    if self.flips and self.store not in ("latents", "panorama_latents"):
      raise InputError("--flips is for latents: images are mirrored when they are read (data.flip)")
    if self.yaws < 1:
      raise InputError(f"--yaws must be at least 1, got {self.yaws}")
    if self.flow and self.flow_videos:
      raise InputError("--flow estimates motion and --flow-videos reads it: give one of them")
    if self.has_motion and (self.flat or self.store != "pixels"):
      raise InputError(f"--flow{'-videos' if self.flow_videos else ''} is for --store pixels: motion belongs to whole "
                       "panoramas, which are turned by any angle when they are read")

  @property
  def has_motion(self) -> bool:
    """Whether clips have a motion condition beside their frames."""
    return bool(self.flow or self.flow_videos)

  @property
  def kind(self) -> str:
    """Of the dataset, one of `records.KINDS`."""
    return "flat" if self.flat else "panorama"

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the frames that are stored, or that crops and latents are made of."""
    return self.height, self.height if self.flat else 2 * self.height

  @property
  def default_caption(self) -> str:
    """Of files that the table of captions does not name."""
    return DEFAULT_FLAT_CAPTION if self.flat else DEFAULT_CAPTION

  def to_json(self) -> dict[str, Any]:
    """As the manifest has them; those of motion only where there is some."""
    plain = json.loads(json.dumps(dataclasses.asdict(self)))
    return {name: value for name, value in plain.items() if name not in ("flow", "flow_videos") or value is not None}

  @classmethod
  def from_json(cls, plain: dict[str, Any]) -> "Options":
    """From a manifest; what an older one lacks has its default."""
    return cls(**{name: Thresholds(**value) if name == "checks" else value for name, value in plain.items()})
