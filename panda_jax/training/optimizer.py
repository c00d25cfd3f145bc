"""AdamW with warm-up, as one optax chain built from the config."""

import jax
from ml_collections import ConfigDict
import optax

from panda_jax.errors import InputError


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then constant, or a cosine that reaches zero at the last step.

  Args:
    config: learning_rate, warmup_steps, schedule ("constant" or "cosine").
    steps: length of the run.
  """
  if config.learning_rate <= 0:
    raise InputError(f"optimizer.learning_rate must be positive, got {config.learning_rate}")
  if not 0 <= config.warmup_steps:
    raise InputError(f"optimizer.warmup_steps must be 0 or more, got {config.warmup_steps}")
  if config.schedule == "constant":
    after = optax.constant_schedule(config.learning_rate)
  elif config.schedule == "cosine":
    after = optax.cosine_decay_schedule(config.learning_rate, max(1, steps - config.warmup_steps))
  else:
    raise InputError(f"optimizer.schedule must be 'constant' or 'cosine', got {config.schedule!r}")
  if not config.warmup_steps:
    return after
  # The first step already moves: warm-up counts from 1.
  warmup = optax.linear_schedule(config.learning_rate / config.warmup_steps, config.learning_rate,
                                 max(1, config.warmup_steps - 1))
  return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm (clip_norm 0 switches clipping off).

  Args:
    config: b1, b2, weight_decay, clip_norm; ema_decay is checked with them.
    schedule: from `make_schedule`.
  """
  for name in ("b1", "b2", "ema_decay"):
    if not 0 <= config[name] < 1:
      raise InputError(f"optimizer.{name} must be in [0, 1), got {config[name]}")
  for name in ("weight_decay", "clip_norm"):
    if config[name] < 0:
      raise InputError(f"optimizer.{name} must be 0 or more, got {config[name]}")
  adamw = optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decayed)
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def decayed(params: dict) -> dict:
  """Which parameters weight decay pulls to zero: kernels and other matrices, not biases, scales or gates."""
  return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
