import os
import resource

import numpy as np
import pytest

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.mapped import MappedFile


@pytest.fixture
def values(tmp_path):
  values = np.arange(3000, dtype="<f4")
  (tmp_path / "file").write_bytes(values.tobytes())
  return values


def test_an_array_is_a_read_only_view_of_the_file(tmp_path, values):
  """In C order or with strides, aligned or not, also after other views of the same pages were dropped."""
  file = MappedFile(tmp_path / "file")
  plain = file.tensor("a", np.float32, (50, 60), 0, file.size)
  kept = plain.read()
  assert plain.shape == (50, 60) and plain.dtype == np.float32 and plain.name == f"{tmp_path / 'file'}: a"
  strided = file.tensor("b", np.float32, (60, 10), 4, file.size, strides=(1, 60)).read()
  np.testing.assert_array_equal(strided, values[1:601].reshape(10, 60).T)
  del strided
  np.testing.assert_array_equal(plain.read(), values.reshape(50, 60))
  np.testing.assert_array_equal(kept, values.reshape(50, 60))
  unaligned = file.tensor("c", np.float32, (2,), 1, file.size).read()
  np.testing.assert_array_equal(unaligned + 0, np.frombuffer(values.tobytes()[1:9], "<f4"))
  with pytest.raises(ValueError, match="read-only"):
    kept[0] = 1


def test_the_values_stay_when_the_file_is_replaced(tmp_path, values):
  """As when a checkpoint is converted in its place."""
  tensor = MappedFile(tmp_path / "file").tensor("a", np.float32, (3000,), 0, 12000)
  (tmp_path / "new").write_bytes(b"x")
  os.replace(tmp_path / "new", tmp_path / "file")
  np.testing.assert_array_equal(tensor.read(), values)


def test_thousands_of_arrays_may_be_alive_at_once(tmp_path, values):
  """A checkpoint has more tensors than a process may have open files."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
  try:
    file = MappedFile(tmp_path / "file")
    arrays = [file.tensor(str(index), np.float32, (), 4 * index, file.size).read() for index in range(3000)]
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
  np.testing.assert_array_equal(np.stack(arrays), values)


@pytest.mark.parametrize("shape, start, strides", [
    ((3001,), 0, None), ((3000,), 4, None), ((1,), 12000, None), ((1,), -4, None), ((2,), 0, (3000,)),
    ((-1,), 0, None), ((2.0,), 0, None), ((True,), 0, None), (("3",), 0, None), ((2**62, 2**62), 0, None),
    ((2**30, 2**30, 2**30, 0), 0, None), ((0, 2**62), 0, None), ((2,), 0, (-1,)), ((2, 2), 0, (1,)),
    ((1,) * 65, 0, None), ((2**40,), 0, (0,))])
def test_an_array_that_the_file_cannot_hold_is_refused_before_it_is_read(tmp_path, values, shape, start, strides):
  file = MappedFile(tmp_path / "file")
  with pytest.raises(WeightsError, match="file is damaged: a "):
    file.tensor("a", np.float32, shape, start, file.size, strides)


def test_arrays_without_elements_or_dimensions_can_be_read(tmp_path, values):
  file = MappedFile(tmp_path / "file")
  assert file.tensor("a", np.float32, (0, 3), 12000, 12000).read().shape == (0, 3)
  assert file.tensor("b", np.float32, (), 20, 24).read()[()] == 5
  assert file.tensor("c", np.float32, (1,), 0, 4, strides=(7,)).read().tolist() == [0]


def test_what_is_no_file_is_said_to_be_none(tmp_path):
  (tmp_path / "empty").touch()
  os.mkfifo(tmp_path / "pipe")
  for name, message in {"absent": "absent does not exist", "empty": "empty is empty: download it again",
                        ".": "is a folder", "pipe": "is not a regular file", "empty/file": "cannot be read"}.items():
    with pytest.raises(WeightsError, match=message):
      MappedFile(tmp_path / name)
