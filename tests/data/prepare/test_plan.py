"""Which frames become which clip, and which clips are written together."""

import itertools
from pathlib import Path

import pytest

from panda_jax.data.checks import Verdict
from panda_jax.data.prepare.options import Options
from panda_jax.data.prepare.plan import cut, plan_clips, plan_units
from panda_jax.data.sources import Source
from panda_jax.data.stores import Variant


def judged(frames: int, fps: float = 24.0, shots=None, ok: bool = True) -> Verdict:
  return Verdict(path="film.mp4", kind="video", ok=ok, verdict="panorama", fps=fps, frames=frames,
                 shots=shots or [(0, frames)])


def plan(*verdicts, store=None, **options):
  sources = [Source(Path(f"film{k}.mp4"), f"film{k}") for k in range(len(verdicts))]
  return plan_clips(sources, verdicts, [""] * len(verdicts), Options(**options), store)


def test_every_frame_is_in_one_clip():
  """Whatever is held out, however long clips may be, with and without shots."""
  for frames, holdout, longest in itertools.product((1, 7, 64, 333), (0, 0.1, 0.5, 0.9), (1, 16, 100)):
    for shots in ([(0, frames)], [(0, frames // 3), (frames // 3, frames)]):
      shots = [shot for shot in shots if shot[0] < shot[1]]
      clips = plan(judged(frames, shots=shots), holdout=holdout, max_frames_per_clip=longest)
      assert sorted(itertools.chain(*(clip.indices() for clip in clips))) == list(range(frames))
      assert all(0 < clip.frames <= longest for clip in clips)
      assert len({clip.id for clip in clips}) == len(clips)


def test_no_clip_crosses_a_cut_and_no_shot_is_on_both_sides():
  shots = [(0, 40), (42, 90), (90, 200)]
  clips = plan(judged(200, shots=shots), max_frames_per_clip=30, holdout=0.25)
  sides = {}
  for clip in clips:
    shot = [k for k, (start, stop) in enumerate(shots) if start <= clip.indices()[0] and clip.indices()[-1] < stop]
    assert len(shot) == 1
    sides.setdefault(shot[0], set()).add(clip.split)
  assert sides == {0: {"train"}, 1: {"train"}, 2: {"validation"}}


def test_a_lower_rate_drops_frames_evenly_within_every_shot():
  clips = plan(judged(90, fps=30, shots=[(0, 45), (45, 90)]), fps=8, holdout=0)
  assert [clip.fps for clip in clips] == [8, 8]
  assert clips[0].indices() == [int(k * 3.75 + 0.5) for k in range(12)]
  assert clips[1].indices() == [45 + int(k * 3.75 + 0.5) for k in range(12)]


def test_whole_files_are_held_out_whatever_else_there_is():
  """A file is on the same side in a larger data set."""
  few, many = ({clip.id: clip.split for clip in plan(*[judged(20)] * count, holdout=0.3, holdout_by="files")}
               for count in (50, 200))
  assert {name: many[name] for name in few} == few
  assert 0.2 < sum(split == "validation" for split in many.values()) / 200 < 0.4


def test_files_that_are_not_ok_give_no_clips():
  assert [clip.source for clip in plan(judged(20), judged(20, ok=False), judged(20), holdout=0)] == [0, 2]


class TwoVariants:
  name, views = "crops", 8

  def variants(self, clip_id, caption):
    return [Variant(0.0), Variant(30.0)][:1 if clip_id == "film1_000" else 2]


def test_images_of_a_split_lie_one_clip_after_the_other():
  clips = plan(judged(20), judged(10), judged(5), holdout=0, store=TwoVariants())
  assert [clip.first for clip in clips] == [0, 20 * 2 * 8, 20 * 2 * 8 + 10 * 1 * 8]


@pytest.mark.parametrize("count, frames", [(1, 5), (3, 100), (200, 100), (2114, 100), (5, 20_000)])
def test_units_hold_every_clip_in_order_and_never_part_a_file(count, frames):
  clips = plan(*[judged(frames)] * count)
  units = plan_units(clips, Options())
  assert [clip for unit in units for clip in unit.clips] == clips
  assert [unit.index for unit in units] == list(range(len(units)))
  of_source = [{clip.source for clip in unit.clips} for unit in units]
  assert sum(map(len, of_source)) == count
  assert count < 64 or len(units) >= 32              # enough to share out


def test_cutting_leaves_no_crumbs():
  assert cut(901, 0, 300) == [("train", 225), ("train", 225), ("train", 225), ("train", 226)]
