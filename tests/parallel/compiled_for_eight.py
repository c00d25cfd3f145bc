"""Compiles a small program for eight devices of this processor, and prints what is read in its text; a process of its
own, because the number of devices is fixed when JAX starts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from panda_jax.parallel.program_text import read_program

ROUNDS, ROWS, COLUMNS = 5, 16, 64


def main() -> None:
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

  def layer(x, weight):
    whole = jax.lax.all_gather(weight, "fsdp", axis=0, tiled=True)
    x = jax.lax.all_to_all(x, "fsdp", split_axis=1, concat_axis=0, tiled=True)
    x = jnp.tanh(x @ whole[:COLUMNS // 4])
    return jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])[:ROWS // 8].repeat(1, 0), None

  def step(weights, x):
    def local(weights, x):
      y, _ = jax.lax.scan(layer, x, weights)
      return jax.lax.psum(y.sum(), ("data", "fsdp"))
    return jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(None, "fsdp"), PartitionSpec(("data", "fsdp"))),
                         out_specs=PartitionSpec(), check_vma=False)(weights, x)

  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((ROUNDS, COLUMNS, COLUMNS), (ROWS, COLUMNS))]
  text = jax.jit(step).trace(*arguments).lower().compile().as_text()
  print(json.dumps(dataclasses.asdict(read_program(text))))


if __name__ == "__main__":
  main()
