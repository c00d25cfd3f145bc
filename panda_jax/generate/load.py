"""Opens whatever the user points at as a system with its parameters."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.generate.whole import WholeGenerator
from panda_jax.generate.windows import Generator, Settings
from panda_jax.geometry import WholePanoramas
from panda_jax.paths import as_path, holds_run
from panda_jax.systems.base import Params, System
from panda_jax.tree import flatten
from panda_jax.weights.folder import check_params, load_model
from panda_jax.weights.shipped import find_model


def open_system(workdir: str | None = None, checkpoint: str | None = None,
                dtype: str | None = None,
                switches: Mapping[str, str] | None = None) -> tuple[System, Params, ConfigDict]:
  """The system, its parameters (the moving average of training) and its config.

  Args:
    workdir: a training run, finished or not: its newest checkpoint is taken.
    checkpoint: a model folder, or the name of a shipped model.
    Neither: the shipped tiny model.
    dtype: type to compute in, such as "bfloat16": half the memory and most of the speed of an accelerator; None: the type
      that the networks are trained in, float32.
    switches: values, as typed, of what config.model.sampling has beside `Settings`, such as 360DVD's.

  Raises:
    InputError: if both are given, or what they name is missing, damaged or does not fit its config.
  """
  if workdir and checkpoint:
    raise InputError("--workdir and --checkpoint were both given: a training run or a model folder, not both")
  if workdir:
    from panda_jax.training.checkpoint import load_average
    config, load = _config_of(workdir), lambda abstract: load_average(workdir, abstract)
  else:
    folder = find_model(checkpoint or "tiny")
    params, config = load_model(folder)
    load = lambda abstract: params
  _set_switches(config, switches or {})
  system = systems.build(config)
  abstract = jax.eval_shape(system.init, jax.random.key(0))
  params = load(abstract)
  source = f"the weights of {workdir or checkpoint or 'the shipped tiny model'}"
  if "text" in abstract and "text" not in params:
    raise InputError(f"{source} have no text encoder, so no prompt can be read: give a model folder that holds one "
                     f"({len(flatten(abstract['text']))} tensors below text/)")
  check_params(params, abstract, source=source)
  # A model folder may store half precision; the networks compute in the type of their parameters.
  return system, jax.tree.map(lambda leaf, like: np.asarray(leaf, jnp.dtype(dtype or like.dtype)), params, abstract), config


def open_model(path: str, dtype: str | None = None) -> tuple[System, Params, ConfigDict]:
  """As `open_system`, for what may be a training run, a model folder or the name of a shipped model."""
  return open_system(**{"workdir" if holds_run(path) else "checkpoint": path}, dtype=dtype)


def settings_of(config: ConfigDict, **overrides) -> Settings:
  """config.model.sampling with what the user chose otherwise; None means not chosen.

  Raises:
    InputError: for values that no sampler can take.
  """
  stated = {name: value for name, value in config.model.sampling.items() if name in _SETTINGS}
  settings = Settings(**stated | {name: x for name, x in overrides.items() if x is not None})
  for name in ("steps", "frames"):
    if getattr(settings, name) < 1:
      raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")
  if settings.panorama_height < 2 or settings.panorama_height % 2:
    raise InputError(f"the panorama's height must be an even number of rows from 2 on, got {settings.panorama_height}")
  for name in ("text_guidance", "video_guidance"):
    if not math.isfinite(getattr(settings, name)):
      raise InputError(f"{name} must be a number such as 3, got {getattr(settings, name)}")
  if not 0 < settings.noise_scale <= 2:
    raise InputError(f"noise_scale must be above 0 and at most 2, got {settings.noise_scale}")
  if settings.stitching not in ("uniform", "smooth"):
    raise InputError(f'stitching must be "uniform" or "smooth", got {settings.stitching!r}')
  if settings.spacing not in ("leading", "trailing"):
    raise InputError(f'spacing must be "leading" or "trailing", got {settings.spacing!r}')
  for name in ("view_sigma", "row_sigma", "rescale"):
    if not 0 <= getattr(settings, name) <= 1:
      raise InputError(f"{name} must be between 0 and 1, got {getattr(settings, name)}")
  return settings


def make_generator(system: System, params: Params, settings: Settings,
                   say: Callable[[str], None] = lambda line: None) -> Generator | WholeGenerator:
  """The generator for what the system sees of a panorama; `say` as of `Generator`."""
  make = WholeGenerator if isinstance(system.shows, WholePanoramas) else Generator
  return make(system, params, settings, say)


_SETTINGS = frozenset(field.name for field in dataclasses.fields(Settings))


def _set_switches(config: ConfigDict, switches: Mapping[str, str]) -> None:
  sampling = config.model.get("sampling", {})
  known = [name for name in sampling if name not in _SETTINGS]
  for name, text in switches.items():
    if name not in known:
      there = f"the switches {', '.join(known)}" if known else "no switches of its own"
      raise InputError(f"--switch {name}: this model has {there}")
    try:
      sampling[name] = text if isinstance(sampling[name], str) else type(sampling[name])(ast.literal_eval(text))
    except (ValueError, SyntaxError) as error:
      raise InputError(f"--switch {name}={text}: give a value such as {sampling[name]!r}") from error


def _config_of(workdir: str) -> ConfigDict:
  from panda_jax.training.config import read_config
  if not as_path(workdir).is_dir():
    what = "is a file" if as_path(workdir).exists() else "does not exist"
    raise InputError(f"--workdir {workdir} {what}: give the folder of a training run")
  return read_config(workdir)
