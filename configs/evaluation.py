"""How `panda evaluate` compares clips: one protocol for each table of the papers.

  panda evaluate --reference clips/master.csv --generated generated --output scores
  panda evaluate … --config configs/evaluation.py:videopanda
  panda evaluate … --config.frames=8 --config.fps=4 --config.inception_resize=bilinear

  default      16 frames by their number, on the panorama and on 8 horizontal views of 90°, everything that can be measured
  videopanda   VideoPanda, tables 1 and 3: paired FID and FVD, CLIP score, PSNR of 16 frames at 4 per second
  outpainting  VideoPanda, table 2: the middle frame of 16 on the 8 horizontal views (against MVDiffusion)
  long         a video of any length: drift over windows of 16 frames that overlap by one, and what needs no truth

The papers do not say how they resize, which frames they take of the truth, or on what images they take FID and FVD of
tables 1 and 3; both surfaces are reported. Laptop or pod, the protocol is the same: it is what makes numbers comparable.
"""

import dataclasses

from ml_collections import ConfigDict

from panda_jax.errors import InputError

_PRESETS = {
  "default": {},
  "videopanda": dict(fps=4.0, metrics=("fid", "fvd", "clip_score", "psnr", "ssim", "lpips_alex", "lpips_vgg")),
  "outpainting": dict(frames=1, start=8, surfaces=("horizontal8",),
                      metrics=("fid", "clip_score", "psnr", "ssim", "lpips_alex", "lpips_vgg")),
  "long": dict(metrics=("sharpness_kept", "colour_shift", "border_jump", "discontinuity_score", "seam_ratio",
                        "clip_score", "fid", "fvd")),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """The protocol of that name, see above; `panda_jax.evaluation.protocol.Protocol` explains every value."""
  from panda_jax.evaluation.protocol import Protocol
  name = arg or "default"
  if name not in _PRESETS:
    raise InputError(f"configs/evaluation.py has no protocol {name!r}; it has {', '.join(_PRESETS)}")
  return ConfigDict(dataclasses.asdict(Protocol(**_PRESETS[name])))
