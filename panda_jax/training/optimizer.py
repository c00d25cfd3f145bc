"""AdamW with warm-up, as one optax chain built from the config."""

from collections.abc import Iterable, Sequence
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from panda_jax.errors import InputError
from panda_jax.tree import flatten, unflatten

SCHEDULES = ("constant", "cosine", "linear", "rsqrt")


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then what `schedule` says.

  "constant" stays, "cosine" and "linear" reach zero at the last step, "rsqrt" falls with the inverse square root of the
  step, as far as a run may go.

  Args:
    config: learning_rate (the highest), warmup_steps, schedule.
    steps: length of the run.

  Raises:
    InputError: naming the key that is out of range.
  """
  rate, warmup_steps = config.learning_rate, config.warmup_steps
  if not (rate > 0 and math.isfinite(rate)):
    raise InputError(f"optimizer.learning_rate must be positive, got {rate}")
  if not 0 <= warmup_steps:
    raise InputError(f"optimizer.warmup_steps must be 0 or more, got {warmup_steps}")
  left = max(1, steps - warmup_steps)
  if config.schedule == "constant":
    after = optax.constant_schedule(rate)
  elif config.schedule == "cosine":
    after = optax.cosine_decay_schedule(rate, left)
  elif config.schedule == "linear":
    after = optax.linear_schedule(rate, 0.0, left)
  elif config.schedule == "rsqrt":
    first = max(1, warmup_steps)
    after = lambda count: rate * jnp.sqrt(first / (first + jnp.maximum(count, 0)))     # asked during warm-up, too
  else:
    raise InputError(f"optimizer.schedule must be one of {', '.join(SCHEDULES)}, got {config.schedule!r}")
  if not warmup_steps:
    return after
  # The first step already moves: warm-up counts from 1.
  warmup = optax.linear_schedule(rate / warmup_steps, rate, max(1, warmup_steps - 1))
  return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm (clip_norm 0 switches clipping off), and before `rate_scales`.

  Args:
    config: b1, b2, weight_decay, clip_norm, rate_scales; ema_decay is checked with them.
    schedule: from `make_schedule`.

  Raises:
    InputError: naming the key that is out of range.
  """
  for name in ("b1", "b2", "ema_decay"):
    if not 0 <= config[name] < 1:
      raise InputError(f"optimizer.{name} must be in [0, 1), got {config[name]}")
  for name in ("weight_decay", "clip_norm"):
    if not config[name] >= 0:
      raise InputError(f"optimizer.{name} must be 0 or more, got {config[name]}")
  _check_rules(config.rate_scales)
  parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  parts.append(optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decayed))
  if config.rate_scales:
    rules = tuple(config.rate_scales)
    parts.append(optax.stateless(lambda updates, params: _scaled(updates, rules)))
  return optax.chain(*parts) if len(parts) > 1 else parts[0]


def rate_scales(rules: Sequence[tuple[str, float]], paths: Iterable[str]) -> dict[str, float]:
  """The factor of every parameter's update.

  Args:
    rules: rows of (path regex, factor); the first whose regex is found in a path decides, and no rule means 1.
    paths: of the parameters that are trained, such as "unet/conv_in/kernel".

  Raises:
    InputError: if a rule decides nothing.
  """
  scales, used = {}, set()
  for path in paths:
    index = next((index for index, (pattern, _) in enumerate(rules) if re.search(pattern, path)), None)
    scales[path] = 1.0 if index is None else float(rules[index][1])
    used.add(index)
  for index, (pattern, _) in enumerate(rules):
    if index not in used:
      raise InputError(f"optimizer.rate_scales: {pattern!r} matches no parameter that is trained and that no earlier "
                       f"rule takes: paths look like {next(iter(scales), 'unet/conv_in/kernel')}")
  return scales


def decayed(params: dict) -> dict:
  """Which parameters weight decay pulls to zero: kernels and other matrices, not biases, scales or gates."""
  return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _scaled(updates: dict, rules: Sequence[tuple[str, float]]) -> dict:
  flat = flatten(updates)
  scales = rate_scales(rules, flat)
  return unflatten({path: leaf if scales[path] == 1 else scales[path] * leaf for path, leaf in flat.items()})


def _check_rules(rules: Any) -> None:
  example = "a rule looks like (\"motion_modules\", 0.1), a regex for paths and a factor"
  for rule in rules:
    if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)
            and isinstance(rule[1], int | float) and not isinstance(rule[1], bool)):
      raise InputError(f"optimizer.rate_scales has {rule!r}: {example}")
    try:
      re.compile(rule[0])
    except re.error as error:
      raise InputError(f"optimizer.rate_scales: {rule[0]!r} is no regular expression ({error}): {example}") from error
    if not (rule[1] >= 0 and math.isfinite(rule[1])):
      raise InputError(f"optimizer.rate_scales: the factor of {rule[0]!r} must be 0 or more, got {rule[1]}")
