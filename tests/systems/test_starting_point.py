"""The starting point of training: everything of the base is there, and what is new adds nothing yet."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from panda_jax import systems
from panda_jax.cli.main import main
from panda_jax.errors import InputError
from panda_jax.generate.load import open_system, settings_of
from panda_jax.systems.starting_point import method, videopanda
from panda_jax.training.config import load_config, to_plain
from panda_jax.training.init import Source, check_same_networks, find_source, load_params
from panda_jax.tree import flatten, unflatten
from panda_jax.weights import WeightsError, check_params, configs, save_model
from panda_jax.weights.resolve import resolve
from tests.fast import init_key, jit
from tests.paths import PARITY, needs_parity
from tests.systems import toy

VIEWS, FRAMES = 3, 2
ADDED = ("attn_multiview", "conv_in_conditions", "sigma_embedding")
ONE_LEVEL = dict(block_out_channels=(8,), attention=(True,))


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


# --- the two stages


@pytest.fixture(scope="module")
def networks():
  """Of one level: their programs are compiled in a moment."""
  return toy.networks(**ONE_LEVEL)


@pytest.fixture(scope="module")
def stages(networks, tokenizer):
  """{stage: (tensors, config)} of where each begins, from the same weights."""
  return {stage: videopanda(networks, tokenizer, stage=stage, view_size=toy.VIEW_SIZE, frames=FRAMES)
          for stage in (1, 2)}


def save(folder, tensors, config):
  save_model(folder, unflatten(tensors), config)
  return str(folder)


def adopted(folder, config):
  """{path: values} with which a run of this config begins from the folder, as `panda train --config.init` reads it."""
  source = find_source(str(folder))
  check_same_networks(config, source)
  system = systems.build(config)
  abstract = jax.eval_shape(system.init, jax.random.key(0))
  return flatten(load_params(source, system, abstract, init_key(0)))


def test_stage_one_begins_with_the_base_and_nothing_else(networks, stages):
  tensors, config = stages[1]
  base = {f"{name}/{path}": tensor for name, kind in (("unet", "unet"), ("text", "text_encoder"), ("vae", "vae"))
          for path, tensor in networks[kind].params().items()}
  assert tensors.keys() == base.keys()
  for path, tensor in base.items():
    np.testing.assert_array_equal(tensors[path].read(), tensor.read())
  system = systems.build(config)
  check_params(values_of(tensors), jax.eval_shape(system.init, jax.random.key(0)))
  assert len(system.rig) == 1 and config.model.conditioning.regimes == ("text",)


def test_stage_one_trains_the_whole_unet_and_stage_two_what_is_not_spatial(stages):
  """Never the VAE and CLIP."""
  for stage, (tensors, config) in stages.items():
    trainable = systems.build(config).trainable
    assert {path.split("/")[0] for path in tensors if trainable(path)} == {"unet"}
    assert trainable("unet/conv_in/kernel") == (stage == 1)
    assert all(trainable(path) for path in tensors if "motion_modules" in path)


def test_stage_one_has_a_loss_on_single_views(stages):
  """As a film model is trained: no image of it is given."""
  tensors, config = stages[1]
  system, params = systems.build(config), values_of(tensors)
  batch = {name: np.zeros(spec.shape, spec.dtype) for name, spec in system.batch_spec((1, FRAMES), 1).items()}
  batch["images"] = np.random.default_rng(0).integers(0, 256, batch["images"].shape).astype(np.uint8)
  loss, metrics = jit(system.loss)(params, batch, jax.random.key(0))
  assert np.isfinite(loss) and loss > 0.1 and metrics["given"] == 0


def test_stage_two_from_where_stage_one_began_is_where_stage_two_begins(stages, tmp_path):
  """Leaf by leaf, but for the one that is random."""
  tensors, config = stages[2]
  leaves = adopted(save(tmp_path / "first", *stages[1]), config)
  assert leaves.keys() == tensors.keys()
  different = {path for path, tensor in tensors.items() if not np.array_equal(leaves[path], tensor.read())}
  assert different == {"unet/sigma_embedding/linear_1/kernel"}


def test_without_motion_modules_stage_one_makes_them_and_they_change_nothing_yet(tokenizer, tmp_path):
  """Stable Diffusion 2.1 has none that are public. Each frame then comes out as the image network gives it."""
  networks = toy.networks(temporal=False, **ONE_LEVEL)
  tensors, config = videopanda(networks, tokenizer, stage=1, view_size=toy.VIEW_SIZE, frames=FRAMES)
  assert not config.model.unet.temporal and not any("motion" in path for path in tensors)
  film = config.copy_and_resolve_references()
  film.model.unet.update(temporal=True, motion_heads=2, motion_norm_groups=4, max_frames=4)
  leaves = adopted(save(tmp_path / "image", tensors, config), film)
  new = leaves.keys() - tensors.keys()
  assert new and all("/motion_modules/" in path for path in new)
  assert any(leaves[path].any() for path in new)
  for path, tensor in tensors.items():
    np.testing.assert_array_equal(leaves[path], tensor.read())

  side, rng = toy.VIEW_SIZE // toy.FACTOR, np.random.default_rng(0)
  latents = rng.normal(size=(1, 1, FRAMES, side, side, 4)).astype(np.float32)
  inputs = np.array([501]), rng.normal(size=(1, 7, 8)).astype(np.float32)
  image = jit(networks["unet"].functional)(values_of(networks["unet"].params()), latents, *inputs)
  out = jit(systems.build(film).unet)(unflatten(leaves)["unet"], latents, *inputs)
  np.testing.assert_allclose(out, image, rtol=0, atol=1e-6)


def test_the_folder_of_stage_one_generates(stages, tmp_path, capsys):
  """One view, straight ahead; the rest of the panorama is black, and that is said."""
  folder = save(tmp_path / "first", *stages[1])
  assert main(["generate", "--checkpoint", folder, "--prompt", "the sea", "--steps", "1", "--guidance", "1",
               "--output", str(tmp_path / "out"), "--name", "sea", "--no-viewer"]) == 0
  assert (tmp_path / "out" / "sea_360.mp4").stat().st_size > 0
  assert "stay black" in capsys.readouterr().err


# What the config.json of the published networks says, beyond what is the same in all; AnimateDiff's third motion modules
# know 32 frames and have none in the middle.
UNETS = {"sd15": dict(attention_head_dim=8, cross_attention_dim=768),
         "sd21": dict(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True)}
VAE = dict(block_out_channels=[128, 256, 512, 512], layers_per_block=2)
TEXTS = {"sd15": dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
         "sd21": dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23,
                      hidden_act="gelu")}
MOTION = configs.motion_changes({}, 32, None, "v3_sd15_mm.ckpt")
OF_MOTION = ("temporal", "motion_heads", "motion_norm_groups")


def published(size, motion):
  """Networks of full size, of which no value can be read."""
  unet = dataclasses.replace(configs.unet_config(UNETS[size], size), **MOTION if motion else {})
  return {"unet": toy.unread_network("unet", unet), "vae": toy.unread_network("vae", configs.vae_config(VAE, size)),
          "text_encoder": toy.unread_network("text_encoder", configs.clip_config(TEXTS[size], size))}


@pytest.fixture(scope="module")
def published_tokenizers(tmp_path_factory):
  """As many tokens as CLIP's has, and the same ones at the ends and for padding; {size: folder}."""
  folders = {"sd15": toy.write_tokenizer(tmp_path_factory.mktemp("sd15") / "tokenizer"),
             "sd21": toy.write_tokenizer(tmp_path_factory.mktemp("sd21") / "tokenizer", padding="!")}
  letters = toy.TOKENS[:512]
  pairs = list(itertools.islice(itertools.product(letters[:256], repeat=2), 49408 - 512 - 2))
  tokens = [*letters, *map("".join, pairs), toy.START, toy.END]
  for folder in folders.values():
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, pairs)]), encoding="utf-8")
  return folders


@pytest.mark.parametrize("settings, overrides", [
    (None, ["resnet_norm=cross_frame", "max_frames=24"]),
    (None, ["motion_mid=True"]),
    ({"motion_num_attention_heads": 8}, ["motion_norm=cross_frame"]),
    ({"motion_num_attention_heads": 8}, ["motion_norm=cross_frame", "max_frames=24"]),
])
def test_other_motion_modules_want_what_the_manual_says(published_tokenizers, settings, overrides):
  """The table in docs/weights.md: AnimateDiff v1 and v2, and as diffusers writes them; less than that is refused."""
  networks, changes = published("sd15", motion=True), dict(override.split("=") for override in overrides)
  shapes = {"mid_block.motion_modules.0": ()} if "motion_mid" in changes else {}
  motion = configs.motion_changes(shapes, int(changes.get("max_frames", 32)), settings, "motion")
  base = configs.unet_config(UNETS["sd15"], "sd15")
  networks["unet"] = toy.unread_network("unet", dataclasses.replace(base, **motion))
  _, config = videopanda(networks, published_tokenizers["sd15"], stage=1)
  source = Source("start", Path("start"), False, to_plain(config))
  flags = [f"--config.model.unet.{override}" for override in overrides]
  check_same_networks(load_config("configs/videopanda.py:stage=1", flags), source)
  with pytest.raises(InputError, match=f"config.model.unet.{overrides[-1].split('=')[0]} is .* in start"):
    check_same_networks(load_config("configs/videopanda.py:stage=1", flags[:-1]), source)


@pytest.mark.parametrize("stage, size, motion", [(1, "sd15", True), (2, "sd15", True), (1, "sd21", False)])
def test_the_folder_says_what_the_config_of_the_stage_says(published_tokenizers, stage, size, motion):
  """Key by key, at full size: `panda train --config configs/videopanda.py:stage=…` begins from it in one flag."""
  tensors, config = videopanda(published(size, motion), published_tokenizers[size], stage=stage)
  expected = load_config(f"configs/videopanda.py:stage={stage},size={size}")
  check_same_networks(expected, Source("start", Path("start"), False, to_plain(config)))
  ours, theirs = (to_plain(group)["model"] for group in (config, expected))
  assert ours["text"].pop("tokenizer") and theirs["text"].pop("tokenizer") == ""
  # Where the paper has half as many rows as it takes to show the views in their own size.
  assert (ours["sampling"].pop("panorama_height"), theirs["sampling"].pop("panorama_height")) == (1024, 512)
  if not motion:
    assert [ours["unet"].pop(name) for name in OF_MOTION] == [False, None, None]
    assert [theirs["unet"].pop(name) for name in OF_MOTION] == [True, 8, 32]
  assert ours.keys() == theirs.keys()
  for group, options in theirs.items():
    assert ours[group] == options, group
  assert config.data.fps == expected.data.fps
  # The config's own networks, of which the tree is that of the folder: the motion modules alone may be absent.
  wanted = {f"{name}/{path}": leaf.shape for name, network in systems.build(expected).networks.items()
            for path, leaf in flatten(network.abstract).items()}
  assert {path: tensor.shape for path, tensor in tensors.items()} == {
    path: shape for path, shape in wanted.items() if motion or "motion_modules" not in path}


# --- what is refused


@pytest.mark.parametrize("kind, word", [("unet", "UNet"), ("vae", "VAE"), ("text_encoder", "text encoder")])
def test_an_absent_network_is_named(tokenizer, kind, word):
  networks = toy.networks()
  del networks[kind]
  with pytest.raises(WeightsError, match=f"the {word} is absent: toy/.* was given; give a pipeline folder"):
    videopanda(networks, tokenizer)


def test_a_base_without_motion_modules_is_told_that_they_are_wanted(tokenizer):
  """In stage two; stage one can make them."""
  with pytest.raises(WeightsError, match="toy/unet has no motion modules.* give AnimateDiff's with motion=.*--stage 1"):
    videopanda(toy.networks(temporal=False), tokenizer)


@pytest.mark.parametrize("has", ["multiview", "view_conditions"])
def test_a_base_that_has_views_already_is_not_one_for_stage_one(tokenizer, has):
  """It would lose what it has learned of them."""
  with pytest.raises(WeightsError, match="toy/unet has multi-view attention.* begin with stage two"):
    videopanda(toy.networks(**{has: True}), tokenizer, stage=1, view_size=toy.VIEW_SIZE)


def test_there_are_two_stages(tokenizer):
  with pytest.raises(InputError, match="VideoPanda has no stage 3: give 1, single views, or 2, panoramas"):
    videopanda(toy.networks(), tokenizer, stage=3)


def test_changing_what_one_call_says_of_a_stage_does_not_change_the_next():
  method(1)["conditioning"]["drop_text"] = 1.0
  assert method(1)["conditioning"]["drop_text"] == method(2)["conditioning"]["drop_text"] == 0.1


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
