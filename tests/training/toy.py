"""A system of a few parameters and a grain stream of numbers: the trainer knows no more than this of any system."""

import os
from pathlib import Path
import signal
import sys
import time

import grain
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from panda_jax.training import loop


class ToySystem:
  """Learns the sum of four numbers through a frozen rotation; `width` sizes its matrices."""

  pretrained = ()

  def __init__(self, width: int = 8):
    self.width = width

  def init(self, rng):
    first, middle, last = jax.random.split(rng, 3)
    w = self.width
    return {
        "net": {
            "first": {"kernel": jax.random.normal(first, (4, w)) / 2, "bias": jnp.zeros(w)},
            "middle": {"kernel": jax.random.normal(middle, (w, w)) / w**0.5, "bias": jnp.zeros(w)},
            "last": {"kernel": jax.random.normal(last, (w, 1)) / w**0.5},
        },
        "codec": {"kernel": jnp.eye(4)},
    }

  def trainable(self, path):
    return not path.startswith("codec/")

  def batch_spec(self, shape, batch_size):
    return {"numbers": jax.ShapeDtypeStruct((batch_size, *shape, 4), jnp.float32)}

  def loss(self, params, batch, rng):
    numbers = batch["numbers"]                                                  # [b v f 4]
    noisy = numbers + 0.1 * jax.random.normal(rng, numbers.shape)
    net = params["net"]
    x = noisy @ params["codec"]["kernel"]
    for layer in ("first", "middle"):
      x = jnp.tanh(x @ net[layer]["kernel"] + net[layer]["bias"])
    predicted = (x @ net["last"]["kernel"])[..., 0]
    return jnp.mean((predicted - numbers.sum(-1))**2), {"mean_prediction": predicted.mean()}


class KilledSystem(ToySystem):
  """Kills its own process without warning when the second sample image is due and a checkpoint is complete."""

  def __init__(self, workdir):
    super().__init__()
    self._workdir, self._previews = Path(workdir), 0

  def preview(self, params, batch, rng):
    self._previews += 1
    while self._previews == 2:
      if list(self._workdir.glob("checkpoints/4/_CHECKPOINT_METADATA")):
        os.kill(os.getpid(), signal.SIGKILL)
      time.sleep(0.01)
    return np.zeros((4, 8, 3), np.uint8)


def numbers(key: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
  return np.random.Generator(np.random.Philox(key=[key, index])).normal(size=(*shape, 4)).astype(np.float32)


def toy_data(config, system, poisoned_step=None):
  """Batches of numbers; every value of step `poisoned_step` (from 1) is not a number."""
  b, shapes = config.batch_size, config.matrix.shapes

  def draw(index, _):
    step = index // b
    values = numbers(config.seed, index, shapes[step % len(shapes)])
    return {"numbers": values * np.float32("nan") if step + 1 == poisoned_step else values}

  stream = grain.MapDataset.range(64).seed(0).shuffle(seed=0).repeat(None, reseed_each_epoch=True)
  stream = stream.map_with_index(draw).batch(b, drop_remainder=True)
  batches = iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
  validation = [{"numbers": numbers(config.seed + 1, index, (b, *shapes[0]))}
                for index in range(config.training.validation_batches)]
  return loop.Data(batches, validation)


def toy_config(shapes=((2, 3),), **training) -> ConfigDict:
  return ConfigDict(dict(
      system="toy", seed=3, batch_size=8, init="", model={},
      data=dict(path="numbers", split="train", validation_path="", validation_split="", fps=4.0, panorama_height=0),
      matrix=dict(shapes=shapes),
      optimizer=dict(learning_rate=3e-3, warmup_steps=2, schedule="constant", b1=0.9, b2=0.99, weight_decay=0.01,
                     clip_norm=1.0, ema_decay=0.99),
      training=dict(steps=8, log_every=1, checkpoint_every=4, keep=2, validate_every=4, validation_batches=2,
                    sample_every=0) | training,
      mesh=dict(data=-1, fsdp=1)))


if __name__ == "__main__":                                     # python -m tests.training.toy WORKDIR [killed]
  system = KilledSystem(sys.argv[1]) if "killed" in sys.argv else ToySystem()
  loop.train(toy_config(shapes=((2, 3), (3, 2)), steps=12, sample_every=3), sys.argv[1], system, toy_data)
