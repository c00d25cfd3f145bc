"""One published system per file: what a batch means, the loss, how to sample, what is frozen."""

from __future__ import annotations

from ml_collections import ConfigDict

from panda_jax.errors import InputError
from panda_jax.systems.base import System

NAMES = ("videopanda",)


def build(config: ConfigDict) -> System:
  """The system that `config.system` names, built from `config.model`.

  Raises:
    InputError: for an unknown name or sizes that do not fit together.
  """
  if config.system not in NAMES:
    raise InputError(f"config.system is {config.system!r}; the systems are {', '.join(NAMES)}")
  from panda_jax.systems.videopanda import VideoPanda
  try:
    return VideoPanda(config.model)
  except (ValueError, TypeError, AttributeError, KeyError) as error:          # a size, an unknown key, a missing one
    raise InputError(f"config.model does not describe a network: {error}") from error
