import json
from pathlib import Path
import re
import resource
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from panda_jax.weights import safetensors_file
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.safetensors_file import TYPES, read_safetensors, write_safetensors
from panda_jax.weights.tensors import LazyTensor
from tests.paths import PARITY, needs_parity


def lazy(arrays: dict[str, np.ndarray]) -> dict[str, LazyTensor]:
  return {name: LazyTensor.of(array, f"memory: {name}") for name, array in arrays.items()}


def some_of(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
  """Any bytes, so that every bit is seen to survive."""
  dtype = np.dtype(dtype)
  raw = np.random.default_rng(0).integers(0, 2 if dtype == bool else 256, (*shape, dtype.itemsize), np.uint8)
  return raw.view(dtype)[..., 0]


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
  return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)
  return path


ARRAYS = {"conv.weight": some_of(np.float32, (4, 3, 2)).swapaxes(0, 2), "conv.bias": some_of(np.float16, (5,)),
          "scale": np.array(0.5, np.float32), "nothing": np.zeros((0, 3), np.float32), "ids": np.arange(7),
          "sliced": np.arange(20, dtype=np.float32)[::3], "half": some_of(ml_dtypes.bfloat16, (3, 3)),
          "flags": np.array([True, False]), "ünïcode": np.ones((1, 1, 1), np.uint8)}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_comes_back_bit_for_bit(tmp_path, name):
  arrays = {f"t{len(shape)}": some_of(TYPES[name], shape) for shape in ((), (3,), (2, 5))}
  write_safetensors(tmp_path / "file", lazy(arrays))
  again = read_safetensors(tmp_path / "file")
  assert {key: tensor.dtype for key, tensor in again.tensors.items()} == dict.fromkeys(arrays, TYPES[name])
  assert all(same_bits(again.tensors[key].read(), array) for key, array in arrays.items())


def test_the_library_reads_what_is_written_here_and_the_other_way_round(tmp_path):
  """Transposed, sliced, empty and zero-dimensional tensors too; and the bytes are those of the library's own writer."""
  write_safetensors(tmp_path / "ours", lazy(ARRAYS))
  theirs = safetensors.numpy.load_file(tmp_path / "ours")
  assert set(theirs) == set(ARRAYS) and all(same_bits(theirs[name], ARRAYS[name]) for name in ARRAYS)
  safetensors.numpy.save_file({name: np.array(array, order="C") for name, array in ARRAYS.items()}, tmp_path / "theirs",
                              metadata={"format": "pt"})
  assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
  again = read_safetensors(tmp_path / "theirs").tensors
  assert set(again) == set(ARRAYS) and all(same_bits(again[name].read(), ARRAYS[name]) for name in ARRAYS)
  assert again["half"].name == f"{tmp_path / 'theirs'}: half" and again["half"].nbytes == 18


def test_metadata_are_those_of_pytorch_unless_the_caller_says_otherwise(tmp_path):
  ours = {"format": "np", "by": "me"}
  for given, expected in ((None, {"format": "pt"}), ({}, {}), (ours, ours)):
    write_safetensors(tmp_path / "file", lazy({"a": np.ones(1)}), given)
    assert read_safetensors(tmp_path / "file").metadata == expected
  with pytest.raises(TypeError, match="are texts"):
    write_safetensors(tmp_path / "file", {}, {"step": 3})


def test_a_large_tensor_out_of_order_is_written_in_pieces(tmp_path, monkeypatch):
  monkeypatch.setattr(safetensors_file, "CHUNK", 100)
  array = np.arange(7000, dtype=np.float32).reshape(10, 700).T
  write_safetensors(tmp_path / "file", lazy({"a": array, "wide": array.T[:, ::2]}))
  again = read_safetensors(tmp_path / "file").tensors
  np.testing.assert_array_equal(again["a"].read(), array)
  np.testing.assert_array_equal(again["wide"].read(), array.T[:, ::2])


def test_a_file_can_be_written_over_the_one_that_is_read(tmp_path):
  path = tmp_path / "deep" / "folder" / "file"
  write_safetensors(path, lazy(ARRAYS))
  source = read_safetensors(path).tensors
  write_safetensors(path, {f"new.{name}": tensor for name, tensor in source.items()})
  again = read_safetensors(path).tensors
  assert all(same_bits(again[f"new.{name}"].read(), array) for name, array in ARRAYS.items())
  assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("wrong, message", [
    (LazyTensor((3,), np.dtype(np.float32), lambda: np.zeros((4,), np.float32), "in.bin: b"),
     r"file was not written: b \(from in.bin: b\) was announced as float32 \[3\] and turned out to be float32 \[4\]"),
    (LazyTensor((3,), np.dtype(np.float16), lambda: np.zeros((3,), np.float32), "b"), "announced as float16"),
    (LazyTensor((3,), np.dtype(complex), lambda: np.zeros((3,), complex), "b"), "no name for the type complex128"),
    (LazyTensor((3,), np.dtype(">f4"), lambda: np.zeros((3,), ">f4"), "b"), "no name for the type >f4"),
])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, wrong, message):
  write_safetensors(tmp_path / "file", lazy({"old": np.ones(1)}))
  with pytest.raises(WeightsError, match=message):
    write_safetensors(tmp_path / "file", {**lazy({"a": np.zeros((9, 9))}), "b": wrong})
  assert list(read_safetensors(tmp_path / "file").tensors) == ["old"]
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
  write_safetensors(tmp_path / "file", lazy({"old": np.ones(1)}))
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
  try:
    with pytest.raises(WeightsError, match=r"file could not be written \(File too large\): make room"):
      write_safetensors(tmp_path / "file", lazy({"a": np.ones(500), "b": np.ones(50_000)}))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert list(read_safetensors(tmp_path / "file").tensors) == ["old"]
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_reading_raises_passes_through_and_leaves_nothing(tmp_path):
  def read():
    raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    write_safetensors(tmp_path / "file", {"a": LazyTensor((1,), np.dtype(np.float32), read, "a")})
  assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_named(tmp_path):
  (tmp_path / "taken").mkdir()
  (tmp_path / "file").write_text("")
  for place in ("taken", "file/below", "n" * 300):
    with pytest.raises(WeightsError, match="could not be written"):
      write_safetensors(tmp_path / place, lazy({"a": np.ones(1)}))
  with pytest.raises(WeightsError, match="called __metadata__"):
    write_safetensors(tmp_path / "x", lazy({"__metadata__": np.ones(1)}))
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("header, size, message", [
    ({"a": ENTRY}, 7, r"file is cut short \(\d+ of \d+ bytes\): download it again"),
    ({"a": ENTRY}, 9, r"file is damaged \(\d+ bytes where its header announces \d+\)"),
    ({"a": {**ENTRY, "dtype": "F4"}}, 1, "file has a type that cannot be read here: a is F4"),
    ({"a": {**ENTRY, "dtype": "Q4_K"}}, 8, "file has a type that cannot be read here: a is Q4_K"),
    ({"a": {**ENTRY, "shape": [3]}}, 8, "file is damaged"),
    ({"a": {**ENTRY, "shape": [-2]}}, 8, "file is damaged"),
    ({"a": {**ENTRY, "data_offsets": [8, 0]}}, 8, "file is damaged"),
    ({"a": {**ENTRY, "data_offsets": [4, 12]}}, 12, "file is damaged"),
    ({"a": {**ENTRY, "shape": [2**62, 2**62], "data_offsets": [0, 2**63]}}, 8, "file is cut short"),
    ({"a": {**ENTRY, "shape": [0, 2**62], "data_offsets": [0, 0]}}, 0, "file is damaged: a has a shape"),
    ({"a": {**ENTRY, "shape": [1] * 100, "data_offsets": [0, 4]}}, 4, "file is damaged: a has a shape"),
    ({"a": ENTRY, "b": ENTRY}, 8, "file is damaged"),
    ({"a": ENTRY, "__metadata__": {"a": 1}}, 8, "file is damaged"),
    ({"a": {"dtype": ["F32"]}}, 8, "file is damaged"),
    ({"a": None}, 8, "file is damaged"),
    ([], 0, "file is damaged"),
    (b"{" * 5000, 0, "file is damaged"),
    (b'{"a":' * 100_000, 0, "file is damaged"),
    (b"\xff\xfe{}", 0, "file is damaged"),
    (b"", 0, "file is damaged"),
])
def test_a_header_that_lies_is_refused(tmp_path, header, size, message):
  """Nothing of what it announces is allocated, and no array reaches beyond the file."""
  raw_file(tmp_path / "file", header, bytes(size))
  with pytest.raises(WeightsError, match=message):
    read_safetensors(tmp_path / "file")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
  write_safetensors(tmp_path / "file", lazy(ARRAYS))
  whole = (tmp_path / "file").read_bytes()
  for size in range(0, len(whole), 7):
    (tmp_path / "file").write_bytes(whole[:size])
    with pytest.raises(WeightsError, match="file is (cut short|empty)"):
      read_safetensors(tmp_path / "file")


def test_a_length_that_no_header_has_is_refused_without_memory(tmp_path):
  (tmp_path / "file").write_bytes((2**62).to_bytes(8, "little") + b'{"a":')
  with pytest.raises(WeightsError, match="announces a header of 4,611,686,018,427,387,904 bytes, and has 13 itself"):
    read_safetensors(tmp_path / "file")


def test_a_misaligned_file_of_another_writer_is_read(tmp_path):
  header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
  header += b" " * ((8 - len(header)) % 8 + 1)
  raw_file(tmp_path / "file", header, np.array([1, -2], ml_dtypes.bfloat16).tobytes())
  assert read_safetensors(tmp_path / "file").tensors["a"].read().astype(np.float32).tolist() == [1, -2]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured from /proc")
def test_no_more_than_one_tensor_is_in_memory(tmp_path):
  """Reading 128 MiB tensor by tensor, and writing them to another file, takes little more than one of 8 MiB."""
  program = """
import sys
import numpy as np
from panda_jax.weights.safetensors_file import read_safetensors, write_safetensors
from panda_jax.weights.tensors import LazyTensor
def memory(entry):
  return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(entry)) / 1024
tensor = LazyTensor((2**21,), np.dtype(np.float32), lambda: np.ones(2**21, np.float32), "one")
write_safetensors(sys.argv[1], {f"t{index}": tensor for index in range(16)})
start = memory("VmHWM")
file = read_safetensors(sys.argv[1])
assert sum(float(tensor.read().sum()) for tensor in file.tensors.values()) == 2**25
write_safetensors(sys.argv[1] + "2", file.tensors)
print(memory("VmHWM") - start)
"""
  result = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], capture_output=True, text=True,
                          check=True, cwd=Path(__file__).parents[2])
  assert float(result.stdout) < 12


@needs_parity
def test_files_that_pytorch_wrote_give_what_the_library_gives():
  paths = [path for path in PARITY.rglob("*.safetensors") if path.parent.name != "hostile"]
  assert paths
  for path in paths:
    ours, theirs = read_safetensors(path), safetensors.numpy.load_file(path)
    assert set(ours.tensors) == set(theirs)
    assert all(same_bits(ours.tensors[name].read(), theirs[name]) for name in theirs)


@needs_parity
@pytest.mark.parametrize("name, message", [
    ("truncated", "truncated.safetensors is cut short (161,270 of 268,784 bytes): download it again"),
    ("truncated_header", "truncated_header.safetensors is cut short (100 of more than 7,536 bytes)"),
    ("huge_header", "announces a header of 4,611,686,018,427,387,904 bytes"),
])
def test_hostile_files_are_refused(name, message):
  with pytest.raises(WeightsError, match=re.escape(message)):
    read_safetensors(PARITY / "hostile" / f"{name}.safetensors")


def test_pytorch_reads_what_is_written_here(tmp_path):
  torch = pytest.importorskip("torch")
  from safetensors.torch import load_file
  arrays = {name: some_of(TYPES[name], (3, 4)) for name in ("F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "U8")}
  write_safetensors(tmp_path / "file", lazy(arrays))
  theirs = load_file(tmp_path / "file")
  for name, array in arrays.items():
    assert theirs[name].flatten().view(torch.uint8).numpy().tobytes() == array.tobytes()
