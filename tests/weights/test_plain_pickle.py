import argparse
import collections
import io
import os
import pickle

import pytest

from panda_jax.weights import plain_pickle
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.plain_pickle import Name, Nothing, read_pickle


def read(data: bytes, builders=None):
  return read_pickle(io.BytesIO(data), "x.ckpt", builders or {}, lambda saved: ("stored", saved))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_are_read_as_pickle_reads_them(protocol):
  """In every protocol that there is, shared and cyclic parts included."""
  shared = [1, 2.5, None]
  value = {"epoch": 3, "big": 2**100, "negative": -70000, "text": "ünïcode\n", "flags": (True, False, ()),
           "lists": [shared, shared, []], "long": list(range(300)), "one": (1,), "four": (1, 2, 3, 4),
           "nested": {"a": {}},
           "ordered": collections.OrderedDict(b=1, a=2), "default": collections.defaultdict(list, a=[1])}
  again = read(pickle.dumps(value, protocol))
  assert again == value and list(again) == list(value)
  assert again["lists"][0] is again["lists"][1]
  loop = []
  loop.append(loop)
  assert read(pickle.dumps(loop, protocol))[0][0][0].__class__ is list


def test_what_names_no_tensor_is_read_as_nothing():
  """Options, sets and dates of a training program; and classes, which are only named."""
  value = {"options": argparse.Namespace(a=1), "set": {1, 2}, "frozen": frozenset([3]), "bytes": b"raw", "class": Name,
           "counter": collections.Counter("ab"), Name: "callback", 7: "state"}
  again = read(pickle.dumps(value, 2))
  assert again.pop("class") == Name("panda_jax.weights.plain_pickle.Name")
  assert set(again) == {"options", "set", "frozen", "bytes", "counter"}
  assert all(isinstance(item, Nothing) for item in again.values())


class _Hostile:
  def __init__(self, *reduced):
    self.reduced = reduced

  def __reduce__(self):
    return self.reduced


RUNS = {
    "open": pickle.dumps(_Hostile(open, ("PWNED", "w")), 2),
    "system": pickle.dumps(_Hostile(os.system, ("touch PWNED",)), 4),
    "eval, in Python 2's name": b"\x80\x02c__builtin__\neval\nX\x04\x00\x00\x00quit\x85R.",
    "an instance": b"(S'touch PWNED'\nios\nsystem\n.",
    "an object": b"\x80\x02(cos\nsystem\nX\x02\x00\x00\x00lso.",
    "a new object": b"\x80\x02csubprocess\nPopen\nX\x02\x00\x00\x00ls\x85\x81.",
    "a new object with keywords": b"\x80\x04csubprocess\nPopen\nX\x02\x00\x00\x00ls\x85}\x92.",
    "attributes": b"\x80\x02cos\nenviron\n}X\x01\x00\x00\x00aX\x01\x00\x00\x00bsb.",
    "a name from texts": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.",
    "ours": b"\x80\x02cpanda_jax.weights.folder\nsave_model\n)R.",
}


@pytest.mark.parametrize("data", RUNS.values(), ids=RUNS.keys())
def test_whatever_a_pickle_wants_to_run_is_refused_by_name(tmp_path, monkeypatch, data):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(WeightsError, match=r"^x\.ckpt wants to run [\w.]+ when it is opened: it is not a checkpoint"):
    read(data)
  assert not list(tmp_path.iterdir())


def test_only_what_was_given_is_called_and_persistent_ids_are_loaded():
  data = b"\x80\x02cours\nadd\nK\x01K\x02\x86R."
  assert read(data, {"ours.add": lambda a, b: a + b}) == 3
  with pytest.raises(ValueError, match="not a sound pickle"):
    read(data, {"ours.add": lambda a: a})
  assert read(b"\x80\x02K\x05Q.") == ("stored", 5)


@pytest.mark.parametrize("data", [
    b"", b"\x80\x02", b"\x80\x02}", b".", b"\x80\x02h\x05.", b"\x80\x02u.", b"\x80\x02K\x01\x85\x86.", b"\x80\x02]]s.",
    b"\x80\x02X\xff\xff\xff\x7fab.", b"\x80\x04\x8d" + b"\xff" * 8 + b".", b"\x80\x02\x82\x01.",
    b"\x80\x02K\x01K\x02R.", b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.", b"\x80\x02NNa.", b"hello", b"\x80\x02Pid\n."])
def test_what_is_no_sound_pickle_is_an_error_of_values(data):
  with pytest.raises(ValueError):
    read(data)


def test_a_pickle_cannot_ask_for_much_more_memory_or_time_than_it_has_bytes(monkeypatch):
  """Numbers of the memo, nests whose hash or text would never end, and endless steps."""
  assert read(b"\x80\x02]r\xff\xff\xff\x7f.") == []
  nest = b")" + b"".join(b"q\x00h\x00\x86" for _ in range(80))
  assert read(b"\x80\x02}" + nest + b"Ns.") == {}
  for end in (b"h\x00\x93.", b")R.", b"b."):
    with pytest.raises(ValueError):
      read(b"\x80\x04" + nest + end)
  monkeypatch.setattr(plain_pickle, "MAX_OPCODES", 1000)
  with pytest.raises(ValueError, match="more than 1,000 steps"):
    read(b"\x80\x02" + b"]" * 2000 + b".")


def test_messages_do_not_carry_the_controls_of_a_terminal():
  with pytest.raises(WeightsError) as error:
    read(b"\x80\x02c\x1b[2Jos\n" + b"a" * 500 + b"\n)R.")
  assert str(error.value).isprintable() and len(str(error.value)) < 300
