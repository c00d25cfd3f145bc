"""VideoPanda in its two stages (arXiv 2504.11389, §3.2), at four sizes.

Stage one brings a text-to-video model to the shifted noise schedule and to v-prediction, on ordinary captioned clips:

  panda prepare --flat --input films --captions captions.csv --output clips
  panda convert --init videopanda --stage 1 --base stable-diffusion-v1-5 --motion v3_sd15_mm.ckpt --output base
  panda train --config configs/videopanda.py:stage=1 --workdir vp1 --config.init=base --config.data.path=clips

Stage two learns views on 360° clips, on matrices of random shape, with the spatial layers frozen. It begins from stage
one, or from converted weights:

  panda prepare --input web360 --captions captions.csv --output web360_records --height 1024
  panda train --config configs/videopanda.py:stage=2 --workdir vp2 --config.init=vp1 --config.data.path=web360_records
  panda generate --workdir vp2 --prompt "A view of …" --frames 61 --output samples

Hardware: sizes sd15 and sd21 are for TPU pods or GPUs with 80 GB (docs/performance.md has memory and FLOPs); they have
not been trained by us, so there is no score to expect. "small" is for one GPU, "tiny" for a laptop: 1200 steps on
procedural worlds take 15 minutes on one core (docs/study.md has what they reach). Both have no pretrained weights to
begin from; with `scratch` one run trains everything at once:

  python data_prep/render_worlds.py --output worlds
  panda train --config configs/videopanda.py:size=tiny,scratch --workdir runs/tiny --config.data.path=worlds

Arguments behind the colon:
  stage    1 or 2.
  size     tiny, small, sd15 or sd21.
  scratch  stage two without a stage one: nothing is frozen, everything begins at random.
  rig      the views: videopanda, cubemap, horizontalN, icosahedron (see panda_jax.geometry.make_rig).
  camera   rig: the given video is one of the rig's views, as in the paper. free: it is a view of its own, and training
           draws its field of view, pitch and roll, so that any clip can be given.
  steps    0: as the stage has them.
  runlocal a few steps of a tinier network, in seconds, for tests and a first look.

Where the paper is silent the values are ours; those lines say so.
"""

import dataclasses

from ml_collections import ConfigDict

from panda_jax.config_arg import parse_arg
from panda_jax.errors import InputError
from panda_jax.geometry import make_rig

SHAPES = ((3, 16), (4, 12), (6, 8), (8, 6))      # views x frames: 48 images each (§3.2)
FORWARD = ((0.0, 0.0, 90.0, 0.0),)               # the one view of stage one


def get_config(arg: str | None = None) -> ConfigDict:
  """`arg`: as at the top of this file, such as "stage=2,size=tiny,scratch"."""
  arg = parse_arg(arg, stage=2, size="sd15", scratch=False, rig="videopanda", camera="rig", steps=0, runlocal=False)
  if arg.stage not in (1, 2) or arg.size not in SIZES or arg.camera not in ("rig", "free"):
    raise InputError(f"stage={arg.stage},size={arg.size},camera={arg.camera}: stage is 1 or 2, size one of "
                     f"{', '.join(SIZES)}, camera rig or free")
  if arg.scratch and arg.stage == 1:
    raise InputError("scratch trains everything at once, which is stage two: leave out stage=1 or scratch")

  config = ConfigDict()
  config.system = "videopanda"
  config.seed = 0
  config.init = ""                           # a model folder, a run's workdir or "tiny"
  config.data = dict(path="worlds", split="train", validation_path="", validation_split="validation", kind="panorama",
                     flip=0.0)
  config.data.validation_path = config.data.get_oneway_ref("path")

  config.model = model = ConfigDict()
  model.prediction = "v"                     # §3.1
  model.snr_shift = 8.0                      # ours: eight times as many images as the base; the paper gives no number
  model.snr_shift_mode = "interpolated"      # the ablations on the paper's page are named so
  model.zero_terminal_snr = False            # ours
  model.own_view = False
  model.given_camera = dict(fov_deg=(90.0, 90.0), pitch_deg=(0.0, 0.0), roll_deg=(0.0, 0.0))
  model.conditioning = dict(
      regimes=("text", "video", "continuation"),       # equally likely (§3.2)
      drop_images=0.1,                                 # §3.1
      drop_text=0.1, drop_both=0.1, drop_video=0.3,    # ours: branches that guidance and text-only long videos need
      max_view_sigma=0.7, max_row_sigma=0.7)           # ours, after GameNGen; §4.5 has no noise on the given view
  model.sampling = dict(
      steps=25, text_guidance=8.0, video_guidance=4.0,                                    # §4.2
      frames=16, view_sigma=0.0, stitching="uniform", noise_scale=1.0,                    # §4.2, §4.5
      row_sigma=0.1, spacing="trailing", rescale=0.0)                                     # ours

  config.optimizer = dict(                   # ours, all of it: the paper does not say
      learning_rate=5e-5, warmup_steps=1000, schedule="constant", b1=0.9, b2=0.999, weight_decay=0.01, clip_norm=1.0,
      ema_decay=0.9999, rate_scales=())
  config.training = dict(                    # 15 000: a guess from a folder's name on the paper's page
      steps=15_000, log_every=50, checkpoint_every=500, keep=3, keep_every=0, validate_every=1000,
      validation_batches=4, validation_timesteps=(100, 300, 500, 700, 900), sample_every=1000,
      accumulate=1, remat="none", dtype="float32")
  config.batch_size = 32                     # matrices per step; ours
  config.mesh = dict(data=-1, fsdp=0, context=0)       # 0: chosen, see panda_jax.parallel.mesh.choose_sizes
  config.matrix = ConfigDict()

  SIZES[arg.size](config)
  (_stage_one if arg.stage == 1 else _stage_two)(config, arg)
  config.training.steps = arg.steps or config.training.steps
  if arg.runlocal:
    _runlocal(config, arg)
  return config


def _stage_one(config: ConfigDict, arg: ConfigDict) -> None:
  """One view, text alone, the whole network: new schedule, new prediction."""
  model = config.model
  model.rig = FORWARD
  model.freeze_spatial = False
  model.unet.multiview = model.unet.view_conditions = False
  model.conditioning.update(regimes=("text",), drop_images=0.0, drop_both=0.0)
  config.matrix.shapes = ((1, 16),)
  config.training.steps = 5_000              # ours; "requires minimal training time" (§3.2)
  if arg.size in ("sd15", "sd21"):
    config.data.kind = "flat"                # a part of the base model's own training data (§3.2)
    config.batch_size = 64


def _stage_two(config: ConfigDict, arg: ConfigDict) -> None:
  """Views: all but the spatial layers, on matrices of random shape."""
  model = config.model
  model.rig = arg.rig
  model.freeze_spatial = not arg.scratch
  model.own_view = arg.camera == "free"
  if model.own_view:
    model.given_camera = dict(fov_deg=(50.0, 110.0), pitch_deg=(-30.0, 30.0), roll_deg=(-5.0, 5.0))      # ours
  views = len(make_rig(arg.rig)) + model.own_view
  config.matrix.shapes = tuple(shape for shape in SHAPES if shape[0] <= views)


def _tiny(config: ConfigDict) -> None:
  """Views of 32 pixels, 3 M parameters: the network of configs/tiny.py with the paper's matrices."""
  model = config.model
  model.view_size = 32
  model.codec = dict(kind="cosine", chroma_size=2)
  model.text = dict(kind="tiny", channels=64, length=32, heads=4)
  model.unet = dict(block_out_channels=(48, 96), attention=(False, True), layers_per_block=1, heads=(1, 4),
                    norm_groups=8, temporal=True, multiview=True, view_conditions=True, max_frames=32,
                    learned_positions=True)
  model.sampling.update(text_guidance=3.0, video_guidance=1.0, panorama_height=128)
  config.data.update(fps=8.0, panorama_height=64)
  config.optimizer.update(learning_rate=1.2e-3, warmup_steps=200, schedule="cosine", b2=0.99, ema_decay=0.999)
  config.training.steps = 6_000
  config.batch_size = 1


def _small(config: ConfigDict) -> None:
  """Views of 128 pixels, 0.1 G parameters, no download: what one GPU trains from scratch."""
  model = config.model
  model.view_size = 128
  model.codec = dict(kind="cosine", chroma_size=2)
  model.text = dict(kind="tiny", channels=256, length=32, heads=8)
  model.unet = dict(block_out_channels=(128, 256, 384), attention=(False, True, True), layers_per_block=2,
                    heads=(2, 4, 6), norm_groups=32, temporal=True, multiview=True, view_conditions=True,
                    max_frames=32, learned_positions=True)
  model.sampling.update(text_guidance=3.0, video_guidance=1.5, panorama_height=256)
  config.data.update(fps=8.0, panorama_height=256)
  config.optimizer.update(learning_rate=3e-4, schedule="cosine", ema_decay=0.999)
  config.training.steps = 50_000
  config.batch_size = 8


def _sd15(config: ConfigDict) -> None:
  """Stable Diffusion 1.5 with AnimateDiff's motion modules, views of 512 pixels (§3.1)."""
  _stable_diffusion(config)


def _sd21(config: ConfigDict) -> None:
  """Stable Diffusion 2.1's networks; stage one has to teach it motion, there are no public motion modules."""
  from panda_jax.models.clip_text import CLIPTextConfig
  _stable_diffusion(config, heads=(5, 10, 20, 20), linear_projection=True, text_channels=1024)
  config.model.text.update(dataclasses.asdict(CLIPTextConfig.sd21()))
  config.model.text.empty = (49406, 49407, 0)


def _stable_diffusion(config: ConfigDict, **unet) -> None:
  from panda_jax.models.clip_text import CLIPTextConfig
  from panda_jax.models.unet import UNetConfig
  from panda_jax.models.vae import VAEConfig
  model = config.model
  model.view_size = 512
  model.codec = dict(kind="stable_diffusion", images_per_batch=8, **dataclasses.asdict(VAEConfig()))
  model.text = dict(kind="clip", tokenizer="", empty=(49406, 49407, 49407), **dataclasses.asdict(CLIPTextConfig()))
  model.unet = dataclasses.asdict(UNetConfig(motion_heads=8, motion_norm_groups=32, **unet))
  model.sampling.panorama_height = 512       # §4.2
  config.training.update(remat="block", dtype="bfloat16")       # ours; docs/performance.md has what fits where
  config.data.update(fps=4.0, panorama_height=1024)      # 4: as the clips on the paper's page play; 2048 columns: as
                                                         # fine as views of 512 pixels


def _runlocal(config: ConfigDict, arg: ConfigDict) -> None:
  """The same run in small: few steps, few channels, matrices of a few images."""
  if arg.size not in ("tiny", "small"):
    raise InputError(f"size={arg.size} is made of published networks, which runlocal cannot shrink: give size=tiny")
  model = config.model
  model.view_size = 32
  model.text.update(channels=16, heads=2)
  model.unet.update(block_out_channels=(16, 16), attention=(False, True), heads=(1, 2), layers_per_block=1,
                    norm_groups=8)
  model.sampling.update(frames=4, steps=3, panorama_height=32)
  config.data.panorama_height = 64
  config.matrix.shapes = ((2, 3), (3, 2)) if len(config.matrix.shapes) > 1 else ((min(2, *config.matrix.shapes[0]), 3),)
  config.batch_size = 2
  config.optimizer.warmup_steps = 2
  config.training.update(steps=min(arg.steps or 8, 8), log_every=1, checkpoint_every=4, validate_every=4,
                         validation_batches=1, validation_timesteps=(200, 800), sample_every=0)


SIZES = {"tiny": _tiny, "small": _small, "sd15": _sd15, "sd21": _sd21}
