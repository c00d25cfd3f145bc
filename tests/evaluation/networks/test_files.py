"""Files of weights of metrics: every format gives the same tensors, and a network takes exactly its own."""

import zipfile

from flax import nnx
import jax
import ml_dtypes
import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.evaluation.networks.files import fill, open_weights, renamed, with_factors
from panda_jax.evaluation.networks.layers import BatchNorm
from panda_jax.models.functional import Functional
from panda_jax.models.layers import Conv
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.layout import torch_shapes
from panda_jax.weights.tensors import LazyTensor
from tests.evaluation.networks.random_weights import draw
from tests.evaluation.networks.saving import save, save_program
from tests.weights.archives import Call, Global


class Network(nnx.Module):
  def __init__(self, rngs):
    self.conv = Conv(2, 3, rngs=rngs)
    self.bn = BatchNorm(3)


FUNCTIONAL = Functional(Network)
WEIGHTS = draw(torch_shapes(FUNCTIONAL.abstract), 0)


def lazy(tensors):
  return {name: LazyTensor.of(values, f"x.pth: {name}") for name, values in tensors.items()}


def filled(tensors, **options):
  return fill(FUNCTIONAL, lazy(tensors), "x.pth", "network of a metric", **options)


# --- formats


@pytest.mark.parametrize("ending", ["pth", "safetensors", "npz", "flax", "pt"])
def test_every_format_gives_the_same_tensors(tmp_path, ending):
  """Also under a name that says nothing."""
  path = (save_program if ending == "pt" else save)(tmp_path / f"weights.{ending}", WEIGHTS)
  file = open_weights(path.rename(tmp_path / "weights"))
  assert file.tensors.keys() == WEIGHTS.keys()
  for name, values in WEIGHTS.items():
    assert file.tensors[name].shape == values.shape and file.tensors[name].dtype == values.dtype
    np.testing.assert_array_equal(file.tensors[name].read(), values)


def test_names_in_a_file_of_flax_are_paths(tmp_path):
  path = save(tmp_path / "weights.flax", {"params/Branch.1/kernel": np.ones(2), "params/bias": np.ones(3)})
  assert open_weights(path).tensors.keys() == {"params/Branch.1/kernel", "params/bias"}


def refusal(path, content=None):
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(WeightsError, match=str(path)) as caught:
    open_weights(path).tensors["a"].read()
  return str(caught.value)


def test_an_npz_of_something_else_is_refused(tmp_path):
  path = tmp_path / "weights.npz"
  np.savez(path, a=np.array({"what": "ever"}))
  assert "a is an array of the type object" in refusal(path)
  np.savez(path, a=np.ones(2, ml_dtypes.bfloat16))
  assert "save it as float32" in refusal(path)


def test_a_damaged_npz_is_refused(tmp_path):
  path = save(tmp_path / "weights.npz", {"a": np.ones(20)})
  whole = path.read_bytes()
  with zipfile.ZipFile(path) as archive:
    array = archive.read("a.npy")
  assert "cut short or damaged" in refusal(path, whole[:-30])
  assert "Bad CRC-32" in refusal(path, whole.replace(np.float64(1).tobytes(), np.float64(2).tobytes(), 1))
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a.npy", array.replace(b"(20,)", b"(99,)"))
  assert "its header asks for 920" in refusal(path)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a.npy", b"nothing")
  assert "is damaged" in refusal(path)


def test_a_damaged_file_of_flax_is_refused(tmp_path):
  path = save(tmp_path / "weights.flax", {"params/a": np.ones(20)})
  whole = path.read_bytes()
  assert "cut short or damaged" in refusal(path, whole[:-30])
  assert "cut short or damaged" in refusal(path, whole + whole)
  path.write_bytes(b"\x82\xa6params\x01\xa4step\x02")
  assert "more than arrays" in refusal(path)


def test_a_program_is_read_and_never_run(tmp_path):
  evil = Call(Global("os", "system"), ("echo harm",))
  message = refusal(save_program(tmp_path / "weights.pt", {"a": np.ones(2)}, evil=evil))
  assert "wants to run os.system" in message


def test_what_is_no_file_of_weights_is_refused(tmp_path):
  assert "does not exist" in refusal(tmp_path / "absent.pth")
  assert "is a web page" in refusal(tmp_path / "x.pth", b"<html>please log in</html>")


# --- filling a network


def test_a_network_takes_its_weights_as_float32():
  network = filled({name: values.astype(np.float64) for name, values in WEIGHTS.items()})
  assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(network))} == {np.dtype(np.float32)}
  np.testing.assert_array_equal(network.conv.kernel[...], WEIGHTS["conv.weight"].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(network.bn.running_var[...], WEIGHTS["bn.running_var"])


@pytest.mark.parametrize("change, words", [
    ({"bn.running_var": None}, "1 missing: bn.running_var"),
    ({"extra": np.ones(2)}, "1 unexpected: extra"),
    ({"bn.bias": np.ones(4)}, r"1 of another shape: bn.bias \(bn.bias is \[4\], the network has \[3\]\)"),
    ({"bn.bias": np.float32([1, np.nan, 1])}, r"bn.bias holds NaN or infinity \(1 of 3 values\)")])
def test_what_is_not_exactly_the_network_is_refused(change, words):
  tensors = {name: values for name, values in {**WEIGHTS, **change}.items() if values is not None}
  with pytest.raises(InputError, match=f"^x.pth.*{words}"):
    filled(tensors)


def test_only_what_is_declared_unused_is_left_out():
  extra = {"fc.weight": np.ones((4, 3)), "bn.num_batches_tracked": np.array(7)}
  filled({**WEIGHTS, **extra}, unused=("fc.*", "*.num_batches_tracked"))
  with pytest.raises(WeightsError, match="1 unexpected: fc.weight"):
    filled({**WEIGHTS, **extra}, unused=("*.num_batches_tracked",))
  with pytest.raises(WeightsError, match="1 missing: bn.bias"):
    filled({name: values for name, values in WEIGHTS.items() if name != "bn.bias"}, unused=("*",))


def test_messages_say_what_a_tensor_is_called_in_the_file():
  with pytest.raises(WeightsError, match="1 unexpected: theirs"):
    filled({**WEIGHTS, "ours": np.ones(2)}, origins={"ours": "theirs"})


def test_two_names_of_one_tensor_are_refused(tmp_path):
  file = open_weights(save(tmp_path / "weights.npz", {"a.x": np.ones(2), "b.x": np.zeros(2)}))
  tensors, origins = renamed(file, lambda name: name.replace("b.", "c."))
  assert tensors.keys() == {"a.x", "c.x"} and origins == {"a.x": "a.x", "c.x": "b.x"}
  with pytest.raises(WeightsError, match="a.x and b.x, which are one tensor"):
    renamed(file, lambda name: name[1:])


def test_normalisations_without_factors_get_ones_but_lost_factors_do_not():
  shifts = lazy({"a.bn.bias": np.ones(2), "b.bn.bias": np.ones(3)})
  tensors = with_factors(shifts)
  assert tensors.keys() == shifts.keys() | {"a.bn.weight", "b.bn.weight"}
  np.testing.assert_array_equal(tensors["b.bn.weight"].read(), np.ones(3))
  some = {**shifts, **lazy({"a.bn.weight": np.ones(2)})}
  assert with_factors(some) == some
