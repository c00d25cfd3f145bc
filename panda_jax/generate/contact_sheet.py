"""One picture that shows a panoramic video at a glance: moments, views, and the seam."""

from collections.abc import Sequence

import numpy as np

from panda_jax import tiles
from panda_jax.geometry import VIDEOPANDA_RIG, Camera, Rig, project, to_uint8
from panda_jax.tiles import write_png

__all__ = ["contact_sheet", "write_png"]


def contact_sheet(
  frames: np.ndarray,
  *,
  numbers: Sequence[int] | None = None,
  fps: float | None = None,
  title: str = "",
  lines: Sequence[str] = (),
  moments: int = 4,
  columns: int = 2,
  rig: Rig = VIDEOPANDA_RIG,
  width: int = 1600,
) -> np.ndarray:
  """Draws a few moments of a video, the first one seen by each camera of a rig, and its seam brought to the middle.

  Args:
    frames: [f H W 3] uint8 equirectangular.
    numbers: which frames of the video these are, increasing; all from the first on unless told.
    fps: frames per second, to label the moments in seconds too.
    title: in large letters at the top.
    lines: further lines under it, such as the prompt; long ones are wrapped.
    moments: how many frames to show, spread evenly from the first to the last.
    columns: how many of them stand side by side.
    rig: the cameras to look through.
    width: of the sheet, in pixels.

  Returns:
    [H' W' 3] uint8 with W' = width; H' follows from what is on it.

  Raises:
    ValueError: if frames is not uint8 [f H W 3] with f >= 1, there is not a number for each, or a count is not
      positive.
  """
  frames = np.asarray(frames)
  if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
    raise ValueError(f"frames must be uint8 [f H W 3], got {frames.dtype} {list(frames.shape)}")
  if moments < 1 or columns < 1 or width < 400:
    raise ValueError(f"moments and columns must be >= 1 and width >= 400, got {moments}, {columns}, {width}")
  numbers = range(len(frames)) if numbers is None else numbers
  if len(numbers) != len(frames):
    raise ValueError(f"there are {len(frames)} frames and {len(numbers)} numbers for them")
  inner = tiles.inner(width)
  first = frames[0]

  parts = []
  if title:
    parts.append(tiles.text([title], tiles.TITLE, tiles.INK, inner))
  if lines:
    parts.append(tiles.text(lines, tiles.LABEL + 2, tiles.SOFT, inner))
  shown = np.unique(np.linspace(0, len(frames) - 1, min(moments, len(frames))).round().astype(int))
  parts.append(tiles.heading("Moments", inner))
  pictures = [(_moment(numbers[index], fps), frames[index]) for index in shown]
  parts += tiles.grid(pictures, min(columns, len(shown)), inner)

  parts.append(tiles.heading(f"Views of frame {numbers[0]}" + (f", rig {rig.name}" if rig.name else ""), inner))
  per_row = tiles.columns_of(len(rig), 4)
  side = (inner - tiles.GAP * (per_row - 1)) // per_row
  parts += tiles.grid([(_direction(camera), _view(first, camera, side)) for camera in rig], per_row, inner)

  parts.append(tiles.heading(f"The seam of frame {numbers[0]}, where the left and the right edge meet", inner))
  side = (inner - tiles.GAP) // 3
  behind = Camera(yaw_deg=180, pitch_deg=0)
  seam = [("turned by 180°: the seam is in the middle", np.roll(first, first.shape[1] // 2, axis=1)),
          (_direction(behind), _view(first, behind, side))]
  parts.append(tiles.row(seam, side, inner))
  return tiles.paper(parts, width)


def _moment(index: int, fps: float | None) -> str:
  return f"frame {index}" + (f" · {index / fps:.2f} s" if fps else "")


def _direction(camera: Camera) -> str:
  return f"yaw {camera.yaw_deg:g}°, pitch {camera.pitch_deg:g}°, field of view {camera.fov_deg:g}°"


def _view(panorama: np.ndarray, camera: Camera, side: int) -> np.ndarray:
  """[side side 3] uint8. A panorama much finer than the view is shrunk first, or it would alias."""
  height = min(panorama.shape[0], 2 * side)
  panorama = tiles.resized(panorama, height, round(panorama.shape[1] * height / panorama.shape[0]))
  return to_uint8(project(panorama, camera, (side, side)))
