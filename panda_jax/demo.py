"""The whole way at toy size: worlds → clips → records → training → panoramas → a table, each step skipped once done.

The shipped tiny model has never seen a lavender field. The demo films a few, teaches the model their look (with a stop
and a resume on the way), and then shows what the shipped model does with worlds, prompts and clips new to it.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Callable

import numpy as np

from panda_jax.cli import console
from panda_jax.data import prepare
from panda_jax.data.video import write_video
from panda_jax.data.worlds import draw_world, render
from panda_jax.evaluation import held_out
from panda_jax.evaluation.metrics import mean_panorama
from panda_jax.generate.load import open_system, settings_of
from panda_jax.generate.windows import Generator, Request, plan_windows
from panda_jax.generate.write import write_results
from panda_jax.geometry import project, to_uint8
from panda_jax.training.config import load_config
from panda_jax.training.loop import train
from panda_jax.training.metrics import METRICS_FILE, read_metrics

NEW_PLACE = ("lavender",)

CLIPS, CLIP_FRAMES, FPS = 16, 48, 8.0
TRAINING_STEPS = 240
HELD_OUT_WORLDS = 12                       # seeds 0 …; the shipped model was trained on seeds from 1000
PROMPTS = {"text": "sunset over the open sea, flat land, a few clouds, a red balloon, a slow moving camera"}


class Demo:
  """The steps of `panda demo` in one folder."""

  def __init__(self, folder: str | os.PathLike):
    self.folder = Path(folder)
    self._generator: Generator | None = None

  def run(self) -> None:
    """Does what is not done yet and prints the table.

    Raises:
      InputError: if the folder cannot be written, or the disk is full.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    self._step("1/5  filming procedural worlds", self.folder / "clips" / "captions.csv", self.film)
    self._step("2/5  preparing records", self.folder / "records", self.prepare)
    self._step("3/5  training, with a stop and a resume", self.folder / "run" / "model", self.train)
    self._step("4/5  held-out worlds, shipped model", self.folder / "scores.json", self.score)
    for name in ("text", "video", "long"):
      self._step(f"5/5  generating samples/{name}_360.mp4", self.folder / "samples" / f"{name}_360.png",
                 lambda: self.generate(name))
    self.report()

  def _step(self, title: str, product: Path, make: Callable[[], None]) -> None:
    done = product.exists()
    print(f"{title}{': done already' if done else ''}", flush=True)
    if not done:
      make()

  def film(self) -> None:
    """Clips as a user has them: mp4 files and a table of captions, written last."""
    clips = self.folder / "clips"
    clips.mkdir(exist_ok=True)
    rows = []
    with console.progress("filming", CLIPS) as advance:
      for seed in range(CLIPS):
        world = draw_world(seed, NEW_PLACE)
        name = f"lavender_{seed:02d}.mp4"
        write_video(clips / name, render(world, CLIP_FRAMES, (64, 128), FPS), FPS, crf=8)
        rows.append((name, world.caption))
        advance()
    fresh = clips / "captions.tmp"
    with open(fresh, "w", newline="", encoding="utf-8") as file:
      csv.writer(file).writerows([("file", "caption"), *rows])
    os.replace(fresh, clips / "captions.csv")

  def prepare(self) -> None:
    """The last quarter of every clip is held out."""
    options = prepare.Options(height=64, encoding="png", holdout=0.25)
    prepare.prepare([self.folder / "clips"], self.folder / "records", options, self.folder / "clips" / "captions.csv",
                    console.progress)

  def train(self) -> None:
    """Half the steps, then the same run again to the end: the second call resumes from the checkpoint of the first."""
    for steps in (TRAINING_STEPS // 2, TRAINING_STEPS):
      config = load_config(f"configs/tiny.py:steps={steps}", [
          f"--config.data.path={self.folder / 'records'}", "--config.init=tiny", "--config.matrix.shapes=((4, 6),)",
          "--config.optimizer.learning_rate=4e-4", "--config.optimizer.warmup_steps=10",
          "--config.optimizer.schedule=constant", "--config.optimizer.ema_decay=0.98",
          "--config.training.log_every=20", "--config.training.validate_every=0"])
      train(config, self.folder / "run")

  def score(self) -> None:
    """PSNR, SSIM and seam of the shipped model, given the front view of worlds that it has not seen."""
    settings = self.generator.settings
    clips = [self._held_out_world(seed, settings.frames) for seed in range(HELD_OUT_WORLDS)]
    mean = mean_panorama(next(render(draw_world(1000 + index), 1, (64, 128))) for index in range(200))
    with console.progress("generating", HELD_OUT_WORLDS) as advance:
      rows = held_out.evaluate(self.generator, clips, mean, advance)
    (self.folder / "scores.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

  def generate(self, name: str) -> None:
    """One sample: from text alone, from a held-out clip, or a long one of three windows from a held-out clip."""
    frames = self.generator.settings.frames
    if name == "text":
      request = Request(PROMPTS["text"], frames, seed=1)
    else:
      frames = frames if name == "video" else 3 * frames - 2
      clip = self._held_out_world(HELD_OUT_WORLDS + (name == "long"), frames)
      camera = self.generator.system.rig[0]
      given = project(clip.panorama, camera, self.generator.system.view_size)
      request = Request(clip.caption, frames, to_uint8(given), seed=2, camera=camera)
    with console.progress("generating", len(plan_windows(frames, self.generator.settings.frames))) as advance:
      panorama = list(self.generator(request, on_window=advance))
    write_results(panorama, self.folder / "samples", name, FPS, title=request.prompt)

  def report(self) -> None:
    """The table, and where to look."""
    rows = json.loads((self.folder / "scores.json").read_text(encoding="utf-8"))
    losses = [line["validation_loss"] for line in read_metrics(self.folder / "run" / METRICS_FILE)
              if "validation_loss" in line]
    print()
    console.table(f"shipped model, {len(rows)} held-out worlds, front view given", held_out.COLUMNS,
                  held_out.summary(rows))
    console.table("", ("check", "value", "wanted"), [
        ("middle third of the given view, worst of all", f"{min(row['given view'] for row in rows):.1f} dB", "≥ 30 dB"),
        ("seam ratio of the true panoramas", f"{np.mean([row['seam truth'] for row in rows]):.2f}", ""),
        (f"validation loss on new clips, before {TRAINING_STEPS} steps", f"{losses[0]:.4f}", ""),
        ("… and after them", f"{losses[-1]:.4f}", "lower"),
    ])
    samples = self.folder / "samples"
    print(f"look at {samples / 'video_360.html'} (a browser; drag to look around), {samples / 'video_360.png'} and the "
          f"rest of {samples}")

  @property
  def generator(self) -> Generator:
    """The shipped model, opened and compiled once."""
    if self._generator is None:
      system, params, config = open_system()
      self._generator = Generator(system, params, settings_of(config), say=console.note)
    return self._generator

  def _held_out_world(self, seed: int, frames: int) -> held_out.HeldOut:
    world = draw_world(seed)
    return held_out.HeldOut(f"world {seed}", world.caption, np.stack(list(render(world, frames, (64, 128), FPS))))
