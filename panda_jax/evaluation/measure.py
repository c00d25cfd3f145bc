"""Everything that is measured of one video: numbers, and features for the distances between sets."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from panda_jax.data.clips import views_of
from panda_jax.evaluation import metrics, seams, temporal
from panda_jax.evaluation.consistency import overlap_psnr
from panda_jax.evaluation.extractors import Extractor
from panda_jax.evaluation.motion import motion_agreement
from panda_jax.evaluation.protocol import PANORAMA, Protocol
from panda_jax.evaluation.reading import Frames, all_frames, read_views
from panda_jax.geometry import Projector

CUBEMAP = "cubemap"
# What is taken of two surfaces and more under one name is kept under "NAME @ SURFACE".
_AT = " @ "
Key = tuple[str, str]                                 # (metric or network, surface)


@dataclasses.dataclass(frozen=True)
class Measured:
  """What was measured of one video.

  Attributes:
    values: by (metric, surface); None where a metric has no value, and `why` says why.
    why: by the same keys.
    features: by (network, surface), [images d].
    about: of the file: fps, size, frames; and "windows" of a long one.
  """

  values: dict[Key, float | None]
  why: dict[Key, str]
  features: dict[Key, np.ndarray]
  about: dict


def measure(path: Path, made: Frames, truth: Frames | None, prompt: str, wanted: Collection[str], protocol: Protocol,
            extractors: Mapping[str, Extractor]) -> Measured:
  """Measures one video.

  Args:
    path: of the panorama.
    made: its frames that are compared.
    truth: those of the true video; None: only what needs none is measured.
    prompt: of the clip, perhaps empty.
    wanted: names of metrics.
    protocol: how.
    extractors: the networks of the wanted metrics.

  Raises:
    Unusable: if the file turns out to be damaged.
  """
  measured = Measured({}, {}, {}, {"fps": made.fps, "native": list(made.native), "count": made.count,
                                   "numbers": list(made.numbers), "one_colour": made.one_colour})
  for surface in protocol.surfaces:
    _of_images(measured, surface, _shown(made, surface, protocol),
               None if truth is None else _shown(truth, surface, protocol), prompt, wanted, protocol,
               extractors)
  if PANORAMA in protocol.surfaces:
    _of_panoramas(measured, made, truth, wanted)
  if "omni_fid" in wanted:
    _inception(measured, CUBEMAP, _shown(made, CUBEMAP, protocol), extractors["inception"])
  _of_file(measured, path, made, wanted, protocol)
  return measured


def images_of(panoramas: np.ndarray, surface: str, protocol: Protocol) -> np.ndarray:
  """uint8 [f H W 3] -> [v f h w 3]: the panoramas themselves, or views of them."""
  if surface == PANORAMA:
    return panoramas[None]
  return _projector(protocol.size, tuple(protocol.rig(surface)), protocol.view_shape)(panoramas)


def _shown(frames: Frames, surface: str, protocol: Protocol) -> np.ndarray:
  if surface not in frames.shown:
    frames.shown[surface] = images_of(frames.panoramas, surface, protocol)
  return frames.shown[surface]


_projector = functools.lru_cache(maxsize=8)(Projector)


def _of_images(measured: Measured, surface: str, made: np.ndarray, truth: np.ndarray | None, prompt: str,
               wanted: Collection[str], protocol: Protocol, extractors: Mapping[str, Extractor]) -> None:
  """What is taken of panoramas and of views alike; made and truth are [v f h w 3]."""
  if truth is not None and {"psnr", "ssim", "ws_psnr", "ws_ssim"} & set(wanted):
    scores = metrics.fidelity(truth, made, sphere=surface == PANORAMA)
    for name, value in scores.items():
      if name in wanted:
        _put(measured, (name, surface), min(value, protocol.psnr_cap_db))
        if value == math.inf:
          measured.why[name, surface] = f"equal to the truth, counted as {protocol.psnr_cap_db:g} dB"
  flat = lambda views: views.reshape(-1, *views.shape[2:])
  for name in ("lpips_alex", "lpips_vgg"):
    if truth is not None and name in wanted:
      _put(measured, (name, surface), extractors[name].distances(flat(truth), flat(made)).mean(dtype=np.float64))
  if "fid" in wanted:
    _inception(measured, surface, made, extractors["inception"])
  if "fvd" in wanted:
    measured.features["i3d", surface] = extractors["i3d"].features(made)
  if "clip_score" in wanted:
    if prompt:
      from panda_jax.evaluation.networks.clip import clip_score
      images = extractors["clip"].features(flat(made))
      _put(measured, ("clip_score", surface), clip_score(images, extractors["clip"].text(prompt)).mean(dtype=np.float64))
    else:
      _put(measured, ("clip_score", surface), None, "the clip has no prompt")


def _inception(measured: Measured, surface: str, images: np.ndarray, extractor: Extractor) -> None:
  if ("inception", surface) not in measured.features:
    measured.features["inception", surface] = extractor.features(images.reshape(-1, *images.shape[2:]))


def _of_panoramas(measured: Measured, made: Frames, truth: Frames | None, wanted: Collection[str]) -> None:
  for name in ("discontinuity_score", "end_continuity", "seam_ratio"):
    if name in wanted:
      _put(measured, (name, PANORAMA), getattr(seams, name)(made.panoramas), "the surroundings of the seam are flat")
  if "flicker" in wanted and truth is not None:
    # A difference, not a ratio: some scenes hardly move, and their ratios would be all that a mean shows.
    changes, usual = (temporal.frame_changes(x.panoramas).mean() for x in (made, truth))
    _put(measured, ("flicker", PANORAMA), changes - usual)
  if "motion_agreement" in wanted and truth is not None:
    agreement = motion_agreement(truth.flow, made.flow)
    _put(measured, ("motion_agreement", PANORAMA), agreement, "the true video stands still")


def _of_file(measured: Measured, path: Path, made: Frames, wanted: Collection[str], protocol: Protocol) -> None:
  """Drift over a whole long video, and the agreement of the views that it was stitched from."""
  if {"sharpness_kept", "colour_shift", "border_jump"} & set(wanted):
    drift, why = None, f"{made.count} frames are fewer than two windows of {protocol.window}"
    if len(temporal.window_starts(made.count, protocol.window, protocol.overlap)) > 1:
      drift, why = temporal.drift(all_frames(path, protocol), protocol.window, protocol.overlap), "nothing moves"
    scores = {"sharpness_kept": drift and drift.sharpness_kept, "colour_shift": drift and drift.colour_shift,
              "border_jump": drift and drift.jump}
    for name, value in scores.items():
      if name in wanted:
        _put(measured, (name, PANORAMA), value, why)
    if drift:
      measured.about["windows"] = {"sharpness": list(drift.sharpness), "colour": [list(x) for x in drift.colour]}
  if "overlap_psnr" in wanted:
    rig, views = protocol.rig(protocol.views_rig), views_of(path)
    value, why = None, f"there is no {views.name} beside the panorama"
    if views.is_file():
      value, why = overlap_psnr(read_views(views, len(rig)), tuple(rig)), "no two views overlap"
    _put(measured, ("overlap_psnr", PANORAMA), value and min(value, protocol.psnr_cap_db), why)


def _put(measured: Measured, key: Key, value: float | None, why: str = "") -> None:
  """A value, or where there is none, why."""
  measured.values[key] = None if value is None or not math.isfinite(value) else float(value)
  if measured.values[key] is None:
    measured.why[key] = why or "it is not a number"


def said(key: Key) -> str:
  """A key as it is written in files."""
  return _AT.join(key)


def read_key(text: str) -> Key:
  """The inverse of `said`."""
  name, _, surface = text.partition(_AT)
  return name, surface
