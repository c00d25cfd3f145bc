"""What the training loop costs beside the devices' work: Python between two steps, and waiting for data.

  python benchmarks/loop_overhead.py host                  # ms of Python per step, sd15's parameter tree
  python benchmarks/loop_overhead.py host --devices 4      # the same, on four pretended devices
  python benchmarks/loop_overhead.py latents               # waiting, with latents of sd15's size read from disk
  python benchmarks/loop_overhead.py pixels                # waiting, with panoramas as configs/tiny.py reads them

All of them go through the loop's own feed, programs and log.

host: the train state of configs/videopanda.py:size=sd15, stage two, every leaf of it with one element, and a program
that only counts the step: the devices have next to nothing to do, so the time per step is the host's. On CPU devices
the program runs in the call itself; what little it does is counted, too.

latents: a dataset made here, of what the encoder makes of one matrix of 48 images of 512 pixels: mean and logarithm of
the variance in bfloat16, 3.1 MB, with rays and text. A batch is one matrix for each chip of a host. The files are put
out of the page cache before the first step, and every record is read once. The devices are a thread that sleeps: a step
takes its time, begins when its batch is there and the step before is done, and costs no processor time.

pixels: the same devices with the pipeline of `panda train` over noise.

Figures: docs/performance.md.
"""

from __future__ import annotations

import argparse
from concurrent import futures
import functools
import gc
import os
from pathlib import Path
import tempfile
import time

if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("what", choices=("host", "latents", "pixels"))
  parser.add_argument("--steps", type=int, help="default: 200 of the host's, 40 of the others")
  parser.add_argument("--devices", type=int, default=1, help="of the host; pretended")
  parser.add_argument("--clips", type=int, default=4, help="latents, pixels: matrices per step")
  parser.add_argument("--step-seconds", type=float, default=1.0, help="latents, pixels: that a step takes the devices")
  parser.add_argument("--folder", help="latents, pixels: on the disk to measure; default: a temporary one")
  args = parser.parse_args()
  os.environ["JAX_PLATFORMS"] = "cpu"                          # all three before JAX is imported
  os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"

from array_record.python import array_record_module
import grain
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from panda_jax import systems
from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import train_iterator
from panda_jax.data.records import Clip, write_records
from panda_jax.parallel import batch_shardings, global_batch, make_mesh, replicated
from panda_jax.training.config import load_config
from panda_jax.training.feed import Feed
from panda_jax.training.log import Log
from panda_jax.training.metrics import MetricWriter, read_metrics
from panda_jax.training.programs import Program, Programs
from panda_jax.training.progress import Progress
from panda_jax.training.setup import Setup

CONFIGS = Path(__file__).parents[1] / "configs"
VIEWS, FRAMES, SIZE, CHANNELS, WORDS = 8, 6, 64, 4, 77         # 48 images of 512 pixels, as latents
RECORD = (("latents", (VIEWS, FRAMES, SIZE, SIZE, 2 * CHANNELS), jnp.bfloat16),
          ("rays", (VIEWS, SIZE, SIZE, 3), np.float32), ("text", (WORDS,), np.int32))
PARTS = ("batch", "find", "dispatch", "log", "processor time of this thread")
LETTERS = {"latents": "b v f h w c", "images": "b v f h w c", "rays": "b v h w c", "text": "b l"}


def drive(state, feed: Feed, programs: Programs | SleepingDevice, log: Log, steps: int) -> np.ndarray:
  """The loop of panda_jax/training/loop.py where nothing but steps is due.

  Returns:
    seconds [steps, 5]: of the four parts, and of the processor in this thread.
  """
  gc.collect()
  gc.freeze()
  times, unread = [], None
  for step in range(1, steps + 1):
    processor, clock = time.thread_time(), [time.perf_counter()]
    with jax.transfer_guard("disallow"), jax.no_tracing(True):
      batch = next(feed)
      clock.append(time.perf_counter())
      program = programs.find("step", batch)
      clock.append(time.perf_counter())
      state, results = program(state, batch)
      feed.running = results
      clock.append(time.perf_counter())
      if unread:
        log(*unread)
    unread = (step, results, program)
    clock.append(time.perf_counter())
    times.append([*np.diff(clock), time.thread_time() - processor])
  log(*unread)
  gc.unfreeze()
  return np.array(times)


def make_log(workdir: Path, feed: Feed, steps: int) -> Log:
  options = ConfigDict(dict(log_every=50, steps=steps))
  return Log(MetricWriter(workdir, 0), Progress(0, steps), options, checkpoints=None, feed=feed, peak=None)


def endless(source, transform, batch_size: int) -> grain.DatasetIterator:
  stream = grain.MapDataset.source(source).seed(0).shuffle().repeat(None).map(transform)
  options = grain.ReadOptions(num_threads=min(8, os.cpu_count()), prefetch_buffer_size=8)     # as train_iterator has
  return iter(stream.batch(batch_size, drop_remainder=True).to_iter_dataset(options))


# Host


def host(steps: int) -> None:
  config = load_config(f"{CONFIGS / 'videopanda.py'}:size=sd15")
  setup = Setup.make(config)
  small = lambda leaf: jnp.zeros((1,) * (leaf.ndim > 0), leaf.dtype)
  state = jax.jit(lambda: jax.tree.map(small, setup.abstract), out_shardings=replicated(setup.mesh))()
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  shapes, clips = config.matrix.shapes, setup.mesh.size

  def count(state, batch):
    numbers = ("loss", "grad_norm", "learning_rate", "v_loss", "x0_loss", "snr")
    return state.replace(step=state.step + 1), {name: state.step.astype(jnp.float32) for name in numbers}

  def matrix(step, clips=1):
    """The arrays of a training batch, with one pixel and one word."""
    views, frames = shapes[step // clips % len(shapes)]
    return {"images": np.zeros((views, frames, 1, 1, 3), np.uint8), "rays": np.zeros((views, 1, 1, 3), np.float32),
            "text": np.zeros(1, np.int32)}

  programs = Programs()
  for index, shape in enumerate(shapes):
    batch = {name: jax.ShapeDtypeStruct((clips, *x.shape), x.dtype) for name, x in matrix(index).items()}
    lies = batch_shardings(setup.mesh, batch, setup.system.letters)
    programs.add("step", batch, str(shape), jax.jit(
        count, in_shardings=(shardings, lies), out_shardings=(shardings, replicated(setup.mesh)),
        donate_argnums=0).trace(state, batch), images=clips * 48)
  programs.compile(lambda text: None, alone=True)

  stream = grain.MapDataset.range(10**9).map(functools.partial(matrix, clips=clips)).batch(clips)
  batches = iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))
  feed = Feed(batches, setup.place)
  with tempfile.TemporaryDirectory() as workdir:
    times = 1e3 * drive(state, feed, programs, make_log(Path(workdir), feed, steps), steps)[steps // 10:]
  feed.close()
  batches.close()
  total, parts = times[:, :4].sum(1), np.median(times, 0)
  leaves = {name: len(jax.tree.leaves(getattr(state, name))) for name in ("params", "frozen", "ema", "opt_state")}
  print(f"{clips} device(s); leaves: " + ", ".join(f"{name} {number}" for name, number in leaves.items()))
  print(f"ms per step: mean {np.mean(total):.1f}, median {np.median(total):.1f}, 90 % below "
        f"{np.percentile(total, 90):.1f}")
  print("medians: " + ", ".join(f"{part} {value:.2f}" for part, value in zip(PARTS, parts)))


# Data


class SleepingDevice:
  """Stands for devices and their programs: steps one after the other, each of the same length."""

  def __init__(self, seconds: float, images: int):
    self._seconds, self._thread = seconds, futures.ThreadPoolExecutor(1)
    self._program = Program(self._dispatch, images, flops=0)

  def find(self, kind: str, batch: dict) -> Program:
    return self._program

  def close(self) -> None:
    self._thread.shutdown()

  def _dispatch(self, state: None, batch: dict) -> tuple[None, dict]:
    def run():
      jax.block_until_ready(batch)
      time.sleep(self._seconds)
    done = self._thread.submit(run)
    return state, {name: _Pending(done) for name in ("loss", "grad_norm")}


class _Pending:
  """A number on such a device, as far as feed and log look at it."""

  def __init__(self, done: futures.Future):
    self._done = done

  def is_ready(self) -> bool:
    return self._done.done()

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    self._done.result()
    return np.zeros((), np.float32)


def write_latents(path: Path, count: int) -> None:
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
  for index in range(count):
    rng = np.random.default_rng(index)
    writer.write(b"".join(
        np.zeros(shape, dtype).tobytes() if dtype == np.int32 else rng.random(shape, np.float32).astype(dtype).tobytes()
        for _, shape, dtype in RECORD))
  writer.close()


def read_latents(record: bytes) -> dict[str, np.ndarray]:
  arrays, offset = {}, 0
  for name, shape, dtype in RECORD:
    size = int(np.prod(shape))
    arrays[name] = np.frombuffer(record, dtype, size, offset).reshape(shape)
    offset += size * np.dtype(dtype).itemsize
  return arrays


def forget(folder: Path) -> int:
  """Puts a folder's files out of the page cache; their bytes."""
  size = 0
  for path in (path for path in folder.rglob("*") if path.is_file()):
    with open(path, "rb") as file:
      os.fsync(file.fileno())
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    size += path.stat().st_size
  return size


def latents(folder: Path, clips: int, steps: int) -> grain.DatasetIterator:
  write_latents(folder / "latents.array_record", clips * steps)
  return endless(grain.sources.ArrayRecordDataSource(str(folder / "latents.array_record")), read_latents, clips)


def pixels(folder: Path, clips: int, steps: int) -> grain.DatasetIterator:
  config = load_config(str(CONFIGS / "tiny.py"))
  system = systems.build(config)
  height = config.data.panorama_height
  rng = np.random.default_rng(0)
  noise = lambda: rng.integers(0, 256, (24, height, 2 * height, 3), np.uint8)
  write_records(folder / "records", {"train": (
      Clip(id=str(index), caption="Noise.", fps=8.0, frames=list(noise())) for index in range(64))}, metadata={})
  return train_iterator(
      folder / "records", "train", shows=system.shows,
      schedule=MatrixSchedule(config.matrix.shapes, 0), batch_size=clips, tokenize=system.tokenize, seed=0,
      fps=config.data.fps)


def data(what: str, folder: Path, clips: int, steps: int, seconds: float) -> None:
  batches = {"latents": latents, "pixels": pixels}[what](folder, clips, steps)
  size = forget(folder)
  mesh = make_mesh({"data": -1})
  feed = Feed(batches, functools.partial(global_batch, mesh, letters=LETTERS))
  device = SleepingDevice(seconds, images=48 * clips)
  feed.start_prefetch()
  log = make_log(folder, feed, steps)
  began, processor = time.perf_counter(), time.process_time()
  drive(None, feed, device, log, steps)
  wall, processor = time.perf_counter() - began, time.process_time() - processor
  for part in (feed, batches, device):
    part.close()
  lines = read_metrics(folder / "metrics.jsonl")
  waited = sum(line["data_wait"] * line["step_seconds"] * count
               for line, count in zip(lines, np.diff([0, *(line["step"] for line in lines)]))) / wall
  print(f"{what}: {size / 1e6:.0f} MB, {clips} matrices per step, {steps} steps of {seconds} s, {wall:.2f} s in all")
  print(f"waited for data {waited:.2%} of the time, the first batch included; beyond the devices' time "
        f"{wall / (steps * seconds) - 1:.2%}; {processor / steps:.3f} s of processor time per step")


if __name__ == "__main__":
  if args.what == "host":
    host(args.steps or 200)
  else:
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
      data(args.what, Path(temporary), args.clips, args.steps or 40, args.step_seconds)
