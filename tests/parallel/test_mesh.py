import jax
import pytest

from panda_jax.errors import InputError
from panda_jax.parallel import make_mesh, matrix_mesh
from panda_jax.parallel.mesh import split_context


@pytest.mark.parametrize("sizes", [None, {"data": -1, "fsdp": 1}, {"data": 1, "fsdp": -1}, {}])
def test_one_device_is_a_mesh_too(sizes):
  mesh = make_mesh(sizes, devices=jax.devices()[:1])
  assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "context": 1}


@pytest.mark.parametrize("sizes, message", [
    ({"data": 3, "fsdp": 1}, "does not cover the 8 devices"),
    ({"data": -1, "fsdp": 3}, "does not cover the 8 devices"),
    ({"data": -1, "fsdp": -1}, "one of them may be -1"),
    ({"data": 0, "fsdp": 8}, "sizes are positive"),
    ({"model": 8}, "unknown axis 'model'; the axes are data, fsdp, context"),
])
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(sizes, message):
  with pytest.raises(InputError, match=message):
    make_mesh(sizes, devices=jax.devices()[:1] * 8)


@pytest.mark.parametrize("context, views, frames, expected", [
    (1, 3, 16, (1, 1)), (4, 3, 16, (1, 4)), (4, 8, 6, (2, 2)), (8, 4, 12, (2, 4)), (8, 8, 16, (1, 8)),
    (16, 8, 16, (1, 16)), (3, 6, 8, (3, 1)), (32, 8, 16, (2, 16)),
])
def test_frames_are_shared_before_views(context, views, frames, expected):
  assert split_context(context, views, frames) == expected


def test_a_matrix_that_cannot_be_shared_evenly_is_refused():
  with pytest.raises(InputError, match="3 views x 16 frames cannot be shared evenly by the 32 devices .* set it to 16"):
    split_context(32, 3, 16)


def test_the_mesh_of_a_matrix_has_the_same_devices():
  mesh = make_mesh(devices=jax.devices()[:1])
  assert dict(matrix_mesh(mesh, 3, 16).shape) == {"data": 1, "fsdp": 1, "view": 1, "frame": 1}
