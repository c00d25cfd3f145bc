"""VideoPanda and 360DVD after the same short training on 360° films and photographs of one's own.

  panda prepare --input films --output records --captions captions.csv --height 128 --flow
  python benchmarks/evaluation.py held_out clips_of_films --records records
  panda compare configs/comparisons/films.py --batch clips_of_films/clips --frames 8 --workdir films \\
    --config.data.path=records --config.training.sample_every=0

Both begin from what configs/comparisons/systems.py has trained or loaded (in `compared`) and see as many pixels: 8,000
views of 32x32, 1,000 panoramas of 64x128.

Hardware: 2 CPU cores, 15 minutes. What came out: docs/study.md.
"""

from collections.abc import Iterator

PAPER = ["rotate_condition=True", "adapter_stop=1.0", "unrotate_output=True"]      # as configs/comparisons/systems.py
START = {"optimizer.learning_rate": 6e-4, "optimizer.warmup_steps": 20, "training.validate_every": 1000}


def compare() -> Iterator[dict]:
  yield {"name": "videopanda", "config": "configs/tiny.py:steps=167", "init": "tiny", **START}
  yield {"name": "videopanda-view", "model": "videopanda", "generate": {"given": "view"}}
  yield {"name": "dvd360", "config": "configs/dvd360.py:size=tiny,steps=63", "init": "compared/runs/dvd360", **START}
  yield {"name": "dvd360-motion-paper", "model": "dvd360", "generate": {"motion": "like", "switch": PAPER}}
