"""The small study of docs/study.md: what parts of the method are worth, at laptop size, three seeds each.

  python data_prep/render_worlds.py --output worlds --train 800
  python launch/sweep.py --sweep configs/sweeps/study.py --workdir runs/study --config.data.path=worlds
  python -m panda_jax.evaluation.study --workdir runs/study

Hardware: about 18 minutes for each of the 15 runs on one core.
"""

from collections.abc import Iterator

CONFIG = "configs/ablations.py:size=tiny,steps=1200"
ROWS = ("full", "fixed_matrix", "single_task", "no_shift", "no_noise_augmentation")
SEEDS = (0, 1, 2)


def sweep() -> Iterator[dict]:
  for row in ROWS:
    for seed in SEEDS:
      yield {"name": f"{row}-{seed}", "config": f"configs/ablations.py:row={row},size=tiny,steps=1200", "seed": seed}
