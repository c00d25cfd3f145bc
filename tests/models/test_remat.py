"""What is computed again changes memory and work, not the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.models.functional import Functional
from panda_jax.models.remat import POLICIES, remat
from panda_jax.models.unet import UNet, UNetConfig
from panda_jax.parallel.flops import count_flops
from tests.fast import draw, jit

SIZES = UNetConfig(block_out_channels=(8, 16), attention=(False, True), heads=(1, 2), layers_per_block=1, norm_groups=4,
                   text_channels=8)
NETWORK = Functional(lambda rngs: UNet(SIZES, rngs=rngs))


def loss(params, latents):
  conditions = dict(rays=jnp.ones((1, 2, 8, 8, 3)), mask=jnp.zeros((1, 2, 3)), sigma=jnp.zeros((1, 2, 3)))
  output = NETWORK(params, latents, jnp.array([500]), jnp.ones((1, 5, 8)), **conditions)
  return jnp.square(output).mean()


@pytest.fixture(scope="module")
def results():
  """Policy -> (gradients, traced program)."""
  params = draw(NETWORK.abstract)
  latents = np.random.default_rng(0).normal(size=(1, 2, 3, 8, 8, 4)).astype(np.float32)
  found = {}
  for policy in POLICIES:
    with remat(policy):                                        # another function for each: traces are kept by function
      traced = jit(lambda params, latents: jax.grad(loss)(params, latents)).trace(params, latents)
    found[policy] = traced.lower().compile()(params, latents), traced.jaxpr
  return found


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_gradients_are_the_same(results, policy):
  for one, other in zip(*(jax.tree.leaves(results[name][0]) for name in ("none", policy))):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_blocks_are_computed_again_and_no_more_than_once(results):
  flops = {policy: count_flops(jaxpr).total() for policy, (_, jaxpr) in results.items()}
  assert flops["none"] < flops["dots"] < flops["block"] == pytest.approx(flops["offload"], rel=0.01)
  assert flops["block"] < 4 / 3 * flops["none"]
  # What is computed again does not count as work of the model.
  model = {policy: count_flops(jaxpr, recomputed=False).total() for policy, (_, jaxpr) in results.items()}
  assert model["block"] == pytest.approx(flops["none"], rel=0.01)


def test_only_offload_sends_activations_to_the_host(results):
  sent = {policy: str(jaxpr).count("<host>") for policy, (_, jaxpr) in results.items()}
  assert sent["offload"] > 0 and not any(sent[policy] for policy in POLICIES[:3])


def test_an_unknown_policy_is_refused():
  with pytest.raises(ValueError, match="remat must be one of none, block, dots, offload, got 'all'"), remat("all"):
    pass
