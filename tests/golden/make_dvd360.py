"""Makes dvd360.npz: what 360DVD's official pipeline gives from words, motion and noise, with the golden networks.

  python -m tests.golden.make_dvd360                     # needs no torch: writes tests/golden/dvd360.npz
  python -m tests.golden.make_dvd360 --check PARITY      # the same loop against the trace of the official code

Independent of what it tests is the whole pipeline: betas, timesteps, guidance, the step of DDIM, which steps are
circular and which see the adapter's features, the turns, the scales of latents and pixels. The official code's are
written out below, as a loop in NumPy and float64 that shares nothing with `panda_jax.diffusion` or `panda_jax.systems`.

Not independent are tokenizer, text encoder, UNet, adapter and VAE: these are ours, told what to do by plain arguments
and run operation by operation. Their own parity is tested elsewhere (tests/weights, tests/models).

The weights are those of the golden pipeline; the adapter's, and the inputs, are drawn again, from streams that NumPy
promises never to change. Outputs come out the same again to about 1e-6.

Source: the code of 360DVD (pipeline and scripts/animate.py), with DDIMScheduler of diffusers 0.11.1.
"""

import argparse
from collections.abc import Callable, Iterator
import math
from pathlib import Path
import zlib

import jax
import numpy as np

from panda_jax import weights
from panda_jax.models.adapter360 import Adapter360Config
from panda_jax.tree import flatten
from panda_jax.weights.layout import to_torch
from panda_jax.weights.loading import fill
from panda_jax.weights.resolve import Network, functional, resolve
from panda_jax.weights.tensors import LazyTensor

HERE = Path(__file__).resolve().parent
FILE = HERE / "dvd360.npz"
PROMPT, NEGATIVE = "a panorama of the snowy mountain sea", "clouds over city"
# Seven: an odd number, a stride that does not divide 1000, and features that stop after the first circular step.
STEPS, GUIDANCE = 7, 7.5
SIZE, FRAMES, FACTOR = (8, 32), 2, 2
ADAPTER = Adapter360Config(channels=(8, 16), downscale=FACTOR)


# --- the pipeline


def latents_of_steps(unet: Callable, features: list[np.ndarray], text: np.ndarray, negative: np.ndarray,
                     noise: np.ndarray, steps: int, guidance: float) -> Iterator[np.ndarray]:
  """The latents after every step and its turn, float64 [b 1 f h w c].

  `unet`: (latents, timestep, text, features, circular) -> ε, in float32.
  """
  betas = np.linspace(0.00085, 0.012, 1000)
  alphas = np.cumprod(1 - betas)
  stride = 1000 // steps
  latents = np.asarray(noise, np.float64)
  states = np.concatenate([negative, text])
  for i in range(steps):
    t = (steps - 1 - i) * stride + 1
    circular = i >= steps // 2
    told = features if i <= 3 * (steps // 4) else [np.zeros_like(feature) for feature in features]

    twice = np.concatenate([latents, latents]).astype(np.float32)
    without, with_text = np.split(np.asarray(unet(twice, np.array([t, t]), states, told, circular), np.float64), 2)
    epsilon = without + guidance * (with_text - without)

    alpha, following = alphas[t], alphas[t - stride] if t >= stride else 1.0
    clean = (latents - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
    latents = math.sqrt(following) * clean + math.sqrt(1 - following) * epsilon
    latents = np.roll(latents, latents.shape[-2] // 4, axis=-2)
    yield latents


def run_pipeline(networks: dict, ids: np.ndarray, negative: np.ndarray, motion: np.ndarray, noise: np.ndarray,
                 steps: int, guidance: float) -> dict[str, np.ndarray]:
  """`trace` [steps b 1 f h w c] and `video` [b 1 f H W 3] in 0..1.

  Args:
    networks: modules by kind.
    ids, negative: [b l].
    motion: uint8 [b f H W 3].
    noise: [b 1 f h w c].
  """
  text, negative = (np.asarray(networks["text_encoder"](ids)) for ids in (ids, negative))
  motion = ((motion / 255 - 0.5) / 0.5).astype(np.float32)
  features = [np.asarray(feature) for feature in networks["adapter360"](motion)]

  def unet(latents, timestep, text, features, circular):
    return networks["unet"](latents, timestep, text, adapter_features=features, circular=circular)

  trace = np.stack(list(latents_of_steps(unet, features, text, negative, noise, steps, guidance)))
  decoded = networks["vae"].decode((trace[-1] / 0.18215).astype(np.float32), circular=True)
  return {"trace": trace, "video": np.clip(np.asarray(decoded) / 2 + 0.5, 0, 1)}


# --- with which it is run


def load_networks() -> dict[str, Network]:
  """The golden networks, with norms as 360DVD has them, and an adapter that is drawn here."""
  networks = resolve(HERE / "pipeline", motion=HERE / "motion_adapter", resnet_norm="cross_frame",
                     motion_norm="per_frame")
  shapes = flatten(functional("adapter360", ADAPTER).abstract)
  leaves = {path: LazyTensor.of(draw(path, leaf.shape), path) for path, leaf in shapes.items()}
  return networks | {"adapter360": Network("adapter360", ADAPTER, to_torch(leaves), "the golden adapter")}


def make_inputs() -> tuple[np.ndarray, np.ndarray]:
  """Noise [b 1 f h w c] and motion uint8 [b f H W 3]."""
  noise = draw("noise", (1, 1, FRAMES, SIZE[0] // FACTOR, SIZE[1] // FACTOR, 4), scale=1.0)
  return noise, np.random.RandomState(1).randint(0, 256, (1, FRAMES, *SIZE, 3)).astype(np.uint8)


def draw(name: str, shape: tuple[int, ...], scale: float | None = None) -> np.ndarray:
  """Normal float16 numbers as float32, by name; kernels give outputs of the size of their inputs, biases are small."""
  if scale is None:
    scale = 1 / math.sqrt(math.prod(shape[:-1])) if len(shape) > 1 else 0.1
  values = scale * np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
  return values.astype(np.float16).astype(np.float32)


def make() -> dict[str, np.ndarray]:
  modules = {kind: fill(network) for kind, network in load_networks().items()}
  tokenize = weights.load_tokenizer(HERE / "pipeline")
  ids, negative = (np.asarray(tokenize(words))[None] for words in (PROMPT, NEGATIVE))
  noise, motion = make_inputs()
  with jax.disable_jit():
    return run_pipeline(modules, ids, negative, motion, noise, STEPS, GUIDANCE)


# --- against the official code


def check(parity: Path) -> None:
  """Runs the loop with the checkpoints of a recorded run of the official code, and prints how far off it is."""
  last = lambda x: np.moveaxis(x, 1, -1)[:, None]                         # [b c f h w] -> [b 1 f h w c]
  with np.load(parity / "dvd360" / "io.npz") as file:
    expected = {name: file[name] for name in file if name == "flow" or name.startswith("pipe_")}
  networks = {"unet": weights.load(parity / "unet2d_sd15", motion=parity / "motion" / "mm_v1.ckpt"),
              "vae": weights.load(parity / "vae"), "adapter360": weights.load(parity / "dvd360" / "360Adapter.ckpt"),
              "text_encoder": weights.load(parity / "clip_text" / "text_encoder_sd15")}
  tokenize = weights.load_tokenizer(parity / "clip_text" / "tokenizer")
  ids, negative = (np.asarray(tokenize(words))[None] for words in ("a panoramic video of a snowy mountain",
                                                                   "worst quality , low quality"))
  motion = np.round((np.moveaxis(expected["flow"], 2, -1) + 1) * 127.5).astype(np.uint8)
  made = run_pipeline(networks, ids, negative, motion, last(expected["pipe_latents0"]), 8, 7.5)
  for step, (ours, theirs) in enumerate(zip(made["trace"], expected["pipe_trace"], strict=True)):
    difference = np.sqrt(np.mean((ours - last(theirs))**2) / np.mean(theirs.astype(np.float64)**2))
    print(f"after step {step}: relative rms {difference:.1e}")
  print(f"video: largest difference {np.abs(made['video'] - last(expected['pipe_video'])).max():.1e}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--check", type=Path, metavar="PARITY", help="folder of the recorded run; nothing is written")
  args = parser.parse_args()
  if args.check:
    check(args.check)
  else:
    np.savez_compressed(FILE, **{name: values.astype(np.float32) for name, values in make().items()})


if __name__ == "__main__":
  main()
