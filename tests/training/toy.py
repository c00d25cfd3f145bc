"""A system of a few parameters and a grain stream of numbers: the trainer knows no more than this of any system."""

import os
from pathlib import Path
import signal
import sys
import time

import grain
import jax
import jax.numpy as jnp
from jax.experimental import io_callback
from ml_collections import ConfigDict
import numpy as np

from panda_jax.parallel import exchange
from panda_jax.training import loop


class ToySystem:
  """Learns the sum of four numbers, under noise that grows with the timestep, through a frozen rotation.

  `width` sizes its matrices; `added` gives it a layer that other models of its kind have not, which begins at zero.
  """

  pretrained, timesteps = (), 1000
  letters = {"numbers": "b v f c"}

  def __init__(self, width: int = 8, added: bool = False):
    self.width, self.added = width, added

  def init(self, rng):
    first, middle, last = jax.random.split(rng, 3)
    w = self.width
    return {
        "net": {
            "first": {"kernel": jax.random.normal(first, (4, w)) / 2, "bias": jnp.zeros(w)},
            "middle": {"kernel": jax.random.normal(middle, (w, w)) / w**0.5, "bias": jnp.zeros(w)},
            "last": {"kernel": jax.random.normal(last, (w, 1)) / w**0.5},
        } | ({"added": {"kernel": jnp.zeros((4, w))}} if self.added else {}),
        "codec": {"kernel": jnp.eye(4)},
    }

  def trainable(self, path):
    return not path.startswith("codec/")

  def batch_spec(self, shape, batch_size):
    return {"numbers": jax.ShapeDtypeStruct((batch_size, *shape, 4), jnp.float32)}

  def draw(self, rng, batch, timestep=None):
    b = batch["numbers"].shape[0]
    timestep_rng, noise_rng = jax.random.split(rng)
    drawn = jax.random.randint(timestep_rng, (b,), 0, self.timesteps)
    timestep = drawn if timestep is None else jnp.full((b,), timestep, jnp.int32)
    return {**batch, "timestep": timestep, "key": jax.random.split(noise_rng, b)}

  def loss(self, params, batch, rng):
    batch = batch if "key" in batch else self.draw(rng, batch)
    numbers, net, w = batch["numbers"], params["net"], self.width               # [b v f 4]
    kernel = lambda layer, inputs, outputs: exchange.whole(net[layer]["kernel"], (inputs, outputs))
    shape = exchange.whole_shape(numbers.shape)[1:]
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(batch["key"])
    noise = exchange.own_part(noise, clips=False)
    x = (numbers + 0.2 * (batch["timestep"] / self.timesteps)[:, None, None, None] * noise) @ params["codec"]["kernel"]
    added = x @ kernel("added", 4, w) if self.added else 0
    for layer, inputs in (("first", 4), ("middle", w)):
      x = jnp.tanh(x @ kernel(layer, inputs, w) + net[layer]["bias"])
    predicted = ((x + added) @ kernel("last", w, 1))[..., 0]
    return jnp.mean((predicted - numbers.sum(-1))**2), {"mean_prediction": predicted.mean()}

  def adopt(self, params, rng):
    if self.added and "added" not in params["net"]:
      return {**params, "net": {**params["net"], "added": {"kernel": np.zeros((4, self.width), np.float32)}}}
    return params


class KilledSystem(ToySystem):
  """Kills its own process without warning when the second sample image is due and a checkpoint is complete."""

  def __init__(self, workdir):
    super().__init__()
    self._workdir, self._previews = Path(workdir), 0

  def preview(self, params, batch, rng):
    b, v, f, _ = batch["numbers"].shape
    images = jax.ShapeDtypeStruct((b, 1, v, f, 4, 8, 3), jnp.uint8)
    return io_callback(lambda: self._on_host(images), images)

  def _on_host(self, images):
    self._previews += 1
    while self._previews == 2:
      if list(self._workdir.glob("checkpoints/4/_CHECKPOINT_METADATA")):
        os.kill(os.getpid(), signal.SIGKILL)
      time.sleep(0.01)
    return np.zeros(images.shape, images.dtype)


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
      data=dict(kind="panorama", path="numbers", split="train", validation_path="", validation_split="", fps=4.0,
                panorama_height=0, flip=0.0),
      matrix=dict(shapes=shapes),
      optimizer=dict(learning_rate=3e-3, warmup_steps=2, schedule="constant", b1=0.9, b2=0.99, weight_decay=0.01,
                     clip_norm=1.0, ema_decay=0.99, rate_scales=()),
      training=dict(steps=8, accumulate=1, log_every=1, checkpoint_every=4, keep=2, keep_every=0, validate_every=4,
                    validation_batches=2, validation_timesteps=(100, 900), sample_every=0, remat="none",
                    dtype="float32") | training,
      mesh=dict(data=-1, fsdp=1, context=1)))


if __name__ == "__main__":                                     # python -m tests.training.toy WORKDIR [killed]
  system = KilledSystem(sys.argv[1]) if "killed" in sys.argv else ToySystem()
  loop.train(toy_config(shapes=((2, 3), (3, 2)), steps=12, sample_every=3), sys.argv[1], system, toy_data)
