"""Measures three small programs for a v5e:2x2 and prints their reports; a process of its own, for libtpu."""

import json
import sys
from pathlib import Path

from panda_jax.parallel import topology

TOPOLOGY, ROWS, WIDTH, ROUNDS = "v5e:2x2", 256, 512, 4


def main(folder: str) -> None:
  devices = topology.devices(TOPOLOGY)
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding, PartitionSpec

  from panda_jax.parallel import make_mesh
  from panda_jax.planning.measure import measure
  from panda_jax.planning.programs import Program
  from panda_jax.planning.store import Store

  mesh = make_mesh({"data": 2, "fsdp": 2}, devices)
  clips, weights = PartitionSpec(("data", "fsdp")), PartitionSpec(None, "fsdp")

  def trace(rows, width, wasteful=False):
    @jax.checkpoint
    def layer(x, weight):
      whole = jax.lax.all_gather(weight, "fsdp", axis=0, tiled=True)
      return jnp.tanh(x @ whole), None

    def local(weights, x):
      def loss(weights):
        y, _ = jax.lax.scan(layer, x, weights)
        if wasteful:                                            # scores of everything with everything, kept whole
          y = jax.nn.softmax(y @ y.T) @ y
        return (y**2).mean()
      gradient = jax.grad(loss)(weights)
      return weights - 0.1 * jax.lax.psum(gradient, "data")

    step = jax.shard_map(local, mesh=mesh, in_specs=(weights, clips), out_specs=weights, check_vma=False)
    shaped = lambda shape, spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    return jax.jit(step, donate_argnums=0).trace(shaped((ROUNDS, width, width), weights), shaped((rows, width), clips))

  store, (chip, _) = Store(Path(folder)), topology.parse(TOPOLOGY)
  programs = {"small": lambda: trace(ROWS, WIDTH), "again": lambda: trace(ROWS, WIDTH),
              "wasteful": lambda: trace(4 * 2**17, 128, wasteful=True)}
  reports = {name: measure(Program("step", (8, 6), 4, dict(mesh.shape), program), chip, TOPOLOGY, "full", store)
             for name, program in programs.items()}
  reports["heavy"] = measure(Program("step", (8, 6), 4, dict(mesh.shape), None, state=2**40), chip, TOPOLOGY, "full",
                             store)
  print(json.dumps(reports))


if __name__ == "__main__":
  main(sys.argv[1])
