import jax
import pytest

from panda_jax.errors import InputError
from panda_jax.parallel import make_mesh, matrix_mesh
from panda_jax.parallel.mesh import choose_sizes, split_context


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


SHAPES = ((3, 16), (4, 12), (6, 8), (8, 6))


@pytest.mark.parametrize("devices, clips, state, memory, expected", [
    (1, 4, 10, None, (1, 1)), (16, 32, 10, None, (1, 1)), (16, 4, 10, None, (1, 4)), (4, 4, 100, 100, (4, 1)),
    (16, 4, 100, 201, (2, 4)), (8, 8, 1000, 10, (8, 1)),
])
def test_zeros_are_chosen_clips_first(devices, clips, state, memory, expected):
  sizes = choose_sizes({"data": -1, "fsdp": 0, "context": 0}, devices, clips=clips, shapes=SHAPES, state=state,
                       memory=memory)
  assert (sizes["fsdp"], sizes["context"]) == expected


def test_what_is_not_zero_stays():
  given = {"data": -1, "fsdp": 2, "context": 1}
  assert choose_sizes(given, 8, clips=8, shapes=SHAPES, state=1, memory=None) == given
  sizes = choose_sizes({"data": -1, "fsdp": 4, "context": 0}, 8, clips=4, shapes=((8, 16),), state=1, memory=None)
  assert sizes == {"data": -1, "fsdp": 4, "context": 2}


def test_clips_and_matrices_that_no_context_fits_are_refused():
  with pytest.raises(InputError, match="3 clips with matrices of 3x15 .* 8 devices: change batch_size"):
    choose_sizes({"data": -1, "fsdp": 1, "context": 0}, 8, clips=3, shapes=((3, 15),), state=1, memory=None)
