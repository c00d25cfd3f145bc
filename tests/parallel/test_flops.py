"""FLOPs counted from a program's shapes are those that one works out by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from panda_jax.models import attention_fused
from panda_jax.parallel.flops import count_flops, kernel_flops

B, D, LAYERS = 4, 8, 3
PRODUCT = 2 * B * D * D


def counted(function, *shapes, **options):
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return dict(count_flops(jax.jit(function).trace(*arguments).jaxpr, **options))


def network(weights, x, wrap):
  for weight in weights:
    x = wrap(lambda weight, x: jnp.tanh(x @ weight))(weight, x)
  return (x**2).sum()


def test_products_are_told_apart():
  def function(x, weight, kernel, images):
    scores = jnp.einsum("bsd,btd->bst", x, x)
    convolved = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return scores.sum() + (x @ weight).sum() + convolved.sum()
  assert counted(function, (2, 5, 4), (4, 7), (3, 3, 6, 9), (2, 16, 16, 6)) == {
      "attention": 2 * 2 * 5 * 5 * 4, "linear": 2 * 2 * 5 * 4 * 7, "convolution": 2 * 2 * 16 * 16 * 9 * 6 * 9}


def test_all_rounds_of_loops_count():
  def function(x, weight):
    inner = lambda x, _: (jax.lax.fori_loop(0, 3, lambda _, x: x @ weight, x), None)
    return jax.lax.scan(inner, x, length=5)[0]
  assert counted(function, (B, D), (D, D)) == {"linear": 15 * PRODUCT}


def test_of_what_the_data_choose_the_larger_branch_counts():
  function = lambda x, weight: jax.lax.cond(x.sum() > 0, lambda x: x @ weight @ weight, lambda x: x, x)
  assert counted(function, (B, D), (D, D)) == {"linear": 2 * PRODUCT}


@pytest.mark.parametrize("platform, products", [("cpu", 1), ("tpu", 2), ("cuda", 3)])
def test_the_branch_of_the_platform_counts(platform, products):
  def times(count):
    def function(x, weight):
      for _ in range(count):
        x = x @ weight
      return x
    return function
  function = lambda x, weight: jax.lax.platform_dependent(x, weight, cpu=times(1), tpu=times(2), default=times(3))
  assert counted(function, (B, D), (D, D), platform=platform) == {"linear": products * PRODUCT}


def test_a_network_and_its_gradients():
  """Forward one product a layer, backward two, but one in the first layer, whose input needs no gradient."""
  gradient = jax.grad(lambda weights, x: network(weights, x, lambda layer: layer))
  assert counted(lambda x, *weights: gradient(weights, x), (B, D), *[(D, D)] * LAYERS) == {
      "linear": (3 * LAYERS - 1) * PRODUCT}


@pytest.mark.parametrize("wrap", [jax.checkpoint, lambda layer: jax.checkpoint(jax.jit(layer))])
def test_what_a_checkpoint_computes_twice_is_told_apart(wrap):
  gradient = jax.grad(lambda weights, x: network(weights, x, wrap))
  function, shapes = lambda x, *weights: gradient(weights, x), ((B, D), *[(D, D)] * LAYERS)
  assert counted(function, *shapes) == {"linear": (4 * LAYERS - 1) * PRODUCT}
  assert counted(function, *shapes, recomputed=False) == {"linear": (3 * LAYERS - 1) * PRODUCT}


def test_a_checkpoint_inside_a_loop():
  layer = jax.checkpoint(lambda x, weight: (jnp.tanh(x @ weight), None))
  gradient = jax.grad(lambda weights, x: jax.lax.scan(layer, x, weights)[0].sum(), argnums=(0, 1))
  assert counted(gradient, (LAYERS, D, D), (B, D)) == {"linear": 4 * LAYERS * PRODUCT}
  assert counted(gradient, (LAYERS, D, D), (B, D), recomputed=False) == {"linear": 3 * LAYERS * PRODUCT}


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_convolution_cost_what_it_costs(stride):
  def convolve(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (stride, stride), "SAME",
                                        dimension_numbers=("NHWC", "HWIO", "NHWC")).sum()
  shapes = (2, 16, 16, 6), (3, 3, 6, 9)
  once = 2 * 2 * (16 // stride)**2 * 9 * 6 * 9
  assert counted(convolve, *shapes) == {"convolution": once}
  for argument in (0, 1):
    assert counted(jax.value_and_grad(convolve, argument), *shapes) == {"convolution": 2 * once}


def test_inside_shard_map_the_count_is_of_one_device():
  mesh = AbstractMesh((4,), ("data",))
  spec = PartitionSpec("data")
  function = jax.shard_map(lambda x, weight: x @ weight, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
  assert counted(function, (4 * B, D), (D, D)) == {"linear": PRODUCT}


def test_fused_attention_of_gpus(monkeypatch):
  cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")       # so that it can be traced without one
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
  attend = lambda *operands: attention_fused.cudnn(*(x.astype(jnp.bfloat16) for x in operands)).sum()
  gradient, shapes = jax.grad(attend, argnums=(0, 1, 2)), ((2, 256, 4, 64), (2, 512, 4, 64), (2, 512, 4, 64))
  product = 2 * 2 * 4 * 256 * 512 * 64
  assert counted(attend, *shapes) == {"attention": 2 * product}
  assert counted(gradient, *shapes) == {"attention": 7 * product}
  assert counted(gradient, *shapes, recomputed=False) == {"attention": 6 * product}


def test_kernels_of_fused_attention():
  """Two products forwards and four backwards; what the kernels make again of them is no part of the model."""
  images, tokens, heads, d = 2, 1024, 2, 64
  product = 2 * images * heads * tokens * tokens * d
  attend = lambda *operands: attention_fused.splash(*operands).sum()
  shapes = ((images, tokens, heads, d),) * 3
  assert counted(attend, *shapes) == {"attention": 2 * product}
  gradient = jax.grad(attend, argnums=(0, 1, 2))
  assert counted(gradient, *shapes, recomputed=False)["attention"] == pytest.approx(6 * product, rel=1e-3)
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  in_kernels = kernel_flops(jax.jit(gradient).trace(*arguments).jaxpr)
  assert in_kernels >= 7 * product
  assert counted(gradient, *shapes)["attention"] == pytest.approx(in_kernels, rel=1e-3)
