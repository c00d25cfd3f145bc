"""The VAE of Stable Diffusion: diffusers (canonical), diffusers with the attention names it had before, LDM.

Source: the names that diffusers 0.11.1 and 0.42.1 and CompVis/latent-diffusion give their modules.
"""

import re
from typing import Collection

from panda_jax.weights.formats.table import Format, Mark, Row

_BLOCKS = Mark(r"^(encoder|decoder)\.((down|up)_blocks\.\d+|mid_block)\.(resnets|attentions)\.")
_LINEAR = r"\.attentions\.\d+\.(to_[qkv]|to_out\.0)\.weight$"

VAE_DIFFUSERS_OLD = Format(
  name="vae_diffusers_old", kind="vae", description="a diffusers VAE with old attention names",
  signature=(_BLOCKS, Mark(r"\.attentions\.\d+\.(query|key|value|proj_attn)\.")),
  linear=_LINEAR,
  inner=(
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
  ))

VAE_DIFFUSERS = Format(name="vae_diffusers", kind="vae", description="a diffusers VAE", signature=(_BLOCKS,),
                       linear=_LINEAR)


def _last_level(names: Collection[str]) -> int:
  """The highest number of a resolution: LDM numbers the decoder's from the image, diffusers from the latents."""
  found = (re.match(r"(?:encoder\.down|decoder\.up)\.(\d+)\.", name) for name in names)
  return max((int(level[1]) for level in found if level), default=0)


VAE_LDM = Format(
  name="vae_ldm", kind="vae", description="an LDM VAE",
  signature=(Mark(r"^(encoder\.down|decoder\.up)\.\d+\.|^(encoder|decoder)\.mid\.(block|attn)_\d\."),),
  measure=_last_level,
  linear=_LINEAR,
  ignored=(r"^loss\.", r"^model_ema\."),
  rules=(
    Row(r"encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    Row(r"encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    Row(r"decoder\.up\.(\d+)\.block\.(\d+)\.", lambda last, level, block:
        f"decoder.up_blocks.{last - level}.resnets.{block}."),
    Row(r"decoder\.up\.(\d+)\.upsample\.", lambda last, level: f"decoder.up_blocks.{last - level}.upsamplers.0."),
    Row(r"(encoder|decoder)\.mid\.block_1\.", r"\1.mid_block.resnets.0."),
    Row(r"(encoder|decoder)\.mid\.block_2\.", r"\1.mid_block.resnets.1."),
    Row(r"(encoder|decoder)\.mid\.attn_1\.", r"\1.mid_block.attentions.0."),
    Row(r"(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    Row(r"(encoder|decoder)\.(conv_in|conv_out)\.", r"\1.\2."),
    Row(r"(quant_conv|post_quant_conv)\.", r"\1."),
  ),
  inner=(
    (r"(resnets\.\d+)\.nin_shortcut\.", r"\1.conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
  ))

VAES = (VAE_DIFFUSERS_OLD, VAE_DIFFUSERS, VAE_LDM)
