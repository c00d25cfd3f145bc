"""VideoPanda as a system: what its loss counts, what it trains, and what comes out of the sampler."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from panda_jax import systems
from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.pipeline import train_iterator
from panda_jax.data.records import Clip, write_records
from panda_jax.errors import InputError
from panda_jax.models.functional import Functional, check_tree
from panda_jax.models.unet import UNet
from panda_jax.systems import videopanda
from panda_jax.systems.networks import to_float, to_uint8
from panda_jax.tree import flatten, unflatten
from tests.fast import draw, init_key, jit

VIEWS, FRAMES, BATCH = 2, 3, 3
NO_DROPS = dict(max_view_sigma=0.0, max_row_sigma=0.0, drop_images=0.0, drop_text=0.0, drop_both=0.0, drop_video=0.0)


def small_config():
  """configs/tiny.py with one level of eight channels and views of 8 pixels."""
  config = tiny.get_config("runlocal")
  config.model.view_size = 8
  config.model.codec.chroma_size = 1
  config.model.text = dict(channels=8, length=8, heads=2)
  config.model.unet.update(block_out_channels=(8,), attention=(True,), heads=(2,), norm_groups=4)
  config.model.sampling.steps = 2
  return config


@pytest.fixture(scope="module")
def system():
  return systems.build(small_config())


@pytest.fixture(scope="module")
def trained(system):
  """Parameters of which none is at zero."""
  return {"unet": draw(system.unet.abstract), "text": draw(system.text.abstract, seed=1)}


@pytest.fixture(scope="module")
def fresh(system):
  return jax.tree.map(np.asarray, system.init(init_key(3)))


def make_batch(system, seed=0, batch=BATCH, grey=False):
  rng = np.random.default_rng(seed)
  channels = 1 if grey else 3
  images = rng.integers(16, 240, (batch, VIEWS, FRAMES, 1, 1, channels)) + rng.integers(-9, 9, (8, 8, channels))
  texts = ("dawn over the open sea", "a red balloon", "night")
  return {"images": images.repeat(3, -1).astype(np.uint8) if grey else images.astype(np.uint8),
          "rays": np.stack([system.rig.rays((2, 2))[:VIEWS]] * batch),
          "text": np.stack([system.tokenize(texts[index % 3]) for index in range(batch)])}


class AnyNetwork:
  """Stands in for the UNet: (latents, timestep, text, conditions) -> latents."""

  def __init__(self, network):
    self.network = network

  def __call__(self, params, latents, timestep, text, **conditions):
    return self.network(latents, timestep, text, conditions)

  def bind(self, params):
    return self

  def read(self, text, **conditions):
    return text, conditions

  def denoise(self, latents, timestep, read):
    return self.network(latents, timestep, *read)


def with_network(system, network, **conditioning):
  """The same system with another function in the network's place."""
  changed = copy.copy(system)
  changed.unet = AnyNetwork(network)
  if conditioning:
    changed.options = copy.deepcopy(system.options)
    changed.options.conditioning.update(NO_DROPS | conditioning)
  return changed


# --- parameters


def test_a_new_model_has_every_leaf_with_string_keys(system, fresh):
  check_tree(fresh, {"unet": system.unet.abstract, "text": system.text.abstract})
  paths = jax.tree_util.tree_flatten_with_path(fresh)[0]
  assert all(type(key.key) is str for path, _ in paths for key in path)
  assert all(np.isfinite(leaf).all() for leaf in flatten(fresh).values())


def test_multiview_attention_starts_as_a_copy_of_its_blocks_spatial_attention(fresh):
  leaves = flatten(fresh["unet"])
  copies = [path for path in leaves if "/attn_multiview/attention/" in path]
  assert len(copies) == 4 * 5                                        # q, k, v, out and its bias, in each transformer
  for path in copies:
    np.testing.assert_array_equal(leaves[path], leaves[path.replace("attn_multiview/attention", "attn1")])
  blocks = {leaves[path].tobytes() for path in copies if path.endswith("to_q/kernel")}
  assert len(blocks) == 4                                            # each of its own


def test_copying_the_spatial_attention_touches_nothing_else(system):
  before = flatten(draw(system.unet.abstract))
  after = flatten(videopanda.copy_spatial_attention(unflatten(before)))
  assert after.keys() == before.keys()
  for path, leaf in before.items():
    if "/attn_multiview/attention/" not in path:
      assert after[path] is leaf


def test_freezing_the_spatial_layers_trains_exactly_what_videopanda_adds(system):
  config = small_config()
  config.model.freeze_spatial = True
  frozen = systems.build(config)
  image_config = dataclasses.replace(system.unet_config, temporal=False, multiview=False, view_conditions=False)
  image = flatten(Functional(lambda rngs: UNet(image_config, rngs=rngs)).abstract)
  every = [f"unet/{path}" for path in flatten(system.unet.abstract)] + [
    f"text/{path}" for path in flatten(system.text.abstract)]
  assert all(map(system.trainable, every))
  assert {path for path in every if frozen.trainable(path)} == {
    path for path in every if path.startswith("unet/") and path.removeprefix("unet/") not in image}


# --- the loss


def test_the_loss_counts_target_images_only(system, trained, monkeypatch):
  """A network that is right about the targets and raves about the given images has no loss."""
  batch = make_batch(system)
  clean = system.codec.encode(to_float(batch["images"]))
  mask = np.zeros((BATCH, VIEWS, FRAMES), np.float32)
  mask[0, 0] = mask[1, :, 0] = mask[2] = 1                           # a video, a row, and everything
  monkeypatch.setattr(videopanda, "draw_conditions", lambda *_, **__: (mask, 0.3 * mask, np.ones(BATCH)))

  def network(wrong, noised, timestep, text, conditions):
    a, s = system.schedule.signal_and_noise(timestep, 6)
    v = (a * noised - clean) / s                                     # from x = a x0 + s ε and v = a ε - s x0
    raving = jnp.where(videopanda.expand(conditions["mask"]) > 0, 1e3, v)
    return raving + wrong

  loss = jit(lambda wrong: with_network(system, functools.partial(network, wrong)).loss(
    trained, batch, jax.random.key(0)))
  nothing = np.zeros((BATCH, VIEWS, FRAMES, 1, 1, 1), np.float32)
  value, metrics = loss(nothing)
  assert value < 1e-4
  assert metrics["given"] == pytest.approx(mask.mean())
  # Three and four targets: every clip counts the same.
  for where, share in (((0, 1, 2), 1 / 3 / BATCH), ((1, 0, 1), 1 / 4 / BATCH), ((0, 0, 2), 0), ((2, 1, 1), 0)):
    wrong = nothing.copy()
    wrong[where] = 1
    assert float(loss(wrong)[0]) == pytest.approx(share, abs=2e-3)


def test_a_matrix_that_is_given_whole_has_no_loss_instead_of_none(system, trained, monkeypatch):
  """A continuation of one frame asks for nothing."""
  mask = np.ones((BATCH, VIEWS, FRAMES), np.float32)
  monkeypatch.setattr(videopanda, "draw_conditions", lambda *_, **__: (mask, mask, np.ones(BATCH)))
  changed = with_network(system, lambda latents, *_: latents)
  assert float(jit(changed.loss)(trained, make_batch(system), jax.random.key(0))[0]) == 0


@pytest.fixture(scope="module")
def shown(system, trained):
  """What the network is shown in training, for two keys: (latents, timestep, text, conditions), each twice."""
  seen = []

  def network(latents, timestep, text, conditions):
    record = lambda *values: seen.append(jax.tree.map(np.asarray, values))
    jax.debug.callback(record, latents, timestep, text, conditions)
    return latents

  changed = with_network(system, network, max_view_sigma=0.7, max_row_sigma=0.7, drop_text=0.5)
  step = jit(changed.loss)
  batch = make_batch(system, batch=64)
  for seed in range(2):
    step(trained, batch, jax.random.key(seed))
  jax.effects_barrier()
  return batch, seen


def test_given_images_are_shown_with_their_own_noise_and_targets_with_the_timesteps(system, shown):
  batch, seen = shown
  clean = np.asarray(jit(lambda x: system.codec.encode(to_float(x)))(batch["images"]))
  for latents, timestep, _, conditions in seen:
    mask, sigma = conditions["mask"], conditions["sigma"]
    assert 0.2 < mask.mean() < 0.6 and (sigma[mask == 0] == 0).all()
    given = (mask == 1) & (sigma > 0.05)
    added = (latents - clean)[given] / sigma[given][:, None, None, None]
    assert abs(added.mean()) < 0.05 and abs(added.std() - 1) < 0.05
    a, s = (np.asarray(x) for x in system.schedule.signal_and_noise(timestep, 6))
    noise = ((latents - a * clean) / s)[mask == 0]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    np.testing.assert_array_equal(conditions["rays"], batch["rays"])


def test_timesteps_are_spread_evenly_over_the_batch(shown):
  _, (first, second) = shown
  for _, timestep, *_ in (first, second):
    share = np.arange(64) * 1000 / 64                                # one timestep in each 64th of the schedule
    assert (timestep >= np.floor(share)).all() and (timestep < share + 1000 / 64).all()
  assert (first[1] != second[1]).any()


def test_a_dropped_text_is_replaced_by_the_empty_one(system, trained, shown):
  batch, seen = shown
  ids = np.concatenate([batch["text"], system.tokenize("")[None]])
  encoded = np.asarray(jit(lambda ids: system.encode_text(trained, ids, jnp.ones(len(ids))))(ids))
  own, empty = encoded[:-1], encoded[-1]
  for _, _, text, _ in seen:
    dropped = np.abs(text - empty).max((1, 2)) < 1e-5
    assert 10 < dropped.sum() < 54                                   # half of 64
    np.testing.assert_allclose(text[~dropped], own[~dropped], atol=1e-5)


def test_the_loss_follows_from_its_key(system, trained):
  """And from nothing else: a resumed run repeats its steps."""
  changed = with_network(system, lambda latents, *_: latents)
  step = jit(changed.loss)
  batch = make_batch(system)
  losses = [float(step(trained, batch, jax.random.key(seed))[0]) for seed in (1, 1, 2)]
  assert losses[0] == losses[1] != losses[2]


def test_after_two_steps_every_parameter_is_being_trained(system, fresh):
  """None is cut off, and none waits for ever behind a zero."""
  batch = make_batch(system)

  @jit
  def step(params, rng):
    (loss, _), gradients = jax.value_and_grad(system.loss, has_aux=True)(params, batch, rng)
    size = jax.tree.map(lambda g: jnp.abs(g).max(), gradients)
    moved = jax.tree.map(lambda p, g, m: p - 0.02 * g / jnp.maximum(m, 1e-8), params, gradients, size)
    return moved, loss, size

  params, sizes = fresh, []
  for seed in range(4):
    params, loss, size = step(params, jax.random.key(seed))
    assert 0.1 < float(loss) < 10
    sizes.append(flatten(jax.tree.map(float, size)))
  assert all(np.isfinite(list(step_sizes.values())).all() for step_sizes in sizes)
  cut_off = [path for path in sizes[0] if max(sizes[2][path], sizes[3][path]) < 1e-7]
  assert not cut_off
  waiting = [path for path, size in sizes[0].items() if size == 0]
  assert waiting and all(any(part in path for part in ("attn_multiview", "motion_modules", "sigma_embedding"))
                         for path in waiting)


# --- the data


def test_the_pipeline_gives_the_batches_that_the_system_declares(system, tmp_path):
  rng = np.random.default_rng(0)
  clips = [Clip(f"clip{index}", "a red balloon", 8.0, rng.integers(0, 256, (4, 16, 32, 3), np.uint8))
           for index in range(3)]
  write_records(tmp_path / "records", {"train": clips}, encoding="png")
  schedule = MatrixSchedule(((2, 3), (3, 2)), seed=0)
  batches = train_iterator(tmp_path / "records", "train", shows=system.shows, schedule=schedule, batch_size=2,
                           tokenize=system.tokenize, seed=0, fps=8.0)
  for step in range(6):
    batch = next(batches)
    declared = system.batch_spec(schedule.shape(step), 2)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
      name: (spec.shape, spec.dtype) for name, spec in declared.items()}


def test_unknown_words_of_a_prompt_are_named(system):
  assert system.unknown_words("a red zeppelin over the sea") == ["zeppelin"]
  assert system.timesteps == 1000


# --- the sampler


@functools.cache
def sampler(system, guidance):
  """(params, request, seed) -> uint8 [b v f h w 3]."""
  sample = jit(lambda params, request, rng: system.sample(params, request, rng, steps=2, guidance=guidance))
  return lambda params, request, seed=0: np.asarray(sample(params, request, jax.random.key(seed)))


def make_request(system, mask=0.0, sigma=0.0, **changes):
  mask = np.broadcast_to(np.float32(mask), (1, VIEWS, FRAMES))
  return make_batch(system, batch=1, grey=True) | {"mask": mask, "sigma": sigma * mask} | changes


CONTINUATION = [[1, 1, 1], [1, 0, 0]]


def test_given_images_come_back_as_they_are_however_much_noise_they_got(system, trained):
  """Grey ones to the last bit: the codec keeps all of them."""
  request = make_request(system, CONTINUATION, sigma=0.5)
  samples = sampler(system, 1.0)(trained, request)
  assert samples.dtype == np.uint8 and samples.shape == request["images"].shape
  given = np.asarray(CONTINUATION, bool)
  np.testing.assert_array_equal(samples[0][given], request["images"][0][given])
  assert (samples[0][~given] != request["images"][0][~given]).mean() > 0.5


def test_given_images_in_colour_lose_only_what_the_codec_loses(system, trained):
  request = make_request(system, CONTINUATION) | {"images": make_batch(system, seed=4, batch=1)["images"]}
  through = jit(lambda x: to_uint8(system.codec.decode(system.codec.encode(to_float(x)))))
  given = np.asarray(CONTINUATION, bool)
  samples = sampler(system, 1.0)(trained, request)[0][given]
  assert np.abs(samples.astype(int) - np.asarray(through(request["images"]))[0][given]).max() <= 1


def test_what_is_not_given_cannot_be_seen(system, trained):
  """A request holds anything where nothing is given."""
  request = make_request(system, CONTINUATION)
  other = request["images"].copy()
  other[0, 1, 1:] = 7
  run = sampler(system, 1.0)
  np.testing.assert_array_equal(run(trained, request), run(trained, request | {"images": other}))


def test_the_same_seed_gives_the_same_sample_and_another_one_another(system, trained):
  run, request = sampler(system, 1.0), make_request(system)
  first = run(trained, request, seed=1)
  np.testing.assert_array_equal(first, run(trained, request, seed=1))
  assert (first != run(trained, request, seed=2)).mean() > 0.5


@pytest.mark.parametrize("changes", [
  dict(text="night"), dict(mask=CONTINUATION), dict(mask=CONTINUATION, sigma=0.6), dict(rays=1.0)])
def test_every_part_of_a_request_changes_the_sample(system, trained, changes):
  request = make_request(system, changes.get("mask", 0.0), changes.get("sigma", 0.0))
  if "text" in changes:
    request["text"] = system.tokenize(changes["text"])[None]
  if "rays" in changes:
    request["rays"] = -request["rays"]
  plain = make_request(system, changes.get("mask", 0.0) if "sigma" in changes else 0.0)
  run = sampler(system, 1.0)
  assert (run(trained, request) != run(trained, plain)).any((-3, -2, -1))[0, 1, 1:].all()


def test_guidance_changes_nothing_where_both_branches_are_told_the_same(system, trained):
  """With an empty text and nothing given the scale does not matter."""
  request = make_request(system, text=system.tokenize("")[None])
  plain, doubled = (sampler(system, scale)(trained, request).astype(int) for scale in (1.0, 3.0))
  assert np.abs(plain - doubled).max() <= 1


@pytest.mark.parametrize("told", ["text", "images"])
def test_guidance_strengthens_what_the_network_is_told(system, trained, told):
  request = make_request(system) if told == "text" else make_request(
    system, CONTINUATION, text=system.tokenize("")[None])
  plain, guided = (sampler(system, scale)(trained, request)[0, 1, 1:] for scale in (1.0, 3.0))
  assert (plain != guided).mean() > 0.2


def test_the_unconditional_branch_has_neither_text_nor_images(system, trained):
  seen = []

  def network(latents, timestep, text, conditions):
    jax.debug.callback(lambda *values: seen.append(jax.tree.map(np.asarray, values)), latents, text, conditions)
    return jnp.zeros_like(latents)

  changed, request = with_network(system, network), make_request(system, CONTINUATION)
  jit(lambda rng: changed.sample(trained, request, rng, steps=1, guidance=2.0))(jax.random.key(0)).block_until_ready()
  jax.effects_barrier()
  (latents, text, conditions), = seen
  np.testing.assert_array_equal(conditions["mask"], [CONTINUATION, np.zeros((VIEWS, FRAMES))])
  assert not conditions["sigma"][1].any()
  np.testing.assert_array_equal(conditions["rays"][0], conditions["rays"][1])
  given = np.asarray(CONTINUATION, bool)
  np.testing.assert_array_equal(latents[0][~given], latents[1][~given])
  assert np.abs(latents[0][given] - latents[1][given]).max() > 0.1              # noise there too
  encode = jit(lambda ids: system.encode_text(trained, ids, jnp.ones(2)))
  np.testing.assert_allclose(text, encode(np.stack([request["text"][0], system.tokenize("")])), atol=1e-5)


def test_a_preview_shows_true_and_sampled_views_in_rows(system, trained):
  changed = with_network(system, lambda latents, *_: 0 * latents)
  batch = make_batch(system, grey=True)
  rows = np.asarray(jit(changed.preview)(trained, batch, jax.random.key(0)))    # [b row v f h w 3]
  assert rows.shape == (3, 3, *batch["images"].shape[1:]) and rows.dtype == np.uint8
  np.testing.assert_array_equal(rows[:, 0], batch["images"])
  np.testing.assert_array_equal(rows[:, 1, 0], batch["images"][:, 0])           # the first view is given
  for row, view in ((1, 1), (2, 0)):
    assert (rows[:, row, view] != rows[:, 0, view]).mean() > 0.5


def test_pixels_survive_the_way_to_floats_and_back():
  levels = np.arange(256, dtype=np.uint8)
  floats = to_float(levels)
  assert float(floats[0]) == -1 and float(floats[-1]) == 1
  np.testing.assert_array_equal(to_uint8(floats), levels)
  assert to_uint8(jnp.array([-3.0, 2.0])).tolist() == [0, 255]


# --- what is refused


@pytest.mark.parametrize("key, value, words", [
  ("view_size", 30, "view_size 30 is not a multiple"),
  ("view_size", 36, "cannot halve: give a multiple of 8"),
  ("prediction", "x0", "prediction must be one of"),
  ("sampling.frames", 33, "more than the 32 frame positions"),
  ("unet.no_such_size", 3, "no_such_size"),
  ("snr_shift", 0.5, "factor >= 1"),
  ("snr_shift_mode", "default", "mode"),
  ("codec.chroma_size", 5, "chroma_size must be 1 to 4"),
  ("unet.heads", (3, 2), "3 heads do not divide 16"),
  ("unet.attention", (True,), "2 levels"),
  ("unet.norm_groups", 5, "5 groups do not divide"),
])
def test_a_model_that_cannot_be_is_refused_in_one_sentence(key, value, words):
  config = tiny.get_config("runlocal")
  *groups, name = key.split(".")
  functools.reduce(getattr, groups, config.model)[name] = value
  with pytest.raises(InputError, match=f"config.model does not describe a network: .*{words}"):
    systems.build(config)


def test_an_unknown_system_is_refused_with_those_that_exist():
  config = small_config()
  config.system = "videopandas"
  with pytest.raises(InputError, match="config.system is 'videopandas'; the systems are videopanda"):
    systems.build(config)
