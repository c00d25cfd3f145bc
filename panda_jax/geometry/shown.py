"""What a system's training examples show of a panorama: views of a rig's cameras, or the whole.

The pipeline makes it, the sampler's pictures become a panorama by it, and nothing else need know which it is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from panda_jax.geometry.given import GivenCameras
from panda_jax.geometry.rig import Rig

if TYPE_CHECKING:                                               # processes that prepare data need no JAX
  import jax


@dataclasses.dataclass(frozen=True)
class RigViews:
  """Views of cameras, with their rays: "images" uint8 [v f h w 3] and "rays" float32 [v h' w' 3].

  Attributes:
    rig: the cameras.
    view_size: (h, w) of a view in pixels.
    rays_size: (h, w) of a view's rays, that is, of its latents.
    given: what the camera of a given view of its own is drawn from, which then comes in front of those of the rig; None:
      the given view is the rig's first.
  """

  rig: Rig
  view_size: tuple[int, int]
  rays_size: tuple[int, int]
  given: GivenCameras | None = None

  @property
  def most_views(self) -> int:
    """Of a matrix."""
    return len(self.rig) + (self.given is not None)

  def panorama(self, images: jax.Array, size: tuple[int, int], stitching: str = "uniform") -> jax.Array:
    """The rig's views uint8 [v f h w 3] -> uint8 [f H W 3] of this size; black where no view looks.

    `stitching` is "uniform", overlaps are averaged (VideoPanda §4.2), or "smooth", views fade out towards their borders.
    """
    import jax.numpy as jnp
    stitched = self.rig.stitch(jnp.swapaxes(images, 0, 1), size, weights=stitching, uncovered="black")
    return jnp.clip(jnp.round(stitched), 0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class WholePanoramas:
  """Panoramas as one view: "images" uint8 [1 f H W 3] and, with motion, "motion" uint8 [f H W 3].

  Attributes:
    size: (H, W) that they are reduced to.
    motion: whether the flow of every frame comes with it, in colours; see `panda_jax.data.flow`.
    fix_flow: whether left and right are exchanged in the flow of mirrored clips.
  """

  size: tuple[int, int]
  motion: bool = False
  fix_flow: bool = True

  @property
  def most_views(self) -> int:
    """Of a matrix: 1."""
    return 1

  def panorama(self, images: jax.Array, size: tuple[int, int], stitching: str = "uniform") -> jax.Array:
    """The one view uint8 [1 f H W 3] -> uint8 [f H W 3] of another size, if that is wanted; nothing is stitched."""
    if images.shape[2:4] == tuple(size):
      return images[0]
    import jax
    import jax.numpy as jnp
    resized = jax.image.resize(images[0].astype(jnp.float32), (images.shape[1], *size, 3), "cubic")
    return jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)


Shown = RigViews | WholePanoramas
