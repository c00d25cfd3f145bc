"""Makes the golden files: small networks of random weights, and what diffusers and transformers compute with them.

  python tests/golden/make_golden.py [folder]     # needs torch, diffusers, transformers and peft

The libraries write the files themselves wherever they can; diffusers' converters and loaders check those spelt here.
Weights are float16 numbers, so that files are small and exact; everything is computed in float32.
"""

from collections.abc import Callable
import copy
import json
import math
from pathlib import Path
import re
import sys
import tempfile

from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from diffusers import UNetMotionModel
from diffusers.loaders import single_file_utils
import numpy as np
import peft
from safetensors.torch import load_file, save_file
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = "a panorama of the snowy mountain sea video with clouds over city".split()
PROMPTS = ["", "a panorama of the SNOWY mountain", "don't!? 3.5 x-ray, #7 ...", "naïve café 雪山 🌊",
           "  snow\n\tover   sea  ", "clouds over the city " * 40, "<|endoftext|> a video"]
# At least two channels in each group of a norm: with one, the norm would take away what the timestep adds.
SD1 = dict(block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
           up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, norm_num_groups=4,
           cross_attention_dim=16, attention_head_dim=8, sample_size=8)
SD2 = SD1 | dict(block_out_channels=(12, 16), cross_attention_dim=24, attention_head_dim=(2, 4),
                 use_linear_projection=True, upcast_attention=True)
MOTION = dict(block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=4,
              motion_max_seq_length=6, motion_norm_num_groups=4, use_motion_mid_block=True)
VAE = dict(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
           up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, sample_size=16)
CLIP = dict(hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, hidden_act="quick_gelu")
OPENCLIP = dict(hidden_size=24, intermediate_size=56, num_hidden_layers=3, num_attention_heads=3, hidden_act="gelu")


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
  """Random float16 numbers as float32 parameters: none at zero, activations of about unit size."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in module.named_parameters():
      value = torch.randn(parameter.shape, generator=generator)
      if parameter.ndim > 1:
        value /= math.sqrt(parameter[0].numel())
      else:
        value = 0.1 * value + ("norm" in name and name.endswith("weight"))
      parameter.copy_(value.half().float())
  return module.eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
  return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_tokenizer() -> CLIPTokenizer:
  """Knows every byte and a few words."""
  # Byte-level BPE writes printable bytes as themselves and the others as the letters from 256 on.
  printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
  letters = [*map(chr, printable), *map(chr, range(256, 512 - len(printable)))]
  merges = []
  for word in WORDS:
    parts = [*word[:-1], word[-1] + "</w>"]
    merges += [("".join(parts[:index]), parts[index]) for index in range(1, len(parts))]
  merges = list(dict.fromkeys(merges))
  tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), "<|startoftext|>",
            "<|endoftext|>"]
  with tempfile.TemporaryDirectory() as folder:
    vocabulary, table = Path(folder, "vocab.json"), Path(folder, "merges.txt")
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    table.write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    return CLIPTokenizer(str(vocabulary), str(table), model_max_length=77)


# --- what the libraries cannot write


def ldm_unet(name: str, layers: int = SD1["layers_per_block"]) -> str:
  """A diffusers name as LDM writes it."""
  block = layers + 1
  moves: list[tuple[str, str | Callable]] = [
      (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * (int(m[1]) - 1)}"),
      (r"conv_in", "input_blocks.0.0"), (r"conv_norm_out", "out.0"), (r"conv_out", "out.2"),
      (r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * block + int(m[2])}.0"),
      (r"down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * block + int(m[2])}.1"),
      (r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{(int(m[1]) + 1) * block}.0.op"),
      (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
      (r"mid_block\.attentions\.0", "middle_block.1"),
      (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{int(m[1]) * block + int(m[2])}.0"),
      (r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{int(m[1]) * block + int(m[2])}.1"),
      # Behind the last layer of its block, which has no transformer on the coarsest level.
      (r"up_blocks\.0\.upsamplers\.0", f"output_blocks.{block - 1}.1")]
  for pattern, target in moves:
    moved, count = re.subn("^" + pattern + r"(?=\.)", target, name)
    if count:
      break
  for ours, theirs in {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
                       "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}.items():
    if "resnets" in name:
      moved = moved.replace(f".{ours}.", f".{theirs}.")
  return moved


def ldm_vae(name: str, levels: int = len(VAE["block_out_channels"])) -> str:
  """A diffusers name as LDM writes it: the decoder's levels are numbered from the image."""
  name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block", name)
  name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
  name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
  name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
  name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
  for ours, theirs in {"mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q", "to_k": "k",
                       "to_v": "v", "to_out.0": "proj_out", "conv_shortcut": "nin_shortcut",
                       "conv_norm_out": "norm_out"}.items():
    name = name.replace(f".{ours}.", f".{theirs}.")
  return name


def make_single_file(pipeline: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
  """Stable Diffusion as LDM keeps it, with what lies beside the networks in real files."""
  unet = {ldm_unet(name): value for name, value in pipeline.unet.state_dict().items()}
  vae = {ldm_vae(name): value[..., None, None] if "attentions" in name and value.ndim == 2 else value
         for name, value in pipeline.vae.state_dict().items()}
  text = {name.removeprefix("text_model."): value for name, value in pipeline.text_encoder.state_dict().items()}
  text["embeddings.position_ids"] = torch.arange(77)[None]
  single = {f"model.diffusion_model.{name}": value.half() for name, value in unet.items()}
  single |= {f"first_stage_model.{name}": value.half() for name, value in vae.items()}
  single |= {f"cond_stage_model.transformer.text_model.{name}": value if "ids" in name else value.half()
             for name, value in text.items()}
  checks = [(pipeline.unet, single_file_utils.convert_ldm_unet_checkpoint(dict(single), dict(pipeline.unet.config))),
            (pipeline.vae, single_file_utils.convert_ldm_vae_checkpoint(dict(single), dict(pipeline.vae.config)))]
  for module, converted in checks:
    wanted = module.state_dict()
    assert converted.keys() == wanted.keys()
    assert all(torch.equal(converted[name].float().reshape(wanted[name].shape), wanted[name]) for name in wanted)
  return single | {"alphas_cumprod": torch.linspace(1, 0, 1000), "model_ema.decay": torch.tensor(0.9999)}


def make_kohya(pipeline: StableDiffusionPipeline, rank: int = 2, alpha: float = 1.0) -> dict[str, torch.Tensor]:
  """A LoRA for every projection of the UNet's transformers and of the text encoder, in the names of kohya's scripts."""
  tensors, generator = {}, torch.Generator().manual_seed(8)
  layers = [(f"lora_unet_{name}", module) for name, module in pipeline.unet.named_modules() if "attentions" in name]
  layers += [(f"lora_te_text_model_{name.removeprefix('text_model.')}", module)
             for name, module in pipeline.text_encoder.named_modules() if "layers" in name]
  for name, module in layers:
    if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
      outputs, inputs, *window = module.weight.shape
      shapes = {"lora_down": (rank, inputs, *window), "lora_up": (outputs, rank, *window)}
      for part, shape in shapes.items():
        value = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        tensors[f"{name.replace('.', '_')}.{part}.weight"] = value.half()
      tensors[f"{name.replace('.', '_')}.alpha"] = torch.tensor(alpha)
  return tensors


def write_peft(folder: Path, unet: UNet2DConditionModel) -> None:
  """A LoRA of the attention of the UNet, as diffusers writes it, with alpha in the header."""
  unet = copy.deepcopy(unet)                                  # an adapter leaves its wrappers behind
  targets = r".*attn[12]\.(to_[qkv]|to_out\.0)"
  unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False))
  generator = torch.Generator().manual_seed(9)
  lora = {name: (torch.randn(value.shape, generator=generator) / math.sqrt(value.shape[1])).half()
          for name, value in sorted(peft.get_peft_model_state_dict(unet).items())}
  StableDiffusionPipeline.save_lora_weights(
      folder, unet_lora_layers=lora, unet_lora_adapter_metadata=unet.peft_config["default"].to_dict())


# --- what comes out


@torch.no_grad()
def run_all(pipeline: StableDiffusionPipeline, sd2: UNet2DConditionModel, motion: UNetMotionModel,
            openclip: CLIPTextModel, loras: Path) -> dict[str, np.ndarray]:
  ids = torch.tensor(pipeline.tokenizer(PROMPTS, padding="max_length", truncation=True)["input_ids"])
  networks = (pipeline.unet, pipeline.text_encoder)
  kept = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
  images, latents, clip = noise(2, 3, 16, 32).clamp(-1, 1), noise(2, 4, 8, 16), noise(1, 4, 3, 8, 8)
  timestep, timestep_of_clip = torch.tensor([981, 21]), torch.tensor([501])
  text1, text2 = noise(2, 7, SD1["cross_attention_dim"], seed=1), noise(2, 7, SD2["cross_attention_dim"], seed=1)

  def unet() -> torch.Tensor:
    return pipeline.unet(latents, timestep, text1).sample

  posterior = pipeline.vae.encode(images).latent_dist
  arrays = dict(
      input_ids=ids, images=images, latents=latents, clip=clip, timestep=timestep, timestep_of_clip=timestep_of_clip,
      text=text1, text_sd2=text2, unet=unet(), unet_sd2=sd2(latents, timestep, text2).sample,
      # diffusers wants the text once per frame.
      unet_motion=motion(clip, timestep_of_clip, text1[:1].repeat_interleave(3, 0)).sample,
      vae_mean=posterior.mean, vae_logvar=posterior.logvar, vae_decoded=pipeline.vae.decode(latents).sample,
      text_encoder=pipeline.text_encoder(ids[:3]).last_hidden_state,
      text_encoder_gelu=openclip(ids[:3]).last_hidden_state)
  for name in ("kohya", "pytorch_lora_weights"):
    pipeline.load_lora_weights(loras, weight_name=f"{name}.safetensors")
    pipeline.fuse_lora()
    arrays[f"unet_{name}"] = unet()
    if name == "kohya":
      arrays[f"text_encoder_{name}"] = pipeline.text_encoder(ids[:3]).last_hidden_state
    pipeline.unload_lora_weights()
    for network, state in zip(networks, kept):
      network.load_state_dict(state)
  return {name: value.numpy() for name, value in arrays.items()}


def main(folder: Path) -> None:
  tokenizer = make_tokenizer()
  # As in the published files, whose ids of special tokens are not those of their tokenizers.
  common = dict(vocab_size=len(tokenizer), max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1)
  pipeline = StableDiffusionPipeline(
      vae=randomise(AutoencoderKL(**VAE), 1), unet=randomise(UNet2DConditionModel(**SD1), 3), tokenizer=tokenizer,
      text_encoder=randomise(CLIPTextModel(CLIPTextConfig(**common, **CLIP)), 2), feature_extractor=None,
      scheduler=DDIMScheduler(clip_sample=False, steps_offset=1), safety_checker=None, requires_safety_checker=False)
  sd2 = randomise(UNet2DConditionModel(**SD2), 4)
  openclip = randomise(CLIPTextModel(CLIPTextConfig(**common, **OPENCLIP)), 5)
  adapter = randomise(MotionAdapter(**MOTION), 6)
  motion = UNetMotionModel.from_unet2d(pipeline.unet, adapter).eval()

  loras = folder / "lora"
  loras.mkdir(parents=True, exist_ok=True)
  save_file(make_kohya(pipeline), loras / "kohya.safetensors")
  write_peft(loras, pipeline.unet)
  save_file(make_single_file(pipeline), folder / "single_file.safetensors", metadata={"format": "pt"})
  arrays = run_all(pipeline, sd2, motion, openclip, loras)
  np.savez_compressed(folder / "arrays.npz", **arrays)
  (folder / "prompts.json").write_text(json.dumps(PROMPTS, indent=2) + "\n", encoding="utf-8")

  # Every way to keep a network on a disk once: a pipeline, several files with an index, fp16, float32, a pickle.
  pipeline.to(torch.float16).save_pretrained(folder / "pipeline")
  sd2.half().save_pretrained(folder / "unet_sd2", max_shard_size="100KB")
  adapter.half().save_pretrained(folder / "motion_adapter", variant="fp16")
  motion.save_pretrained(folder / "unet_motion")
  halve(folder / "unet_motion" / "diffusion_pytorch_model.safetensors")
  openclip.half().config.save_pretrained(folder / "text_encoder_gelu")
  torch.save(openclip.state_dict(), folder / "text_encoder_gelu" / "pytorch_model.bin")


def halve(path: Path) -> None:
  """All but the tables of frame positions, which no float16 number holds."""
  tensors = {name: value if name.endswith(".pe") else value.half() for name, value in load_file(path).items()}
  save_file(tensors, path, metadata={"format": "pt"})


if __name__ == "__main__":
  main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
