import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.geometry import Camera, apply_table, projection_table
from panda_jax.geometry.table import taps

SOURCE = (16, 32)
TABLE = projection_table(SOURCE, Camera(170, 60, 100, 20), (6, 7))


def pictures(*lead, dtype=np.float32):
  return np.random.default_rng(0).uniform(0, 255, (*lead, *SOURCE, 3)).astype(dtype)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
def test_jax_under_jit_gives_what_numpy_gives(lead, dtype):
  source = pictures(*lead, dtype=dtype)
  expected = apply_table(TABLE, source)
  result = jax.jit(lambda source: apply_table(TABLE, source))(source)
  assert isinstance(expected, np.ndarray) and isinstance(result, jax.Array)
  assert result.dtype == expected.dtype == (np.float32 if dtype == np.uint8 else dtype)
  assert result.shape == expected.shape == (*lead, 6, 7, 3)
  np.testing.assert_allclose(result, expected, rtol=1e-3 if dtype == np.float16 else 1e-5, atol=1e-4)


def test_bfloat16_is_kept_and_summed_in_float32():
  source = jnp.asarray(pictures(), jnp.bfloat16)
  exact = apply_table(TABLE, np.asarray(source, np.float32))
  for result in (apply_table(TABLE, source), apply_table(TABLE, np.asarray(source))):
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float32), exact, rtol=2**-8)


def test_leading_axes_are_independent_pictures():
  source = pictures(2, 3)
  together = apply_table(TABLE, source)
  np.testing.assert_array_equal(together[1, 2], apply_table(TABLE, source[1, 2]))


def test_gradients_reach_exactly_the_pixels_that_are_seen():
  gradient = jax.grad(lambda source: apply_table(TABLE, source).sum())(jnp.asarray(pictures()))
  expected = np.bincount(TABLE.indices.ravel(), TABLE.weights.ravel(), minlength=np.prod(SOURCE)).reshape(SOURCE)
  np.testing.assert_allclose(gradient, np.repeat(expected[..., None], 3, axis=-1), atol=1e-5)


def test_numpy_pictures_never_load_jax():
  """Data workers are many and short of memory: resampling there must not start an accelerator runtime."""
  program = (
    "import sys, numpy as np; from panda_jax import geometry as g;"
    "rig, panorama = g.cubemap_rig(), np.zeros((16, 32, 3), np.uint8);"
    "rig.stitch(rig.project(panorama, (8, 8)), (16, 32));"
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_cached_tables_cannot_be_changed_by_accident():
  table = projection_table(SOURCE, Camera(5, 5), (2, 2))
  assert projection_table(list(SOURCE), Camera(5.0, 5.0), (2, 2)) is table
  for array in (table.indices, table.weights):
    with pytest.raises(ValueError, match="read-only"):
      array[0] = 0


@pytest.mark.parametrize("method, degree", [("nearest", 0), ("bilinear", 1), ("bicubic", 2)])
def test_each_method_is_exact_for_its_polynomials(method, degree):
  """Nearest for constants, bilinear for straight lines, Catmull-Rom for parabolas; weights sum to one."""
  position = np.linspace(-3, 3, 41)
  indices, weights = taps(position, method)
  for power in range(degree + 1):
    np.testing.assert_allclose((weights * indices.astype(float) ** power).sum(-1), position**power, atol=1e-12)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_whole_positions_are_copied(method):
  indices, weights = taps(np.arange(5.0), method)
  np.testing.assert_array_equal((weights * indices).sum(-1), np.arange(5.0))
  assert ((weights == 0) | (weights == 1)).all()


@pytest.mark.parametrize("shape", [(16, 31, 3), (32, 16, 3), (16, 32), (3,)])
def test_a_source_of_another_shape_is_refused_with_both_shapes(shape):
  with pytest.raises(ValueError, match=r"\[\.\.\. 16 32 c\], got"):
    apply_table(TABLE, np.zeros(shape))


def test_an_unknown_method_is_refused_with_the_choices():
  with pytest.raises(ValueError, match="nearest, bilinear, bicubic, got 'cubic'"):
    taps(np.zeros(1), "cubic")
