"""Which peak learning rate suits the tiny config: factors of two around its own, short runs, one seed.

  panda sweep configs/sweeps/tiny_learning_rate.py --workdir runs/lr --config.data.path=worlds

Hardware: 2 CPU cores, about an hour for each point; --config.training.steps=300 takes less. The validation losses are
in runs/lr/summary.csv; a cosine schedule ends with the run, so compare runs of one length only.
"""

from collections.abc import Iterator

CONFIG = "configs/tiny.py:steps=1000"


def sweep() -> Iterator[dict[str, float]]:
  for learning_rate in (3e-4, 6e-4, 1.2e-3, 2.4e-3, 4.8e-3):
    yield {"optimizer.learning_rate": learning_rate}
