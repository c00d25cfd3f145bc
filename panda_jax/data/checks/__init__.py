"""Is this file a 360° panorama, and one to learn from? Decodes it once from end to end and applies the named rules.

  verdict.py   RULES, Thresholds, Finding, Verdict
  look.py      a file is decoded; what the rules need is kept
  edges.py     do the left and right edges join? with the measured margins
  layout.py    two eyes, cubemaps, half spheres, bars and patches; likewise
  motion.py    shots, stillness, blackness; likewise
  rules.py     from a look to findings and a verdict
  stills.py    photographs
"""

from collections.abc import Callable
from pathlib import Path

from panda_jax.data.checks.edges import Seam, seam
from panda_jax.data.checks.look import Look, look_at_still, look_at_video
from panda_jax.data.checks.rules import judge, rejected_by
from panda_jax.data.checks.stills import STILL_SUFFIXES, VIDEO_SUFFIXES, read_still
from panda_jax.data.checks.verdict import RULES, Finding, Thresholds, Verdict

__all__ = ["Finding", "Look", "RULES", "STILL_SUFFIXES", "Seam", "Thresholds", "VIDEO_SUFFIXES", "Verdict", "check",
           "read_still", "rejected_by", "seam"]


def check(path: str | Path, thresholds: Thresholds = Thresholds(), *, allow_flat: bool = False, flat: bool = False,
          start: float = 0.0, end: float | None = None, on_frame: Callable[[], None] = lambda: None) -> Verdict:
  """Looks at a whole file, or at a span of one; says what is wrong with it instead of raising.

  Args:
    path: a video or a still, told apart by the file's suffix.
    thresholds: the rules' numbers.
    allow_flat: keep what is no panorama, stretched. What is black, static, short or broken stays out.
    flat: ordinary films are wanted: a video is good if it decodes, shows something and moves long enough.
    start, end: seconds: only frames shown at start <= t < end count; `end` None: to the end of the file.
    on_frame: called once per decoded frame.

  Returns:
    The verdict; `ok` means it can go into a dataset.
  """
  path = Path(path)
  still = path.suffix.lower() in STILL_SUFFIXES
  found = Verdict(str(path), "still" if still else "video", start=start, end=end)
  if still and flat:
    found.verdict = "picture"
    found.findings = [Finding("flat", "rejected", "is a picture, and --flat keeps films only")]
    found.why = found.findings[0].why
    return found
  look = look_at_still(path, thresholds) if still else look_at_video(path, thresholds, start, end, on_frame)
  return judge(found, look, thresholds, allow_flat, flat)
