import argparse
import collections
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from panda_jax.weights import torch_file
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.torch_file import read_torch_file
from tests.paths import PARITY, needs_parity
from tests.weights.archives import Archive, Call, Global, StateDict, Stored, pickled, view

ARRAYS = {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "conv.bias": np.array([1, 2], np.float16),
          "scale": np.array(0.5), "nothing": np.zeros((0, 3), np.float32), "ids": np.arange(-3, 4),
          "half": np.array([[1, -2]], ml_dtypes.bfloat16), "flags": np.array([True, False])}


@pytest.fixture
def archive():
  return Archive()


@pytest.fixture(params=["zip", "legacy"])
def write(request, archive, tmp_path):
  """Writes content with the archive's storages, in either format."""
  def write(content, **options):
    getattr(archive, request.param)(tmp_path / "x.ckpt", content, **options)
    return tmp_path / "x.ckpt"
  return write


def state_dict(archive, arrays=ARRAYS):
  return StateDict({name: archive.tensor(array) for name, array in arrays.items()})


def assert_holds(path, arrays=ARRAYS):
  file = read_torch_file(path)
  assert list(file.tensors) == list(arrays) and file.metadata == {} and file.path == str(path)
  for name, array in arrays.items():
    tensor = file.tensors[name]
    assert tensor.shape == array.shape and tensor.dtype == array.dtype and tensor.name == f"{path}: {name}"
    np.testing.assert_array_equal(tensor.read(), array, strict=True)


def test_a_state_dict_is_read_without_torch(archive, write):
  """Of every common type, with empty and zero-dimensional tensors, in the order of the file."""
  assert_holds(write(state_dict(archive)))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "params_ema"])
def test_a_state_dict_is_found_in_what_a_training_program_saves(archive, write, wrapper):
  """Beside step counts, losses, optimizers, options, NumPy's numbers, and callbacks under their classes."""
  number = Call(Global("numpy.core.multiarray", "scalar"), (
      Call(Global("numpy", "dtype"), ("f8", False, True), state=(3, "<", None, None, None, -1, -1, 0)),
      Call(Global("_codecs", "encode"), ("\0\0", "latin1"))))
  assert_holds(write({
      "epoch": 3, "global_step": 20000, "loss": archive.tensor(np.ones(())), "best": number,
      wrapper: state_dict(archive),
      "optimizer": {"state": {0: {"exp_avg": archive.tensor(np.zeros(2))}}, "param_groups": [{"lr": 1e-4}]},
      "callbacks": {Global("pytorch_lightning.callbacks", "ModelCheckpoint"): {"best": archive.tensor(np.ones(1))}},
      "options": Call(Global("argparse", "Namespace"), (), state={"a": 1}, opcode=b"\x81"),
      "type": Global("torch", "float16"), "size": Call(Global("torch", "Size"), ((2, 3),))}))


def test_other_things_beside_tensors_are_left_out_and_prefixes_stay(archive, write):
  values = np.ones((2, 2), np.float32)
  assert_holds(write({"module.a": archive.tensor(values), "steps": 3, "name": "x", "none": None, "list": [1, 2.5]}),
               {"module.a": values})


def test_views_of_one_storage_are_read_with_their_offsets_and_strides(archive, write):
  values = np.arange(48, dtype=np.float32)
  storage = archive.storage(values)
  table = values.reshape(6, 8)
  path = write({"transposed": view(storage, 0, (8, 6), (1, 8)), "row": view(storage, 16, (8,)),
                "sliced": view(storage, 8, (3, 3), (16, 3)), "repeated": view(storage, 5, (4, 2), (0, 1)),
                "parameter": Call(Global("torch._utils", "_rebuild_parameter"), (view(storage, 1, (2,)), True, {})),
                "labelled": Call(Global("torch._utils", "_rebuild_parameter_with_state"),
                                 (view(storage, 2, (2,)), True, {}, {"tag": 1})),
                "special": Call(Global("torch._tensor", "_rebuild_from_type_v2"), (
                    Global("torch._utils", "_rebuild_tensor_v2"), Global("mine", "Tensor"),
                    view(storage, 3, (2,)).arguments, {}))})
  assert_holds(path, {"transposed": table.T, "row": table[2], "sliced": table[1::2, ::3],
                      "repeated": np.broadcast_to(values[5:7], (4, 2)), "parameter": values[1:3],
                      "labelled": values[2:4], "special": values[3:5]})


def test_types_without_a_storage_class_are_read_from_plain_bytes(archive, write):
  """As torch 2 saves float8 and unsigned integers."""
  values = np.array([1, -2, 0.5], ml_dtypes.float8_e4m3fn), np.array([7, 65535], np.uint16)
  storages = [archive.storage(value.view(np.uint8)) for value in values]
  for storage in storages:
    storage.description = (storage.description[0], Global("torch.storage", "UntypedStorage"), *storage.description[2:])
  path = write({"a": view(storages[0], 0, (3,), typed="float8_e4m3fn"),
                "b": view(storages[1], 0, (2,), typed="uint16")})
  assert_holds(path, {"a": values[0], "b": values[1]})


def test_files_from_a_gpu_and_from_torch_before_0_4_are_read(archive, tmp_path):
  """Their storages were classes of torch.cuda, and could be windows on others."""
  values = np.arange(10, dtype=np.float32)
  _, _, key, _, count = archive.storage(values).description
  window = Stored(("storage", Global("torch.cuda", "FloatStorage"), key, "cuda:0", count, ("other", 4, 5)))
  archive.legacy(tmp_path / "x.ckpt", {"a": Call(Global("torch._utils", "_rebuild_tensor"), (window, 1, (3,), (1,)))})
  assert_holds(tmp_path / "x.ckpt", {"a": values[5:8]})


def test_names_in_the_archive_do_no_harm(archive, tmp_path, monkeypatch):
  """An entry named ../ is never unpacked; nothing is."""
  monkeypatch.chdir(tmp_path)
  content = state_dict(archive)
  archive.storages["../../PWNED"] = np.ones(2)
  archive.zip(tmp_path / "x.ckpt", content, root="weights", byteorder=None)
  assert_holds(tmp_path / "x.ckpt")
  assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


HOSTILE = {
    "a function": Call(Global("builtins", "open"), ("PWNED", "w")),
    "a function under its old name": Call(Global("__builtin__", "eval"), ("open('PWNED', 'w')",)),
    "a method of a class": Call(Global("pathlib", "Path.touch"), ("PWNED",)),
    "a new object": Call(Global("subprocess", "Popen"), (["touch", "PWNED"],), opcode=b"\x81"),
    "a module": Call(Stored(("module", Global("torch.nn", "Linear"), "x.py", "1")), (), opcode=b"\x81"),
}


@pytest.mark.parametrize("item", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_checkpoint_is_refused_before_any_code_runs(archive, write, tmp_path, monkeypatch, item):
  monkeypatch.chdir(tmp_path)
  path = write({"a": archive.tensor(np.ones(1)), "step": item})
  with pytest.raises(WeightsError, match=r"x\.ckpt wants to run [\w.]+ when it is opened: it is not a checkpoint"):
    read_torch_file(path)
  assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


@pytest.mark.parametrize("offset, shape, strides", [
    (0, (7,), (1,)), (1, (6,), (1,)), (0, (2, 2), (5, 1)), (6, (1,), (1,)), (0, (2,), (2**40,)), (0, (2**40,), (0,)),
    (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (-2,), (1,)), (0, (2, 3), (1,)), (0, (2.5,), (1,)), (0, [2], (1,)),
    (0, (2**70,), (1,)), (None, (2,), (1,)), (0, (1,) * 80, (1,) * 80), (0, (True,), (1,)), (2**50, (0,), (1,))])
def test_a_view_that_its_storage_does_not_hold_is_refused(archive, write, offset, shape, strides):
  """Before anything is read: neither other tensors' bytes nor a negative address can be reached."""
  archive.storage(np.full(100, 7, np.float32))
  path = write({"a": view(archive.storage(np.ones(6, np.float32)), offset, shape, strides)})
  with pytest.raises(WeightsError, match="x.ckpt is (cut short or )?damaged"):
    read_torch_file(path)


FLOATS = Global("torch", "FloatStorage")


@pytest.mark.parametrize("description", [
    ("storage", FLOATS, "0", "cpu"), ("storage", "FloatStorage", "0", "cpu", 6), ("storage", FLOATS, 0, "cpu", 6),
    ("storage", Global("os", "FloatStorage"), "0", "cpu", 6),
    ("storage", Global("torch", "RealStorage"), "0", "cpu", 6),
    ("storage", FLOATS, "0", "cpu", -1), ("storage", FLOATS, "0", "cpu", 6, ("0", -2, 4)),
    ("storage", FLOATS, "0", "cpu", 6, 1), ("storage", FLOATS, "9", "cpu", 6), ("other", 1, 2, 3, 4), (), "0"])
def test_a_strange_storage_is_refused(archive, write, description):
  archive.storage(np.ones(6, np.float32))
  path = write({"a": view(Stored(description), 0, (2,))})
  with pytest.raises(WeightsError, match="x.ckpt is (cut short or )?damaged"):
    read_torch_file(path)


@pytest.mark.parametrize("name, kind", [
    ("_utils._rebuild_qtensor", "quantised"), ("_utils._rebuild_sparse_tensor", "sparse"),
    ("_utils._rebuild_meta_tensor_no_storage", "without values")])
def test_tensors_that_are_more_than_values_are_refused_by_kind(write, name, kind):
  module, _, function = f"torch.{name}".rpartition(".")
  with pytest.raises(WeightsError, match=f"x.ckpt holds a .*{kind}.* save it again with plain tensors"):
    read_torch_file(write({"a": Call(Global(module, function), (1, 2, 3))}))


def test_values_that_torch_would_still_change_are_refused(archive, write):
  tensor = archive.tensor(np.ones(2, np.float32))
  tensor.arguments += ({"neg": True},)
  with pytest.raises(WeightsError, match=r"holds a as a view that is still to be changed \(neg\)"):
    read_torch_file(write({"a": tensor}))


@pytest.mark.parametrize("content, inside", [
    ({"unet": {"a": 1}, "step": 3}, r"a dict with unet \(dict\), step \(int\)"), ({}, "a dict with no names"),
    ([1, 2], "a list"), (None, "a NoneType"), ({str(index): 0 for index in range(20)}, "7 .int. and more")])
def test_what_holds_no_state_dict_says_what_it_holds(write, content, inside):
  with pytest.raises(WeightsError, match=f"x.ckpt holds .*{inside}.*but no state dict"):
    read_torch_file(write(content))


def test_a_truncated_checkpoint_is_refused_wherever_it_ends(archive, write):
  path = write(state_dict(archive))
  whole = path.read_bytes()
  for size in range(0, len(whole), 13):
    path.write_bytes(whole[:size])
    with pytest.raises(WeightsError, match="x.ckpt is (cut short|damaged|empty|no checkpoint)"):
      read_torch_file(path)


def test_a_storage_that_counts_differently_than_the_tensors_is_refused(archive, tmp_path):
  """In the older format the values follow each other without names."""
  archive.legacy(tmp_path / "x.ckpt", {"a": archive.tensor(np.ones(6, np.float32))})
  data = (tmp_path / "x.ckpt").read_bytes()
  (tmp_path / "x.ckpt").write_bytes(data.replace(struct.pack("<q", 6), struct.pack("<q", 5)))
  with pytest.raises(WeightsError, match="counts the values of its tensors in two ways"):
    read_torch_file(tmp_path / "x.ckpt")


def test_archives_that_torch_would_not_write_are_refused(archive, tmp_path):
  """Compressed (it would have to be unpacked), big-endian, a table of contents that is too large, other archives."""
  path = tmp_path / "x.ckpt"
  content = state_dict(archive)

  def message(content=content, **options):
    archive.zip(path, content, **options)
    with pytest.raises(WeightsError, match="x.ckpt") as error:
      read_torch_file(path)
    return str(error.value)

  assert "is compressed or encrypted" in message(compression=zipfile.ZIP_DEFLATED)
  assert "big-endian" in message(byteorder=b"big")
  assert "more than any checkpoint needs" in message(bytes(torch_file.MAX_PICKLE + 1))
  assert "none that torch.save wrote" in message(root="deeper/folder")
  with zipfile.ZipFile(path, "w") as other:
    other.writestr("a.npy", b"")
  with pytest.raises(WeightsError, match="none that torch.save wrote"):
    read_torch_file(path)
  with zipfile.ZipFile(path, "w") as other:
    for name in ("x/data.pkl", "x/constants.pkl"):
      other.writestr(name, pickled({}))
  with pytest.raises(WeightsError, match="TorchScript program"):
    read_torch_file(path)
  path.write_bytes(pickled({"a": 1}))
  with pytest.raises(WeightsError, match="is a pickle, but none that torch.save wrote"):
    read_torch_file(path)


def save_program(archive, path, content):
  archive.zip(path, content)
  with zipfile.ZipFile(path, "a") as program:
    program.writestr("archive/constants.pkl", pickled(()))
  return path


def module(**attributes):
  return Call(Global("__torch__.some", "Module"), (), attributes, opcode=b"\x81")


def test_the_tensors_of_a_program_are_read_when_asked_for(archive, tmp_path):
  """By the paths of the attributes; what else its modules hold is left out."""
  values = np.arange(3, dtype=np.float32)
  numbers = Call(Global("torch.jit._pickle", "build_intlist"), ([1, 2],))
  path = save_program(archive, tmp_path / "x.pt", module(
      training=False, sizes=numbers, layers=module(first=module(weight=archive.tensor(values), bias=None))))
  tensors = read_torch_file(path, programs=True).tensors
  assert list(tensors) == ["layers.first.weight"]
  np.testing.assert_array_equal(tensors["layers.first.weight"].read(), values)
  with pytest.raises(WeightsError, match="TorchScript program"):
    read_torch_file(path)


@pytest.mark.parametrize("content, words", [
    (pickled(module(evil=Call(Global("os", "system"), ("echo",)))), "wants to run os.system"),
    (pickled(Call(Global("__torch__", "Module"), (1,), {}, opcode=b"\x81")), "wants to run __torch__.Module"),
    (b"\x80\x02c__torch__\nA\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb.", "a program whose modules have no tensors")])
def test_no_program_is_run_or_followed_in_circles(archive, tmp_path, content, words):
  with pytest.raises(WeightsError, match=words):
    read_torch_file(save_program(archive, tmp_path / "x.pt", content), programs=True)


@pytest.mark.parametrize("entry", ["data.pkl", "data/0", "byteorder"])
def test_an_archive_whose_parts_are_not_where_it_says_is_refused(archive, tmp_path, entry):
  archive.zip(tmp_path / "x.ckpt", state_dict(archive), root="deep")
  data = bytearray((tmp_path / "x.ckpt").read_bytes())
  place = data.index(f"deep/{entry}".encode())
  data[place - 27] ^= 1           # of the signature; the first two bytes tell a zip archive
  (tmp_path / "x.ckpt").write_bytes(data)
  with pytest.raises(WeightsError, match=f"is damaged: deep/{entry} is not where the archive says"):
    read_torch_file(tmp_path / "x.ckpt")


@needs_parity
@pytest.mark.parametrize("name, count", [("motion/mm_v1.ckpt", 560), ("motion/mm_v2.ckpt", 588),
                                         ("motion/mm_v3.ckpt", 560), ("dvd360/360Adapter.ckpt", 20),
                                         ("hostile/path_traversal.ckpt", 1)])
def test_checkpoints_of_the_published_kinds_are_read(tmp_path, monkeypatch, name, count):
  monkeypatch.chdir(tmp_path)
  file = read_torch_file(PARITY / name)
  assert len(file.tensors) == count and not list(tmp_path.iterdir())
  assert all(np.isfinite(tensor.read()).all() for tensor in file.tensors.values())


@needs_parity
def test_a_motion_module_has_the_values_that_diffusers_has():
  """The same weights lie beside it as a diffusers folder; compared as multisets, whatever they are called."""
  from panda_jax.weights.safetensors_file import read_safetensors
  ours = read_torch_file(PARITY / "motion" / "mm_v1.ckpt").tensors
  theirs = read_safetensors(PARITY / "motion" / "diffusers_adapter_v1" / "diffusion_pytorch_model.safetensors").tensors

  def contents(tensors):
    return collections.Counter(np.ascontiguousarray(tensor.read()).tobytes() for name, tensor in tensors.items()
                               if not name.endswith(".pe"))
  assert contents(theirs) - contents(ours) == collections.Counter()


@needs_parity
@pytest.mark.parametrize("name", ["pwned_zip.ckpt", "pwned_legacy.ckpt", "pwned_raw_pickle.bin"])
def test_hostile_files_create_nothing(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(WeightsError, match=rf"{name} wants to run io\.open when it is opened"):
    read_torch_file(PARITY / "hostile" / name)
  assert not list(tmp_path.iterdir())


class Callback:
  """Named as the key of a dict, as Lightning does."""


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_torch_saves_is_read_as_it_is(tmp_path, legacy, protocol):
  """Every type, views, shared storages, parameters, and a whole training checkpoint around them."""
  torch = pytest.importorskip("torch")
  base = torch.arange(48, dtype=torch.float32).reshape(6, 8)
  labelled = torch.nn.Parameter(torch.ones(2))
  labelled.tag = "x"
  tensors = {"transposed": base.T, "sliced": base[1::2, ::3], "row": base[2], "rows": base.view(3, 16)[1:],
             "zero_d": torch.tensor(3.5), "empty": torch.zeros(0, 3), "expanded": torch.ones(1, 4).expand(5, 4),
             "parameter": torch.nn.Parameter(torch.ones(3)), "labelled": labelled}
  for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
               "float8_e4m3fn", "float8_e5m2", "uint16", "uint32"):
    tensors[name] = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
  layer = torch.nn.Linear(2, 2)
  state = collections.OrderedDict({**layer.state_dict(), **tensors})
  content = {"epoch": 1, "state_dict": state, "callbacks": {Callback: {"best": torch.ones(1), "score": np.float64(3)}},
             "options": {"set": {1}, "type": torch.float16, "device": torch.device("cpu"), "size": base.shape,
                         "bytes": b"x", "array": np.ones(2), "space": argparse.Namespace(a=1)},
             "optimizer": torch.optim.Adam(layer.parameters()).state_dict(), "random": torch.get_rng_state()}
  path = tmp_path / "x.ckpt"
  torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
  ours = read_torch_file(path).tensors
  assert list(ours) == list(state)
  for name, tensor in state.items():
    tensor, values = tensor.detach(), ours[name].read()
    assert values.dtype.name == str(tensor.dtype).removeprefix("torch.")
    assert values.shape == ours[name].shape == tuple(tensor.shape)
    assert np.ascontiguousarray(values).tobytes() == bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


def test_a_whole_model_that_torch_saved_is_refused(tmp_path):
  torch = pytest.importorskip("torch")
  for legacy in (False, True):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="wants to run torch.nn.modules.linear.Linear"):
      read_torch_file(tmp_path / "x.pt")
