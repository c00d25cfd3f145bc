"""What a system learns in five steps on meshes of eight pretended devices, against one: in a process of its own.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.parallel.meshes [--meshes 2x2x2,1x1x8] [--shapes 2x4]

A mesh is data x fsdp x context. Prints JSON: for each shape and mesh the relative differences of losses and parameters,
and the collectives of the compiled step. Without options: every mesh and shape that docs/performance.md tells of.
"""

import argparse
from collections import Counter
import json
import math
import re

import jax
import numpy as np

from panda_jax import systems
from panda_jax.generate.programs import trace_decode, trace_sampler
from panda_jax.parallel import make_mesh, sharding
from panda_jax.training.config import load_config
from panda_jax.training.setup import Setup
from panda_jax.tree import flatten
from tests.fast import draw

COLLECTIVE = re.compile(r"\s(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
# A third of the compile time, and the same numbers.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
STEPS = 5


def make_config(source: str, shape: tuple[int, int], mesh: tuple[int, int, int], **changes):
  """A system's, in small, with cross-frame norms: they are the layers that sum over frames."""
  config = load_config(source)
  config.batch_size = 8
  config.matrix.shapes = (shape,)
  config.mesh.update(dict(zip(("data", "fsdp", "context"), mesh)))
  config.model.unet.update(block_out_channels=(16, 16), norm_groups=4)
  with config.model.unlocked():
    config.model.unet.resnet_norm = "cross_frame"
  config.training.update(changes)
  return config


def random_batch(spec: dict, seed: int) -> dict[str, np.ndarray]:
  """Pictures, rays and words at random."""
  rng = np.random.default_rng(seed)
  draws = {"uint8": lambda shape: rng.integers(0, 256, shape), "int32": lambda shape: rng.integers(0, 20, shape),
           "float32": lambda shape: rng.normal(size=shape)}
  return {name: draws[leaf.dtype.name](leaf.shape).astype(leaf.dtype) for name, leaf in spec.items()}


def learn(config, devices: list) -> tuple[list[float], dict[str, np.ndarray], dict[str, int]]:
  """Losses, parameters after them, and how many collectives of each kind a step has."""
  setup = Setup.make(config, devices)
  shape = config.matrix.shapes[0]
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), setup.abstract)
  params = draw(setup.abstract.params)                         # layers at zero would hide what their inputs are
  state = jax.device_put(state.replace(params=params, ema=params, frozen=draw(setup.abstract.frozen)), setup.shardings)
  step = setup.trace_step(shape).lower().compile(compiler_options=QUICK)
  losses = []
  for number in range(STEPS):
    state, metrics = step(state, setup.place(random_batch(setup.batch(shape), number)))
    losses.append(float(metrics["loss"]))
  params = {path: np.asarray(leaf) for path, leaf in flatten(state.params).items()}
  return losses, params, dict(Counter(found[1] for found in COLLECTIVE.finditer(step.as_text())))


def compare(source: str, shape: tuple[int, int], meshes: list[tuple[int, int, int]], **changes) -> dict[str, dict]:
  """Mesh -> relative differences from one device, and collectives."""
  losses, params, _ = learn(make_config(source, shape, (1, 1, 1), **changes), jax.devices()[:1])
  length = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in params.values()))
  found = {}
  for mesh in meshes:
    ours, learnt, collectives = learn(make_config(source, shape, mesh, **changes), jax.devices())
    distance = np.sqrt(sum(np.sum(np.square(learnt[path] - leaf, dtype=np.float64)) for path, leaf in params.items()))
    found["x".join(map(str, mesh))] = {
        "loss": float(np.max(np.abs(np.subtract(ours, losses)) / np.abs(losses))), "parameters": distance / length,
        "collectives": collectives}
  return found


def sample(source: str, shape: tuple[int, int], mesh: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Latents of sampled matrices of all views, and the panoramas that noise decodes to."""
  config = make_config(source, shape, mesh)
  devices = make_mesh(config.mesh.to_dict(), jax.devices()[:math.prod(mesh)])
  system, clips = systems.build(config), 4
  sampler = trace_sampler(system, devices, shape, clips=clips, steps=2, guidance=2.0, dtype="float32")
  decoder = trace_decode(system, devices, shape, clips=clips, dtype="float32", panorama_height=16)
  params = draw(jax.eval_shape(system.init, jax.random.key(0)))
  request = random_batch(system.request_spec(shape, clips), 0)
  latents = jax.eval_shape(system.encode_images, params, system.batch_spec(shape, clips)["images"])
  request |= random_batch({"given": latents}, 1)
  if "mask" in request:
    mask = np.zeros((clips, *shape), np.float32)
    mask[:, 0] = 1
    request |= {"mask": mask, "sigma": 0.1 * mask}
  sampled = sampler.lower().compile(compiler_options=QUICK)(params, request, jax.random.key(0))
  shown = decoder.lower().compile(compiler_options=QUICK)(params, {"given": request["given"]})
  return np.asarray(sampled), np.asarray(shown)


def compare_samples(source: str, shape: tuple[int, int], mesh: tuple[int, int, int]) -> dict[str, float]:
  """The largest differences from one device: of latents, and of panoramas in levels of 255."""
  one, other = (sample(source, shape, sizes) for sizes in ((1, 1, 1), mesh))
  return {"latents": float(np.abs(one[0] - other[0]).max()),
          "panorama": float(np.abs(one[1].astype(np.float32) - other[1]).max())}


def main() -> None:
  sizes = lambda text: [tuple(int(size) for size in word.split("x")) for word in text.split(",")]
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", default="configs/tiny.py:runlocal")
  parser.add_argument("--meshes", type=sizes, default=sizes("8x1x1,1x8x1,2x2x2,1x1x8"))
  parser.add_argument("--shapes", type=sizes, default=sizes("2x4,4x2,1x8,8x3"))
  parser.add_argument("--remat", default="none")
  parser.add_argument("--sample", type=sizes, metavar="VxF,DxFxC", help="compare samples of this shape on this mesh, too")
  args = parser.parse_args()
  assert jax.device_count() == 8
  sharding.SMALL = 64                                          # split whatever can be split
  if args.sample:
    print(json.dumps({"sample": compare_samples(args.config, *args.sample)}), flush=True)
  for shape in args.shapes:
    print(json.dumps({"x".join(map(str, shape)): compare(args.config, shape, args.meshes, remat=args.remat)}), flush=True)


if __name__ == "__main__":
  main()
