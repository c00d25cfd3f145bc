"""One published system per file: what a batch means, the loss, how to sample, what is frozen."""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

from panda_jax.errors import InputError
from panda_jax.systems.base import System

# Name -> its file and class. A file is read when its system is asked for.
_CLASSES = {"videopanda": "VideoPanda", "dvd360": "DVD360"}
NAMES = tuple(_CLASSES)


def build(config: ConfigDict) -> System:
  """The system that `config.system` names, built from `config.model`.

  Raises:
    InputError: for an unknown name or sizes that do not fit together.
  """
  if config.system not in NAMES:
    raise InputError(f"config.system is {config.system!r}; the systems are {', '.join(NAMES)}")
  make = getattr(importlib.import_module(f"panda_jax.systems.{config.system}"), _CLASSES[config.system])
  try:
    return make(config.model)
  except (ValueError, TypeError, AttributeError, KeyError) as error:          # a size, an unknown key, a missing one
    raise InputError(f"config.model does not describe a network: {error}") from error
