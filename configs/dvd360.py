"""360DVD: an adapter that gives a frozen text-to-video model panoramas and motion (CVPR 2024).

  panda prepare --input web360 --captions captions.csv --output web360_records --height 512 --flow
  panda convert --init dvd360 --base stable-diffusion-v1-5 --motion mm_sd_v14.ckpt --output base
  panda train --config configs/dvd360.py --workdir dvd --config.init=base --config.data.path=web360_records

Hardware: size sd15 has not been trained by us, so there is no score to expect; `panda plan` says what it needs. "tiny"
is for a laptop, trains everything at once and has no pretrained weights to begin from:

  panda train --config configs/dvd360.py:size=tiny --workdir runs/dvd --config.data.path=records

Arguments behind the colon:
  size     sd15 or tiny.
  preset   official: what the published code does; paper: what its text says (panda_jax.diffusion.enhancement has both).
           Single switches: --config.model.sampling.rotate_condition=True and the like.
  train    adapter, as in the paper, or all: adapter for sd15, all for tiny, unless said.
  motion   False: without optical flow; the adapter then sees a grey picture always.
  steps    0: as the size has them.
  runlocal a few steps of a tinier network, in seconds, for tests and a first look.

Where the paper and its code are silent the values are ours; those lines say so.
"""

import dataclasses

from ml_collections import ConfigDict

from panda_jax.config_arg import parse_arg
from panda_jax.diffusion.enhancement import PRESETS
from panda_jax.errors import InputError
from panda_jax.systems.starting_dvd360 import MOST_FRAMES, method


def get_config(arg: str | None = None) -> ConfigDict:
  """`arg`: as at the top of this file, such as "size=tiny,preset=paper"."""
  arg = parse_arg(arg, size="sd15", preset="official", train="", motion=True, steps=0, runlocal=False)
  if arg.size not in SIZES or arg.preset not in PRESETS or arg.train not in ("", "adapter", "all"):
    raise InputError(f"size={arg.size},preset={arg.preset},train={arg.train}: size is {' or '.join(SIZES)}, preset "
                     f"{' or '.join(PRESETS)}, train adapter or all")

  config = ConfigDict()
  config.system = "dvd360"
  config.seed = 0
  config.init = ""                           # a model folder or a run's workdir
  config.data = dict(path="records", split="train", validation_path="", validation_split="validation", kind="panorama",
                     flip=0.5, fps=6.0,      # the code takes every fourth frame of films of 24 or so
                     panorama_height=0)      # no use: panoramas are reduced to model.panorama_size
  config.data.validation_path = config.data.get_oneway_ref("path")

  config.model = model = ConfigDict(method(arg.preset))         # the paper's numbers, and the switches
  model.motion = arg.motion

  config.optimizer = dict(
      learning_rate=1e-5, warmup_steps=0, schedule="constant", b1=0.9, b2=0.999, weight_decay=0.01, clip_norm=1.0,
      ema_decay=0.9999, rate_scales=())      # the average is ours
  config.training = dict(
      steps=100_000, log_every=50, checkpoint_every=1000, keep=3, keep_every=0, validate_every=1000,
      validation_batches=4, validation_timesteps=(100, 300, 500, 700, 900), sample_every=1000,
      accumulate=1, remat="none", dtype="float32")
  config.batch_size = 1
  config.mesh = dict(data=-1, fsdp=0, context=0)       # 0: chosen, see panda_jax.parallel.mesh.choose_sizes
  config.matrix = dict(shapes=((1, 16),))

  SIZES[arg.size](config)
  model.train = arg.train or model.train
  model.sampling.panorama_height = model.panorama_size[0]
  config.training.steps = arg.steps or config.training.steps
  if arg.runlocal:
    _runlocal(config, arg)
  return config


def _sd15(config: ConfigDict) -> None:
  """Stable Diffusion 1.5 with AnimateDiff's first motion modules, panoramas of 512 x 1024 pixels."""
  from panda_jax.models.clip_text import CLIPTextConfig
  from panda_jax.models.unet import UNetConfig
  from panda_jax.models.vae import VAEConfig
  model = config.model
  model.panorama_size = (512, 1024)
  model.train = "adapter"
  model.codec = dict(kind="stable_diffusion", images_per_batch=4, **dataclasses.asdict(VAEConfig()))
  model.text = dict(kind="clip", tokenizer="", empty=(49406, 49407, 49407), **dataclasses.asdict(CLIPTextConfig()))
  # 32 frame positions: the published modules know 24, and the adapter has seen 16.
  model.unet = dataclasses.asdict(UNetConfig(resnet_norm="cross_frame", motion_norm="per_frame", motion_heads=8,
                                             motion_norm_groups=32, max_frames=MOST_FRAMES, multiview=False,
                                             view_conditions=False))
  config.training.update(remat="block", dtype="bfloat16")       # ours


def _tiny(config: ConfigDict) -> None:
  """Panoramas of 64 x 128 pixels, a network of configs/tiny.py's size; everything is ours."""
  model = config.model
  model.panorama_size = (64, 128)
  model.train = "all"
  model.prediction = "v"                     # of ε a small network that begins from nothing does not get enough right
  model.codec = dict(kind="cosine", chroma_size=2)
  model.text = dict(kind="tiny", channels=64, length=32, heads=4)
  model.unet = dict(block_out_channels=(48, 96), attention=(False, True), layers_per_block=1, heads=(1, 4),
                    norm_groups=8, resnet_norm="cross_frame", motion_norm="per_frame", temporal=True, multiview=False,
                    view_conditions=False, max_frames=32)
  model.sampling.update(text_guidance=3.0, frames=8)
  config.data.fps = 8.0
  config.optimizer.update(learning_rate=1.2e-3, warmup_steps=200, schedule="cosine", b2=0.99, ema_decay=0.999)
  config.training.update(steps=6_000)
  config.matrix.shapes = ((1, 8),)
  config.batch_size = 2


def _runlocal(config: ConfigDict, arg: ConfigDict) -> None:
  """The same run in small: few steps, few channels, short clips."""
  if arg.size != "tiny":
    raise InputError(f"size={arg.size} is made of published networks, which runlocal cannot shrink: give size=tiny")
  model = config.model
  model.panorama_size = (16, 32)
  model.text.update(channels=16, heads=2)
  model.unet.update(block_out_channels=(16, 16), heads=(1, 2))
  model.sampling.update(frames=2, steps=2, panorama_height=16)
  config.matrix.shapes = ((1, 2),)
  config.batch_size = 2
  config.optimizer.warmup_steps = 2
  config.training.update(steps=min(arg.steps or 8, 8), log_every=1, checkpoint_every=4, validate_every=4,
                         validation_batches=1, validation_timesteps=(200, 800), sample_every=0)


SIZES = {"sd15": _sd15, "tiny": _tiny}
