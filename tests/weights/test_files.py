import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.files import open_sharded, open_tensors, read_finite
from panda_jax.weights.safetensors_file import write_safetensors
from panda_jax.weights.tensors import LazyTensor
from tests.paths import PARITY, needs_parity
from tests.weights.archives import Archive

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(path, kind, arrays):
  if kind == "safetensors":
    write_safetensors(path, {name: LazyTensor.of(array, name) for name, array in arrays.items()})
  else:
    archive = Archive()
    getattr(archive, kind)(path, {name: archive.tensor(array) for name, array in arrays.items()})


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model.bin", "model"])
def test_a_file_is_known_by_its_content_not_by_its_name(tmp_path, kind, name):
  write(tmp_path / name, kind, {"a": VALUES})
  for path in (tmp_path / name, str(tmp_path / name)):
    file = open_tensors(path)
    assert file.path == str(path)
    np.testing.assert_array_equal(file.tensors["a"].read(), VALUES)


def test_headers_whose_length_looks_like_the_beginning_of_a_pickle_are_read(tmp_path):
  """640 is written as 0x80 0x02, with which a pickle of protocol 2 begins."""
  write_safetensors(tmp_path / "a", {"a": LazyTensor.of(VALUES, "a")}, {"padding": "x" * 547})
  assert (tmp_path / "a").read_bytes()[:2] == b"\x80\x02"
  assert list(open_tensors(tmp_path / "a").tensors) == ["a"]


@pytest.mark.parametrize("content, message", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n", "is a Git LFS pointer, not the file"),
    (b"\xef\xbb\xbf\n <!DOCTYPE html><html>Sign in", "is a web page, not a checkpoint"),
    (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
    (b'{"weight_map": {}}', "is a JSON text, not a file of tensors: give the folder"),
    (b"Entry not found", "is neither a safetensors file nor a checkpoint of torch"),
    (b"\x89PNG\r\n\x1a\n" + bytes(99), "is neither a safetensors file nor a checkpoint of torch"),
    (b"GGUF\3\0\0\0" + bytes(99), "is a GGUF file"),
    (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    (b"\x1f\x8b\x08" + bytes(99), "is compressed with gzip: unpack it first"),
    (b"PK\5\6" + bytes(18), "is a zip archive, but none that torch.save wrote"),
    (b"\x80", "is no checkpoint of torch"),
    (b"\x80\x04K\x01.", "is a pickle, but none that torch.save wrote"),
    (b"abc", "is cut short"),
    (b"", "is empty: download it again"),
])
def test_other_files_are_said_to_be_what_they_are(tmp_path, content, message):
  (tmp_path / "model.safetensors").write_bytes(content)
  with pytest.raises(WeightsError, match=f"model.safetensors {message}"):
    open_tensors(tmp_path / "model.safetensors")


def test_folders_and_absent_files_are_named(tmp_path):
  with pytest.raises(WeightsError, match="is a folder, but a file of tensors is wanted"):
    open_tensors(tmp_path)
  with pytest.raises(WeightsError, match="absent.ckpt does not exist"):
    open_tensors(tmp_path / "absent.ckpt")


def sharded(folder, places, shards):
  for kind_and_name, arrays in shards.items():
    kind, name = kind_and_name.split(":")
    (folder / name).parent.mkdir(exist_ok=True)
    write(folder / name, kind, arrays)
  path = folder / "model.index.json"
  path.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": places}))
  return path


def test_shards_are_read_as_one_file(tmp_path):
  """Of either format, also from a folder below; links are followed, as the caches of downloads have them."""
  path = sharded(tmp_path, {"b": "2.bin", "a": "1.safetensors", "c": "deep/3.bin", "d": "link.bin"},
                 {"safetensors:1.safetensors": {"a": VALUES, "unused": VALUES}, "zip:2.bin": {"b": 2 * VALUES},
                  "legacy:deep/3.bin": {"c": 3 * VALUES}, "zip:4.bin": {"d": 4 * VALUES}})
  (tmp_path / "blobs").mkdir()
  (tmp_path / "4.bin").rename(tmp_path / "blobs" / "4.bin")
  (tmp_path / "link.bin").symlink_to(tmp_path / "blobs" / "4.bin")
  file = open_sharded(path)
  assert list(file.tensors) == ["b", "a", "c", "d"] and file.metadata == {"total_size": "48"}
  for factor, name in enumerate("abcd", start=1):
    np.testing.assert_array_equal(file.tensors[name].read(), factor * VALUES)
  assert file.tensors["c"].name == f"{tmp_path / 'deep' / '3.bin'}: c"


@pytest.mark.parametrize("places, message", [
    ({"a": "1.bin", "b": "2.bin", "c": "3.bin"}, "needs 3 files, and 2 of them are absent: 2.bin, 3.bin"),
    ({"a": "1.bin", "b": "1.bin"}, r"1 tensors are not where it says: b \(1.bin\)"),
    ({"a": "../1.bin"}, "says that a lies in '../1.bin', outside its folder: do not use it"),
    ({"a": "deep/../../1.bin"}, "outside its folder"),
    ({"a": "..\\1.bin"}, "outside its folder"),
    ({"a": "/etc/passwd"}, "outside its folder"),
    ({"a": 3}, "is no index of weights"), ({"a": ""}, "is no index of weights"), ({}, "is no index of weights"),
    ([], "is no index of weights"), ({"a": "n" * 300}, "1 of them are absent"), ({"a": "n\0"}, "1 of them are absent")])
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path, places, message):
  path = sharded(tmp_path, places, {"zip:1.bin": {"a": VALUES}})
  with pytest.raises(WeightsError, match=f"model.index.json .*{message}"):
    open_sharded(path)


@pytest.mark.parametrize("text, message", [
    ("{", "is not readable JSON"), ("[1]", "is no index"), ("{}", "is no index"),
    ("[" * 100_000, "is not readable JSON"), ("\xff", "is not readable JSON")])
def test_an_index_that_is_none_is_refused(tmp_path, text, message):
  (tmp_path / "model.index.json").write_text(text, encoding="latin-1")
  with pytest.raises(WeightsError, match=f"model.index.json {message}"):
    open_sharded(tmp_path / "model.index.json")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
                                   ml_dtypes.float8_e5m2, np.complex64])
def test_values_that_are_no_numbers_are_refused_in_every_type(dtype):
  good = np.array([[0, 1], [2, -3]]).astype(dtype)
  assert read_finite(LazyTensor.of(good, "x.ckpt: a")) is good
  bad = good.copy()
  bad[1, 0] = np.nan
  with pytest.raises(WeightsError, match=r"^x.ckpt: a holds NaN or infinity \(1 of 4 values\)"):
    read_finite(LazyTensor.of(bad.T, "x.ckpt: a"))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_and_truth_values_pass(dtype):
  read_finite(LazyTensor.of(np.ones((2, 0), dtype), "a"))
  read_finite(LazyTensor.of(np.array(1, dtype), "a"))


def test_the_check_takes_no_copy_of_the_values():
  values = np.zeros((1000, 1000), np.float64)
  tracemalloc.start()
  read_finite(LazyTensor.of(values, "a"))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < values.nbytes / 4


@needs_parity
def test_every_hostile_file_is_refused_or_harmless(tmp_path, monkeypatch):
  """None makes a file, and the tensor with NaN is named."""
  monkeypatch.chdir(tmp_path)
  refused = {}
  for path in sorted((PARITY / "hostile").glob("*.*")):
    try:
      for tensor in open_tensors(path).tensors.values():
        read_finite(tensor)
    except WeightsError as error:
      refused[path.name] = str(error)
  assert not list(tmp_path.iterdir())
  fine = {path.name for path in (PARITY / "hostile").glob("*.*")} - set(refused)
  assert fine == {"missing_tensor.safetensors", "path_traversal.ckpt", "wrong_shape.safetensors"}
  assert "text_model.encoder.layers.2.self_attn.q_proj.weight" in refused["nan.safetensors"]
  assert all("\n" not in message and str(PARITY) in message for message in refused.values())
