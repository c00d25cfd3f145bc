"""Evaluations that nobody ran: summaries and scores of any size, with the videos that belong to them.

As `panda evaluate` writes them; the true videos are a method of their own, "reference", where nothing is compared.
"""

import dataclasses
import random
from pathlib import Path

import numpy as np

from panda_jax.data.video import write_video

H, W = 64, 128
METRICS = {                            # title, unit, better, digits, surfaces, mean, spread, kind
  "psnr": ("PSNR", "dB", "higher", 2, ("panorama", "horizontal8"), 24, 3, "compares"),
  "ws_psnr": ("WS-PSNR", "dB", "higher", 2, ("panorama",), 25, 3, "compares"),
  "lpips_alex": ("LPIPS alex", "", "lower", 3, ("panorama", "horizontal8"), 0.2, 0.04, "compares"),
  "fid": ("FID", "", "lower", 2, ("panorama", "horizontal8"), 90, 9, "set"),
  "fvd": ("FVD", "", "lower", 1, ("panorama",), 600, 80, "set"),
  "discontinuity_score": ("DS", "", "lower", 3, ("panorama",), 1.4, 0.3, "alone"),
  "seam_ratio": ("seam ratio", "", "one", 3, ("panorama",), 1.3, 0.2, "alone"),
  "clip_score": ("CLIP score", "", "higher", 2, ("panorama", "horizontal8"), 29, 2, "alone"),
}


@dataclasses.dataclass
class MadeUp:
  """A summary, the rows of scores.csv, and where the videos are."""

  summary: dict
  scores: list
  folder: Path
  prompts: dict

  def video_of(self, method, clip):
    return self._found(self.folder / method / f"{clip}.mp4")

  def reference_of(self, clip):
    return self._found(self.folder / "reference" / f"{clip}.mp4")

  def prompt_of(self, clip):
    return self.prompts.get(clip, "")

  @property
  def arguments(self):
    """What `write_report` takes after its path."""
    return self.summary, self.scores, self.video_of, self.reference_of, self.prompt_of

  @staticmethod
  def _found(path):
    return path if path.is_file() else None


def evaluation(folder, methods=("ours", "blur", "noise"), clips=4, metrics=METRICS, seed=0, filmed=True, splits=2,
               truth=True):
  """An evaluation of `methods`; the first is the baseline, and the later ones are worse.

  `filmed`: with videos, `truth`: with true ones; metrics are then of the kinds that compare with them, that need a
  whole set, and that are taken of the true videos, too.
  """
  rng = random.Random(seed)
  ids = [f"clip::{n:04d}" for n in range(clips)]
  split = {clip: f"split_{n % splits}" if splits else "" for n, clip in enumerate(ids)}
  parts = ["", *sorted(set(filter(None, split.values())))]
  if not truth:
    metrics = {key: about for key, about in metrics.items() if about[-1] == "alone"}
  hardness = {clip: rng.gauss(0, 1) for clip in ids}
  rows, scores, differences = [], [], []
  for key, (title, _, better, _, surfaces, mean, spread, kind) in metrics.items():
    sign = 1 if better == "higher" else -1
    for surface in surfaces:
      first = None
      for place, method in enumerate(["reference", *methods] if kind == "alone" and truth else methods):
        place -= kind == "alone" and truth
        values = {clip: mean - sign * spread * (0.3 * place + 0.6 * hardness[clip] + 0.3 * rng.gauss(0, 1))
                  for clip in ids}
        stamp = {"variant": f"variant of {title}", "frames": 6, "fps": 8.0, "stride": 1, "start": 0, "height": H,
                 "width": W, "resize": "area", "views": "" if surface == "panorama" else "8 views of 32x32, 90°",
                 "network": "", "sha256": "", "network_input": "", "normaliser": "n-1" if kind == "set" else ""}
        named = {"method": method, "metric": key, "surface": surface}
        for part in parts:
          some = [values[clip] for clip in ids if part in ("", split[clip])]
          value, half = sum(some) / len(some), 2 * spread / len(some) ** 0.5
          rows.append({**named, "split": part, "value": value, "low": value - half, "high": value + half,
                       "clips": len(some), "items": 6 * len(some), **stamp, "note": ""})
        if kind != "set":
          scores += [{**named, **stamp, "clip_id": clip, "split": split[clip], "value": repr(values[clip]), "why": ""}
                     for clip in ids]
        whole = rows[-len(parts)]["value"]
        if place == 0:
          first = whole
        elif place > 0:
          half = abs(whole - first) * rng.choice([0.4, 1.6])
          differences.append({**named, "baseline": methods[0], "value": whole - first, "low": whole - first - half,
                              "high": whole - first + half, "clips": clips})
  summary = {
    "protocol": {"frames": 6, "fps": 0.0, "stride": 1, "start": 0, "height": H, "resize": "area when shrinking",
                 "surfaces": sorted({row["surface"] for row in rows}),
                 "views": {"horizontal8": [{"yaw_deg": 45.0 * k, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0}
                                           for k in range(8)]},
                 "view_size": [256, 256], "normaliser": "n-1", "psnr_cap_db": 100.0, "confidence": 0.95,
                 "samples": 1000, "groups": 10, "seed": 0},
    "networks": {"inception": {"file": "pt_inception.pth", "sha256": "ab12" * 16, "input": "299x299, bicubic"}},
    "metrics": {key: {"title": title, "unit": unit, "better": better, "digits": digits,
                      "definition": f"What {title} is, in one sentence."}
                for key, (title, unit, better, digits, *_) in metrics.items()},
    "clips": {"source": "master.csv", "count": clips,
              "splits": {part: list(split.values()).count(part) for part in parts[1:]}},
    "methods": {method: {"folder": "" if method == "reference" else f"generated/{method}", "scored": clips,
                         "missing": 0, "unusable": 0} for method in (["reference"] if truth else []) + list(methods)},
    "baseline": methods[0],
    "rows": rows, "differences": differences,
    "problems": [{"method": methods[-1], "clip": "clip::0099", "kind": "damaged",
                  "sentence": "clip__0099.mp4 is cut off: only 3 frames decode; get a whole copy"}],
    "left_out": [{"metric": "cd_fvd", "sentence": "CD-FVD is left out: no features were given (--features …)"}],
    "made_with": {"panda_jax": "0.1", "jax": "0.10.2", "device": "cpu", "date": "2026-11-27",
                  "command": "panda evaluate --reference master.csv"},
  }
  prompts = {clip: f"a quiet beach at dawn, number {n}" for n, clip in enumerate(ids)}
  made = MadeUp(summary, scores, Path(folder), prompts)
  if filmed:
    for clip in ids:
      for method in (*methods, "reference") if truth else methods:
        film(made.folder / method / f"{clip}.mp4", seam=0 if method == "reference" else 60)
  return made


def panorama(turn=0.0, seam=0, size=(H, W)):
  """uint8 [H W 3]: smooth on the sphere, but for a step of `seam` levels where left and right edge meet."""
  h, w = size
  lon = (np.arange(w) + 0.5) / w * 2 * np.pi + turn
  lat = (0.5 - (np.arange(h) + 0.5) / h)[:, None] * np.pi
  colours = [np.cos(lat) * np.sin(k * lon + k) + np.sin(2 * lat) for k in (1, 2, 3)]
  ramp = np.linspace(-0.5, 0.5, w)[None, :, None] * seam
  return np.clip(127 + 40 * np.stack(colours, axis=-1) + ramp, 0, 255).astype(np.uint8)


def film(path, seam=0, frames=8, fps=8, size=(H, W)):
  """A turning `panorama`."""
  write_video(path, (panorama(0.1 * index, seam, size) for index in range(frames)), fps)
