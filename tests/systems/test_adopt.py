"""Stage two begins where stage one ends: a model takes over another one that lacks only what it adds (§3.2)."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import videopanda as configs
from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.models.functional import check_tree
from panda_jax.tree import flatten, unflatten
from tests.fast import draw, init_key, jit
from tests.systems.test_videopanda import small_config

VIEWS, FRAMES, BATCH = 3, 2, 2
KINDS = ("attn_multiview", "motion_modules", "conv_in_conditions", "sigma_embedding")


def build(**unet):
  """The smallest system, with another UNet."""
  config = small_config()
  config.model.unet.update(unet)
  if not config.model.unet.view_conditions:
    config.model.conditioning.regimes = ("text",)
  return systems.build(config)


@pytest.fixture(scope="module")
def system():
  return build()


@pytest.fixture(scope="module")
def stage_one():
  """(system of single films, its parameters, none of which is zero any more)."""
  film = build(multiview=False, view_conditions=False)
  return film, {"unet": draw(film.unet.abstract), "text": draw(film.text.abstract, seed=1)}


@pytest.fixture(scope="module")
def adopted(system, stage_one):
  return system.adopt(stage_one[1], init_key(0))


def without(params, *parts):
  """The parameters but for those whose path has one of these parts."""
  return params | {"unet": unflatten({path: leaf for path, leaf in flatten(params["unet"]).items()
                                      if not any(part in path for part in parts)})}


# --- what it is then


def test_it_has_every_parameter_and_keeps_those_that_it_had(system, stage_one, adopted):
  check_tree(adopted, {"unet": system.unet.abstract, "text": system.text.abstract})
  have, before = flatten(adopted), flatten(stage_one[1])
  assert before.keys() < have.keys()
  for path, leaf in before.items():
    np.testing.assert_array_equal(have[path], leaf)
  assert all(any(kind in path for kind in KINDS) for path in have.keys() - before.keys())


def test_views_attend_to_one_another_as_the_pixels_of_an_image_do(adopted):
  """New multi-view attention is a copy of what the model learned, not of what an untrained one would have."""
  leaves = flatten(adopted["unet"])
  copies = [path for path in leaves if "/attn_multiview/attention/" in path]
  assert len(copies) == 4 * 5
  for path in copies:
    np.testing.assert_array_equal(leaves[path], leaves[path.replace("attn_multiview/attention", "attn1")])


def test_what_is_new_is_joined_by_zeros(adopted):
  leaves = flatten(adopted["unet"])
  joints = [path for path in leaves if "attn_multiview/out/" in path or "conv_in_conditions" in path
            or "sigma_embedding/linear_2" in path]
  assert len(joints) == 4 * 2 + 1 + 2 and not any(np.any(leaves[path]) for path in joints)
  assert np.any(leaves["sigma_embedding/linear_1/kernel"])                    # else nothing would ever pass


def test_every_view_comes_out_as_stage_one_makes_it_by_itself(system, stage_one, adopted):
  """Whatever it is told about the others: rays, masks and noise levels mean nothing yet."""
  film, params = stage_one
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  latents, text = normal(BATCH, VIEWS, FRAMES, 2, 2, system.codec.channels), normal(BATCH, 8, 8)
  timestep, mask = np.array([40, 900]), (rng.random((BATCH, VIEWS, FRAMES)) < 0.5).astype(np.float32)
  conditions = {"rays": normal(BATCH, VIEWS, 2, 2, 3), "mask": mask, "sigma": 0.7 * mask}
  together = jit(lambda params, told: system.unet(params, latents, timestep, text, **told))(adopted["unet"], conditions)
  alone = jit(film.unet)(params["unet"], latents.reshape(BATCH * VIEWS, 1, *latents.shape[2:]),
                         timestep.repeat(VIEWS), text.repeat(VIEWS, 0))
  np.testing.assert_allclose(together, np.asarray(alone).reshape(latents.shape), atol=2e-5)
  assert float(jnp.abs(alone).max()) > 0.1


def test_an_image_model_gets_motion_modules_too(system, stage_one):
  """Of Stable Diffusion 2 there are no others: all that is added begins at nothing."""
  image = without(stage_one[1], "motion_modules")
  params = system.adopt(image, init_key(1))
  check_tree(params["unet"], system.unet.abstract)
  leaves = flatten(params["unet"])
  joints = [path for path in leaves if "motion_modules" in path and path.endswith("/proj_out/kernel")]
  assert len(joints) == 3 and not any(np.any(leaves[path]) for path in joints)


def test_what_is_new_follows_from_its_key(system, stage_one, adopted):
  other = flatten(system.adopt(stage_one[1], init_key(1)))
  differ = [path for path, leaf in flatten(adopted).items() if not np.array_equal(leaf, other[path])]
  assert differ == ["unet/sigma_embedding/linear_1/kernel"]


def test_a_whole_model_stays_as_it_is(system, adopted):
  again = system.adopt(adopted, init_key(5))
  assert flatten(again).keys() == flatten(adopted).keys()
  assert all(again_leaf is leaf for again_leaf, leaf in zip(flatten(again).values(), flatten(adopted).values()))


def test_a_model_with_views_but_without_motion_keeps_its_multiview_attention(system, adopted):
  """Trained by itself it is no copy any more."""
  trained = flatten(adopted["unet"])
  trained = {path: leaf + 1 if "attn_multiview" in path else leaf for path, leaf in trained.items()}
  params = system.adopt(without(adopted | {"unet": unflatten(trained)}, "motion_modules"), init_key(0))
  for path, leaf in flatten(params["unet"]).items():
    if "attn_multiview" in path:
      np.testing.assert_array_equal(leaf, trained[path])


# --- what is refused


@pytest.mark.parametrize("lost", [
  "mid_block/attentions/0/transformer_blocks/0/attn_multiview/out/bias", "sigma_embedding/linear_2/bias",
  "up_blocks/0/motion_modules/1/proj_in/kernel", "up_blocks/0/motion_modules/1"])
def test_a_part_of_a_kind_is_no_starting_point(system, adopted, lost):
  """A model that has some of its multi-view attention, and not all, is broken, and not of an earlier stage."""
  with pytest.raises(InputError, match=f"lacks the parameter unet/{lost}.*: give one of this architecture"):
    system.adopt(without(adopted, lost), init_key(0))


@pytest.mark.parametrize("lost", ["conv_in/bias", "mid_block/resnets/1/conv1/kernel", "time_embedding/linear_1/kernel",
                                  "down_blocks/0/attentions/0/transformer_blocks/0/attn1/to_q/kernel"])
def test_nothing_of_the_image_network_may_be_missing(system, stage_one, lost):
  with pytest.raises(InputError, match=f"lacks the parameter unet/{lost}"):
    system.adopt(without(stage_one[1], lost), init_key(0))


def test_what_is_too_much_is_left_for_the_check_that_names_it(system, stage_one, adopted):
  """Stage one from stage two, say."""
  film, _ = stage_one
  params = film.adopt(adopted, init_key(0))
  with pytest.raises(ValueError, match="attn_multiview.*is unexpected"):
    check_tree(params["unet"], film.unet.abstract)


# --- the two stages of configs/videopanda.py


@functools.cache
def stage(number):
  return systems.build(configs.get_config(f"stage={number},size=tiny,runlocal"))


def test_stage_one_has_a_loss_of_single_films():
  """Neither rays nor masks: its network takes none."""
  film = stage(1)
  params = jax.eval_shape(film.init, jax.random.key(0))
  loss, metrics = jax.eval_shape(film.loss, params, film.batch_spec((1, 3), 2), jax.random.key(0))
  assert loss.shape == () and metrics["given"].shape == ()


def test_stage_one_samples_single_films():
  film = stage(1)
  params, spec = jax.eval_shape(film.init, jax.random.key(0)), film.batch_spec((1, 3), 1)
  image = jax.ShapeDtypeStruct((1, 1, 3), jnp.float32)
  sample = functools.partial(film.sample, steps=2, guidance=3.0)
  frames = jax.eval_shape(sample, params, {**spec, "mask": image, "sigma": image}, jax.random.key(0))
  assert (frames.shape, frames.dtype) == (spec["images"].shape, jnp.uint8)


def test_stage_two_begins_with_stage_one_and_freezes_what_it_learned():
  film, views = stage(1), stage(2)
  params = {name: draw(network.abstract) for name, network in film.networks.items()}
  adopted = views.adopt(copy.copy(params), init_key(0))
  check_tree(adopted, {name: network.abstract for name, network in views.networks.items()})
  trained = {path for path in flatten(adopted) if views.trainable(path)}
  assert trained == {path for path in flatten(adopted) if any(kind in path for kind in KINDS)}
  assert all(film.trainable(path) for path in flatten(params))
