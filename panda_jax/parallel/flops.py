"""FLOPs of a program, counted from the shapes of the products that it traces.

XLA's own count takes the body of a loop once and does not see inside a Pallas kernel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jax.extend import core

# JAX puts what jax.checkpoint computes a second time under this name. A backward pass written by hand can do the same
# with jax.named_scope.
RECOMPUTED = "rematted_computation"

# Products of a splash attention kernel's backward pass that a step would have kept in memory if it could, of all that
# the kernel has, by the end of its name: the scores; where dq has a kernel of its own, also the weights' gradients.
_RECOMPUTED_IN_KERNEL = {"dkv": 1, "dq": 2}


def count_flops(jaxpr: core.Jaxpr | core.ClosedJaxpr, *, recomputed: bool = True, platform: str = "tpu") -> Counter:
  """Two for each multiplication of products and convolutions, by kind: attention, linear, convolution.

  Loops count with all their rounds (one whose number of rounds the program decides counts once) and padding counts.
  Inside `jax.shard_map` the shapes are those of one device, and so is the count; outside it is of all devices together.

  Args:
    jaxpr: of a program, such as jax.jit(f).trace(x).jaxpr.
    recomputed: whether what is computed a second time to save memory counts. Without it these are the model's FLOPs,
      which MFU is made of.
    platform: whose branch of jax.lax.platform_dependent counts.
  """
  flops = Counter()
  for kind, count, again in _products(jaxpr, platform):
    if recomputed or not again:
      flops[kind] += count
  return flops


def kernel_flops(jaxpr: core.Jaxpr | core.ClosedJaxpr, *, platform: str = "tpu") -> int:
  """The part of `count_flops` that is inside Pallas kernels, about which the compiler's estimate of time is silent."""
  return sum(count for kind, count, _ in _products(jaxpr, platform, kernels=True))


def _products(jaxpr, platform: str, *, kernels: bool = False) -> Iterator[tuple[str, int, bool]]:
  """(kind, FLOPs, whether it is recomputed) of everything in a program, or in its kernels alone."""
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  for equation in jaxpr.eqns:
    again = RECOMPUTED in str(equation.source_info.name_stack)
    name, params = equation.primitive.name, equation.params
    if name == "pallas_call":
      parts = _kernel(equation, platform)
    elif name == "dot_general":
      # Only attention has products of two activations, and so with leading axes in common.
      kind = "attention" if params["dimension_numbers"][1][0] else "linear"
      parts = [] if kernels else [(kind, _dot_flops(equation), False)]
    elif name == "conv_general_dilated":
      parts = [] if kernels else [("convolution", _convolution_flops(equation), False)]
    elif name.startswith("dot_product_attention_"):             # cuDNN's
      parts = [] if kernels else _cudnn(equation)
    elif name == "cond":
      parts = _branch(params, platform, kernels)
    else:
      rounds = params["length"] if name == "scan" else 1
      parts = [(kind, rounds * count, inner_again) for inner in _inner(params)
               for kind, count, inner_again in _products(inner, platform, kernels=kernels)]
    for kind, count, inner_again in parts:
      yield kind, count, again or inner_again


def _dot_flops(equation) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
  return 2 * depth * equation.outvars[0].aval.size


def _convolution_flops(equation) -> int:
  params, kernel = equation.params, equation.invars[1].aval
  taps = kernel.size // kernel.shape[params["dimension_numbers"].rhs_spec[0]]
  # A strided convolution's gradient is a convolution of pictures with zeros between the pixels.
  return 2 * equation.outvars[0].aval.size * taps // math.prod(params["lhs_dilation"])


def _branch(params: dict, platform: str, kernels: bool) -> list[tuple[str, int, bool]]:
  """The branch of a platform, or of those that the data choose from the one with most to compute."""
  branches, platforms = params["branches"], params.get("branches_platforms")
  if platforms:
    default = next((i for i, names in enumerate(platforms) if not names), len(platforms) - 1)
    branches = [branches[next((i for i, names in enumerate(platforms) if platform in (names or ())), default)]]
  counted = [list(_products(branch, platform, kernels=kernels)) for branch in branches]
  return max(counted, key=lambda parts: sum(count for _, count, _ in parts))


def _kernel(equation, platform: str) -> list[tuple[str, int, bool]]:
  """A Pallas kernel's products, all of them attention; what its grid or its blocks pad counts."""
  params = equation.params
  rounds = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
  parts = list(_products(params["jaxpr"], platform))
  name = str(params.get("name") or params.get("name_and_src_info"))
  again = next((count for part, count in _RECOMPUTED_IN_KERNEL.items() if f"_{part}" in name), 0)
  return [("attention", rounds * count, i < again) for i, (_, count, _) in enumerate(parts)]


def _cudnn(equation) -> list[tuple[str, int, bool]]:
  """Queries [b s n d] and keys [b l n d]: two products forwards, five backwards, of which the scores are made again."""
  query, key = (operand.aval for operand in equation.invars[:2])
  product = 2 * query.size * key.shape[1]
  if "_bwd" in equation.primitive.name:
    return [("attention", product, True), ("attention", 4 * product, False)]
  return [("attention", 2 * product, False)]


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
  """The programs among an equation's parameters."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      inner = getattr(item, "jaxpr", item)
      if isinstance(inner, core.Jaxpr):
        yield inner
