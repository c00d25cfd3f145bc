"""Small networks, and what tests of loading do with them: write them as others do, run them, measure differences."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import math
from pathlib import Path

from flax import nnx
import jax
import numpy as np
from safetensors.numpy import save_file

from panda_jax.models.adapter360 import Adapter360Config
from panda_jax.models.clip_text import CLIPTextConfig
from panda_jax.models.embeddings import frame_positions
from panda_jax.models.functional import params_of
from panda_jax.models.unet import UNetConfig
from panda_jax.models.vae import VAEConfig
from panda_jax.tree import flatten
from panda_jax.weights import configs
from panda_jax.weights.layout import torch_shapes
from panda_jax.weights.resolve import functional
from tests.fast import jit

# Two levels, and two channels at least in a group of a norm: with one, the norm would take away what the timestep adds.
# Heads and groups are what a file without config.json is taken to have.
UNET = UNetConfig(block_out_channels=(8, 16), attention=(True, False), layers_per_block=1, heads=8, text_channels=12,
                  norm_groups=4, temporal=False, multiview=False, view_conditions=False)
MOTION = dataclasses.replace(UNET, temporal=True, motion_mid=True, motion_heads=8, motion_norm="cross_frame",
                             max_frames=6)
VAE = VAEConfig(block_out_channels=(8, 16), layers_per_block=1, norm_groups=4)
CLIP = CLIPTextConfig(vocabulary=30, channels=16, layers=2, heads=2, mlp_channels=20, length=9)
ADAPTER = Adapter360Config(channels=(8, 16), downscale=2)
CONFIGS = {"unet": UNET, "vae": VAE, "text_encoder": CLIP, "adapter360": ADAPTER}
SETTINGS = {"unet": configs.unet_settings, "vae": configs.vae_settings, "text_encoder": configs.clip_settings}
FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


# --- on disk


def tensors(kind: str, config=None, seed: int = 0) -> dict[str, np.ndarray]:
  """Random values by canonical name, all of them float16 numbers, of which networks compute something of unit size."""
  rng = np.random.default_rng(seed)

  def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = rng.normal(size=shape)
    if len(shape) > 1:
      normal /= math.sqrt(math.prod(shape[1:]))
    else:
      normal = 0.1 * normal + ("norm" in name and name.endswith("weight"))
    return normal.astype(np.float16).astype(np.float32)

  shapes = torch_shapes(functional(kind, config or CONFIGS[kind]).abstract)
  return {name: value(name, shape) for name, shape in sorted(shapes.items())}


def positions(arrays: Mapping[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
  """The tables that diffusers keeps beside the parameters of motion modules."""
  ends = "transformer_blocks.0.norm1.weight"
  return {name.replace("norm1.weight", "pos_embed.pe"): frame_positions(frames, len(value))[None]
          for name, value in arrays.items() if "motion_modules" in name and name.endswith(ends)}


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
  """A safetensors file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  save_file(dict(arrays), path)
  return path


def write_json(path: Path, content) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))
  return path


def folder_of(folder: Path, kind: str, config=None, arrays: Mapping[str, np.ndarray] | None = None) -> Path:
  """A folder of diffusers or transformers with one network."""
  config = config or CONFIGS[kind]
  arrays = tensors(kind, config) if arrays is None else arrays
  if getattr(config, "temporal", False):
    arrays = arrays | positions(arrays, config.max_frames)
  write(folder / f"{FILES[kind]}.safetensors", arrays)
  write_json(folder / "config.json", SETTINGS[kind](config))
  return folder


def pipeline_of(folder: Path, *kinds: str) -> Path:
  """A pipeline folder of diffusers."""
  for kind in kinds:
    folder_of(folder / kind, kind)
  write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "x"],
                                           **{kind: ["diffusers", "x"] for kind in kinds}})
  return folder


def motion_of(config: UNetConfig = MOTION, seed: int = 0) -> dict[str, np.ndarray]:
  """A diffusers MotionAdapter: what a UNet has beyond the same without motion modules."""
  modules = {name: value for name, value in tensors("unet", config, seed).items() if "motion_modules" in name}
  return modules | positions(modules, config.max_frames)


def motion_folder(folder: Path, config: UNetConfig = MOTION) -> Path:
  write(folder / "diffusion_pytorch_model.safetensors", motion_of(config))
  write_json(folder / "config.json",
             {"_class_name": "MotionAdapter", "motion_num_attention_heads": config.motion_heads})
  return folder


def original_motion_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same tensors as AnimateDiff names them."""
  names = {"transformer_blocks.0.attn1.": "transformer_blocks.0.attention_blocks.0.",
           "transformer_blocks.0.attn2.": "transformer_blocks.0.attention_blocks.1.",
           "transformer_blocks.0.norm1.": "transformer_blocks.0.norms.0.",
           "transformer_blocks.0.norm2.": "transformer_blocks.0.norms.1.",
           "transformer_blocks.0.norm3.": "transformer_blocks.0.ff_norm."}
  renamed = {}
  for name, value in arrays.items():
    block, _, rest = name.partition(".motion_modules.")
    index, _, rest = rest.partition(".")
    if rest.endswith("pos_embed.pe"):
      for attention in (0, 1):
        renamed[f"{block}.motion_modules.{index}.temporal_transformer.transformer_blocks.0.attention_blocks."
                f"{attention}.pos_encoder.pe"] = value
      continue
    for ours, theirs in names.items():
      rest = rest.replace(ours, theirs)
    renamed[f"{block}.motion_modules.{index}.temporal_transformer.{rest}"] = value
  return renamed


# --- in memory


def leaves(net: nnx.Module) -> dict[str, np.ndarray]:
  """Parameters by path."""
  return {path: np.asarray(leaf) for path, leaf in flatten(params_of(net)).items()}


def assert_equal(net: nnx.Module, other: nnx.Module) -> None:
  """The same sizes, types and bits."""
  assert type(net) is type(other) and net.config == other.config
  ours, theirs = leaves(net), leaves(other)
  assert ours.keys() == theirs.keys()
  for path in ours:
    assert ours[path].dtype == theirs[path].dtype, path
    assert ours[path].tobytes() == theirs[path].tobytes(), path


@functools.cache
def _program(graphdef, method: str):
  return jit(lambda state, args, kwargs: getattr(nnx.merge(graphdef, state), method)(*args, **kwargs))


def run(net: nnx.Module, *args, method: str = "__call__", **kwargs):
  """What a network computes; networks of one kind and size share a compiled program, however they were loaded."""
  graphdef, state = nnx.split(net)
  return jax.tree.map(np.asarray, _program(graphdef, method)(state, args, kwargs))


def run_by_steps(net: nnx.Module, *args, **kwargs):
  """The same, one operation after another: slow for one network, quick for many, which share their operations."""
  with jax.disable_jit():
    return jax.tree.map(np.asarray, net(*args, **kwargs))


def last(x: np.ndarray) -> np.ndarray:
  """Channels from the second place, torch's, to the last, ours."""
  return np.moveaxis(x, 1, -1)


def run_unet(unet: nnx.Module, sample: np.ndarray, timestep: np.ndarray, text: np.ndarray, runner=run,
             **kwargs) -> np.ndarray:
  """Images [b c h w] or clips [b c f h w] through a UNet, and back."""
  latents = last(sample)
  latents = latents[:, None, None] if sample.ndim == 4 else latents[:, None]
  out = runner(unet, latents, np.asarray(timestep), text, **kwargs)
  return np.moveaxis(out[:, 0, 0] if sample.ndim == 4 else out[:, 0], -1, 1)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Rms of the difference by rms of the reference."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  return float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)))


def assert_close(ours, theirs: np.ndarray, tolerance: float, name: str = "") -> None:
  """In float32: the largest difference."""
  assert np.shape(ours) == theirs.shape, name
  worst = float(np.abs(np.asarray(ours, np.float64) - theirs).max())
  print(f"{name}: {worst:.1e} of {tolerance:.0e}")
  assert worst <= tolerance, name


def assert_half(ours, theirs: np.ndarray, name: str = "", tolerance: float = 2e-2) -> None:
  """In bfloat16: two percent of the size of the reference, on average."""
  assert np.shape(ours) == theirs.shape, name
  ratio = np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()
  words = f"{name}: relative {relative(ours, theirs):.2e} of {tolerance:.0e}, largest {ratio:.2e}"
  print(words)
  assert relative(ours, theirs) <= tolerance, words
