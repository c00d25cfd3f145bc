"""The starting point of training: everything of the base is there, and what is new adds nothing yet."""

import dataclasses

import jax
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.generate.load import open_system, settings_of
from panda_jax.models.functional import flatten, unflatten
from panda_jax.systems.starting_point import videopanda
from panda_jax.weights import WeightsError, check_params, save_model
from panda_jax.weights.resolve import resolve
from tests.fast import jit
from tests.paths import PARITY, needs_parity
from tests.systems import toy

VIEWS, FRAMES = 3, 2
ADDED = ("attn_multiview", "conv_in_conditions", "sigma_embedding")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return toy.write_tokenizer(tmp_path_factory.mktemp("pipeline") / "tokenizer")


@pytest.fixture(scope="module")
def made(tokenizer):
  """(networks, tensors, config)."""
  networks = toy.networks()
  return networks, *videopanda(networks, tokenizer, view_size=toy.VIEW_SIZE, frames=FRAMES)


def values_of(tensors, dtype=None):
  return unflatten({path: np.asarray(tensor.read(), dtype) for path, tensor in tensors.items()})


# --- it computes what its base computes


def draw_conditions(rng, shape, side, scale):
  b, v, f = shape
  conditions = {"rays": rng.normal(size=(b, v, side, side, 3)), "mask": rng.integers(0, 2, shape),
                "sigma": rng.random(shape)}
  return {name: (scale * value).astype(np.float32) for name, value in conditions.items()}


def test_nothing_is_changed_by_what_is_added(tokenizer):
  """Whatever rays, mask and sigma say, each view is the film that the base makes: here with norms over its frames."""
  norms = dict(resnet_norm="cross_frame", motion_norm="cross_frame", motion_mid=True)
  networks = toy.networks(**norms)
  tensors, config = videopanda(networks, tokenizer, view_size=toy.VIEW_SIZE, frames=FRAMES)
  assert {name: config.model.unet[name] for name in norms} == norms
  side, rng = toy.VIEW_SIZE // toy.FACTOR, np.random.default_rng(0)
  latents = rng.normal(size=(2, VIEWS, FRAMES, side, side, 4)).astype(np.float32)
  inputs = np.array([501, 20]), rng.normal(size=(2, 7, 8)).astype(np.float32)
  base, params = jit(networks["unet"].functional), values_of(networks["unet"].params())
  expected = np.asarray(base(params, latents, *inputs))
  assert np.abs(expected).max() > 0.1

  network, params_added = jit(systems.build(config).unet), values_of(tensors)["unet"]
  for scale in (0, 1, 1000):
    conditions = draw_conditions(rng, (2, VIEWS, FRAMES), side, scale)
    out = np.asarray(network(params_added, latents, *inputs, **conditions))
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
  others = np.concatenate([latents[:, :1], rng.normal(size=latents[:, 1:].shape)], 1).astype(np.float32)
  np.testing.assert_array_equal(np.asarray(base(params, others, *inputs))[:, 0], expected[:, 0])    # it knows one view


@needs_parity
def test_files_as_they_are_published_give_the_numbers_of_pytorch_in_every_view():
  """A diffusers UNet with AnimateDiff's first motion modules, against the official code; two views of one film."""
  networks = resolve(PARITY / "unet2d_sd15", motion=PARITY / "motion/mm_v1.ckpt")
  networks |= resolve(PARITY / "vae") | resolve(PARITY / "clip_text/text_encoder_sd15")
  tensors, config = videopanda(networks, PARITY / "clip_text/tokenizer", view_size=64)
  assert config.model.unet.resnet_norm == "cross_frame" and config.model.unet.max_frames == 24
  assert config.model.sampling.frames == 16 and config.model.text.empty == (632, 633, 633)
  with np.load(PARITY / "motion/io.npz") as arrays:
    latents, expected = (np.stack([np.moveaxis(arrays[name][:1], 1, -1)] * 2, 1) for name in ("sample", "out_v1"))
    inputs = arrays["timestep"][:1], arrays["encoder_hidden_states"][:1]
  conditions = draw_conditions(np.random.default_rng(0), latents.shape[:3], latents.shape[3], scale=1)
  params = values_of(tensors, np.float32)["unet"]
  out = np.asarray(jit(systems.build(config).unet)(params, latents, *inputs, **conditions))
  np.testing.assert_allclose(out, expected, rtol=0, atol=3e-5)


# --- what it is made of


def test_the_tensors_are_those_that_the_system_asks_for(made):
  _, tensors, config = made
  system = systems.build(config)
  check_params(values_of(tensors), jax.eval_shape(system.init, jax.random.key(0)))


def test_every_tensor_of_the_base_is_kept_bit_by_bit(made):
  networks, tensors, _ = made
  for name, kind in (("unet", "unet"), ("text", "text_encoder"), ("vae", "vae")):
    for path, tensor in networks[kind].params().items():
      np.testing.assert_array_equal(tensors[f"{name}/{path}"].read(), tensor.read())


def test_what_is_new_is_a_copy_of_the_spatial_attention_or_zero(made):
  """But for one layer, which would never train with zeros in front of zeros."""
  networks, tensors, _ = made
  base = {f"unet/{path}" for path in networks["unet"].params()}
  new = {path for path in tensors if path.startswith("unet/")} - base
  assert new == {path for path in tensors if any(part in ADDED for part in path.split("/"))}
  copies = {path for path in new if "/attn_multiview/attention/" in path}
  assert len(copies) == 5 * 4                                    # q, k, v, out and its bias, in each transformer
  for path in copies:
    original = tensors[path.replace("attn_multiview/attention", "attn1")]
    np.testing.assert_array_equal(tensors[path].read(), original.read())
  random = {path for path in new - copies if tensors[path].read().any()}
  assert random == {"unet/sigma_embedding/linear_1/kernel"}


def test_the_random_layer_is_the_same_every_time_and_of_unit_gain(made, tokenizer):
  _, tensors, _ = made
  path = "unet/sigma_embedding/linear_1/kernel"
  first = tensors[path].read()
  np.testing.assert_array_equal(first, tensors[path].read())
  assert first.dtype == np.float32 and abs(first.std() * first.shape[0] ** 0.5 - 1) < 0.15
  other, _ = videopanda(toy.networks(), tokenizer, view_size=toy.VIEW_SIZE, seed=1)
  assert (first != other[path].read()).all()


def test_tensors_keep_the_type_of_their_files(tokenizer):
  tensors, _ = videopanda(toy.networks(np.float16), tokenizer, view_size=toy.VIEW_SIZE)
  for path, tensor in tensors.items():
    assert tensor.read().dtype == tensor.dtype and tensor.read().shape == tensor.shape
    new = any(part in ADDED for part in path.split("/")) and "/attn_multiview/attention/" not in path
    assert tensor.dtype == (np.float32 if new else np.float16)


def test_no_value_is_read_before_it_is_asked_for(tokenizer):
  """And then that one alone: a full-size model never lies in memory whole."""
  networks, reads = toy.networks(), []

  def watch(name, tensor):
    return dataclasses.replace(tensor, read=lambda: reads.append(name) or tensor.read())

  for kind, network in networks.items():
    watched = {name: watch(name, tensor) for name, tensor in network.tensors.items()}
    networks[kind] = dataclasses.replace(network, tensors=watched)
  tensors, _ = videopanda(networks, tokenizer, view_size=toy.VIEW_SIZE)
  assert not reads
  block = "mid_block/attentions/0/transformer_blocks/0"
  tensors[f"unet/{block}/attn_multiview/attention/to_q/kernel"].read()
  assert reads == [f"{block}/attn1/to_q/weight".replace("/", ".")]


def test_the_config_says_how_to_sample_and_where_the_tokenizer_is(made, tokenizer):
  _, _, config = made
  assert config.system == "videopanda" and config.data.fps == 4
  assert config.model.text.tokenizer == str(tokenizer) and config.model.freeze_spatial
  settings = settings_of(config)
  assert (settings.steps, settings.text_guidance, settings.video_guidance) == (25, 8.0, 4.0)
  assert (settings.frames, settings.panorama_height) == (FRAMES, 2 * toy.VIEW_SIZE)


def test_of_a_pipeline_folder_the_tokenizer_alone_is_named(tokenizer):
  _, config = videopanda(toy.networks(), tokenizer.parent, view_size=toy.VIEW_SIZE)
  assert config.model.text.tokenizer == str(tokenizer)


# --- it is a model like any other


def test_a_model_folder_made_of_it_generates_and_can_be_moved(made, tmp_path):
  """Written, moved, opened, and asked for a film beside a given one."""
  _, tensors, config = made
  save_model(tmp_path / "start", unflatten(tensors), config)
  (tmp_path / "start").rename(tmp_path / "elsewhere")
  system, params, config = open_system(checkpoint=str(tmp_path / "elsewhere"))
  assert config.model.text.tokenizer == str(tmp_path / "elsewhere" / "tokenizer")
  assert {path: leaf.tobytes() for path, leaf in flatten(params).items()} == {
    path: tensor.read().tobytes() for path, tensor in tensors.items()}
  settings = settings_of(config, steps=1, video_guidance=1.0)
  rng = np.random.default_rng(0)
  mask = np.zeros((1, VIEWS, FRAMES), np.float32)
  mask[:, 0] = 1
  request = {"images": rng.integers(0, 256, (1, VIEWS, FRAMES, *system.view_size, 3)).astype(np.uint8), "mask": mask,
             "sigma": 0 * mask, "rays": system.rig.rays(system.rays_size)[None, :VIEWS],
             "text": system.tokenize("the sea")[None]}
  film = np.asarray(jit(lambda params, request, rng: system.sample(
    params, request, rng, steps=settings.steps, guidance=settings.video_guidance))(params, request, jax.random.key(0)))
  assert film.shape == request["images"].shape and film.dtype == np.uint8 and film.std() > 1


# --- what is refused


@pytest.mark.parametrize("kind, word", [("unet", "UNet"), ("vae", "VAE"), ("text_encoder", "text encoder")])
def test_an_absent_network_is_named(tokenizer, kind, word):
  networks = toy.networks()
  del networks[kind]
  with pytest.raises(WeightsError, match=f"the {word} is absent: toy/.* was given; give a pipeline folder"):
    videopanda(networks, tokenizer)


def test_a_base_without_motion_modules_is_told_that_they_are_wanted(tokenizer):
  with pytest.raises(WeightsError, match="toy/unet has no motion modules.* give AnimateDiff's with motion="):
    videopanda(toy.networks(temporal=False), tokenizer)


@pytest.mark.parametrize("changes, words", [
    (dict(in_channels=9, out_channels=4), "toy/unet takes 9 channels and gives 4, and the latents of toy/vae have 4"),
    (dict(out_channels=8), "toy/unet takes 4 channels and gives 8"),
    (dict(text_channels=16), "toy/unet reads texts of 16 channels, and toy/text_encoder gives 8"),
])
def test_networks_that_do_not_belong_together_are_named(tokenizer, changes, words):
  with pytest.raises(WeightsError, match=words):
    videopanda(toy.networks(**changes), tokenizer, view_size=toy.VIEW_SIZE)


def test_a_tokenizer_of_another_text_encoder_is_refused(tokenizer):
  smaller = toy.network("text_encoder", dataclasses.replace(toy.CLIP, vocabulary=99))
  networks = toy.networks() | {"text_encoder": smaller}
  with pytest.raises(WeightsError, match=f"texts of 77 tokens out of {len(toy.TOKENS)}, and .* reads 77 out of 99"):
    videopanda(networks, tokenizer, view_size=toy.VIEW_SIZE)


@pytest.mark.parametrize("asked, words", [
    (dict(view_size=30), "cannot halve"), (dict(view_size=8, frames=5), "more than the 4 frame positions"),
    (dict(view_size=8, prediction="x0"), "prediction must be one of")])
def test_sizes_that_cannot_be_are_refused(tokenizer, asked, words):
  with pytest.raises(InputError, match=words):
    videopanda(toy.networks(), tokenizer, **asked)
