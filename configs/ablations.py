"""What each part of VideoPanda is worth: table 3 of the paper and its appendix, as rows over stage two.

  panda train --config configs/ablations.py:row=fixed_matrix --workdir runs/fixed --config.init=vp1 --config.data.path=…

Laptop: size=tiny trains from scratch on procedural worlds, 1200 steps in about 15 minutes on one core:

  panda train --config configs/ablations.py:row=fixed_matrix,size=tiny --workdir runs/fixed --config.data.path=worlds

All rows and seeds, one after the other: configs/sweeps/study.py. What came out: docs/study.md. Rows differ from `full`
in what their function sets and in nothing else, so they see the same number of images. Every docstring names its
command.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from panda_jax.config_arg import parse_arg
from panda_jax.errors import InputError
from panda_jax.training.config import load_config


def get_config(arg: str | None = None) -> ConfigDict:
  """`arg`: "row=fixed_matrix,size=tiny,steps=1200,runlocal"; the sizes are those of configs/videopanda.py."""
  arg = parse_arg(arg, row="full", size="sd15", steps=0, runlocal=False)
  if arg.row not in ROWS:
    raise InputError(f"row={arg.row!r}: the rows are {', '.join(ROWS)}")
  scratch = arg.size in ("tiny", "small") and arg.row not in NEED_STAGE_ONE
  rig = RIGS.get(arg.row, "videopanda")
  words = [f"size={arg.size}", f"rig={rig}", f"steps={arg.steps}", "scratch" * scratch, "runlocal" * arg.runlocal]
  config = load_config(f"configs/videopanda.py:stage=2,{','.join(filter(None, words))}")
  ROWS[arg.row](config)
  return config


# --- table 3


def full(config: ConfigDict) -> None:
  """Multi-task, random matrices: what the others are compared with. `:row=full,size=tiny`"""


def single_task(config: ConfigDict) -> None:
  """Trained for the given video alone (table 3, second row). `:row=single_task,size=tiny`"""
  config.model.conditioning.regimes = ("video",)


def fixed_matrix(config: ConfigDict) -> None:
  """All tasks, but only the 8x6 matrix, which has every view. `:row=fixed_matrix,size=tiny`"""
  config.matrix.shapes = config.matrix.shapes[-1:]


def single_task_fixed_matrix(config: ConfigDict) -> None:
  """Neither (table 3, third row). `:row=single_task_fixed_matrix,size=tiny`"""
  single_task(config)
  fixed_matrix(config)


# --- the appendix


def no_shift(config: ConfigDict) -> None:
  """The base model's noise schedule (A.2). `:row=no_shift,size=tiny`"""
  config.model.snr_shift = 1.0


def uniform_shift(config: ConfigDict) -> None:
  """Every log SNR lowered by the same amount, instead of more towards the noisy end. `:row=uniform_shift,size=tiny`"""
  config.model.snr_shift_mode = "uniform"


def epsilon(config: ConfigDict) -> None:
  """The network predicts the noise (§3.1, A.2). `:row=epsilon,size=tiny`"""
  config.model.prediction = "epsilon"


def epsilon_no_shift(config: ConfigDict) -> None:
  """As the base model was trained. `:row=epsilon_no_shift,size=tiny`"""
  epsilon(config)
  no_shift(config)


def no_noise_augmentation(config: ConfigDict) -> None:
  """Given images are always clean, in sampling too (A.3). `:row=no_noise_augmentation,size=tiny`"""
  config.model.conditioning.update(max_view_sigma=0.0, max_row_sigma=0.0)
  config.model.sampling.row_sigma = 0.0


def clean_view(config: ConfigDict) -> None:
  """The given video is always clean, the first frames of the others are not (§4.5). `:row=clean_view,size=tiny`"""
  config.model.conditioning.max_view_sigma = 0.0


def freeze(config: ConfigDict) -> None:
  """Spatial layers stay as stage one left them (A.4). `:row=freeze,size=tiny --config.init=STAGE_ONE`"""
  config.model.freeze_spatial = True


def no_freeze(config: ConfigDict) -> None:
  """Spatial layers train with the rest. `:row=no_freeze,size=tiny --config.init=STAGE_ONE`"""
  config.model.freeze_spatial = False


def four_views(config: ConfigDict) -> None:
  """The four side faces of a cube, which do not overlap. `:row=four_views,size=tiny`"""


def six_views(config: ConfigDict) -> None:
  """Six views of 90 degrees around the horizon, which do. `:row=six_views,size=tiny`"""


ROWS: dict[str, Callable[[ConfigDict], None]] = {row.__name__: row for row in (
    full, single_task, fixed_matrix, single_task_fixed_matrix, no_shift, uniform_shift, epsilon, epsilon_no_shift,
    no_noise_augmentation, clean_view, freeze, no_freeze, four_views, six_views)}
RIGS = {"four_views": "horizontal4", "six_views": "horizontal6"}
NEED_STAGE_ONE = ("freeze", "no_freeze")
