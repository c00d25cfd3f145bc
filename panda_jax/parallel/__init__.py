"""The mesh, the one table that says where every array lives on it, and what devices exchange inside a step."""

from panda_jax.parallel import exchange
from panda_jax.parallel.mesh import make_mesh, matrix_mesh
from panda_jax.parallel.sharding import (
    batch_shardings, data_shard, global_batch, on_devices, parameter_shardings, replicated, state_shardings)

__all__ = ["batch_shardings", "data_shard", "exchange", "global_batch", "make_mesh", "matrix_mesh", "on_devices",
           "parameter_shardings", "replicated", "state_shardings"]
