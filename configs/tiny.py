"""The tiny VideoPanda: the whole method at a size that a laptop trains, on procedural worlds or on your own clips.

  python data_prep/render_worlds.py --output worlds
  panda train --config configs/tiny.py --workdir runs/tiny --config.data.path=worlds

Hardware: 2 CPU cores. The shipped model is this config; panda_jax/assets/tiny/MODEL_CARD.md has its steps, hours and
scores. Continue it on clips of your own:

  panda train --config configs/tiny.py:steps=1000 --workdir runs/mine --config.data.path=records --config.init=tiny
"""

from ml_collections import ConfigDict

from panda_jax.config_arg import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  """`arg`: "steps=1000,runlocal"; runlocal shrinks the run to a few seconds, for the tests."""
  arg = parse_arg(arg, steps=9_000, runlocal=False)
  config = ConfigDict()
  config.system = "videopanda"
  config.seed = 0
  config.batch_size = 2                      # matrices per step; several small ones, so several timesteps per step
  config.init = ""                           # scratch; "tiny": the shipped model; or a model folder, a run's workdir

  config.data = ConfigDict()
  config.data.path = "worlds"
  config.data.kind = "panorama"
  config.data.split = "train"
  config.data.validation_path = config.data.get_oneway_ref("path")
  config.data.validation_split = "validation"
  config.data.fps = 8.0
  config.data.flip = 0.0                     # how likely it is that a clip is mirrored
  config.data.panorama_height = 64           # 128 columns round the horizon: as fine as 32-pixel views of 90°

  config.matrix = ConfigDict()
  config.matrix.shapes = ((2, 12), (3, 8), (4, 6), (8, 3))     # views x frames: 24 images each (§3.2 has 48)

  config.model = model = ConfigDict()
  model.view_size = 32
  model.prediction = "v"
  model.snr_shift = 8.0
  model.snr_shift_mode = "interpolated"
  model.zero_terminal_snr = False
  model.rig = "videopanda"
  model.own_view = False                     # the given video is the rig's first view
  model.given_camera = dict(fov_deg=(90.0, 90.0), pitch_deg=(0.0, 0.0), roll_deg=(0.0, 0.0))
  model.freeze_spatial = False               # nothing is pretrained here
  model.codec = dict(chroma_size=2)
  model.text = dict(channels=64, length=32, heads=4)
  model.unet = dict(block_out_channels=(48, 96), attention=(False, True), layers_per_block=1, heads=(1, 4),
                    norm_groups=8, temporal=True, multiview=True, view_conditions=True, max_frames=32,
                    learned_positions=True)
  model.conditioning = dict(regimes=("text", "video", "continuation"), max_view_sigma=0.7, max_row_sigma=0.7,
                            drop_images=0.1, drop_text=0.1, drop_both=0.1, drop_video=0.3)
  model.sampling = dict(steps=25, text_guidance=3.0, video_guidance=1.0, frames=12, view_sigma=0.0, row_sigma=0.1,
                        panorama_height=128, spacing="trailing", rescale=0.0,
                        stitching="smooth", noise_scale=0.5)      # the paper: "uniform", 1

  config.optimizer = dict(learning_rate=1.2e-3, warmup_steps=200, schedule="cosine", b1=0.9, b2=0.99, weight_decay=0.01,
                          clip_norm=1.0, ema_decay=0.999, rate_scales=())
  config.training = dict(steps=arg.steps, log_every=50, checkpoint_every=500, keep=2, keep_every=0,
                         validate_every=1000, validation_batches=4, validation_timesteps=(100, 300, 500, 700, 900),
                         sample_every=3000, accumulate=1, remat="none", dtype="float32")
  config.mesh = dict(data=-1, fsdp=1, context=1)

  if arg.runlocal:
    config.batch_size = 2
    config.matrix.shapes = ((2, 3), (3, 2))
    model.unet.update(block_out_channels=(16, 16), heads=(1, 2))
    config.optimizer.warmup_steps = 2
    config.training.update(steps=min(arg.steps, 8), log_every=1, checkpoint_every=4, validate_every=4,
                           validation_batches=1)
  return config
