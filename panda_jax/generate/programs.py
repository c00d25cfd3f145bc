"""Sampling and decoding on many devices: clips shared by `data` and `fsdp`, the images of each matrix by `context`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from panda_jax.parallel import exchange
from panda_jax.parallel.exchange import CLIPS, FRAMES, VIEWS
from panda_jax.parallel.mesh import matrix_mesh
from panda_jax.parallel.sharding import batch_specs, on_devices, parameter_shardings, specs


def trace_sampler(system: Any, mesh: Mesh, shape: tuple[int, int], *, clips: int, steps: int, guidance: float,
                  dtype: str) -> jax.stages.Traced:
  """The sampler of whole matrices, `(params, request, key) -> latents [b v f h w c]`.

  Args:
    system: see `panda_jax.systems.base.System`.
    mesh: from `panda_jax.parallel.make_mesh`.
    shape: (views, frames).
    clips: b, on all devices together.
    steps, guidance: see `System.sample_latents`.
    dtype: of the parameters.
  """
  def sample(params, request, key):
    told = {name: value for name, value in request.items() if name != "given"}
    return system.sample_latents(params, request["given"], told, key, steps=steps, guidance=guidance)

  request = {"given": _latents(system, shape, clips), **system.request_spec(shape, clips)}
  return _trace(sample, PartitionSpec(CLIPS, VIEWS, FRAMES), system, mesh, shape, dtype, request,
                jax.eval_shape(lambda: jax.random.key(0)))


def trace_decode(system: Any, mesh: Mesh, shape: tuple[int, int], *, clips: int, dtype: str,
                 panorama_height: int) -> jax.stages.Traced:
  """From latents to panoramas, `(params, {"given": latents}) -> uint8 [b f H W 3]`.

  Args:
    panorama_height: H in pixels; W is twice that.

  The others are those of `trace_sampler`.
  """
  def decode(params, request):
    views = exchange.all_views(system.decode(params, request["given"]), axis=1)        # a panorama sees every view
    size = (panorama_height, 2 * panorama_height)
    return jnp.stack([system.shows.panorama(clip, size) for clip in views])

  return _trace(decode, PartitionSpec(CLIPS, FRAMES), system, mesh, shape, dtype,
                {"given": _latents(system, shape, clips)})


def _trace(function: Callable, out_spec: PartitionSpec, system: Any, mesh: Mesh, shape: tuple[int, int], dtype: str,
           request: dict, *everywhere: Any) -> jax.stages.Traced:
  """`function(params, request, …)` of local arrays as a program of global ones."""
  params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), _abstract(system))
  devices = matrix_mesh(mesh, *shape)
  in_specs = (specs(parameter_shardings(mesh, params)), batch_specs(request, system.letters),
              *(PartitionSpec() for _ in everywhere))
  lies = jax.tree.map(lambda spec: NamedSharding(devices, spec), in_specs)
  program = on_devices(function, devices, in_specs=in_specs, out_specs=out_spec)
  return jax.jit(program, in_shardings=lies).trace(params, request, *everywhere)


def _latents(system: Any, shape: tuple[int, int], clips: int) -> jax.ShapeDtypeStruct:
  """[b v f h w c]."""
  images = system.batch_spec(shape, clips)["images"]
  return jax.eval_shape(system.encode_images, _abstract(system), images)


def _abstract(system: Any) -> dict:
  return jax.eval_shape(system.init, jax.eval_shape(lambda: jax.random.key(0)))
