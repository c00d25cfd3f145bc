"""The device mesh: `data` (clips), `fsdp` (clips and parameters) and `context` (the images of each clip's matrix)."""

from __future__ import annotations

from collections.abc import Sequence
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
import numpy as np

from panda_jax.errors import InputError
from panda_jax.parallel.exchange import CLIPS, FRAMES, VIEWS

# Outermost first: the last axis gets neighbouring chips. The images of a matrix exchange activations in every layer,
# fsdp exchanges parameters, data nothing but gradients, and so it alone may cross from slice to slice.
AXES = ("data", "fsdp", "context")


def make_mesh(sizes: dict[str, int] | None = None, devices: list | None = None) -> Mesh:
  """Arranges the devices along the named axes; those of several slices along `data` first.

  Args:
    sizes: axis name -> size; at most one may be -1 (what is left over), an axis not named has size 1.
      None means every device along `data`.
    devices: default jax.devices().

  Returns:
    a Mesh with all axes of `AXES`, typed Auto: the compiler places what the rules leave open.

  Raises:
    InputError: if the sizes do not multiply to the number of devices, or `data` is no multiple of the slices.
  """
  sizes = {"data": -1} if sizes is None else dict(sizes)
  devices = jax.devices() if devices is None else devices
  shape = axis_sizes(sizes, len(devices))
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if shape[0] % slices:
    raise InputError(f"config.mesh.data is {shape[0]}, and there are {slices} slices: only clips are shared between "
                     f"slices, so it must be a multiple of {slices}")
  if slices > 1:
    inside, across = (shape[0] // slices, *shape[1:]), (slices, *(1 for _ in shape[1:]))
    array = mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
  elif devices[0].platform == "tpu":
    array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  else:
    array = np.array(devices).reshape(shape)
  return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def choose_sizes(sizes: dict[str, int], devices: int, *, clips: int, shapes: Sequence[tuple[int, int]], state: int,
                 memory: int | None) -> dict[str, int]:
  """Chooses the sizes that are given as 0; `fsdp` and `context` may be, and `data` is -1 then.

  `context` is as small as lets every device have work: clips are shared first, because they exchange least. `fsdp` is
  as small as keeps a device's part of the state below a quarter of its memory.

  Args:
    sizes: axis -> size, as for `make_mesh`.
    devices: how many there are.
    clips: of a batch, in each part of an accumulated step.
    shapes: (views, frames) of all matrices.
    state: bytes of parameters, averages and optimizer state.
    memory: bytes of a device; None: not known, and `fsdp` is not used.

  Raises:
    InputError: if no size of context does.
  """
  sizes = dict(sizes)
  divisors = lambda number: [size for size in range(1, number + 1) if number % size == 0]
  if sizes.get("context") == 0:
    known = max(sizes.get("fsdp", 1), 1)
    fitting = [size for size in divisors(devices) if clips % (devices // size) == 0 and devices // size % known == 0
               and all(_ways(size, *shape) for shape in shapes)]
    if not fitting:
      raise InputError(f"config.mesh.context=0: {clips} clips with matrices of {', '.join(f'{v}x{f}' for v, f in shapes)} "
                       f"cannot be shared evenly by {devices} devices: change batch_size, or matrix.shapes")
    sizes["context"] = fitting[0]
  if sizes.get("fsdp") == 0:
    places = divisors(max(devices // sizes.get("context", 1), 1))
    sizes["fsdp"] = next((size for size in places if memory is None or state / size < memory / 4), places[-1])
  return sizes


def axis_sizes(sizes: dict[str, int], devices: int) -> tuple[int, ...]:
  """The sizes of `AXES` for so many devices, -1 resolved.

  Raises:
    InputError: see `make_mesh`.
  """
  unknown = sorted(set(sizes) - set(AXES))
  if unknown:
    raise InputError(f"config.mesh: unknown axis {unknown[0]!r}; the axes are {', '.join(AXES)}")
  shape = [sizes.get(axis, 1) for axis in AXES]
  described = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape))
  if shape.count(-1) > 1 or any(size == 0 or size < -1 for size in shape):
    raise InputError(f"config.mesh ({described}): sizes are positive, and one of them may be -1 (all that is left)")
  known = math.prod(size for size in shape if size != -1)
  if -1 in shape and devices % known == 0:
    shape[shape.index(-1)] = devices // known
  if math.prod(shape) != devices:
    raise InputError(f"config.mesh ({described}) does not cover the {devices} devices here exactly: "
                     f"choose sizes whose product is {devices}, or -1 for one of them")
  return tuple(shape)


def matrix_mesh(mesh: Mesh, views: int, frames: int) -> Mesh:
  """The same devices with `context` as view times frame, for matrices of one shape: see `split_context`.

  Args:
    mesh: from `make_mesh`.
    views, frames: of the matrix.

  Returns:
    a Mesh with the axes data, fsdp, view, frame.

  Raises:
    InputError: if the matrix cannot be shared evenly.
  """
  sizes = split_context(mesh.shape["context"], views, frames)
  return Mesh(mesh.devices.reshape(*mesh.devices.shape[:2], *sizes), (*CLIPS, VIEWS, FRAMES),
              axis_types=(AxisType.Auto,) * 4)


def split_context(context: int, views: int, frames: int) -> tuple[int, int]:
  """Among how many devices the views and the frames of a matrix are shared by `context` devices.

  Frames are shared as far as they go, because spatial and multi-view layers then exchange nothing; views take the rest.

  Raises:
    InputError: if the matrix cannot be shared evenly.
  """
  ways = _ways(context, views, frames)
  if not ways:
    raise InputError(f"a matrix of {views} views x {frames} frames cannot be shared evenly by the {context} devices of "
                     f"config.mesh.context: set it to {math.gcd(context, frames)}")
  return ways[0]


def _ways(context, views, frames):
  return [(context // size, size) for size in range(context, 0, -1)
          if context % size == 0 and frames % size == 0 and views % (context // size) == 0]
