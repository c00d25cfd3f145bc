"""VideoPanda and 360DVD side by side at laptop size, on the worlds that both were trained on.

  python data_prep/render_worlds.py --output worlds --flow
  python benchmarks/evaluation.py make clips_of_worlds --clips 24 --frames 24 --height 128
  panda compare configs/comparisons/systems.py --batch clips_of_worlds/clips --frames 8 --workdir compared \\
    --config.data.path=worlds

VideoPanda is the shipped tiny model, which has seen 432,000 views of 32x32 pixels of these worlds. 360DVD trains until
it has seen as many pixels: 54,000 panoramas of 64x128. Each makes what it can be asked for: VideoPanda from the prompt,
and from the prompt with the front view; 360DVD from the prompt, and from the prompt with the motion of the true video,
as its code has it and with what the paper says of the condition.

Hardware: 2 CPU cores, 1.5 hours, nearly all of it 360DVD's training. What came out of what: docs/study.md.
"""

from collections.abc import Iterator

# The condition turns with the latents, all steps see it, and the output is turned back.
PAPER = ["rotate_condition=True", "adapter_stop=1.0", "unrotate_output=True"]


def compare() -> Iterator[dict]:
  yield {"name": "videopanda", "model": "tiny"}
  yield {"name": "videopanda-view", "model": "videopanda", "generate": {"given": "view"}}
  yield {"name": "dvd360", "config": "configs/dvd360.py:size=tiny,steps=3375"}
  yield {"name": "dvd360-motion", "model": "dvd360", "generate": {"motion": "like"}}
  yield {"name": "dvd360-motion-paper", "model": "dvd360", "generate": {"motion": "like", "switch": PAPER}}
