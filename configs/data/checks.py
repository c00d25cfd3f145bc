"""The thresholds of the rules by which `panda prepare` judges files.

  panda prepare --input films --output records --dry-run
  panda prepare --input films --output records --config.checks.short=32

Each is explained where it is used: panda_jax/data/checks. Laptop or cluster, they are the same.
"""

import dataclasses

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The thresholds that were measured, see docs/data.md."""
  from panda_jax.data.checks import Thresholds
  config = ConfigDict()
  config.checks = dataclasses.asdict(Thresholds())
  return config
