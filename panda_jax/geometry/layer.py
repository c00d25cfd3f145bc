"""The JAX side of `overlay`."""

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.geometry.sphere import equirect_angles


@jax.jit
def lay_over(
  panorama: jax.Array, view: jax.Array, rotation: jax.Array, fov_deg: jax.Array, fade: jax.Array
) -> jax.Array:
  """`overlay` without its checks. One frame at a time, so that only one is held in float32."""
  def frame(inputs):
    return _lay_frame(*inputs, fade)
  return jax.lax.map(frame, (panorama, view, rotation.astype(jnp.float32), fov_deg.astype(jnp.float32)))


def _lay_frame(
  panorama: jax.Array, view: jax.Array, rotation: jax.Array, fov_deg: jax.Array, fade: jax.Array
) -> jax.Array:
  """[H W c], [h w c], [3 3], [] -> [H W c]."""
  h, w = view.shape[:2]
  across, down, in_front = _view_plane(panorama.shape[:2], rotation, fov_deg, h / w)
  share = jnp.where(in_front, _ramp(1 - abs(across), fade) * _ramp((1 - abs(down)) * h / w, fade), 0)
  seen = _bilinear(view, (across + 1) / 2 * w - 0.5, (down + 1) / 2 * h - 0.5)
  below = panorama.astype(jnp.float32)
  mixed = below * (1 - share[..., None]) + seen * share[..., None]
  if jnp.issubdtype(panorama.dtype, jnp.integer):
    mixed = jnp.clip(jnp.round(mixed), 0, 255)
  return jnp.where(share[..., None] > 0, mixed.astype(panorama.dtype), panorama)


def _view_plane(
  size: tuple[int, int], rotation: jax.Array, fov_deg: jax.Array, aspect: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`camera.view_plane` of all pixels of a panorama, with a traced camera: three times [H W].

  A direction is (cos lat sin lon, sin lat, cos lat cos lon), so its products with the camera's axes come from one row
  and one column of numbers: no [H W 3] constant in the program, no matrix product of low default precision.
  """
  lon, lat = equirect_angles(size)
  sin_lon, cos_lon, sin_lat, cos_lat = (
    jnp.asarray(values, jnp.float32) for values in (np.sin(lon), np.cos(lon), np.sin(lat), np.cos(lat))
  )
  right, up, forward = (
    cos_lat[:, None] * (axis[0] * sin_lon + axis[2] * cos_lon) + (axis[1] * sin_lat)[:, None] for axis in rotation.T
  )
  in_front = forward > 0
  half = jnp.tan(jnp.radians(fov_deg) / 2) * jnp.where(in_front, forward, 1)
  return right / half, -up / (half * aspect), in_front


def _ramp(distance: jax.Array, fade: jax.Array) -> jax.Array:
  """From 0 at a border to 1 at `fade` half widths inside it, level at both ends."""
  t = jnp.clip(distance / jnp.maximum(fade, jnp.finfo(jnp.float32).tiny), 0, 1)
  return t * t * (3 - 2 * t)


def _bilinear(view: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """[h w c] at columns x and rows y, [H W] each -> [H W c] float32; what is outside repeats the outermost pixels."""
  h, w, channels = view.shape
  x, y = jnp.clip(x, 0, w - 1), jnp.clip(y, 0, h - 1)
  left, top = jnp.floor(x), jnp.floor(y)
  right_share, low_share = (x - left)[..., None], (y - top)[..., None]
  columns = left.astype(jnp.int32), jnp.minimum(left + 1, w - 1).astype(jnp.int32)
  rows = top.astype(jnp.int32), jnp.minimum(top + 1, h - 1).astype(jnp.int32)
  pixels = view.reshape(h * w, channels)

  def tap(row, column):
    return jnp.take(pixels, rows[row] * w + columns[column], axis=0).astype(jnp.float32)

  upper = tap(0, 0) * (1 - right_share) + tap(0, 1) * right_share
  lower = tap(1, 0) * (1 - right_share) + tap(1, 1) * right_share
  return upper * (1 - low_share) + lower * low_share
