"""`panda prepare`: folders of 360° video and photographs, or of ordinary films, become one dataset with a manifest.

Every file is decoded twice: once to judge it (`checks`), once to repair, resize, cut and write it (`repairs`). Neither
holds more than one encoded clip in memory. A photograph becomes a clip by a slow turn of the camera.

  options.py    what can be asked for
  inputs.py     files to judge, or the clips of a dataset
  plan.py       frames -> clips -> units of work
  work.py       check_source, write_unit: what is done to a file, as pure functions
  motion.py     the motion of clips: estimated, read from flow videos, or known
  pool.py       processes that may die
  beam.py       the same on many machines
  manifest.py   recipe, verdicts and rules, as JSON; verdict_log.py while they come
  run.py        prepare: all of it, interrupted at any point and continued
"""

from panda_jax.data.prepare.inputs import is_dataset
from panda_jax.data.prepare.manifest import MANIFEST
from panda_jax.data.prepare.options import Options
from panda_jax.data.prepare.plan import STILL_FRAMES, cut
from panda_jax.data.prepare.pool import Pool
from panda_jax.data.prepare.run import Result, judge, prepare
from panda_jax.data.prepare.work import still_frames

__all__ = ["MANIFEST", "STILL_FRAMES", "Options", "Pool", "Result", "cut", "is_dataset", "judge", "prepare",
           "still_frames"]
