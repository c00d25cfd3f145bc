"""The small study of docs/study.md: what parts of the method are worth, at laptop size, three seeds each.

  python data_prep/render_worlds.py --output worlds --train 800
  panda sweep configs/sweeps/study.py --workdir runs/study --config.data.path=worlds
  python -m panda_jax.evaluation.study --workdir runs/study

Every run begins from the shipped tiny model, as the paper's begin from a pretrained one, and sees 500 x 48 images.
With more time, train from scratch: START = {} and steps=9000.

Hardware: 5 to 10 minutes for each of the 15 runs on one core, half of that compilation.
"""

from collections.abc import Iterator

CONFIG = "configs/ablations.py:size=tiny,steps=500"
ROWS = ("full", "fixed_matrix", "single_task", "no_shift", "no_noise_augmentation")
SEEDS = (0, 1, 2)
START = {"init": "tiny", "optimizer.learning_rate": 6e-4, "optimizer.warmup_steps": 20}


def sweep() -> Iterator[dict]:
  for seed in SEEDS:
    for row in ROWS:
      yield {"name": f"{row}-{seed}", "config": f"configs/ablations.py:row={row},size=tiny,steps=500", **START,
             "seed": seed}
