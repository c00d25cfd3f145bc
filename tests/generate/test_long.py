"""From file to file: what is held in memory does not grow with the number of windows."""

import tracemalloc

import jax
import numpy as np

from panda_jax.data.video import probe, write_video
from panda_jax.generate.given_video import GivenVideo
from panda_jax.generate.segments import GrowingVideo
from panda_jax.generate.windows import Generator, Request, Settings
from tests.generate.toy import VIEW, Counting

SETTINGS = Settings(steps=1, text_guidance=1.0, video_guidance=1.0, frames=4, view_sigma=0.0, row_sigma=0.0,
                    panorama_height=64)
WINDOWS = 12
FRAMES = 3 * WINDOWS + 1


def test_memory_does_not_grow_with_the_length(tmp_path):
  """Neither Python's nor the device's: the clip is read, the windows are made and written one after the other.

  The panoramas of the 8 windows that are looked at are 590 kB; JAX itself keeps about 5 kB a window.
  """
  write_video(tmp_path / "clip.mp4", (np.full((64, 96, 3), 2 * k, np.uint8) for k in range(FRAMES)), 8)
  system = Counting()
  request = Request("", FRAMES, GivenVideo(tmp_path / "clip.mp4", (VIEW, VIEW), 8.0))
  held = []
  with GrowingVideo(tmp_path / "long_360.mp4", 8.0, {"seed": 0}, WINDOWS) as video:
    tracemalloc.start()
    for made in Generator(system, {"start": np.float32(0)}, SETTINGS).windows(request):
      video.add(made.frames, made.row)
      jax.effects_barrier()
      system.seen.clear()                            # the toy's own memory
      held.append((tracemalloc.get_traced_memory()[0], sum(array.nbytes for array in jax.live_arrays())))
    tracemalloc.stop()
  assert video.complete and probe(video.path).frames == FRAMES and len(held) == WINDOWS
  assert held[-1][0] - held[3][0] < 150_000 and held[-1][1] <= held[3][1]
