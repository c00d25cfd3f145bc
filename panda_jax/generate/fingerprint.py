"""Everything that decides the frames of a video, as a table of names and values that fits into its metadata."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from panda_jax.generate.camera_track import CameraTrack
from panda_jax.generate.segments import Fingerprint
from panda_jax.generate.windows import Request, Settings
from panda_jax.systems.base import Params
from panda_jax.tree import flatten


def fingerprint(request: Request, settings: Settings, params: Params, config: ConfigDict,
                video: str | Path | None = None) -> Fingerprint:
  """What an interrupted run must have in common with the one that continues it.

  Args:
    request: what is generated; `camera` as a track.
    settings: how.
    params: the weights, on the host; all of them are read.
    config: of the model.
    video: the file of the given clip.
  """
  return {**of_request(request, video), **of_model(settings, params, config)}


def of_request(request: Request, video: str | Path | None = None) -> Fingerprint:
  """The half of a fingerprint that each video of a batch has for itself."""
  track = request.camera
  if track is not None and not isinstance(track, CameraTrack):
    track = CameraTrack.still(track)
  return {
      "prompt": request.prompt,
      "the video": None if video is None else _file_digest(video),
      "the camera": None if track is None else _digest(json.dumps(dataclasses.asdict(track)).encode()),
      "frames": request.frames,
      "seed": request.seed,
      **({} if request.motion is None else {"the motion": _digest(request.motion.tobytes())}),
      **({"the negative prompt": request.negative} if request.negative else {}),
  }


def of_model(settings: Settings, params: Params, config: ConfigDict) -> Fingerprint:
  """The half of a fingerprint that all videos of a batch share."""
  model = json.loads(config.model.to_json())
  sampling = model.pop("sampling", {}) | dataclasses.asdict(settings)       # what a system adds to the settings, too
  model.get("text", {}).pop("tokenizer", None)         # a folder, which may have been moved
  return {
      "frames per second": float(config.data.fps),
      **{f"sampling.{name}": value for name, value in sampling.items()},
      "the model": _digest(json.dumps(model, sort_keys=True).encode()),
      "the set of weights": _params_digest(params),
  }


def _params_digest(params: Params) -> str:
  digest = hashlib.sha256()
  for path, leaf in sorted(flatten(params).items()):
    value = np.ascontiguousarray(np.asarray(leaf))
    digest.update(f"{path} {value.dtype} {value.shape}\n".encode())
    digest.update(value.reshape(-1).view(np.uint8))
  return f"sha256:{digest.hexdigest()}"


def _file_digest(path: str | Path) -> str:
  with open(path, "rb") as file:
    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _digest(data: bytes) -> str:
  return f"sha256:{hashlib.sha256(data).hexdigest()}"
