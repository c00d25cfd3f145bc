"""Nested dicts of parameters as flat ones, and back."""

from typing import Any


def flatten(params: dict) -> dict[str, Any]:
  """Nested dict to {"a/b/c": leaf}, in sorted order.

  Args:
    params: dicts all the way down, keys are strings without "/".

  Raises:
    ValueError: for a key that is not such a string; two trees could then share one flat name.
  """
  flat = {}
  for key in sorted(params, key=str):
    if not isinstance(key, str) or not key or "/" in key:
      raise ValueError(f"parameter names must be non-empty strings without '/', got {key!r}")
    if isinstance(params[key], dict):
      flat.update({f"{key}/{path}": leaf for path, leaf in flatten(params[key]).items()})
    else:
      flat[key] = params[key]
  return flat


def unflatten(flat: dict[str, Any]) -> dict:
  """The inverse of `flatten`.

  Raises:
    ValueError: if one name is both a tensor and the folder of another ("a" and "a/b").
  """
  tree = {}
  for path, leaf in flat.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f"{path!r} lies below another tensor")
    if name in node:
      raise ValueError(f"{path!r} is both a tensor and a group of tensors")
    node[name] = leaf
  return tree
