"""Equi-angular cubemaps: the layout is the one FFmpeg calls eac, and nothing is lost on the way to a panorama."""

from fractions import Fraction

import av
import numpy as np
import pytest

from panda_jax.geometry import apply_table, eac_pixels, eac_rays, eac_table, equirect_rays, to_uint8
from panda_jax.geometry.eac import strip_border_rays
from tests.geometry.analytic import paint, psnr

SIZE = (240, 360)


def picture(directions: np.ndarray) -> np.ndarray:
  return to_uint8(127.5 + 127.5 * paint(directions))


def v360(image: np.ndarray, arguments: str) -> np.ndarray:
  """FFmpeg's own filter, on planar RGB so that no colour is converted."""
  graph = av.filter.Graph()
  frame = av.VideoFrame.from_ndarray(image, format="rgb24")
  frame.pts = 0
  source = graph.add_buffer(width=frame.width, height=frame.height, format="rgb24", time_base=Fraction(1, 25))
  graph.link_nodes(source, graph.add("format", "gbrp"), graph.add("v360", arguments), graph.add("format", "rgb24"),
                   graph.add("buffersink")).configure()
  graph.push(frame)
  return graph.pull().to_ndarray()


def test_the_faces_lie_where_ffmpeg_has_them():
  """Left, front, right; down, back, up, on their sides."""
  h, w = SIZE
  rays = eac_rays(SIZE, (0, 0))
  centres = [rays[y - 1:y + 1, x - 1:x + 1].mean((0, 1))
             for y in (h // 4, 3 * h // 4) for x in (w // 6, w // 2, 5 * w // 6)]
  np.testing.assert_allclose(centres, [[-1, 0, 0], [0, 0, 1], [1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 1, 0]], atol=1e-3)
  theirs = v360(picture(equirect_rays((512, 1024))), f"e:eac:w={w}:h={h}:interp=cubic")
  assert psnr(theirs, picture(eac_rays(SIZE)), 255) > 45


@pytest.mark.parametrize("padding", [(2.0, 2.0), (0.0, 0.0), (0.5, 1.5)])
def test_every_pixel_is_where_its_own_direction_falls(padding):
  x, y, lower = eac_pixels(eac_rays(SIZE, padding), SIZE, padding)
  p = 3                                               # the border continues its face: another face owns that direction
  for strip in (np.s_[p:SIZE[0] // 2 - p, p:-p], np.s_[SIZE[0] // 2 + p:-p, p:-p]):
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    np.testing.assert_allclose(y[strip], rows[strip], atol=1e-6)
    np.testing.assert_allclose(x[strip], columns[strip], atol=1e-6)
  assert not lower[p:SIZE[0] // 2 - p, p:-p].any() and lower[SIZE[0] // 2 + p:-p, p:-p].all()


@pytest.mark.parametrize("method, theirs", [("bicubic", "cubic"), ("bilinear", "linear"), ("nearest", "near")])
@pytest.mark.parametrize("size, panorama", [((240, 360), (240, 480)), ((288, 512), (200, 400))])
def test_a_panorama_from_a_cubemap_is_as_good_as_ffmpegs(size, panorama, method, theirs):
  """Against the picture as painted on the sphere; 3:2 frames and 16:9 frames."""
  truth = 127.5 + 127.5 * paint(equirect_rays(panorama))
  cubemap = picture(eac_rays(size))
  ours = to_uint8(apply_table(eac_table(size, panorama, method), cubemap))
  ffmpeg = v360(cubemap, f"eac:e:w={panorama[1]}:h={panorama[0]}:interp={theirs}")
  assert psnr(ours, truth, 255) >= psnr(ffmpeg, truth, 255) - 1e-9
  assert psnr(ours, truth, 255) > (45 if method == "nearest" else 55)


def test_weights_sum_to_one_and_stay_in_their_strip():
  table = eac_table(SIZE, (100, 200))
  np.testing.assert_allclose(table.weights.sum(1), 1, atol=1e-6)
  lower = table.indices // SIZE[1] >= SIZE[0] // 2
  assert (lower.all(1) | ~lower.any(1)).all()


def test_directions_on_both_sides_of_a_border_are_neighbours():
  """Of each of the eight edges, from both sides; inside and outside fall on different faces."""
  inside, outside = (strip_border_rays(64, (beyond, beyond)) for beyond in (-0.01, 0.01))
  assert np.einsum("nc,nc->n", inside, outside).min() > np.cos(np.radians(2.6))
  _, _, lower = eac_pixels(inside, SIZE)
  _, _, across = eac_pixels(outside, SIZE)
  assert (lower != across).mean() == 1
  assert lower.mean() == 0.5


def test_sizes_that_are_no_cubemap_are_refused():
  for size, padding in (((241, 360), (2, 2)), ((8, 12), (2, 2)), ((240, 360), (-1, 0))):
    with pytest.raises(ValueError, match="two strips"):
      eac_rays(size, padding)
  with pytest.raises(ValueError, match="method"):
    eac_table(SIZE, (100, 200), "cubic")
