"""The metrics: what each is called, what it needs, and which way is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from panda_jax.errors import InputError

NETWORKS = {"inception": "InceptionV3", "i3d": "I3D", "lpips_alex": "LPIPS (alex)", "lpips_vgg": "LPIPS (vgg)",
            "clip": "CLIP"}


@dataclasses.dataclass(frozen=True)
class Metric:
  """One metric.

  Attributes:
    name: in files and configs.
    title: in tables.
    better: "higher", "lower", or the value that is best: "one", "zero".
    definition: one sentence.
    variant: what else of the name there is in the literature, and which this is.
    unit: empty for plain numbers.
    digits: behind the point.
    truth: whether it compares with the true video. Those that do not are taken of the truth as well, to compare with.
    network: key of NETWORKS, or empty.
    on: "panorama", "both" panorama and views, or "file" for what is taken of the whole file.
    of_a_set: of all clips together; the others are of one clip, and their mean is reported.
  """

  name: str
  title: str
  better: Literal["higher", "lower", "one", "zero"]
  definition: str
  variant: str = ""
  unit: str = ""
  digits: int = 3
  truth: bool = True
  network: str = ""
  on: Literal["panorama", "both", "file"] = "panorama"
  of_a_set: bool = False


METRICS = {metric.name: metric for metric in (
  Metric("psnr", "PSNR", "higher", "Peak signal-to-noise ratio of the frames to the true ones.",
         "squared error pooled over the clip's frames and views, mean over clips", unit="dB", digits=2, on="both"),
  Metric("ssim", "SSIM", "higher", "Structural similarity of the frames to the true ones.",
         "Gaussian window 11x11, sigma 1.5, per channel, flat (scikit-image)", on="both"),
  Metric("ws_psnr", "WS-PSNR", "higher", "PSNR with pixels weighted by their solid angle.",
         "pooled over the clip's frames, mean over clips", unit="dB", digits=2),
  Metric("ws_ssim", "WS-SSIM", "higher", "SSIM weighted by solid angle, windows continued over the seam and the poles.",
         "Gaussian window 11x11, sigma 1.5, per channel"),
  Metric("lpips_alex", "LPIPS alex", "lower", "Learned perceptual distance of the frames to the true ones.",
         "AlexNet, spatial mean, images at their own size", network="lpips_alex", on="both"),
  Metric("lpips_vgg", "LPIPS vgg", "lower", "Learned perceptual distance of the frames to the true ones.",
         "VGG16, spatial mean, images at their own size", network="lpips_vgg", on="both"),
  Metric("fid", "FID", "lower", "Fréchet distance of InceptionV3 features (pool3, 2048) of all frames.",
         "paired: against the true frames of the same clips", digits=2, network="inception", on="both", of_a_set=True),
  Metric("fvd", "FVD", "lower", "Fréchet distance of I3D logits (Kinetics-400) of all videos.",
         "paired: against the true videos of the same clips", digits=1, network="i3d", on="both", of_a_set=True),
  Metric("omni_fid", "OmniFID", "lower", "Mean FID of a cubemap's up face, its down face, and its four sides.",
         "paired; features of the four side faces of a frame are averaged", digits=2, network="inception",
         of_a_set=True),
  Metric("clip_score", "CLIP score", "higher", "100 times the cosine between image and prompt, not below 0.",
         "mean over frames and views; shortest side resized, centre cropped", digits=2, truth=False, network="clip",
         on="both"),
  Metric("discontinuity_score", "DS", "lower", "Gradients at the seam relative to those beside it.",
         "Christensen et al. 2024, constant 4/255", truth=False),
  Metric("seam_ratio", "seam ratio", "one", "Difference of the edge columns in units of that of their neighbours.",
         "four neighbours on either side", digits=2, truth=False),
  Metric("end_continuity", "end continuity", "lower", "Mean absolute difference of the first and the last column.",
         unit="levels", digits=2, truth=False),
  Metric("flicker", "flicker", "zero", "Mean change from frame to frame, less the truth's.", unit="levels", digits=2),
  Metric("motion_agreement", "motion agreement", "higher", "Cosine between the optical flows of video and true video.",
         "DIS around the seam, at most 256 rows, by solid angle; clips that stand still have none"),
  Metric("overlap_psnr", "overlap PSNR", "higher", "Agreement of generated views where they overlap, before stitching.",
         "from CLIP_views.mp4 beside the panorama", unit="dB", digits=2, truth=False, on="file"),
  Metric("sharpness_kept", "sharpness kept", "one", "Detail in the last window, in units of the first one's.",
         "energy of the Laplacian, by solid angle", digits=2, truth=False, on="file"),
  Metric("colour_shift", "colour shift", "lower", "Difference of the last and the first window's mean colours.",
         unit="levels", digits=2, truth=False, on="file"),
  Metric("border_jump", "border jump", "one", "Change into a new window, in units of the median change elsewhere.",
         digits=2, truth=False, on="file"),
)}


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """A metric that is not taken, and the sentence that says why."""

  metric: str
  sentence: str


def choose(wanted: Sequence[str], networks: Iterable[str], *, truth: bool, prompts: bool,
           frames: int) -> tuple[list[Metric], list[LeftOut]]:
  """The metrics that can be taken, in the order of the catalogue, and those that cannot.

  Args:
    wanted: names, or "all".
    networks: those whose weights were given.
    truth: whether there are true videos.
    prompts: whether any clip has a prompt.
    frames: how many are compared.

  Raises:
    InputError: for an unknown name.
  """
  unknown = [name for name in wanted if name != "all" and name not in METRICS]
  if unknown:
    raise InputError(f"there is no metric {unknown[0]!r}: there are all, {', '.join(METRICS)}")
  chosen, left_out = [], []
  for metric in METRICS.values():
    if "all" not in wanted and metric.name not in wanted:
      continue
    why = None
    if metric.truth and not truth:
      why = "there are no true videos (--reference)"
    elif metric.network and metric.network not in networks:
      why = f"no weights of {NETWORKS[metric.network]} were given (--weights {metric.network}=FILE)"
    elif metric.name == "clip_score" and not prompts:
      why = "no clip has a prompt (column prompt or caption_path of the table of clips)"
    elif metric.name == "fvd" and frames < 9:
      why = f"I3D needs 9 frames or more, and {frames} are compared"
    elif metric.name in ("flicker", "motion_agreement") and frames < 2:
      why = "a single frame does not change"
    if why:
      left_out.append(LeftOut(metric.name, f"{metric.title} is left out: {why}"))
    else:
      chosen.append(metric)
  return chosen, left_out
