"""Files that people have beside those that can be read here, so that the refusal can say what they are.

Source: the names in the released files, as diffusers 0.42.1 and the projects' own code read them.
"""

from panda_jax.weights.formats.table import Format, Mark

_UNET = "give a UNet or single file of Stable Diffusion 1.x or 2.x"
_VAE = "give the VAE of Stable Diffusion"
_TEXT = "give the text encoder of Stable Diffusion 1.x or 2.x"
_OTHER = "give a UNet, a VAE or a text encoder"


def _foreign(description: str, *patterns: str | Mark, absent: tuple[str, ...] = (), hint: str) -> Format:
  marks = tuple(Mark(pattern) if isinstance(pattern, str) else pattern for pattern in patterns)
  return Format(name="foreign", kind="foreign", description=description, signature=marks,
                absent=tuple(map(Mark, absent)), hint=hint)


# Looked for before LoRA files, whose names some of these hold as well.
FOREIGN_FIRST = (
  _foreign("a panda_jax model", r"^[\w-]+(/[\w-]+)+$",
           hint="give its folder where a trained model is wanted, as `panda generate --checkpoint` does"),
  _foreign("the state of an optimizer", r"(^|[./])(exp_avg|exp_avg_sq|momentum_buffer|param_groups)(\.|$)",
           hint="give the weights that were trained with it"),
  _foreign("an IP-Adapter", r"(^|\.)to_[kv]_ip\.|^ip_adapter\.",
           hint="give the UNet or LoRA without it"),
  _foreign("a network with a LoRA beside its weights", r"\.base_layer\.(weight|bias)$",
           hint="merge the LoRA where it was trained (PEFT: merge_and_unload, diffusers: fuse_lora and unload), "
                "and save again"),
)

FOREIGN = (
  _foreign("a textual inversion embedding", r"^(emb_params|string_to_param|string_to_token|clip_[lg]|<[^>]+>)(\.|$)",
           hint="give a text encoder"),
  _foreign("an Imagine360 network", r"^((pano_)?unet\.)?(cond_rp_proj|add_cond_embedding2?)\.", hint=_UNET),
  _foreign("a ControlNet", r"^(control_model|zero_convs|input_hint_block)\.|^controlnet_(cond_embedding|down_blocks)\.",
           hint="give the UNet without it"),
  _foreign("a T2I-Adapter", Mark(r"(^|\.)body\.\d+\.(resnets\.\d+\.)?block[12]\.weight$", (None,) * 4),
           hint="give 360DVD's adapter, which has convolutions over time as well"),
  _foreign("a Stable Diffusion 2.x unCLIP single file", r"^(embedder|noise_augmentor)\.", r"label_emb\.",
           hint=_UNET),
  _foreign("an SDXL single file", r"^conditioner\.embedders\.", hint=_UNET),
  _foreign("an SDXL UNet (LDM)", r"^(model\.diffusion_model\.)?label_emb\.0\.", hint=_UNET),
  _foreign("an SDXL UNet (diffusers)", r"^add_embedding\.linear_[12]\.", hint=_UNET),
  _foreign("a UNet with class or noise-level embeddings (unCLIP, upscaler)",
           r"^(model\.diffusion_model\.)?label_emb\.weight|^class_embedding\.", hint=_UNET),
  _foreign("an LCM UNet with a guidance embedding", r"^time_embedding\.cond_proj\.", hint=_UNET),
  _foreign("a Kandinsky or image-prompt UNet", r"^(add_embedding|encoder_hid_proj)\.", hint=_UNET),
  _foreign("a Stable Diffusion 2 depth single file", r"^depth_model\.", hint=_UNET),
  _foreign("a Stable Video Diffusion network",
           r"\.spatial_res_block\.|\.time_stack\.|\.time_conv_out\.|\.temporal_res_block\.", hint=_UNET),
  _foreign("a text-to-video UNet with temporal convolutions (ModelScope, VideoCrafter)",
           r"\.temp_convs\.|\.temopral_conv\.|^transformer_in\.",
           hint="give a Stable Diffusion UNet and AnimateDiff motion modules"),
  _foreign("a Stable Diffusion 3 transformer", r"(^|\.)(joint_blocks|joint_transformer_blocks)\.\d+\.|"
           r"^pos_embed\.pos_embed$", hint=_UNET),
  _foreign("a Flux transformer", r"(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\.\d+\.",
           hint=_UNET),
  _foreign("a diffusion transformer", r"^(transformer_blocks|blocks|layers)\.\d+\.",
           r"^(patch_embed|patch_embedding|x_embedder|img_in|pos_embed|patchify_proj|context_embedder)\b", hint=_UNET),
  _foreign("a VQ autoencoder", r"^quantize\.embedding", hint=_VAE),
  _foreign("a tiny autoencoder (TAESD)", r"^taesd_|^(encoder|decoder)\.layers\.\d+\.(conv\.\d+\.)?(weight|bias)$",
           hint=_VAE),
  _foreign("a safety checker", r"^(concept_embeds|special_care_embeds)", hint=_OTHER),
  _foreign("the second text encoder of SDXL",
           Mark(r"^(text_model\.)?embeddings\.token_embedding\.weight$", (None, 1280)),
           hint=_TEXT),
  _foreign("the second text encoder of SDXL", Mark(r"^text_projection(\.weight)?$", (1280, 1280)),
           hint=_TEXT),
  _foreign("a CLIP vision tower", r"^(vision_model\.)?(embeddings\.(patch_embedding|class_embedding)|pre_layrnorm)\b",
           absent=(r"(^|\.)token_embedding\.", r"^(transformer\.)?text_model\."), hint=_TEXT),
  _foreign("a CLIP model in the names of its authors (OpenAI, OpenCLIP)",
           r"^(visual\.)?transformer\.resblocks\.|^visual\.",
           hint="give the folder that transformers makes of it, or a Stable Diffusion single file"),
  _foreign("a T5 text encoder", r"(^|\.)block\.\d+\.layer\.\d+\.(SelfAttention|DenseReluDense)\.",
           hint=_TEXT),
  _foreign("an InceptionV3", r"(^|\.)(Mixed_5b|Conv2d_1a_3x3)\.", hint=_OTHER),
  _foreign("an I3D video classifier", r"(^|\.)(Mixed_3b|Conv3d_1a_7x7)\.", hint=_OTHER),
  _foreign("an optical-flow network (RAFT)", r"^(fnet|cnet)\.", r"^update_block\.", hint=_OTHER),
)
