"""What devices exchange inside a step: the only file that names mesh axes to the networks.

A program's step runs in one `jax.shard_map` over all axes (see `panda_jax.parallel.sharding.on_devices`). In it an array
[b v f …] holds this device's clips, and of their matrices its views and frames. A layer that looks along an axis that
may be split calls one of these functions; outside of such a step, and along an axis that is whole, they do nothing.

Losses are local means: gradients are those of the sum over devices, which is how JAX transposes each of these functions.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

CLIPS, PARAMETERS, VIEWS, FRAMES = ("data", "fsdp"), "fsdp", "view", "frame"
MATRIX = (VIEWS, FRAMES)


def size(axes: str | tuple[str, ...]) -> int:
  """How many parts the devices hold along these mesh axes; 1 outside of a sharded step."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = (axes,) if isinstance(axes, str) else axes
  return math.prod(mesh.shape[axis] for axis in axes if axis in mesh.manual_axes)


# Along the matrix

def all_frames(x: jax.Array) -> jax.Array:
  """[b v f s c], some frames of every pixel -> [b v f+ s- c], all frames of some pixels (one all-to-all).

  Raises:
    ValueError: if the pixels cannot be shared out.
  """
  parts = size(FRAMES)
  if parts == 1:
    return x
  if x.shape[3] % parts:
    raise ValueError(f"{x.shape[3]} pixels of an image cannot be shared by the {parts} devices that share its frames: "
                     "lower config.mesh.context")
  return jax.lax.all_to_all(x, FRAMES, split_axis=3, concat_axis=2, tiled=True)


def own_frames(x: jax.Array) -> jax.Array:
  """The inverse of `all_frames`."""
  return x if size(FRAMES) == 1 else jax.lax.all_to_all(x, FRAMES, split_axis=2, concat_axis=3, tiled=True)


def with_neighbours(x: jax.Array, count: int) -> jax.Array:
  """[b f …] -> [b f+2·count …]: this device's frames between those before and after it, zeros beyond the first and last.

  Raises:
    ValueError: if a device has fewer than `count` frames.
  """
  if x.shape[1] < count:
    raise ValueError(f"{x.shape[1]} frames on a device are too few for a look at {count} beyond: lower "
                     "config.mesh.context")
  parts = size(FRAMES)
  if parts == 1:
    return jnp.pad(x, [(0, 0), (count, count)] + [(0, 0)] * (x.ndim - 2))
  along = [(place, place + 1) for place in range(parts - 1)]
  before = jax.lax.ppermute(x[:, -count:], FRAMES, along)                # zeros where nobody sends
  after = jax.lax.ppermute(x[:, :count], FRAMES, [(to, place) for place, to in along])
  return jnp.concatenate([before, x, after], axis=1)


def all_views(x: jax.Array, axis: int) -> jax.Array:
  """Tokens of this device's views -> of all views of its frames, along `axis`, view after view (one all-gather)."""
  return x if size(VIEWS) == 1 else jax.lax.all_gather(x, VIEWS, axis=axis, tiled=True)


def mean_over_frames(x: jax.Array) -> jax.Array:
  """The mean over the devices that share a view's frames, of means over equally many."""
  return x if size(FRAMES) == 1 else jax.lax.pmean(x, FRAMES)


def sum_over_matrix(x: jax.Array) -> jax.Array:
  """The sum over the devices that share a matrix."""
  return x if size(MATRIX) == 1 else jax.lax.psum(x, MATRIX)


def whole_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape [b v f …] that an array has on all devices together."""
  b, v, f, *rest = shape
  return b * size(CLIPS), v * size(VIEWS), f * size(FRAMES), *rest


def own_part(x: jax.Array, *, clips: bool = True) -> jax.Array:
  """This device's part of an array [b v f …] that every device has whole; without `clips` b is its own already."""
  for axis, names in enumerate((CLIPS, VIEWS, FRAMES)):
    if size(names) > 1 and (clips or axis):
      length = x.shape[axis] // size(names)
      x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(names) * length, length, axis)
  return x


# Parameters

def split_axis(own: tuple[int, ...], whole: tuple[int, ...]) -> int | None:
  """Along which axis an array of shape `own` is this device's part of one of shape `whole`; None: it is none."""
  parts = size(PARAMETERS)
  if parts == 1 or len(own) != len(whole):
    return None
  differing = [axis for axis, (ours, all_of_it) in enumerate(zip(own, whole)) if ours != all_of_it]
  return differing[0] if len(differing) == 1 and own[differing[0]] * parts == whole[differing[0]] else None


def whole(parameter: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """A parameter of this shape, from the devices that share it (one all-gather).

  Its gradient goes back to them as a sum in float32 (one reduce-scatter).
  """
  axis = split_axis(parameter.shape, shape)
  return parameter if axis is None else _gathered(parameter, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(parameter, axis):
  return jax.lax.all_gather(parameter, PARAMETERS, axis=axis, tiled=True)


def _gathered_forward(parameter, axis):
  return _gathered(parameter, axis), jnp.zeros((), parameter.dtype)


def _gathered_backward(axis, like, gradient):
  own = jax.lax.psum_scatter(gradient.astype(jnp.float32), PARAMETERS, scatter_dimension=axis, tiled=True)
  return (own.astype(like.dtype),)


_gathered.defvjp(_gathered_forward, _gathered_backward)
