"""360DVD against its official code, and what its config says of training and sampling."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax import systems, weights
from panda_jax.diffusion.enhancement import PRESETS, turned
from panda_jax.errors import InputError
from panda_jax.models.functional import params_of
from panda_jax.training.config import load_config
from panda_jax.tree import flatten
from tests.fast import draw, jit
from tests.paths import PARITY, needs_parity
from tests.weights.networks import assert_close, relative

# --- the official pipeline


@functools.cache
def reference():
  with np.load(PARITY / "dvd360" / "io.npz") as file:
    return {name: file[name] for name in file}


@functools.cache
def official():
  """(system, parameters) of the official checkpoints."""
  nets = {"unet": weights.load(PARITY / "unet2d_sd15", motion=PARITY / "motion" / "mm_v1.ckpt"),
          "adapter": weights.load(PARITY / "dvd360" / "360Adapter.ckpt"),
          "text": weights.load(PARITY / "clip_text" / "text_encoder_sd15"), "vae": weights.load(PARITY / "vae")}
  config = load_config("configs/dvd360.py")
  config.model.panorama_size = (64, 256)
  config.model.unet = dataclasses.asdict(nets["unet"].config)
  config.model.codec = dict(kind="stable_diffusion", images_per_batch=4, **dataclasses.asdict(nets["vae"].config))
  config.model.text = dict(kind="clip", tokenizer=str(PARITY / "clip_text" / "tokenizer"),
                           **dataclasses.asdict(nets["text"].config))
  config.model.sampling.update(frames=4, steps=8)
  return systems.build(config), {name: params_of(net) for name, net in nets.items()}


def channels_last(x):
  """[b c f h w] -> [b v f h w c]."""
  return np.moveaxis(x, 1, -1)[:, None]


@needs_parity
def test_eight_steps_of_the_official_pipeline_from_words_to_panorama():
  """Final latents and decoded frames within 1e-3; each step to a few parts in 10^5."""
  system, params = official()
  expected = reference()
  motion = np.round((np.moveaxis(expected["flow"], 2, -1) + 1) * 127.5).astype(np.uint8)
  np.testing.assert_allclose(motion / 127.5 - 1, np.moveaxis(expected["flow"], 2, -1), atol=1e-6)
  ids, negative = (system.tokenize(text)[None] for text in ("a panoramic video of a snowy mountain",
                                                            "worst quality , low quality"))
  trace = np.asarray(jit(lambda params, noise, request, negative: system.denoised(
      params, noise, request, steps=8, guidance=7.5, negative=negative, trace=True))(
          params, channels_last(expected["pipe_latents0"]), {"text": ids, "motion": motion}, negative))
  errors = [relative(ours, channels_last(theirs)) for ours, theirs in zip(trace[1:], expected["pipe_trace"])]
  print("relative rms of every step:", " ".join(f"{error:.1e}" for error in errors))
  assert max(errors) < 3e-5
  assert_close(trace[-1], channels_last(expected["pipe_trace"][-1]), 1e-3, "final latents")

  decode = lambda params, latents: system.vae.network.bind(params["vae"]).decode(latents / 0.18215, circular=True)
  decoded = jit(decode)(params, trace[-1])
  assert_close(np.clip(decoded / 2 + 0.5, 0, 1), channels_last(expected["pipe_video"]), 1e-3, "video")


# --- as a system of its own


FRAMES = 2


def small(preset="official", **changes):
  """The system of a laptop's run, smaller still."""
  config = load_config(f"configs/dvd360.py:size=tiny,runlocal,preset={preset}")
  config.model.unet.update(block_out_channels=(8, 8), norm_groups=4)
  config.model.text.update(channels=8)
  for name, value in changes.items():
    *groups, key = name.split("__")
    functools.reduce(getattr, groups, config.model)[key] = value
  return systems.build(config)


@pytest.fixture(scope="module")
def system():
  return small()


@pytest.fixture(scope="module")
def params(system):
  return {name: draw(network.abstract, seed) for seed, (name, network) in enumerate(sorted(system.networks.items()))}


def make_batch(system, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  return {name: rng.integers(0, 20 if name == "text" else 256, leaf.shape).astype(leaf.dtype)
          for name, leaf in system.batch_spec((1, FRAMES), batch).items()}


def replaced(system, **parts):
  """The same system with other functions in its networks' places."""
  changed = copy.copy(system)
  vars(changed).update(parts)
  return changed


@pytest.mark.parametrize("train, trained", [("adapter", {"adapter"}), ("all", {"adapter", "text", "unet"})])
def test_the_adapter_is_trained_and_a_random_base_if_asked(train, trained):
  """A base that nobody has trained teaches an adapter nothing."""
  system = small(train=train)
  paths = [f"{name}/{path}" for name, network in system.networks.items() for path in flatten(network.abstract)]
  assert {path.split("/")[0] for path in paths if system.trainable(path)} == trained
  assert system.pretrained == (("the UNet",) if train == "adapter" else ())


def test_a_negative_text_of_a_request_is_kept_away_from(system, params):
  """As `denoised` is told it, and another one than none."""
  h, w = (side // system.codec.factor for side in system.size)
  given, text = jnp.zeros((1, 1, FRAMES, h, w, system.codec.channels)), system.tokenize("sea")[None]
  options = dict(steps=2, guidance=3.0, spacing="leading")
  request, away = {"text": text}, system.tokenize("night")[None]
  sample = jit(lambda request: system.sample_latents(params, given, request, jax.random.key(0), **options))
  told = sample(request | {"negative": away})
  noise = jax.random.normal(jax.random.key(0), given.shape)
  expected = jit(lambda: system.denoised(params, noise, request, negative=away, **options))()
  np.testing.assert_allclose(told, expected, atol=1e-4)
  assert np.abs(np.asarray(told) - np.asarray(sample(request))).max() > 1e-3


@pytest.mark.parametrize("power, prediction", [(1, "epsilon"), (2, "epsilon"), (1, "v")])
def test_an_error_costs_more_at_the_equator(power, prediction):
  """An error of one in one row costs the cosine of that row's latitude, to the power of the switch."""
  system = small(loss_weight_power=power, prediction=prediction)
  batch = system.draw(jax.random.key(0), make_batch(system))
  rows, at = system.size[0] // system.codec.factor, 2
  wrong = jnp.zeros((rows, 1, 1)).at[at].set(1)
  # The noise that the network should have found, out of what it was given.
  clean = system.codec.encode(batch["images"] / 127.5 - 1)

  def unet(params, noised, timestep, text, adapter_features):
    a, s = (jnp.asarray(root(system.schedule.alphas_cumprod))[timestep].reshape(-1, 1, 1, 1, 1, 1)
            for root in (np.sqrt, lambda x: np.sqrt(1 - x)))
    noise = (noised - a * clean) / s
    return (noise if prediction == "epsilon" else a * noise - s * clean) + wrong

  odd = replaced(system, unet=unet, adapter=lambda *_: None, _text=lambda *_: None)
  loss, metrics = jit(lambda batch: odd.loss({"adapter": None, "unet": None}, batch, jax.random.key(0)))(batch)
  weight = np.cos(((at + 0.5) / rows - 0.5) * np.pi) ** power
  assert float(loss) == pytest.approx(weight / rows, rel=1e-2)
  assert float(metrics["error"]) == pytest.approx(1 / rows, rel=1e-2)


def test_conditions_are_dropped_as_often_as_the_config_says(system):
  batch = {name: np.zeros((4000, *leaf.shape[1:]), leaf.dtype) for name, leaf in make_batch(system).items()
           if name != "motion"}
  drawn = jax.jit(system.draw)(jax.random.key(0), {"images": batch["images"][:, :, :, :1, :1], "text": batch["text"]})
  assert float(drawn["keep_text"].mean()) == pytest.approx(0.9, abs=0.02)
  assert float(drawn["keep_motion"].mean()) == pytest.approx(0.8, abs=0.02)
  assert drawn["timestep"].min() < 5 and drawn["timestep"].max() > 994


def test_without_motion_the_condition_is_grey_and_not_the_black_of_no_motion(system):
  batch = make_batch(system)
  told = system._motion(batch, FRAMES, jnp.array([1.0, 0.0]))
  np.testing.assert_array_equal(told[1], 0)
  np.testing.assert_allclose(told[0], batch["motion"][0] / 127.5 - 1, atol=1e-6)
  np.testing.assert_array_equal(system._motion({"text": batch["text"]}, FRAMES), np.zeros(told.shape))
  assert (system._motion({"motion": np.zeros_like(batch["motion"])}, FRAMES) == -1).all()


# --- sampling


@pytest.mark.parametrize("preset, motion", [("official", True), ("paper", False)])
def test_panoramas_come_from_words_with_motion_or_without(params, preset, motion):
  system = small(preset)
  assert system.enhancement == PRESETS[preset]
  batch = make_batch(system, 1)
  request = {name: batch[name] for name in ["text"] + ["motion"] * motion}
  out = jit(lambda params, request, key: system.sample(params, request, key, frames=FRAMES, steps=2, guidance=2.0))(
      params, request, jax.random.key(0))
  assert out.shape == (1, FRAMES, *system.size, 3) and out.dtype == np.uint8 and np.ptp(out) > 30


def test_a_turned_world_gives_a_turned_panorama(system, params):
  """With circular padding: the network has no place of its own along the equator. Its attention knows no places."""
  rng = np.random.default_rng(0)
  latents = rng.normal(size=(1, 1, FRAMES, 4, 8, system.codec.channels)).astype(np.float32)
  features = [rng.normal(size=(1, 1, FRAMES, 2, 4, 8)).astype(np.float32) for _ in range(2)]
  text = rng.normal(size=(1, 3, 8)).astype(np.float32)
  unet = jit(lambda latents, features: system.unet(params["unet"], latents, jnp.array([500]), text,
                                                   adapter_features=features, circular=True))
  straight = turned(unet(latents, features), 1)
  np.testing.assert_allclose(unet(turned(latents, 1), [turned(each, 1) for each in features]), straight, atol=1e-5)


def test_decoding_knows_no_edge():
  """A learned decoder commutes with a turn of the panorama, where the switch is on."""
  config = load_config("configs/dvd360.py:size=tiny,runlocal")
  config.model.codec = dict(kind="stable_diffusion", latent_channels=4, block_out_channels=(8, 8), layers_per_block=1,
                            norm_groups=4)
  latents = np.random.default_rng(0).normal(size=(1, 1, 1, 4, 8, 4)).astype(np.float32)
  worst = {}
  for circular in (True, False):
    config.model.sampling.circular_decode = circular
    system = systems.build(config)
    decode = jit(lambda latents: system.decode({"vae": draw(system.vae.network.abstract)}, latents))
    apart = np.asarray(turned(decode(latents), 1), np.int32) - np.asarray(decode(turned(latents, 1)), np.int32)
    worst[circular] = np.abs(apart).max()
  assert worst[True] <= 1 < worst[False]                        # levels of 255: 1 is rounding


@pytest.mark.parametrize("frames", [8, 32])
def test_clips_of_any_length_can_be_made(system, params, frames):
  request = {"text": np.zeros((1, system.words.length), np.int32)}
  out = jax.eval_shape(lambda key: system.sample(params, request, key, frames=frames, steps=25, guidance=7.5),
                       jax.random.key(0))
  assert out.shape == (1, frames, *system.size, 3)


def test_the_published_sizes_have_the_published_parameters():
  system = systems.build(load_config("configs/dvd360.py"))
  count = lambda network: sum(leaf.size for leaf in flatten(network.abstract).values())
  assert (count(system.unet), count(system.vae.network), count(system.text)) == (1_276_658_564, 83_653_863, 123_060_480)
  assert round(count(system.adapter) / 1e6, 2) == 47.05


@pytest.mark.parametrize("changes, words", [
  (dict(panorama_size=(20, 32)), "multiples of 8"), (dict(panorama_size=(16, 40)), "multiple of 16"),
  (dict(panorama_size=(16, 48), sampling__rotate_condition=True), "multiple of 32"),
  (dict(train="unet"), "adapter or all"),
  (dict(unet__multiview=True), "one view"), (dict(sampling__frames=40), "32 frame positions"),
  (dict(conditioning__drop_text=1.5), "drop_text is a probability"), (dict(loss_weight_power=3), "loss_weight_power"),
  (dict(sampling__steps=0), "steps must be 1")])
def test_what_cannot_work_is_refused_at_once(changes, words):
  with pytest.raises(InputError, match=words):
    small(**changes)
