"""VideoPanda at the size of Stable Diffusion: shapes and counts, without the memory that the values would take."""

import dataclasses
import math

import jax
import pytest

from panda_jax import systems
from panda_jax.models.clip_text import CLIPTextConfig
from panda_jax.models.unet import UNetConfig
from panda_jax.models.vae import VAEConfig
from panda_jax.systems.starting_point import videopanda
from panda_jax.tree import flatten, unflatten
from panda_jax.weights import check_params
from tests.systems import toy

WIDTHS = (320, 640, 1280, 1280)
SD15 = UNetConfig(block_out_channels=WIDTHS, max_frames=24, resnet_norm="cross_frame", motion_heads=8,
                  motion_norm_groups=32, multiview=False, view_conditions=False)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """(tensors, config) from Stable Diffusion 1.5 with AnimateDiff's first motion modules; no value can be read."""
  networks = {"unet": toy.unread_network("unet", SD15), "vae": toy.unread_network("vae", VAEConfig()),
              "text_encoder": toy.unread_network("text_encoder", CLIPTextConfig())}
  return videopanda(networks, toy.write_tokenizer(tmp_path_factory.mktemp("sd") / "tokenizer"))


@pytest.fixture(scope="module")
def system(start):
  return systems.build(start[1])


@pytest.fixture(scope="module")
def abstract(system):
  return jax.eval_shape(system.init, jax.random.key(0))


def count(tree, keep=lambda path: True):
  return sum(math.prod(leaf.shape) for path, leaf in flatten(tree).items() if keep(path))


def test_the_starting_point_is_the_tree_that_the_system_asks_for(start, abstract):
  check_params(unflatten(start[0]), abstract)


def test_it_has_as_many_parameters_as_its_parts(abstract):
  """Stable Diffusion 1.5 with motion modules, and per transformer of width c five c x c projections, two of them with
  a bias; the channels for mask and rays, and the embedding of sigma."""
  transformers = [width for width in WIDTHS[:3] for _ in range(2 + 3)] + [WIDTHS[-1]]
  multiview = sum(5 * c * c + 2 * c for c in transformers)
  conditions = 3 * 3 * 4 * 320 + (320 * 1280 + 1280) + (1280 * 1280 + 1280)
  assert (multiview, conditions) == (61_976_960, 2_062_080)
  assert count(abstract["unet"], lambda path: "attn_multiview" in path) == multiview
  assert count(abstract["unet"]) == 1_276_658_564 + multiview + conditions == 1_340_697_604
  assert (count(abstract["vae"]), count(abstract["text"])) == (83_653_863, 123_060_480)


def test_stage_two_trains_motion_modules_multiview_attention_and_conditions(start, system, abstract):
  """And the first stage, which adapts a film model to the noise schedule, the whole UNet: never VAE and CLIP."""
  assert system.trainable("unet/conv_in_conditions/kernel")
  assert count(abstract, system.trainable) == 417_137_600 + 61_976_960 + 2_062_080
  config = start[1].copy_and_resolve_references()
  config.model.freeze_spatial = False
  assert count(abstract, systems.build(config).trainable) == count(abstract["unet"])


def test_a_batch_and_its_loss_have_the_shapes_of_the_paper(system, abstract):
  """48 images of 512 x 512: eight views of six frames, and texts of 77 tokens."""
  batch = system.batch_spec((8, 6), 1)
  assert batch["images"].shape == (1, 8, 6, 512, 512, 3) and batch["rays"].shape == (1, 8, 64, 64, 3)
  assert batch["text"].shape == (1, 77)
  loss, _ = jax.eval_shape(system.loss, abstract, batch, jax.random.key(0))
  assert loss.shape == ()


def test_stable_diffusion_2_fits_as_well(tmp_path):
  """Linear projections, heads of 64 channels, wider texts."""
  unet = dataclasses.replace(SD15, heads=(5, 10, 20, 20), linear_projection=True, text_channels=1024)
  networks = {"unet": toy.unread_network("unet", unet), "vae": toy.unread_network("vae", VAEConfig()),
              "text_encoder": toy.unread_network("text_encoder", CLIPTextConfig.sd21())}
  tensors, config = videopanda(networks, toy.write_tokenizer(tmp_path / "tokenizer", padding="!"))
  system = systems.build(config)
  assert config.model.unet.heads == (5, 10, 20, 20) and config.model.text.empty[2] == toy.TOKENS.index("!")
  check_params(unflatten(tensors), {name: network.abstract for name, network in system.networks.items()})
