"""What a table of names is: how a format is recognised, and how its names become canonical ones."""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Collection, Mapping

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Mark:
  """Something that a format is known by: a tensor of such a name (searched anywhere in it), perhaps of such a shape.

  Attributes:
    pattern: regular expression.
    shape: sizes, None for any size.
  """

  pattern: str
  shape: tuple[int | None, ...] | None = None

  def find(self, shapes: Shapes) -> str | None:
    """The first name that bears the mark."""
    search = re.compile(self.pattern).search
    return next((name for name, shape in shapes.items() if search(name) and self._fits(shape)), None)

  def _fits(self, shape: tuple[int, ...]) -> bool:
    return self.shape is None or (len(shape) == len(self.shape)
                                  and all(want in (None, size) for want, size in zip(self.shape, shape)))


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a table: how names begin in the file, and how they begin here; what follows is kept.

  Attributes:
    pattern: regular expression for the beginning of the name.
    to: what takes its place, with \\1 for groups. A function where numbers of blocks must be computed: it gets the
      format's `size` and the groups as integers. Several: the tensor is cut along its first axis into so many parts.
  """

  pattern: str
  to: str | tuple[str, ...] | Callable[..., str]

  def targets(self, name: str, size: int) -> tuple[str, ...]:
    """The canonical names of a tensor; none if the row is not about it."""
    match = re.match(self.pattern, name)
    if not match:
      return ()
    if callable(self.to):
      heads = (self.to(size, *map(int, match.groups())),)
    else:
      heads = tuple(match.expand(head) for head in ((self.to,) if isinstance(self.to, str) else self.to))
    return tuple(head + name[match.end():] for head in heads)


KEEP = Row("", "")      # for formats whose names are canonical, or whose other names are


@dataclasses.dataclass(frozen=True)
class Format:
  """A way of naming the tensors of a network.

  Attributes:
    name: short, for code: "unet_ldm".
    kind: of network: "unet", "vae", "text_encoder", "motion", "adapter360"; "lora"; or "foreign", which no network
      here can hold.
    description: for sentences, with its article: "an LDM UNet".
    signature: a file is of this format if every one of these marks is borne by some tensor ...
    absent: ... and none by any of these.
    rules: the first row that knows a name decides; a name that no row knows is no name of this format.
    inner: (pattern, replacement) within names that a row has moved; all of them are applied.
    linear: pattern of canonical names whose weights are linear here, and perhaps 1x1 convolutions in the file.
    ignored: patterns of names that such files hold and that no network here has.
    measure: the `size` that rows compute with, from all names.
    settings: what the format alone says about the network, by the names of its sizes: {"activation": "gelu"}.
    hint: how to mend it, for foreign formats.
  """

  name: str
  kind: str
  description: str
  signature: tuple[Mark, ...]
  absent: tuple[Mark, ...] = ()
  rules: tuple[Row, ...] = (KEEP,)
  inner: tuple[tuple[str, str], ...] = ()
  linear: str | None = None
  ignored: tuple[str, ...] = ()
  measure: Callable[[Collection[str]], int] | None = None
  settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
  hint: str = ""

  def evidence(self, shapes: Shapes) -> str | None:
    """The name by which these tensors are known to be of this format; None if they are not."""
    found = [mark.find(shapes) for mark in self.signature]
    return None if None in found or any(mark.find(shapes) for mark in self.absent) else found[0]

  def targets(self, name: str, size: int) -> tuple[str, ...]:
    """The canonical names of a tensor of the file: one as a rule, several if it is to be cut; none if unknown."""
    for row in self.rules:
      moved = row.targets(name, size)
      if moved:
        return tuple(self._inner(target) for target in moved)
    return ()

  def ignores(self, name: str) -> bool:
    """Whether such files hold this tensor, and no network here wants it."""
    return any(re.search(pattern, name) for pattern in self.ignored)

  def _inner(self, name: str) -> str:
    for pattern, replacement in self.inner:
      name = re.sub(pattern, replacement, name)
    return name


def size_of(form: Format, names: Collection[str]) -> int:
  """The number that the format's rows compute with."""
  return form.measure(names) if form.measure else 0
