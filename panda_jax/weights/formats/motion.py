"""AnimateDiff's motion modules, 360DVD's adapter, and LoRA, which is only recognised here: lora.py reads it.

Source: the files of AnimateDiff, of diffusers' MotionAdapter and of 360DVD; LoRA files of kohya, PEFT and diffusers.
"""

from panda_jax.weights.formats.table import Format, Mark, Row

# Tables of frame positions. They belong to the files and are no parameters: both names are returned apart.
POSITIONS = r"\.(pos_encoder|pos_embed)\.pe$"

MOTION_ORIGINAL_MARK = Mark(r"motion_modules\.\d+\.temporal_transformer\.")
MOTION_DIFFUSERS_MARK = Mark(r"motion_modules\.\d+\.(transformer_blocks|norm|proj_in|proj_out)\.")

MOTION_ROW = Row(r"(.*motion_modules\.\d+)\.temporal_transformer\.", r"\1.")
MOTION_INNER = (
  (r"(motion_modules\..+)\.attention_blocks\.0\.", r"\1.attn1."),
  (r"(motion_modules\..+)\.attention_blocks\.1\.", r"\1.attn2."),
  (r"(motion_modules\..+)\.norms\.0\.", r"\1.norm1."),
  (r"(motion_modules\..+)\.norms\.1\.", r"\1.norm2."),
  (r"(motion_modules\..+)\.ff_norm\.", r"\1.norm3."),
)

MOTIONS = (
  Format(name="motion_animatediff", kind="motion", description="an AnimateDiff motion module",
         signature=(MOTION_ORIGINAL_MARK,), rules=(MOTION_ROW,), inner=MOTION_INNER),
  Format(name="motion_diffusers", kind="motion", description="a diffusers MotionAdapter",
         signature=(MOTION_DIFFUSERS_MARK,)),
)

# The first T2I adapters have the same names, with images instead of videos: two sizes less.
ADAPTERS = (
  Format(name="adapter360", kind="adapter360", description="a 360DVD adapter",
         signature=(Mark(r"^body\.\d+\.block[12]\.weight$", (None,) * 5),)),
)

LORAS = (
  Format(name="lora_motion", kind="lora", description="an AnimateDiff MotionLoRA",
         signature=(Mark(r"motion_modules\..*lora(\.|_linear_layer\.|_)(down|up|A|B)\."),)),
  Format(name="lora_lycoris", kind="lora", description="a LyCORIS adapter (LoHa, LoKr and the like)",
         signature=(Mark(r"\.(hada_|lokr_|oft_)|^oft_unet_"),)),
  Format(name="lora_kohya", kind="lora", description="a LoRA (kohya)",
         signature=(Mark(r"^lora_(unet|te\d?)_|\.lora_(down|up)\.weight$"),)),
  Format(name="lora_peft", kind="lora", description="a LoRA (PEFT)",
         signature=(Mark(r"\.lora_[AB]\.([^.]+\.)?weight$"),)),
  Format(name="lora_diffusers", kind="lora", description="a LoRA (diffusers)",
         signature=(Mark(r"[._]lora(_linear_layer)?\.(down|up)\.weight$"),)),
)
