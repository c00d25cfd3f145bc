"""The device mesh: `data` (clips) and `fsdp` (clips and parameters)."""

import math

import jax
from jax.sharding import AxisType, Mesh

from panda_jax.errors import InputError

# Outermost first: the last axis gets neighbouring chips, and fsdp gathers parameters in every layer.
AXES = ("data", "fsdp")


def make_mesh(sizes: dict[str, int] | None = None, devices: list | None = None) -> Mesh:
  """Arranges the devices along the named axes.

  Args:
    sizes: axis name -> size; at most one may be -1 (what is left over), an axis not named has size 1.
      None means every device along `data`.
    devices: default jax.devices().

  Returns:
    a Mesh with all axes of `AXES`, typed Auto: the compiler places what the rules leave open.

  Raises:
    InputError: if the sizes do not multiply to the number of devices.
  """
  sizes = {"data": -1} if sizes is None else dict(sizes)
  devices = jax.devices() if devices is None else devices
  unknown = sorted(set(sizes) - set(AXES))
  if unknown:
    raise InputError(f"config.mesh: unknown axis {unknown[0]!r}; the axes are {', '.join(AXES)}")
  shape = [sizes.get(axis, 1) for axis in AXES]
  described = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape))
  if shape.count(-1) > 1 or any(size == 0 or size < -1 for size in shape):
    raise InputError(f"config.mesh ({described}): sizes are positive, and one of them may be -1 (all that is left)")
  known = math.prod(size for size in shape if size != -1)
  if -1 in shape and len(devices) % known == 0:
    shape[shape.index(-1)] = len(devices) // known
  if math.prod(shape) != len(devices):
    raise InputError(f"config.mesh ({described}) does not cover the {len(devices)} devices here exactly: "
                     f"choose sizes whose product is {len(devices)}, or -1 for one of them")
  return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
