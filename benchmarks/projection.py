"""Panoramas to the views of a rig on the host: ours against FFmpeg's v360 and py360convert, for speed and for quality.

  pip install py360convert                                     # into this environment, or any folder on PYTHONPATH
  python benchmarks/projection.py                              # one or two minutes
  python benchmarks/projection.py --method bilinear --runs 9
  python benchmarks/projection.py --rig icosahedron            # pitched cameras, which have no shortcut

One frame of 512x1024 to all views of 512x512, and a clip of 16 frames, in milliseconds of processor time per frame: of
all threads, and every tool is told to use one. The tools take turns; printed are medians, and the median of the ratios
to our run in the same turn: above 1, ours is faster. All tools build their tables before; v360 is given and gives
planar RGB, its own format. py360convert does not require OpenCV but uses it where it is installed: it is run both ways.

Quality is the PSNR against a picture that is known in every direction, in 8 bits in and out, over all views: of a
smooth one and of one with detail of 13 pixels and more. The picture is painted, and the views are compared, where
the tool itself takes the pixels to be: of nine pairs of conventions tried, the one that gives it the most decibels.
Figures: docs/data.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import dataclasses
import importlib
import importlib.util
import statistics
import sys
import time

import av
import av.filter
import cv2
import numpy as np

from panda_jax.geometry import Camera, Projector, Rig, make_rig, project, to_uint8

SIZE, VIEW, FRAMES = (512, 1024), (512, 512), 16
SMOOTH, DETAILED = (2, 8), (20, 80)                            # radians of phase per radian of arc


@dataclasses.dataclass(frozen=True)
class Tool:
  """A way to project: what is timed is run(prepare(panoramas)) without prepare.

  Attributes:
    name: in the table.
    run: anything -> anything; of the first frame, and then of the others.
    prepare: uint8 [f H W 3] -> what `run` takes.
    finish: what `run` gives -> uint8 [v f h w 3].
    conventions: where the tool takes the pixels of panorama and view to be, see `positions`.
    few: takes so long that one frame stands for a clip.
  """

  name: str
  run: Callable
  prepare: Callable = lambda panoramas: panoramas
  finish: Callable = lambda views: views
  conventions: tuple[str, str] = ("centre", "centre")
  few: bool = False


def our_tools(rig: Rig, method: str) -> list[Tool]:
  """The projector, and the tables it is held to."""
  def tables(panoramas):
    return np.stack([[to_uint8(project(panorama, camera, VIEW, method)) for panorama in panoramas] for camera in rig])
  return [Tool("panda_jax Projector", Projector(SIZE, rig, VIEW, method)),
          Tool("panda_jax project, a table", tables, few=True)]


def v360(rig: Rig, method: str) -> Tool:
  """FFmpeg's filter, a graph for each camera."""
  graphs = []
  for camera in rig:
    graph = av.filter.Graph()
    graph.threads = 1
    yaw = (camera.yaw_deg + 180) % 360 - 180
    options = (f"e:flat:yaw={yaw}:pitch={camera.pitch_deg}:roll={camera.roll_deg}:h_fov={camera.fov_deg}:"
               f"v_fov={camera.fov_deg}:w={VIEW[1]}:h={VIEW[0]}:interp={method[2:]}")      # cubic, linear
    source = graph.add_buffer(width=SIZE[1], height=SIZE[0], format="gbrp", time_base="1/25")
    graph.link_nodes(source, graph.add("v360", options), graph.add("buffersink")).configure()
    graphs.append(graph)

  def prepare(panoramas):
    return [av.VideoFrame.from_ndarray(panorama, format="rgb24").reformat(format="gbrp") for panorama in panoramas]

  def run(frames):
    views = [[] for _ in graphs]
    for frame in frames:
      for graph, images in zip(graphs, views):
        graph.push(frame)
        images.append(graph.pull())
    return views

  def finish(views):
    return np.stack([[image.to_ndarray(format="rgb24") for image in images] for images in views])
  return Tool("FFmpeg v360 (PyAV)", run, prepare, finish, ("corner", "centre"))


def py360(rig: Rig, method: str, opencv: bool) -> Tool:
  """py360convert with OpenCV's bicubic (a = -3/4, positions rounded to 1/32 pixel) or with SciPy's cubic splines."""
  for name in [name for name in sys.modules if name.startswith("py360convert")]:
    del sys.modules[name]                                    # it looks for OpenCV when it is imported: a copy for each
  if not opencv:
    sys.modules["cv2"] = None
  e2p = importlib.import_module("py360convert").e2p
  sys.modules["cv2"] = cv2

  def run(panoramas):
    return [[e2p(panorama, camera.fov_deg, camera.yaw_deg, camera.pitch_deg, VIEW, camera.roll_deg, method)
             for panorama in panoramas] for camera in rig]
  return Tool(f"py360convert, {'with' if opencv else 'without'} OpenCV", run, finish=np.array,
              conventions=("centre", "corner"), few=not opencv)


def paint(directions: np.ndarray, waves: tuple[float, float]) -> np.ndarray:
  """[... 3] unit directions -> [... 3] colours, 0 to 255: four plane waves per channel."""
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(12, 3))
  vectors *= rng.uniform(*waves, size=(12, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
  values = np.sin(directions @ vectors.T + rng.uniform(0, 2 * np.pi, size=12))
  return 127.5 + 31 * values.reshape(*directions.shape[:-1], 3, 4).sum(-1)


def positions(count: int, convention: str) -> np.ndarray:
  """Of `count` pixels along a side from 0 to 1: "centre", of cells; "corner", the first at 0 and the last at 1."""
  return (np.arange(count) + 0.5) / count if convention == "centre" else np.linspace(0, 1, count)


def panorama_directions(convention: str) -> np.ndarray:
  """[H W 3], of the panorama's pixels."""
  lon = (positions(SIZE[1], convention) - 0.5) * 2 * np.pi
  lat = (0.5 - positions(SIZE[0], convention))[:, None] * np.pi
  return np.stack(np.broadcast_arrays(np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)), axis=-1)


def view_directions(camera: Camera, convention: str) -> np.ndarray:
  """[h w 3], of a view's pixels."""
  half = np.tan(np.radians(camera.fov_deg) / 2)
  x, y = (half * (2 * positions(side, convention) - 1) for side in (VIEW[1], VIEW[0]))
  local = np.stack(np.broadcast_arrays(x, -y[:, None], 1.0), axis=-1)
  return local / np.linalg.norm(local, axis=-1, keepdims=True) @ camera.rotation().T


def quality(tool: Tool, rig: Rig, waves: tuple[float, float]) -> float:
  """Decibels over all views."""
  ours, theirs = tool.conventions
  panorama = to_uint8(paint(panorama_directions(ours), waves))
  views = tool.finish(tool.run(tool.prepare(panorama[None])))[:, 0]
  errors = [np.mean((view - paint(view_directions(camera, theirs), waves)) ** 2) for camera, view in zip(rig, views)]
  return float(10 * np.log10(255**2 / np.mean(errors)))


def processor_seconds(tool: Tool, inputs) -> float:
  start = time.process_time()
  tool.run(inputs)
  return time.process_time() - start


def compare(tools: list[Tool], runs: int) -> tuple[np.ndarray, np.ndarray]:
  """Milliseconds per frame [runs tools], of one frame and of a clip."""
  clip = np.random.default_rng(0).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)
  inputs = [(tool.prepare(clip[:1]), tool.prepare(clip)) for tool in tools]
  for tool, (frame, _) in zip(tools, inputs):
    tool.run(frame)                                            # builds what it keeps
  single, whole = np.empty((2, runs, len(tools)))
  for run in range(runs):
    for number, (tool, (frame, frames)) in enumerate(zip(tools, inputs)):
      single[run, number] = 1e3 * min(processor_seconds(tool, frame) for _ in range(1 if tool.few else 3))
      whole[run, number] = single[run, number] if tool.few else 1e3 * processor_seconds(tool, frames) / FRAMES
  return single, whole


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rig", default="videopanda")
  parser.add_argument("--method", choices=("bicubic", "bilinear"), default="bicubic")
  parser.add_argument("--runs", type=int, default=7)
  args = parser.parse_args()
  cv2.setNumThreads(1)
  rig = make_rig(args.rig)

  start = time.process_time()
  Projector(SIZE, rig, VIEW, args.method)
  built = time.process_time() - start
  tools = [*our_tools(rig, args.method), v360(rig, args.method)]
  if importlib.util.find_spec("py360convert") is None:
    print("py360convert is not installed, and left out: pip install py360convert")
  elif len(rig) > 8:
    print("py360convert is left out: it keeps the tables of eight cameras only, and would build them again every time")
  else:
    tools += [py360(rig, args.method, opencv) for opencv in (True, False)]
  single, whole = compare(tools, args.runs)

  print(f"{args.method}, {SIZE[0]}x{SIZE[1]} to {len(rig)} views of {VIEW[0]}x{VIEW[1]}, median of {args.runs} runs; "
        f"building the projector took {built:.2f} s\n")
  print("| tool | one frame, ms | ratio | in a clip, ms per frame | ratio | smooth, dB | detailed, dB |")
  print("|---|---|---|---|---|---|---|")
  for number, tool in enumerate(tools):
    cells = [f"{cell:.1f}" for times in (single, whole)
             for cell in (statistics.median(times[:, number]), statistics.median(times[:, number] / times[:, 0]))]
    cells += [f"{quality(tool, rig, waves):.1f}" for waves in (SMOOTH, DETAILED)]
    print(f"| {tool.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  main()
