"""A perspective video laid over a panorama, frame by frame; the camera may move and need not be known in advance."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import jax


def overlay(
  panorama: "jax.Array",
  view: "jax.Array",
  rotation: "jax.Array",
  fov_deg: "jax.Array",
  fade: "float | jax.Array" = 0.15,
) -> "jax.Array":
  """A panorama that shows a given view where that view looks, and fades into it at the view's border.

  Unlike `stitch` this needs no table: under jit, one program serves every camera.

  Args:
    panorama: [f H W c].
    view: [f h w c], of the panorama's range of values. Sampling is bilinear and does not low-pass: shrink a view that
      is finer than the panorama first (a view of w pixels and fov_deg wants w <= W * fov_deg / 360).
    rotation: [f 3 3], camera -> world; see `Camera.rotation`.
    fov_deg: [f], horizontal fields of view inside (0, 180) degrees.
    fade: the view's share in the picture rises from 0 at its border to 1 this part of its half width further in, from
      0 (cut off sharply) to 1.

  Returns:
    [f H W c] in JAX, of the panorama's dtype; integers are rounded and clipped to 0 to 255. What is outside the
    view comes back unchanged.

  Raises:
    ValueError: if the shapes do not fit together, or a number for `fade` is not between 0 and 1.

  Source: ours; it keeps the given video as it was given, which the average of VideoPanda §4.2 does not.
  """
  shapes = {"panorama": panorama.shape, "view": view.shape, "rotation": rotation.shape, "fov_deg": fov_deg.shape}
  if panorama.ndim != 4 or view.ndim != 4 or panorama.shape[-1] != view.shape[-1]:
    raise ValueError(f"overlay takes a panorama [f H W c] and a view [f h w c], got {_listed(shapes)}")
  frames = panorama.shape[0]
  if view.shape[0] != frames or rotation.shape != (frames, 3, 3) or fov_deg.shape != (frames,):
    raise ValueError(f"overlay takes a view, a rotation [f 3 3] and a fov_deg [f] per frame of the panorama, "
                     f"got {_listed(shapes)}")
  if isinstance(fade, int | float) and not 0 <= fade <= 1:
    raise ValueError(f"fade must be a share of the view's half width, 0 to 1, got {fade}")
  # JAX loads when the first panorama comes: not in data workers.
  from panda_jax.geometry.layer import lay_over
  return lay_over(panorama, view, rotation, fov_deg, fade)


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
  return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
