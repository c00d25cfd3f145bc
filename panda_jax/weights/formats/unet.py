"""UNets: diffusers (canonical), diffusers with motion modules, AnimateDiff's own, LDM (Stable Diffusion 1.x and 2.x).

Source: the names that diffusers 0.42.1, AnimateDiff and CompVis/latent-diffusion give their modules.
"""

import math
import re
from typing import Callable, Collection

from panda_jax.weights.formats.motion import MOTION_INNER, MOTION_ROW, MOTION_DIFFUSERS_MARK, MOTION_ORIGINAL_MARK
from panda_jax.weights.formats.table import KEEP, Format, Mark, Row

_SPATIAL = Mark(r"^((down|up)_blocks\.\d+|mid_block)\.(resnets|attentions)\.\d+\.")

UNET_ANIMATEDIFF = Format(
  name="unet_animatediff", kind="unet", description="an AnimateDiff UNet with its motion modules",
  signature=(_SPATIAL, MOTION_ORIGINAL_MARK), rules=(MOTION_ROW, KEEP), inner=MOTION_INNER)

UNET_MOTION_DIFFUSERS = Format(
  name="unet_motion_diffusers", kind="unet", description="a diffusers UNetMotionModel",
  signature=(_SPATIAL, MOTION_DIFFUSERS_MARK))

UNET_DIFFUSERS = Format(name="unet_diffusers", kind="unet", description="a diffusers UNet", signature=(_SPATIAL,))


def _blocks_per_level(names: Collection[str]) -> int:
  """Entries of input_blocks per resolution: layers_per_block + 1, the last being the downsampler, `.op`."""
  downsamplers = {int(found[1]) for name in names if (found := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))}
  if downsamplers:
    return math.gcd(*downsamplers)        # of all of them, so that a file which lacks one is still read rightly
  return max(1, len({name.split(".")[1] for name in names if name.startswith("input_blocks.")}))


def _down(list_name: str) -> Callable[[int, int], str]:
  return lambda size, block: f"down_blocks.{(block - 1) // size}.{list_name}.{(block - 1) % size}."


def _up(list_name: str) -> Callable[[int, int], str]:
  return lambda size, block: f"up_blocks.{block // size}.{list_name}.{block % size}."


UNET_LDM = Format(
  name="unet_ldm", kind="unet", description="an LDM UNet",
  signature=(Mark(r"^(input_blocks|output_blocks|middle_block)\.\d+\."),),
  measure=_blocks_per_level,
  rules=(
    Row(r"time_embed\.0\.", "time_embedding.linear_1."),
    Row(r"time_embed\.2\.", "time_embedding.linear_2."),
    Row(r"input_blocks\.0\.0\.", "conv_in."),
    Row(r"input_blocks\.(\d+)\.0\.op\.", lambda size, block: f"down_blocks.{block // size - 1}.downsamplers.0.conv."),
    Row(r"input_blocks\.(\d+)\.0\.", _down("resnets")),
    Row(r"input_blocks\.(\d+)\.1\.", _down("attentions")),
    Row(r"middle_block\.0\.", "mid_block.resnets.0."),
    Row(r"middle_block\.1\.", "mid_block.attentions.0."),
    Row(r"middle_block\.2\.", "mid_block.resnets.1."),
    Row(r"output_blocks\.(\d+)\.[12]\.conv\.", lambda size, block: f"up_blocks.{block // size}.upsamplers.0.conv."),
    Row(r"output_blocks\.(\d+)\.0\.", _up("resnets")),
    Row(r"output_blocks\.(\d+)\.1\.", _up("attentions")),
    Row(r"out\.0\.", "conv_norm_out."),
    Row(r"out\.2\.", "conv_out."),
  ),
  inner=(
    (r"(resnets\.\d+)\.in_layers\.0\.", r"\1.norm1."),
    (r"(resnets\.\d+)\.in_layers\.2\.", r"\1.conv1."),
    (r"(resnets\.\d+)\.emb_layers\.1\.", r"\1.time_emb_proj."),
    (r"(resnets\.\d+)\.out_layers\.0\.", r"\1.norm2."),
    (r"(resnets\.\d+)\.out_layers\.3\.", r"\1.conv2."),
    (r"(resnets\.\d+)\.skip_connection\.", r"\1.conv_shortcut."),
  ))

UNETS = (UNET_ANIMATEDIFF, UNET_MOTION_DIFFUSERS, UNET_DIFFUSERS, UNET_LDM)
