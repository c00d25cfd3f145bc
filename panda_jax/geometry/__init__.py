"""Cameras, rigs and rays; panorama -> views (project) and views -> panorama (stitch).

The world is one unit sphere seen from its centre: x right, y up, z forward (yaw 0, pitch 0). A panorama is
equirectangular with pixel centres at

  lon = ((x + 1/2) / W - 1/2) * 2 pi, to the right,      lat = (1/2 - (y + 1/2) / H) * pi, upwards.

Every resampling is a sparse linear map: a NumPy `Table`, built once per geometry, applied to NumPy or JAX arrays.

  camera.py     Camera, rays: one pinhole view
  sphere.py     the panorama's pixel grid
  table.py      Table, apply_table: a resampling as indices and weights
  sampling.py   projection_table, project: a panorama seen by a camera
  projector.py  Projector: uint8 panoramas to the views of many cameras on the host, the fast way
  stitching.py  stitch_table, stitch, coverage: views blended into a panorama
  overlaying.py overlay: a view of any camera, also a traced one, laid over a panorama
  rig.py        Rig, the rigs of the papers and make_rig, which finds them by name
  eac.py        eac_table: equi-angular cubemaps, as video sites store 360° films
  shown.py      RigViews, WholePanoramas: what of a panorama a system sees
  given.py      GivenCameras, frame_rays, crop_fov_deg: a given view filmed by any camera, also one that moves
"""

from panda_jax.geometry.camera import Camera, rays
from panda_jax.geometry.eac import eac_pixels, eac_rays, eac_table
from panda_jax.geometry.given import GivenCameras, crop_fov_deg, frame_rays
from panda_jax.geometry.overlaying import overlay
from panda_jax.geometry.projector import Projector
from panda_jax.geometry.rig import VIDEOPANDA_RIG, Rig, cubemap_rig, horizontal_rig, icosahedron_rig, make_rig
from panda_jax.geometry.sampling import project, projection_table
from panda_jax.geometry.shown import RigViews, Shown, WholePanoramas
from panda_jax.geometry.sphere import equirect_rays, solid_angle_weights
from panda_jax.geometry.stitching import coverage, stitch, stitch_table
from panda_jax.geometry.table import Table, apply_table, to_uint8

__all__ = [
  "Camera",
  "GivenCameras",
  "Projector",
  "Rig",
  "RigViews",
  "Shown",
  "Table",
  "VIDEOPANDA_RIG",
  "WholePanoramas",
  "apply_table",
  "coverage",
  "crop_fov_deg",
  "cubemap_rig",
  "eac_pixels",
  "eac_rays",
  "eac_table",
  "equirect_rays",
  "frame_rays",
  "horizontal_rig",
  "icosahedron_rig",
  "make_rig",
  "overlay",
  "project",
  "projection_table",
  "rays",
  "solid_angle_weights",
  "stitch",
  "stitch_table",
  "to_uint8",
]
