"""The mesh and the one table that says where every array lives on it."""

from panda_jax.parallel.mesh import make_mesh
from panda_jax.parallel.sharding import (
    batch_shardings, global_batch, parameter_shardings, replicated, state_shardings)

__all__ = ["batch_shardings", "global_batch", "make_mesh", "parameter_shardings", "replicated", "state_shardings"]
