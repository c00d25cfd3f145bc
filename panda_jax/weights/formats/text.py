"""CLIP text encoders: transformers with and without its prefix, the same inside an LDM file, OpenCLIP inside one.

Source: the names that transformers and OpenCLIP give their modules; CompVis/latent-diffusion and Stability's
stablediffusion wrap them as `cond_stage_model`.
"""

from panda_jax.weights.formats.table import Format, Mark, Row

_HEADS = r"(?=embeddings\.|encoder\.|final_layer_norm\.)"
_BODY = (r"(embeddings\.(token|position)_embedding\.|encoder\.layers\.\d+\.(self_attn|mlp|layer_norm[12])\.|"
         r"final_layer_norm\.)")
_BESIDE = (r"(^|\.)position_ids$", r"(^|\.)logit_scale$", r"(^|\.)text_projection(\.weight)?$",
           r"^(transformer\.)?(vision_model|visual_projection)\.")

TEXT_TRANSFORMERS = Format(
  name="text_transformers", kind="text_encoder", description="a CLIP text encoder (transformers)",
  signature=(Mark(r"^(text_model\.)?" + _BODY),),
  rules=(Row(r"(text_model\.)?" + _HEADS, ""),),
  ignored=_BESIDE)

TEXT_LDM = Format(
  name="text_ldm", kind="text_encoder", description="an LDM text encoder (CLIP)",
  signature=(Mark(r"^transformer\.(text_model\.)?" + _BODY),),
  rules=(Row(r"transformer\.(text_model\.)?" + _HEADS, ""),),
  ignored=_BESIDE,
  settings={"activation": "quick_gelu"})

# Stable Diffusion 2.x reads the states before the last of OpenCLIP-H's 24 blocks; without that block they are the last.
TEXT_OPENCLIP = Format(
  name="text_openclip", kind="text_encoder", description="an LDM text encoder (OpenCLIP)",
  signature=(Mark(r"^model\.(transformer\.resblocks\.\d+\.|token_embedding\.|positional_embedding$|ln_final\.)"),),
  rules=(
    Row(r"model\.positional_embedding$", "embeddings.position_embedding.weight"),
    Row(r"model\.token_embedding\.", "embeddings.token_embedding."),
    Row(r"model\.ln_final\.", "final_layer_norm."),
    Row(r"model\.transformer\.resblocks\.(\d+)\.attn\.in_proj_",
        tuple(rf"encoder.layers.\1.self_attn.{letter}_proj." for letter in "qkv")),
    Row(r"model\.transformer\.resblocks\.(\d+)\.", r"encoder.layers.\1."),
  ),
  inner=(
    (r"(layers\.\d+)\.ln_([12])\.", r"\1.layer_norm\2."),
    (r"(layers\.\d+)\.attn\.out_proj\.", r"\1.self_attn.out_proj."),
    (r"(layers\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
    (r"(layers\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
  ),
  ignored=_BESIDE + (r"^model\.transformer\.resblocks\.23\.", r"^model\.attn_mask$"),
  settings={"activation": "gelu"})

TEXTS = (TEXT_TRANSFORMERS, TEXT_LDM, TEXT_OPENCLIP)
