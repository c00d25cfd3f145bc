import jax
import pytest

from panda_jax.errors import InputError
from panda_jax.parallel import make_mesh


@pytest.mark.parametrize("sizes", [None, {"data": -1, "fsdp": 1}, {"data": 1, "fsdp": -1}, {}])
def test_one_device_is_a_mesh_too(sizes):
  mesh = make_mesh(sizes, devices=jax.devices()[:1])
  assert dict(mesh.shape) == {"data": 1, "fsdp": 1}


@pytest.mark.parametrize("sizes, message", [
    ({"data": 3, "fsdp": 1}, "does not cover the 8 devices"),
    ({"data": -1, "fsdp": 3}, "does not cover the 8 devices"),
    ({"data": -1, "fsdp": -1}, "one of them may be -1"),
    ({"data": 0, "fsdp": 8}, "sizes are positive"),
    ({"model": 8}, "unknown axis 'model'; the axes are data, fsdp"),
])
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(sizes, message):
  with pytest.raises(InputError, match=message):
    make_mesh(sizes, devices=jax.devices()[:1] * 8)
