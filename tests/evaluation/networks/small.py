"""A small network of a metric with the weights and the outputs of its golden file."""

from collections.abc import Callable
import functools
from pathlib import Path

from flax import nnx
import numpy as np

from panda_jax.evaluation.networks.files import fill
from panda_jax.models.functional import Functional
from panda_jax.weights.layout import torch_shapes
from panda_jax.weights.tensors import LazyTensor
from tests.evaluation.networks.random_weights import draw


class Small:
  """`build(rngs)` makes the network; `golden` names its file: "inception"."""

  def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], golden: str):
    self._build, self._golden = build, golden
    with np.load(Path(__file__).with_name(f"golden_{golden}.npz")) as file:
      self.seed = int(file["seed"])
      self.outputs = {tuple(map(int, size.split("x"))): file[size] for size in file if size != "seed"}

  @functools.cached_property
  def functional(self) -> Functional:
    return Functional(self._build)

  @functools.cached_property
  def weights(self) -> dict[str, np.ndarray]:
    return draw(torch_shapes(self.functional.abstract), self.seed)

  @functools.cached_property
  def network(self) -> nnx.Module:
    return self.filled(self.weights)

  def filled(self, tensors: dict[str, np.ndarray]) -> nnx.Module:
    return fill(self.functional, {name: LazyTensor.of(values, name) for name, values in tensors.items()}, "weights",
                self._golden)
