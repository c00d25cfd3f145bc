"""A benchmark to evaluate with known answers, and what the metrics that need no weights cost.

  python benchmarks/evaluation.py make clips_of_worlds --clips 24 --frames 24 --height 128
  panda generate --batch clips_of_worlds/clips --given view --views --frames 16 --output clips_of_worlds/generated/tiny
  cd clips_of_worlds
  panda evaluate --reference clips --generated generated --output scores --config.height=128 --baseline tiny \
    --weights inception=random i3d=random

  python benchmarks/evaluation.py held_out clips_of_films --records records

  python benchmarks/evaluation.py make large --clips 40 --frames 16 --height 512
  python benchmarks/evaluation.py steps large
  python benchmarks/evaluation.py many large --clips 1000

`make` renders procedural worlds that no model here has trained on, and three copies that are wrong in one way each:
blurred, broken at the seam, frames in another order. `held_out` writes the held-out clips of a dataset as such a
benchmark, without copies. `steps` has CPU time per frame of what is done for one clip. `many`
evaluates 1,000 clips in one process, of which every forty are the same files under other names, and says how memory grows.
"""

import argparse
import csv
import dataclasses
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from panda_jax.data.clips import find_methods, read_clips
from panda_jax.data.records import decode_frame, open_records
from panda_jax.data.video import resize, write_video
from panda_jax.data.worlds import draw_world, render
from panda_jax.evaluation import job, metrics, seams, temporal
from panda_jax.evaluation.catalogue import choose
from panda_jax.evaluation.measure import images_of, measure
from panda_jax.evaluation.motion import flow_of, motion_agreement
from panda_jax.evaluation.protocol import Protocol
from panda_jax.evaluation.reading import read_frames

FIRST_WORLD = 900                                     # below 1000 worlds are held out, see data_prep/render_worlds.py
FPS = 8.0
DEGRADED = {
  "blur": lambda clip, rng: np.stack([cv2.GaussianBlur(frame, (0, 0), len(frame) / 80) for frame in clip]),
  "seam": lambda clip, rng: np.clip(
    clip * np.linspace(0.85, 1.15, clip.shape[2])[:, None], 0, 255).astype(np.uint8),
  "shuffle": lambda clip, rng: clip[rng.permutation(len(clip))],
}


def make(folder: Path, clips: int, frames: int, height: int) -> None:
  """Writes FOLDER/clips (master.csv, videos) and FOLDER/generated/METHOD."""
  rows, rows_rendered = [], min(height, 256)
  for number in range(clips):
    world, name = draw_world(FIRST_WORLD + number), f"world{FIRST_WORLD + number}"
    clip = np.stack([resize(frame, (height, 2 * height))
                     for frame in render(world, frames, (rows_rendered, 2 * rows_rendered), FPS)])
    write_video(folder / "clips" / "videos" / f"{name}.mp4", clip, FPS, crf=12)
    for method, degrade in DEGRADED.items():
      made = degrade(clip, np.random.default_rng(number))
      write_video(folder / "generated" / method / f"{name}.mp4", made, FPS, crf=12)
    rows.append({"clip_id": name, "video_path": f"videos/{name}.mp4", "prompt": world.caption})
  write_table(folder, rows)


def held_out(folder: Path, dataset: Path) -> None:
  """Writes FOLDER/clips of a dataset's split for validation."""
  rows = []
  for number, record in enumerate(open_records(dataset, "validation")):
    name = f"{number:03d}_{Path(record['id']).name}"
    write_video(folder / "clips" / "videos" / f"{name}.mp4", map(decode_frame, record["frames"]), record["fps"], crf=12)
    rows.append({"clip_id": name, "video_path": f"videos/{name}.mp4", "prompt": record["caption"]})
  write_table(folder, rows)


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
  """FOLDER/clips/master.csv."""
  with open(folder / "clips" / "master.csv", "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def steps(folder: Path, protocol: Protocol) -> Iterator[tuple[str, float]]:
  """(step, CPU seconds per compared frame), medians over ten clips."""
  seconds: dict[str, list[float]] = {}
  clips, method = read_clips(folder / "clips")[:10], find_methods(folder / "generated")["blur"]
  wanted = [metric.name for metric in choose(("all",), (), truth=True, prompts=False, frames=protocol.frames)[0]]
  for clip in clips:
    path = method / f"{clip.name}.mp4"
    timed = lambda step, work: seconds.setdefault(step, []).append(cpu(work) / protocol.frames)
    timed("decode and resize", lambda: read_frames(path, protocol))
    made, truth = read_frames(path, protocol), read_frames(clip.video, protocol)
    timed("project to 8 views", lambda: images_of(made.panoramas, "horizontal8", protocol))
    views = [images_of(frames.panoramas, "horizontal8", protocol) for frames in (truth, made)]
    timed("PSNR, SSIM, WS-PSNR, WS-SSIM of the panorama",
          lambda: metrics.fidelity(truth.panoramas, made.panoramas, sphere=True))
    timed("PSNR, SSIM of 8 views", lambda: metrics.fidelity(*views, sphere=False))
    for name in ("discontinuity_score", "seam_ratio", "end_continuity"):
      timed(name, lambda: getattr(seams, name)(made.panoramas))
    timed("flicker", lambda: [temporal.frame_changes(x.panoramas) for x in (made, truth)])
    timed("motion agreement", lambda: motion_agreement(*(flow_of(x.panoramas) for x in (truth, made))))
    timed("sharpness and colour, for drift", lambda: temporal.drift(made.panoramas, len(made.panoramas) // 2, 0))
    timed("everything of one video, decoded", lambda: measure(path, made, truth, "", wanted, protocol, {}))
  for step, values in seconds.items():
    yield step, statistics.median(values)


def many(folder: Path, clips: int, protocol: Protocol) -> Iterator[tuple[int, float, float, float]]:
  """(clips so far, compared frames per second, MiB now, MiB at most), in this process, decoding and the truth included."""
  originals = read_clips(folder / "clips")
  metrics_, _ = choose(("all",), (), truth=True, prompts=False, frames=protocol.frames)
  with tempfile.TemporaryDirectory(dir=folder) as place:
    names = []
    for number in range(clips):
      clip, name = originals[number % len(originals)], f"clip{number:04d}"
      for source, target in ((clip.video, "truth"), (folder / "generated" / "blur" / f"{clip.name}.mp4", "made/blur")):
        (Path(place) / target).mkdir(parents=True, exist_ok=True)
        os.link(source, Path(place) / target / f"{name}.mp4")
      names.append(name)
    work = job.Job(tuple(read_clips(Path(place) / "truth")), find_methods(Path(place) / "made"), Path(place) / "scores",
                   protocol, tuple(metric.name for metric in metrics_), {}, {})
    done = 0
    for stop in sorted({clips // 20, clips // 4, clips // 2, clips}):
      part = dataclasses.replace(work, clips=work.clips[done:stop])
      began = time.perf_counter()
      job.run(part)
      rate = (stop - done) * protocol.frames / (time.perf_counter() - began)
      done = stop
      yield stop, rate, resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
  """MiB of this process in memory."""
  pages = int(Path("/proc/self/statm").read_text().split()[1])
  return pages * resource.getpagesize() / 2**20


def cpu(work: Callable[[], object]) -> float:
  began = time.process_time()
  work()
  return time.process_time() - began


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("what", choices=("make", "held_out", "steps", "many"))
  parser.add_argument("folder", type=Path)
  parser.add_argument("--clips", type=int, default=40)
  parser.add_argument("--frames", type=int, default=16)
  parser.add_argument("--height", type=int, default=512)
  parser.add_argument("--records", type=Path, help="held_out: the dataset")
  args = parser.parse_args()
  if args.what == "make":
    make(args.folder, args.clips, args.frames, args.height)
    return
  if args.what == "held_out":
    held_out(args.folder, args.records)
    return
  cv2.setNumThreads(1)
  protocol = Protocol(frames=args.frames, height=args.height)
  if args.what == "steps":
    print("| step | ms per frame | frames/s per core |\n|---|--:|--:|")
    for step, seconds in steps(args.folder, protocol):
      print(f"| {step} | {1000 * seconds:.1f} | {1 / seconds:.0f} |")
    return
  print("| clips | frames/s | MiB now | MiB at most |\n|--:|--:|--:|--:|")
  for clips, rate, now, most in many(args.folder, args.clips, protocol):
    print(f"| {clips} | {rate:.1f} | {now:.0f} | {most:.0f} |", flush=True)


if __name__ == "__main__":
  main()
