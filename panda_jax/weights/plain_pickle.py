"""Pickles read as plain data: nothing that a pickle names is ever imported, called or built."""

from __future__ import annotations

import dataclasses
import pickletools
from typing import Any, Callable, Mapping, Protocol

from panda_jax.weights.errors import WeightsError

MAX_OPCODES = 2_000_000           # a checkpoint of a thousand tensors has 50,000

LITERALS = frozenset((
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "BININT1", "BININT2", "BININT", "LONG1", "LONG4", "INT",
    "LONG", "BINFLOAT", "FLOAT"))
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}      # Python 2's, which protocol 2 still writes

# What training checkpoints hold beside their tensors, and what can harm nobody: made into nothing, without a refusal.
HARMLESS = frozenset((
    "_codecs.encode",             # how protocol 2 writes bytes
    "builtins.set", "builtins.frozenset", "builtins.complex", "builtins.slice", "builtins.bytearray", "builtins.range",
    "collections.Counter", "collections.deque", "datetime.datetime", "datetime.timedelta", "argparse.Namespace",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer", "torch.device",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict", "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    # What the modules of TorchScript programs hold beside their tensors.
    "torch.jit._pickle.build_intlist", "torch.jit._pickle.build_doublelist", "torch.jit._pickle.build_boollist",
    "torch.jit._pickle.build_tensorlist", "torch.jit._pickle.restore_type_tag"))


@dataclasses.dataclass(frozen=True)
class Name:
  """What stands for a function or a class that a pickle names: only its name."""
  text: str


class Nothing:
  """What stands for a harmless object that nobody here needs."""


NOTHING = Nothing()


@dataclasses.dataclass(eq=False)
class Object:
  """What stands for an object of a class that nobody here has: its attributes, by name."""
  attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


class Stream(Protocol):
  """What pickles are read from."""

  def read(self, count: int) -> bytes: ...

  def readline(self) -> bytes: ...

  def tell(self) -> int: ...


def printable(text: str) -> str:
  """A text from a file as a message may show it: short, on one line, without the controls of a terminal."""
  return "".join(letter if letter.isprintable() else "?" for letter in text[:80])


def read_pickle(stream: Stream, path: str, builders: Mapping[str, Callable[..., Any]],
                load: Callable[[Any], Any], classes: str | None = None) -> Any:
  """Reads one pickle, up to its end and not further.

  Dicts keep the entries whose keys are texts; a class that is only named, as a key or a value, is a `Name`.

  Args:
    stream: read from where it stands.
    path: of the file, for messages.
    builders: what may be called, by full name: our own functions, which stand for those that the pickle names. They
      raise ValueError for arguments that make no sense.
    load: gives what a persistent id stands for.
    classes: the package whose classes' objects are read as an `Object` each; none by default.

  Returns:
    dicts, lists, tuples, numbers, texts, bytes, None, and what `builders` and `load` give.

  Raises:
    WeightsError: if the pickle wants to call or build anything else.
    ValueError: if it is no pickle, or a damaged one.
  """
  try:
    return _Reader(path, builders, load, classes).run(stream)
  except (IndexError, KeyError, TypeError, OverflowError, AssertionError) as error:
    raise ValueError(f"not a sound pickle: {type(error).__name__} {error}") from error


class _Reader:
  """A pickle machine without the parts that run things."""

  def __init__(self, path: str, builders: Mapping[str, Callable[..., Any]], load: Callable[[Any], Any],
               classes: str | None):
    self.path = path
    self.classes = classes
    self.builders = {"collections.OrderedDict": _mapping, "collections.defaultdict": _mapping, **builders}
    self.load = load
    self.stack: list[Any] = []
    self.outer: list[list[Any]] = []         # the stacks below the marks
    self.memo: dict[int, Any] = {}

  def run(self, stream: Stream) -> Any:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
      if count >= MAX_OPCODES:
        raise ValueError(f"a pickle of more than {MAX_OPCODES:,} steps")
      name, stack = opcode.name, self.stack
      if name in LITERALS:
        if isinstance(argument, str):
          argument.encode()                  # half a surrogate pair is a text that nobody could print
        stack.append(argument)
      elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
        self.memo[argument] = stack[-1]
      elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(self.memo[argument])
      elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
      elif name == "STOP":
        return stack.pop()
      else:
        step = getattr(self, f"_do_{name.lower()}", None)
        if step is None:
          raise ValueError(f"the pickle has the step {name}, which no checkpoint needs")
        step() if argument is None else step(argument)
    raise ValueError("the pickle has no end")

  def _call(self, what: Any, arguments: Any) -> None:
    if not isinstance(what, Name) or not isinstance(arguments, tuple):
      raise ValueError("the pickle calls something that has no name")
    if what.text in self.builders:
      self.stack.append(self.builders[what.text](*arguments))
    elif what.text in HARMLESS:
      self.stack.append(NOTHING)
    elif self.classes is not None and what.text.startswith(f"{self.classes}.") and not arguments:
      self.stack.append(Object())
    else:
      raise self._refusal(what)

  def _refusal(self, what: Name) -> WeightsError:
    return WeightsError(f"{self.path} wants to run {printable(what.text)} when it is opened: it is not a checkpoint "
                        "but a program; do not use it, ask for a safetensors file or a plain state dict instead")

  def _popped_mark(self) -> list[Any]:
    above, self.stack = self.stack, self.outer.pop()
    return above

  # One method for each step of the pickle language, called as pickletools calls it.

  def _do_proto(self, version: int) -> None:
    pass

  def _do_frame(self, length: int) -> None:
    pass

  def _do_mark(self) -> None:
    self.outer.append(self.stack)
    self.stack = []

  def _do_pop(self) -> None:
    if self.stack:
      self.stack.pop()
    else:
      self._popped_mark()

  def _do_pop_mark(self) -> None:
    self._popped_mark()

  def _do_dup(self) -> None:
    self.stack.append(self.stack[-1])

  def _do_memoize(self) -> None:
    self.memo[len(self.memo)] = self.stack[-1]

  def _do_empty_list(self) -> None:
    self.stack.append([])

  def _do_empty_dict(self) -> None:
    self.stack.append({})

  def _do_empty_set(self) -> None:
    self.stack.append(NOTHING)

  def _do_tuple1(self) -> None:
    self._tuple_of(1)

  def _do_tuple2(self) -> None:
    self._tuple_of(2)

  def _do_tuple3(self) -> None:
    self._tuple_of(3)

  def _tuple_of(self, count: int) -> None:
    if len(self.stack) < count:
      raise ValueError("the pickle takes more than it has")
    self.stack[-count:] = [tuple(self.stack[-count:])]

  def _do_tuple(self) -> None:
    items = self._popped_mark()
    self.stack.append(tuple(items))

  def _do_list(self) -> None:
    items = self._popped_mark()
    self.stack.append(items)

  def _do_dict(self) -> None:
    items = self._popped_mark()
    self.stack.append({})
    self._set(items)

  def _do_frozenset(self) -> None:
    self._popped_mark()
    self.stack.append(NOTHING)

  def _do_append(self) -> None:
    self._extend([self.stack.pop()])

  def _do_appends(self) -> None:
    self._extend(self._popped_mark())

  def _do_additems(self) -> None:
    self._extend(self._popped_mark())

  def _extend(self, items: list[Any]) -> None:
    target = self.stack[-1]
    if isinstance(target, list):
      target.extend(items)
    elif target is not NOTHING:
      raise ValueError("the pickle appends to what is no list")

  def _do_setitem(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self._set([key, value])

  def _do_setitems(self) -> None:
    self._set(self._popped_mark())

  def _set(self, items: list[Any]) -> None:
    target = self.stack[-1]
    if isinstance(target, dict):
      # Other keys (numbers of parameters, classes of callbacks) name no tensor, and hashing them might never end.
      target.update((key, value) for key, value in zip(items[::2], items[1::2]) if isinstance(key, str))
    elif target is not NOTHING:
      raise ValueError("the pickle sets an item of what is no dict")

  def _do_global(self, names: str) -> None:
    module, _, name = names.partition(" ")
    self.stack.append(Name(f"{OLD_MODULES.get(module, module)}.{name}"))

  def _do_stack_global(self) -> None:
    name, module = self.stack.pop(), self.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
      raise ValueError("the pickle names something without a text")
    self._do_global(f"{module} {name}")

  def _do_reduce(self) -> None:
    arguments, what = self.stack.pop(), self.stack.pop()
    self._call(what, arguments)

  def _do_newobj(self) -> None:
    self._do_reduce()

  def _do_newobj_ex(self) -> None:
    self.stack.pop()              # keyword arguments, which no builder takes
    self._do_reduce()

  def _do_obj(self) -> None:
    what, *arguments = self._popped_mark()
    self._call(what, tuple(arguments))

  def _do_inst(self, names: str) -> None:
    arguments = self._popped_mark()
    self._do_global(names)
    self._call(self.stack.pop(), tuple(arguments))

  def _do_build(self) -> None:
    attributes, target = self.stack.pop(), self.stack[-1]
    if isinstance(target, Name):
      raise self._refusal(target)
    if isinstance(target, Object) and isinstance(attributes, dict):      # others', such as `_metadata`, are left out
      target.attributes.update(attributes)

  def _do_binpersid(self) -> None:
    self.stack.append(self.load(self.stack.pop()))


def _mapping(*arguments: Any) -> dict[str, Any]:
  """An OrderedDict or a defaultdict, as a dict; Python 2 gave the former its pairs when it was made."""
  pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
  return {key: value for key, value in pairs if isinstance(key, str)}
