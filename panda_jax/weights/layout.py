"""Between torch's names and layouts and ours: one rule for every network, since attribute paths are the same.

`down_blocks.0.resnets.1.conv1.weight` [o i h w] is `down_blocks/0/resnets/1/conv1/kernel` [h w i o] here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from panda_jax.tree import flatten
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.tensors import LazyTensor

# The last part of our paths that torch calls "weight".
_WEIGHTS = ("kernel", "scale", "embedding")
# Kernels by number of axes: linear IO <- OI, convolutions HWIO <- OIHW and DHWIO <- OIDHW.
_FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}
_TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}


def torch_name(path: str) -> str:
  """Our path -> the canonical name."""
  *parents, name = path.split("/")
  return ".".join([*parents, "weight" if name in _WEIGHTS else name])


def torch_shapes(abstract: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """{canonical name: torch's shape} of a network, from its `Functional.abstract`."""
  shapes = {}
  for path, leaf in flatten(abstract).items():
    axes = _axes(path, len(leaf.shape), _TO_TORCH)
    shapes[torch_name(path)] = tuple(leaf.shape[axis] for axis in axes) if axes else tuple(leaf.shape)
  return shapes


def from_torch(tensors: Mapping[str, LazyTensor], abstract: Mapping[str, Any]) -> dict[str, LazyTensor]:
  """Canonical tensors as the network's parameters, by our paths. They are checked already, see `require_fit`."""
  return {path: _permuted(tensors[torch_name(path)], _axes(path, len(leaf.shape), _FROM_TORCH))
          for path, leaf in flatten(abstract).items()}


def to_torch(params: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
  """The inverse: our flat paths -> canonical names and torch's layout."""
  return {torch_name(path): _permuted(leaf, _axes(path, len(leaf.shape), _TO_TORCH)) for path, leaf in params.items()}


def require_fit(tensors: Mapping[str, LazyTensor], wanted: Mapping[str, tuple[int, ...]], source: str, network: str,
                origins: Mapping[str, str] | None = None) -> None:
  """Refuses tensors that are not exactly those of a network.

  Args:
    tensors: by canonical name.
    wanted: {canonical name: shape}.
    source: what was read, such as "model.safetensors (a diffusers UNet)".
    network: what it was read for, such as "UNet".
    origins: {canonical name: name in the file}, where they differ.

  Raises:
    WeightsError: naming, in groups, what is missing, unexpected, or of another shape.
  """
  called = lambda name: (origins or {}).get(name, name)
  problems = problems_sentence(
      sorted(wanted.keys() - tensors.keys()), sorted(map(called, tensors.keys() - wanted.keys())),
      {called(name): (tensors[name].shape, wanted[name]) for name in sorted(wanted.keys() & tensors.keys())
       if tensors[name].shape != wanted[name]})
  if problems:
    raise WeightsError(f"{source} does not fit the {network} that it should fill: of its tensors, {problems}")


def problems_sentence(missing: list[str], unexpected: list[str],
                      reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]], separator: str = ".") -> str:
  """What does not fit, in groups; empty if everything does.

  Args:
    missing, unexpected: names.
    reshaped: {name: (its shape, the network's)}.
    separator: between the parts of names.
  """
  problems = []
  if missing:
    problems.append(f"{len(missing)} missing: {name_groups(missing, separator)}")
  if unexpected:
    problems.append(f"{len(unexpected)} unexpected: {name_groups(unexpected, separator)}")
  if reshaped:
    first, (have, want) = next(iter(reshaped.items()))
    problems.append(f"{len(reshaped)} of another shape: {name_groups(list(reshaped), separator)} "
                    f"({first} is {list(have)}, the network has {list(want)})")
  return "; ".join(problems)


def name_groups(names: list[str], separator: str = ".", limit: int = 4) -> str:
  """Many names in one readable line: counted by their first three parts, one example each."""
  groups: dict[str, list[str]] = {}
  for name in sorted(names):
    groups.setdefault(separator.join(name.split(separator)[:3]), []).append(name)
  shown = [members[0] if len(members) == 1 else f"{group}{separator}… ({len(members)}, such as {members[0]})"
           for group, members in list(groups.items())[:limit]]
  hidden = sum(len(members) for members in list(groups.values())[limit:])
  return ", ".join(shown) + (f" and {hidden} more" if hidden else "")


def _axes(path: str, ndim: int, table: dict[int, tuple[int, ...]]) -> tuple[int, ...] | None:
  return table[ndim] if path.rsplit("/", 1)[-1] == "kernel" else None


def _permuted(tensor: LazyTensor, axes: tuple[int, ...] | None) -> LazyTensor:
  if axes is None:
    return tensor
  return tensor.map(lambda values: values.transpose(axes), shape=[tensor.shape[axis] for axis in axes])
