"""Scores the runs of a study on the same held-out worlds with the same noise, and compares the rows.

  python -m panda_jax.evaluation.study --workdir runs/study [--runs "full-*"] [--worlds 12] [--report tables.md]

A run is a folder ROW-SEED of a sweep such as configs/sweeps/study.py; its newest checkpoint is scored. Scores go to
WORKDIR/scores.json after every world, so the same command again goes on, and a run whose weights are scored already is
not scored twice. What is measured, on procedural worlds that no run has trained on:

  loss      all views x 16 frames at fixed timesteps and noise, in each of the three regimes; and the error of the clean
            latents at fixed noise levels, which other schedules and predictions can be compared by.
  sampling  all views x 16 frames from a given video as the paper samples (25 steps, noise of full scale, overlaps
            averaged), guidance as the run's config has it; scored over what the video does not show of the sphere.
  long      four windows from a given video, for the rows of --long: what is lost from window to window.

Hardware: loss and sampling of one world of a tiny run took 114 s, compilation included, on two cores that many other
jobs were using; a long video takes four times the sampling.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.data.video import resize
from panda_jax.data.worlds import World, draw_world, render
from panda_jax.diffusion import Schedule
from panda_jax.diffusion.conditioning import REGIMES, regime_mask
from panda_jax.diffusion.schedule import to_clean_and_noise
from panda_jax.errors import InputError
from panda_jax.evaluation.metrics import unseen_mask, ws_psnr, ws_ssim
from panda_jax.evaluation.study_tables import Run, report
from panda_jax.evaluation.temporal import frame_changes, laplacian_energy
from panda_jax.generate.fingerprint import fingerprint
from panda_jax.generate.load import open_system, settings_of
from panda_jax.generate.windows import Generator, Request
from panda_jax.geometry import Camera, coverage, frame_rays, project, to_uint8
from panda_jax.systems.videopanda import VideoPanda

HELD_OUT_WORLDS = 1000                     # the worlds from here on are for training, see data_prep/render_worlds.py
REFERENCE = Schedule.scaled_linear().shifted(8.0)      # the paper's; its log SNR at the timesteps are the noise levels
LEVEL_TOLERANCE = 0.05                     # of log SNR: a schedule that comes no nearer does not have the level
HORIZON_DEG = 35.0                         # every rig of four side views or more sees all latitudes up to here


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How runs are scored.

  Attributes:
    frames: of a window.
    steps: DDIM steps.
    windows: of a long video.
    timesteps: where the loss is taken; the noise levels are those of the paper's schedule there.
    early: how many first frames are scored apart from the others; a model trained on 8x6 alone has seen no more.
    noise_scale: of the noise that sampling begins with; the paper's is 1, small models are calmer with less.
  """

  frames: int = 16
  steps: int = 25
  windows: int = 4
  timesteps: tuple[int, ...] = (100, 300, 500, 700, 900)
  early: int = 6
  noise_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Truth:
  """A held-out world as a run's system meets it.

  Attributes:
    world: what is shown.
    views: uint8 [v f h w 3], the given view first if it is one of its own.
    panorama: uint8 [f H W 3].
    kept: uint8 [f H W 3], the panorama after it went through views, codec and stitching: all that a model could make.
  """

  world: World
  views: np.ndarray
  panorama: np.ndarray
  kept: np.ndarray


class Scorer:
  """One run's model, ready to be scored world by world."""

  def __init__(self, workdir: str | os.PathLike, protocol: Protocol):
    """Opens the run's newest checkpoint.

    Raises:
      InputError: if there is none yet, or the model cannot be scored so.
    """
    self.system, params, self.config = open_system(workdir=str(workdir))
    self.protocol, system = protocol, self.system
    if not isinstance(system, VideoPanda):
      raise InputError(f"{workdir} is a run of {self.config.system}, and the study compares VideoPanda's")
    if system.unet_config.temporal and protocol.frames > system.unet_config.max_frames:
      raise InputError(f"{workdir} has {system.unet_config.max_frames} frame positions, and {protocol.frames} frames "
                       "are scored: give --frames")
    if (last := max(protocol.timesteps)) >= system.timesteps:
      raise InputError(f"{workdir} has a schedule of {system.timesteps} timesteps, and the loss is wanted at {last}")
    # Finer than what the run saw in training, a panorama would be beyond it.
    height = min(self.config.data.panorama_height, self.config.model.sampling.panorama_height)
    self.settings = settings_of(self.config, frames=protocol.frames, steps=protocol.steps, panorama_height=height,
                                stitching="uniform", noise_scale=protocol.noise_scale)
    self.size = (height, 2 * height)
    # What the scores depend on, as long as it says the same they need not be taken again.
    self.identity = {
        **fingerprint(Request("", protocol.frames), self.settings, params, self.config),
        "rows of the worlds": self.config.data.panorama_height, "timesteps": list(protocol.timesteps),
        "windows": protocol.windows, "early frames": protocol.early}
    self.generate = Generator(system, params, self.settings)
    self.params = jax.device_put(params)
    self.camera = Camera(0.0, 0.0, 90.0) if system.own_view else system.rig[0]
    cameras = (self.camera, *system.rig) if system.own_view else tuple(system.rig)
    self._cameras = cameras
    covered = functools.reduce(np.logical_or, (coverage(camera, self.size) for camera in cameras))
    self.unseen = unseen_mask(self.camera, self.size) & covered
    self._loss, self._keep = jax.jit(self._loss_of_one), jax.jit(self._keep_images)

  # Truth

  def truth(self, seed: int, frames: int) -> Truth:
    """World `seed`, of `frames` frames at the run's rate."""
    data, world = self.config.data, draw_world(seed)
    rendered = np.stack(list(render(world, frames, (data.panorama_height, 2 * data.panorama_height), data.fps)))
    views = np.stack([to_uint8(project(rendered, camera, self.system.view_size)) for camera in self._cameras])
    panorama = rendered
    if rendered.shape[1:3] != self.size:
      panorama = np.stack([resize(frame, self.size) for frame in rendered])
    return Truth(world, views, panorama, self._kept(views[1:] if self.system.own_view else views))

  def _kept(self, views: np.ndarray) -> np.ndarray:
    """[v f h w 3] -> [f H W 3], a window at a time."""
    length, frames = self.protocol.frames, views.shape[1]
    pieces = []
    for start in range(0, frames, length):
      piece = views[:, start: start + length]
      padded = np.pad(piece, ((0, 0), (0, length - piece.shape[1]), (0, 0), (0, 0), (0, 0)), mode="edge")
      pieces.append(np.asarray(self._keep(self.params, padded))[: piece.shape[1]])
    return np.concatenate(pieces)

  def _keep_images(self, params: dict, views: jax.Array) -> jax.Array:
    decoded = self.system.decode(params, self.system.encode_images(params, views[None]))[0]
    return self.system.shows.panorama(decoded, self.size, self.settings.stitching)

  # The loss

  def loss(self, seed: int) -> dict[str, float | None]:
    """Losses of world `seed`.

    Returns:
      For each regime and timestep "loss text 0100" … in the run's own schedule and prediction, and "clean text 0100" …,
      the mean squared error of the clean latents at the noise that the paper's schedule has there; None where the
      run's schedule does not reach it.
    """
    system, truth = self.system, self.truth(seed, self.protocol.frames)
    rays = (frame_rays(system.rig, [self.camera], system.rays_size)[:, 0] if system.own_view
            else system.rig.rays(system.rays_size))
    batch = {"images": truth.views[None], "rays": rays[None], "text": system.tokenize(truth.world.caption)[None]}
    scores = {}
    for number, timestep in enumerate(self.protocol.timesteps):
      rng = jax.random.fold_in(jax.random.key(seed), number)           # of the noise: the same for all regimes and runs
      level = timestep_at(system.schedule, REFERENCE.log_snr[timestep])
      for index, regime in enumerate(REGIMES):
        mask = regime_mask(jnp.array([index]), *truth.views.shape[:2])
        loss = {t: float(self._loss(self.params, batch, mask, t, rng)) for t in {timestep, level} - {None}}
        clean = None if level is None else loss[level] * clean_error(system.schedule, system.prediction, level)
        scores |= {f"loss {regime} {timestep:04d}": loss[timestep], f"clean {regime} {timestep:04d}": clean}
    return scores

  def _loss_of_one(self, params: dict, batch: dict, mask: jax.Array, timestep: jax.Array, rng: jax.Array) -> jax.Array:
    drawn = self.system.draw(rng, batch, timestep)
    told = {"mask": mask, "sigma": jnp.zeros_like(mask), "keep_text": jnp.ones_like(drawn["keep_text"])}
    return self.system.loss(params, drawn | told, rng)[0]

  # Sampling

  def sampling(self, seed: int) -> dict[str, dict]:
    """World `seed` made from its given view and caption: `compare` over all frames, the early ones and the others."""
    truth = self.truth(seed, self.protocol.frames)
    made, early = self._made(truth, seed), self.protocol.early
    scores = {part: compare(truth, made, self.unseen, frames)
              for part, frames in (("all", slice(None)), ("early", slice(early)), ("late", slice(early, None)))}
    latitude = (0.5 - (np.arange(self.size[0]) + 0.5) / self.size[0]) * 180
    horizon = self.unseen & (np.abs(latitude) < HORIZON_DEG)[:, None]
    scores["all"]["horizon"] = finite(ws_psnr(truth.panorama, made, mask=horizon))
    return scores

  def long(self, seed: int) -> dict:
    """World `seed` continued window by window.

    Returns:
      "windows", `compare` of each one's new frames, and "jump", how much more the picture changes into a new window
      than between other frames (median), over the unseen part; None where nothing moves.
    """
    new = self.protocol.frames - 1
    truth = self.truth(seed, 1 + self.protocol.windows * new)
    made = self._made(truth, seed)
    first = [0, *(1 + new * number for number in range(1, self.protocol.windows)), len(made)]
    windows = [compare(truth, made, self.unseen, slice(*ends)) for ends in itertools.pairwise(first)]
    changes = frame_changes(made, self.unseen)
    usual = float(np.median(changes))
    borders = changes[new * np.arange(1, self.protocol.windows)]
    return {"windows": windows, "jump": float(borders.mean() / usual) if usual > 0 and borders.size else None}

  def _made(self, truth: Truth, seed: int) -> np.ndarray:
    request = Request(truth.world.caption, len(truth.panorama), truth.views[0], seed)
    return np.stack(list(self.generate(request)))


# --- measures


def compare(truth: Truth, made: np.ndarray, mask: np.ndarray, frames: slice) -> dict:
  """Scores of some frames over the part of the sphere in a mask.

  Args:
    truth: what it should be.
    made: uint8 [f H W 3].
    mask: bool [H W].
    frames: which of them.

  Returns:
    "psnr" and "ssim" against the truth; "sharpness" (energy of the Laplacian) and "flicker" (change between
    neighbouring frames) as [made, truth], the truth as the views and the codec keep it, so that a perfect model has a
    ratio of 1. Ratios are for sums over many worlds: one that stands still has no flicker at all.
  """
  panorama, made, kept = truth.panorama[frames], made[frames], truth.kept[frames]
  return {"psnr": finite(ws_psnr(panorama, made, mask=mask)), "ssim": ws_ssim(panorama, made, mask=mask),
          "sharpness": [laplacian_energy(x, mask) for x in (made, kept)],
          "flicker": [float(frame_changes(x, mask).mean()) if len(x) > 1 else 0.0 for x in (made, kept)]}


def timestep_at(schedule: Schedule, log_snr: float) -> int | None:
  """The timestep whose noise is nearest to a log SNR; None if the schedule does not reach it."""
  distance = np.abs(schedule.log_snr - log_snr)
  nearest = int(distance.argmin())
  return nearest if distance[nearest] <= LEVEL_TOLERANCE else None


def clean_error(schedule: Schedule, prediction: str, timestep: int) -> float:
  """The squared error of the clean latents for each unit of squared error of the prediction."""
  signal = schedule.alphas_cumprod[timestep]
  clean, _ = to_clean_and_noise(prediction, 1.0, 0.0, math.sqrt(signal), math.sqrt(1 - signal))
  return clean**2


def finite(value: float) -> float | None:
  """The value, or None, which JSON has a word for, if it is infinite or no number."""
  return value if math.isfinite(value) else None


# --- the study


def score_runs(folders: list[Path], output: Path, protocol: Protocol, *, worlds: int, long_worlds: int,
               long_rows: set[str], note: Callable[[str], None] = lambda line: None,
               progress: Callable | None = None) -> list[Run]:
  """Scores runs, or reads what is scored already.

  Args:
    folders: of the runs, named ROW-SEED.
    output: JSON file; read if it is there, written after every world.
    protocol: how.
    worlds: how many, for the loss and for sampling.
    long_worlds: how many, for long videos.
    long_rows: the rows that make long videos.
    note: told of each run when it is done, or why it is left out.
    progress: context manager (description, total) -> callable, as `console.progress`.

  Returns:
    The runs that could be scored.

  Raises:
    InputError: if the output cannot be read or written.
  """
  scores, runs = _read_scores(output), []
  for folder in folders:
    row, seed = split_name(folder.name)
    began = time.monotonic()
    try:
      scorer = Scorer(folder, protocol)
    except InputError as error:
      note(f"{folder.name} is left out: {error}")
      continue
    entry = scores.get(folder.name, {})
    if entry.get("identity") != scorer.identity:
      entry = scores[folder.name] = {"identity": scorer.identity, "loss": {}, "sampling": {}, "long": {}}
    wanted = {"loss": range(worlds), "sampling": range(worlds), "long": range(long_worlds if row in long_rows else 0)}
    missing = [(part, world) for part, seeds in wanted.items() for world in seeds if str(world) not in entry[part]]
    with progress(folder.name, len(missing)) if progress else contextlib.nullcontext(lambda: None) as advance:
      for part, world in missing:
        entry[part][str(world)] = getattr(scorer, part)(world)
        _write_scores(output, scores)
        advance()
    note(f"{folder.name}: {f'scored in {time.monotonic() - began:.0f} s' if missing else 'was scored already'}")
    parts = {part: [entry[part][str(world)] for world in seeds] for part, seeds in wanted.items()}
    runs.append(Run(row, seed, **parts))
  return runs


def find_runs(workdir: str | os.PathLike, pattern: str) -> list[Path]:
  """The folders below workdir that match and are named ROW-SEED, in the order of their names.

  Raises:
    InputError: if there is none.
  """
  named = [path for path in Path(workdir).glob(pattern) if path.is_dir() and split_name(path.name)]
  if not named:
    raise InputError(f"{workdir} has no folder {pattern!r} that is named like a run, ROW-SEED, such as full-0: "
                     "give the --workdir of `panda sweep configs/sweeps/study.py`")
  return sorted(named, key=lambda path: split_name(path.name))


def split_name(name: str) -> tuple[str, int] | None:
  """ "full-0" -> ("full", 0); None for names that are not of a run."""
  match = re.fullmatch(r"(.+)-(\d+)", name)
  return (match[1], int(match[2])) if match else None


def _read_scores(path: Path) -> dict:
  if not path.exists():
    return {}
  try:
    scores = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise InputError(f"{path} is not a readable file of scores ({error}): give another --output") from error
  if not isinstance(scores, dict) or not all(isinstance(x, dict) and "identity" in x for x in scores.values()):
    raise InputError(f"{path} holds something else than scores of runs: give another --output")
  return scores


def _write_scores(path: Path, scores: dict) -> None:
  """All at once, so that a kill leaves the scores of before."""
  fresh = path.with_name(path.name + ".tmp")
  try:
    fresh.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)
  except OSError as error:
    raise InputError(f"{path} cannot be written ({error.strerror}): give another --output") from error


def main(argv: list[str] | None = None) -> int:
  """The command at the top of this file; returns 0, or 2 for bad input."""
  from panda_jax.cli import console
  default = Protocol()
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, metavar="DIR", help="the folder of the runs")
  parser.add_argument("--runs", default="*", metavar="GLOB", help="some of them, such as 'full-*'")
  parser.add_argument("--worlds", type=int, default=12, help="held-out worlds for the loss and for sampling")
  parser.add_argument("--long-worlds", type=int, default=4, help="held-out worlds for long videos")
  parser.add_argument("--long", default="full,no_noise_augmentation", metavar="ROWS", help="rows that make long videos")
  parser.add_argument("--baseline", default="full", metavar="ROW", help="what the others are compared with")
  parser.add_argument("--frames", type=int, default=default.frames, help="of a window")
  parser.add_argument("--steps", type=int, default=default.steps, help="DDIM steps")
  parser.add_argument("--windows", type=int, default=default.windows, help="of a long video")
  parser.add_argument("--noise-scale", type=float, default=default.noise_scale, help="of the initial noise")
  parser.add_argument("--output", metavar="FILE.json", help="default: scores.json in the workdir")
  parser.add_argument("--report", metavar="FILE.md", help="write the tables there, too")
  args = parser.parse_args(argv)
  console.quiet_libraries()
  console.use_compilation_cache()          # runs of one kind share their programs
  if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", folder)
  protocol = dataclasses.replace(default, frames=args.frames, steps=args.steps, windows=args.windows,
                                 early=min(default.early, args.frames // 2), noise_scale=args.noise_scale)
  try:
    _check(args)
    folders = find_runs(args.workdir, args.runs)
    runs = score_runs(folders, Path(args.output or Path(args.workdir) / "scores.json"), protocol, worlds=args.worlds,
                      long_worlds=args.long_worlds, long_rows=set(args.long.split(",")), note=console.note,
                      progress=console.progress)
    if not runs:
      raise InputError(f"no run below {args.workdir} could be scored")
    if args.baseline not in {run.row for run in runs}:
      console.note(f"no run of the row {args.baseline} was scored, so nothing is compared with it")
    text = report(runs, args.baseline)
    if args.report:
      _write_report(Path(args.report), text)
  except InputError as error:
    print(f"study: {error}", file=sys.stderr)
    return 2
  print(text)
  return 0


def _check(args: argparse.Namespace) -> None:
  for name, least, most in (("worlds", 1, HELD_OUT_WORLDS), ("long_worlds", 0, HELD_OUT_WORLDS), ("frames", 2, 1000),
                            ("steps", 1, 1000), ("windows", 1, 1000)):
    if not least <= getattr(args, name) <= most:
      raise InputError(f"--{name.replace('_', '-')} must be between {least} and {most}, got {getattr(args, name)}")
  if not 0 < args.noise_scale <= 2:
    raise InputError(f"--noise-scale must be above 0 and at most 2, got {args.noise_scale}")


def _write_report(path: Path, text: str) -> None:
  try:
    path.write_text(text + "\n", encoding="utf-8")
  except OSError as error:
    raise InputError(f"{path} cannot be written ({error.strerror}): give another --report") from error


if __name__ == "__main__":
  sys.exit(main())
