"""The method in the paper's words: who sees whom, what the loss asks for, what is given, how a matrix is sampled."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from panda_jax import systems
from panda_jax.diffusion import DDIM
from panda_jax.diffusion.conditioning import guided, rescaled
from panda_jax.errors import InputError
from panda_jax.geometry import Rig, frame_rays
from panda_jax.models.blocks import TransformerBlock
from panda_jax.models.functional import Functional
from panda_jax.systems import videopanda
from panda_jax.tree import flatten, unflatten
from tests.fast import draw, jit
from tests.systems.test_videopanda import NO_DROPS, small_config, with_network

VIEWS, FRAMES, BATCH = 4, 2, 2


def build(**model):
  """The smallest system, with changes to config.model; keys may have dots."""
  config = small_config()
  with config.ignore_type():
    config.update_from_flattened_dict({f"model.{key}": value for key, value in model.items()})
  return systems.build(config)


@pytest.fixture(scope="module")
def system():
  return build()


@pytest.fixture(scope="module")
def trained(system):
  """Parameters of which none is at zero."""
  return {"unet": draw(system.unet.abstract), "text": draw(system.text.abstract, seed=1)}


def images_of(system, views=VIEWS, frames=FRAMES, batch=BATCH, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (batch, views, frames, *system.view_size, 3)).astype(np.uint8)


def make_batch(system, views=VIEWS, frames=FRAMES, batch=BATCH, seed=0):
  rays = system.rig.rays(system.rays_size)[:views]
  texts = itertools.cycle(("dawn over the open sea", "a red balloon", "night"))
  return {"images": images_of(system, views, frames, batch, seed), "rays": np.stack([rays] * batch),
          "text": np.stack([system.tokenize(text) for _, text in zip(range(batch), texts)])}


def make_request(system, mask, sigma=0.0, seed=0):
  """(given latents, request) of one clip; anything where nothing is given."""
  mask = np.asarray(mask, np.float32)[None]
  views, frames = mask.shape[1:]
  batch = make_batch(system, views, frames, 1)
  given = np.random.default_rng(seed).normal(size=(1, views, frames, *system.rays_size, system.codec.channels))
  return given.astype(np.float32), {"text": batch["text"], "rays": batch["rays"], "mask": mask,
                                    "sigma": sigma * mask}


CONTINUATION = np.array([[1, 1]] + [[1, 0]] * (VIEWS - 1), np.float32)
VIDEO = np.array([[1, 1]] + [[0, 0]] * (VIEWS - 1), np.float32)


# --- views are told apart by their rays alone


ORDER = [0, 3, 1, 2]                                             # of the target views; the given one stays the first


def reordered(order, *arrays):
  return [x[:, order] for x in arrays]


def test_target_views_in_another_order_get_their_predictions_in_that_order(system, trained):
  """What the loss compares, for a matrix with its given view in front."""
  latents, request = make_request(system, CONTINUATION, 0.3)

  @jit
  def predict(latents, rays, mask, sigma):
    text = jnp.ones((1, 8, 8))
    return system.unet(trained["unet"], latents, jnp.array([600]), text, rays=rays, mask=mask, sigma=sigma)

  told = [request[name] for name in ("rays", "mask", "sigma")]
  expected, = reordered(ORDER, predict(latents, *told))
  np.testing.assert_allclose(predict(*reordered(ORDER, latents, *told)), expected, atol=5e-5)
  unturned = predict(latents[:, ORDER], told[0], *reordered(ORDER, *told[1:]))                 # rays as they were
  assert float(jnp.abs(unturned - expected).max()) > 1e-2


def test_a_matrix_sampled_in_another_order_of_views_is_the_same_matrix(system, trained):
  """If each view takes its noise along. The sampler written out: conditions read once, two branches, DDIM."""
  given, request = make_request(system, VIDEO)
  noise = np.random.default_rng(7).normal(size=given.shape).astype(np.float32)
  empty = system.tokenize("")[None]

  @jit
  def loop(params, noise, given, rays, mask):
    text = system.encode_text(params, jnp.concatenate([request["text"], empty]), jnp.ones(2))
    unet = system.unet.bind(params["unet"])
    masks = jnp.concatenate([mask, 0 * mask])
    conditions = unet.read(text, rays=jnp.concatenate([rays, rays]), mask=masks, sigma=0 * masks)

    def denoise(x, timestep):
      shown = jnp.concatenate([jnp.where(mask[..., None, None, None] > 0, given, x), x])
      return guided(*jnp.split(unet.denoise(shown, jnp.concatenate([timestep] * 2), conditions), 2), 2.0)

    x = DDIM(system.schedule, steps=3, prediction="v", spacing="trailing")(denoise, noise)
    return jnp.where(mask[..., None, None, None] > 0, given, x)

  inputs = noise, given, request["rays"], request["mask"]
  expected, = reordered(ORDER, loop(trained, *inputs))
  np.testing.assert_allclose(loop(trained, *reordered(ORDER, *inputs)), expected, atol=5e-4)
  # And this loop is the system's own.
  rng = jax.random.key(3)
  own = jit(lambda params, given, request: system.sample_latents(params, given, request, rng, steps=3, guidance=2.0))
  noise = jax.random.normal(jax.random.split(rng)[0], given.shape)
  np.testing.assert_allclose(own(trained, given, request), loop(trained, noise, *inputs[1:]), atol=5e-4)


# --- one view and one frame


def test_a_matrix_of_one_image_is_what_the_image_model_makes(system, trained):
  """While nothing that joins images has learned yet, sampled with the same noise and the same text."""
  model = build(**{"unet.temporal": False, "unet.multiview": False, "unet.view_conditions": False,
                   "conditioning.regimes": ("text",)})
  image = {path: leaf for path, leaf in flatten(trained["unet"]).items() if path in flatten(model.unet.abstract)}
  joints = ("attn_multiview/out/", "motion_modules/0/proj_out/", "motion_modules/1/proj_out/", "conv_in_conditions",
            "sigma_embedding/linear_2/")
  matrix = {path: np.zeros_like(leaf) if any(joint in path for joint in joints) else leaf
            for path, leaf in flatten(trained["unet"]).items()}
  given, request = make_request(system, [[0]])
  run = lambda system, unet: jit(lambda params: system.sample_latents(
    params, given, request, jax.random.key(0), steps=2, guidance=1.0))(trained | {"unet": unflatten(unet)})
  np.testing.assert_allclose(run(system, matrix), run(model, image), atol=5e-5)


def attention(x, params, heads, context=None):
  """[s c] in NumPy, as in the first paper on it."""
  context = x if context is None else context
  query, key, value = (np.stack(np.split(y @ params[name]["kernel"], heads, -1))
                       for y, name in ((x, "to_q"), (context, "to_k"), (context, "to_v")))
  scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  out = np.concatenate(list(weights / weights.sum(-1, keepdims=True) @ value), -1)
  return out @ params["to_out"]["0"]["kernel"] + params["to_out"]["0"]["bias"]


def layer_norm(x, params):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * params["scale"] + params["bias"]


def feed_forward(x, net):
  values, gates = np.split(x @ net["0"]["proj"]["kernel"] + net["0"]["proj"]["bias"], 2, -1)
  gated = values * gates * 0.5 * (1 + np.vectorize(math.erf)(gates / math.sqrt(2)))
  return gated @ net["2"]["kernel"] + net["2"]["bias"]


def transformer():
  net = Functional(lambda rngs: TransformerBlock(8, 2, 6, True, rngs=rngs))
  return jit(net), draw(net.abstract)


def test_with_one_view_and_one_frame_multiview_attention_is_a_second_spatial_one():
  """Any weights, against the block written out: both look at the pixels of the one image, side by side (§3.1)."""
  block, params = transformer()
  rng = np.random.default_rng(1)
  x, text = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 1, 1, 6, 8), (1, 3, 6)))
  image = x[0, 0, 0].astype(np.float64)
  normal = layer_norm(image, params["norm1"])
  views = params["attn_multiview"]
  joined = attention(normal, views["attention"], 2) @ views["out"]["kernel"] + views["out"]["bias"]
  image = image + attention(normal, params["attn1"], 2) + joined
  image = image + attention(layer_norm(image, params["norm2"]), params["attn2"], 2, text[0])
  image = image + feed_forward(layer_norm(image, params["norm3"]), params["ff"]["net"])
  np.testing.assert_allclose(block(params, x, text)[0, 0, 0], image, atol=1e-5)


def test_a_view_that_sees_only_copies_of_itself_sees_one_image():
  """Attention over equal views is attention over one of them."""
  block, params = transformer()
  rng = np.random.default_rng(2)
  one, text = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 1, 2, 6, 8), (1, 3, 6)))
  expected = np.repeat(block(params, one, text), 3, 1)
  np.testing.assert_allclose(block(params, one.repeat(3, 1), text), expected, atol=1e-5)


# --- the loss


@pytest.fixture(scope="module")
def drawn(system):
  """A batch of eight clips with every regime in it."""
  batch = make_batch(system, batch=8)
  batch = jit(system.draw)(jax.random.key(1), batch)
  given = np.asarray(batch["mask"]).sum((1, 2)).astype(int).tolist()
  assert {0, 2, 5} <= set(given) and batch["sigma"].max() > 0.3
  return {name: value if name == "key" else np.asarray(value) for name, value in batch.items()}


def test_nothing_that_the_network_says_about_given_images_has_a_gradient(system, trained, drawn):
  said = np.random.default_rng(0).normal(size=(8, VIEWS, FRAMES, *system.rays_size, system.codec.channels))
  loss = lambda said: with_network(system, lambda *_: said).loss(trained, drawn, None)[0]
  gradient = np.asarray(jit(jax.grad(loss))(said.astype(np.float32)))
  given = drawn["mask"] > 0
  assert not gradient[given].any()
  assert (np.abs(gradient[~given]) > 0).mean() > 0.99


def test_what_given_images_show_is_no_target(system, trained, drawn):
  """To a network that does not look at them it is all the same."""
  loss = jit(lambda images: with_network(system, lambda latents, *_: jnp.ones_like(latents)).loss(
    trained, drawn | {"images": images}, None)[0])
  given = drawn["mask"][..., None, None, None] > 0
  other, images = images_of(system, batch=8, seed=5), drawn["images"]
  assert float(loss(np.where(given, other, images))) == float(loss(images))
  assert abs(float(loss(np.where(given, images, other))) - float(loss(images))) > 1e-3


def test_what_given_images_show_is_seen(system, trained, drawn):
  """By the network itself, in training as in sampling."""
  loss = jit(lambda params, images: system.loss(params, drawn | {"images": images}, None)[0])
  given = drawn["mask"][..., None, None, None] > 0
  changed = np.where(given, images_of(system, batch=8, seed=5), drawn["images"])
  assert abs(float(loss(trained, changed)) - float(loss(trained, drawn["images"]))) > 1e-4


# --- what is drawn


def test_the_mean_of_the_losses_of_parts_is_the_loss_of_the_whole(system, trained, drawn):
  """Clip by clip, inside a loop: gradient accumulation, with the keys that `draw` gave the clips."""
  loss = lambda batch: system.loss(trained, batch, None)[0]

  def parted(batch, n):
    parts = {name: value.reshape(8 // n, n, *value.shape[1:]).swapaxes(0, 1) for name, value in batch.items()}
    return jax.lax.map(loss, parts).mean()

  whole, parts = jit(lambda batch: (loss(batch), parted(batch, 8)))(drawn)
  assert float(parts) == pytest.approx(float(whole), rel=1e-5)


def test_a_loss_draws_what_draw_does(system, trained):
  batch, rng = make_batch(system), jax.random.key(5)
  loss = jit(lambda batch: with_network(system, lambda latents, *_: latents).loss(trained, batch, rng)[0])
  assert float(loss(batch)) == float(loss(jit(system.draw)(rng, batch)))


def test_only_the_timestep_differs_between_losses_at_fixed_timesteps(system):
  """So that those of two checkpoints, and of two timesteps, can be compared."""
  batch = make_batch(system)
  at = jit(system.draw)
  early, late = (at(jax.random.key(1), batch, timestep) for timestep in (100, 900))
  assert early["timestep"].tolist() == [100] * BATCH and late["timestep"].tolist() == [900] * BATCH
  own = at(jax.random.key(1), batch, jnp.array([3, 999]))
  assert own["timestep"].tolist() == [3, 999] and own["timestep"].dtype == jnp.int32
  for name in ("mask", "sigma", "keep_text", "key"):
    values = [jax.random.key_data(drawn[name]) if name == "key" else drawn[name] for drawn in (early, late, own)]
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


def test_every_timestep_is_one_of_the_schedule(system, monkeypatch):
  """Whatever is drawn: the last number below one is still rounded into the last timestep."""
  last = np.nextafter(np.float32(1), np.float32(0))
  monkeypatch.setattr(videopanda.jax.random, "uniform", lambda *arguments, **options: jnp.full((64,), last))
  batch = {"images": jax.ShapeDtypeStruct((64, 2, 1, 8, 8, 3), jnp.uint8)}
  assert int(system.draw(jax.random.key(0), batch)["timestep"].max()) == 999


@pytest.fixture(scope="module")
def many():
  """(masks, sigmas, keep_text) of many clips, by the regimes of the config."""
  @functools.cache
  def draw_many(*regimes):
    conditioning = dict(NO_DROPS, max_view_sigma=0.7, max_row_sigma=0.7, regimes=regimes)
    changed = build(**{f"conditioning.{name}": value for name, value in conditioning.items()})
    batch = {"images": jax.ShapeDtypeStruct((600, VIEWS, FRAMES, 8, 8, 3), jnp.uint8)}
    drawn = jit(lambda rng: {name: value for name, value in changed.draw(rng, batch).items() if name != "images"})
    return {name: np.asarray(value) for name, value in drawn(jax.random.key(0)).items() if name != "key"}
  return draw_many


@pytest.mark.parametrize("regime, mask", [("text", 0 * VIDEO), ("video", VIDEO), ("continuation", CONTINUATION)])
def test_a_single_task_gives_the_same_images_every_time(many, regime, mask):
  """Table 3 of the paper trains for one of the three alone."""
  drawn = many(regime)
  assert (drawn["mask"] == mask).all() and (drawn["keep_text"] == 1).all()


def test_all_three_tasks_are_equally_likely(many):
  given = many("text", "video", "continuation")["mask"].sum((1, 2))
  shares = [(given == mask.sum()).mean() for mask in (0 * VIDEO, VIDEO, CONTINUATION)]
  assert sum(shares) == 1 and all(abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / 600) for share in shares)


def test_the_given_view_and_the_row_have_noise_levels_of_their_own(many):
  """One each for a clip; nothing that is not given has any."""
  sigma = many("continuation")["sigma"]
  view, row = sigma[:, 0], sigma[:, 1:, 0]
  assert not sigma[:, 1:, 1:].any()
  assert (view == view[:, :1]).all() and (row == row[:, :1]).all()
  assert abs(np.corrcoef(view[:, 0], row[:, 0])[0, 1]) < 0.2
  assert 0.6 < view.max() < 0.7 and 0.6 < row.max() < 0.7 and min(view.min(), row.min()) < 0.05


# --- sampling


def test_a_large_matrix_is_sampled_by_a_network_of_small_ones(system, trained):
  """All eight views and sixteen frames, whatever shapes were trained; what is given comes back bit by bit."""
  mask = np.zeros((8, 16), np.float32)
  mask[0], mask[:, 0] = 1, 1
  given, request = make_request(system, mask, 0.2)
  latents = np.asarray(jit(lambda params, given, request: system.sample_latents(
    params, given, request, jax.random.key(0), steps=1, guidance=2.0))(trained, given, request))
  assert latents.shape == given.shape and np.isfinite(latents).all()
  np.testing.assert_array_equal(latents[0][mask > 0], given[0][mask > 0])
  assert (latents[0][mask == 0] != given[0][mask == 0]).mean() > 0.99


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_on_step_is_called_after_every_step(system, trained, guidance):
  calls = []
  given, request = make_request(system, VIDEO)
  changed = with_network(system, lambda latents, *_: 0 * latents)
  run = jit(lambda given: changed.sample_latents(trained, given, request, jax.random.key(0), steps=7, guidance=guidance,
                                                 on_step=lambda: calls.append(1)))
  run(given)
  jax.effects_barrier()
  assert len(calls) == 7
  run(given)                                                     # the program is compiled now, and still tells
  jax.effects_barrier()
  assert len(calls) == 14


def test_rescaling_gives_a_guided_output_the_spread_of_the_conditional_one():
  """Each image by itself, as far as asked for (Lin et al. 2023, §3.4)."""
  rng = np.random.default_rng(0)
  conditional, unconditional = rng.normal(size=(1, 2, 3, 4, 4, 5)), 2 * rng.normal(size=(1, 2, 3, 4, 4, 5))
  output = guided(conditional, unconditional, 5.0)
  spread = lambda x: np.asarray(x).std((-3, -2, -1))
  assert (spread(output) > 2 * spread(conditional)).all()
  np.testing.assert_allclose(spread(rescaled(output, conditional, 1.0)), spread(conditional), rtol=1e-5)
  np.testing.assert_allclose(spread(rescaled(output, conditional, 0.7)),
                             0.7 * spread(conditional) + 0.3 * spread(output), rtol=1e-5)
  np.testing.assert_allclose(rescaled(output, conditional, 0.0), output, rtol=1e-6)


@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
def test_a_sample_is_rescaled_as_far_as_asked_for(system, trained, rescale):
  """One step from nothing at all to the clean images leaves -v of the network's, whose two branches are known here."""
  given, request = make_request(system, VIDEO)
  pattern = np.random.default_rng(0).normal(size=given.shape).astype(np.float32)

  def network(latents, timestep, text, conditions):
    branch = videopanda.expand(conditions["mask"].max((1, 2), keepdims=True))         # 1 where images are given, else 0
    return (1 + branch) * pattern + 3 * branch

  changed = with_network(system, network)
  sample = np.asarray(jit(lambda given: changed.sample_latents(
    trained, given, request, jax.random.key(0), steps=1, guidance=4.0, noise_scale=0.0, rescale=rescale))(given))
  s = math.sqrt(1 - system.schedule.alphas_cumprod[-1])
  spread = lambda x: x[0, 1:].std((-3, -2, -1))                                        # of the views that are not given
  # Conditional 2 p + 3, unconditional p: guided by 4 this is 5 p + 12, of 5 / 2 the conditional spread.
  np.testing.assert_allclose(spread(sample), s * spread(pattern) * (5 * (1 - rescale) + 2 * rescale), rtol=1e-4)


def test_without_guidance_there_is_nothing_to_rescale(system, trained):
  given, request = make_request(system, VIDEO)
  changed = with_network(system, lambda latents, *_: jnp.tanh(latents))
  run = lambda rescale: jit(lambda given: changed.sample_latents(
    trained, given, request, jax.random.key(0), steps=2, guidance=1.0, rescale=rescale))(given)
  plain, asked = run(0.0), run(1.0)
  np.testing.assert_array_equal(plain, asked)


def equations(jaxpr, inside=False):
  """(equation, whether it is inside a scan) of a program and all that it calls."""
  for equation in jaxpr.eqns:
    yield equation, inside
    within = inside or equation.primitive.name in ("scan", "while")
    for value in jax.tree.leaves(list(equation.params.values()),
                                 is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)):
      if isinstance(value, core.ClosedJaxpr):
        value = value.jaxpr
      if isinstance(value, core.Jaxpr):
        yield from equations(value, within)


def test_what_does_not_depend_on_the_step_is_done_once():
  """Keys and values of the text, the convolution of rays and mask, the embedding of sigma: before the loop over steps.

  Found by their kernels, whose shapes nothing else has: the text is 12 wide.
  """
  system = build(**{"text.channels": 12})
  given, request = make_request(system, CONTINUATION)
  params = {"unet": system.unet.abstract, "text": system.text.abstract}
  program = jax.make_jaxpr(lambda params, given, request: system.sample_latents(
    params, given, request, jax.random.key(0), steps=5, guidance=2.0))(params, given, request)
  found = {"text": [], "rays and mask": [], "anything": []}
  for equation, inside in equations(program.jaxpr):
    shapes = [tuple(value.aval.shape) for value in equation.invars]
    if equation.primitive.name == "dot_general":
      found["anything"].append(inside)
      if (12, 8) in shapes:
        found["text"].append(inside)
    if equation.primitive.name == "conv_general_dilated" and (3, 3, 4, 8) in shapes:
      found["rays and mask"].append(inside)
  assert sum(found["anything"]) > 50                              # the loop is seen through
  assert len(found["text"]) >= 2 * 4 and not any(found["text"])   # keys and values: down 1, middle 1, up 2
  assert found["rays and mask"] and not any(found["rays and mask"])


# --- other rigs and cameras


RIGS = {"cubemap": 6, "horizontal4": 4, "horizontal8": 8, "icosahedron": 20,
        "two of my own": 2}


def rig_of(name):
  return ((0.0, 0.0), (90.0, 10.0, 70.0, 5.0)) if name == "two of my own" else name


@pytest.mark.parametrize("own_view", [False, True])
@pytest.mark.parametrize("name", RIGS)
def test_any_rig_makes_a_system(name, own_view):
  """As many views as it has, and with `own_view` the given camera in front of them."""
  system = build(rig=rig_of(name), own_view=own_view)
  views = RIGS[name] + own_view
  assert len(system.rig) == RIGS[name] and (system.given_cameras is not None) == own_view
  spec = system.batch_spec((views, 1), 2)
  assert spec["images"].shape == (2, views, 1, 8, 8, 3) and spec["rays"].shape == (2, views, *system.rays_size, 3)
  params = {network: part.abstract for network, part in system.networks.items()}
  loss, _ = jax.eval_shape(system.loss, params, spec, jax.random.key(0))
  assert loss.shape == ()
  image = jax.ShapeDtypeStruct((2, views, 1), jnp.float32)
  moving = jax.ShapeDtypeStruct((2, views, 1, *system.rays_size, 3), jnp.float32)
  for rays in (spec["rays"], moving):
    pixels = jax.eval_shape(functools.partial(system.sample, steps=2, guidance=2.0), params,
                            {**spec, "rays": rays, "mask": image, "sigma": image}, jax.random.key(0))
    assert (pixels.shape, pixels.dtype) == (spec["images"].shape, jnp.uint8)


def test_a_camera_that_moves_and_stands_still_samples_as_one_that_stands(trained):
  """View 0 is the clip's own camera: its rays, and those of the rig as it sees them, may come frame by frame."""
  system = build(rig="horizontal4", own_view=True, given_camera={"fov_deg": (50.0, 110.0), "pitch_deg": (-20.0, 20.0),
                                                                   "roll_deg": (0.0, 0.0)})
  camera = system.given_cameras.draw(np.random.default_rng(0))
  mask = np.concatenate([np.ones((1, 2)), np.zeros((4, 2))]).astype(np.float32)[None]
  still = Rig((camera, *system.rig)).rays(system.rays_size)[None]
  moving = frame_rays(system.rig, [camera] * 2, system.rays_size)[None]
  given = np.random.default_rng(1).normal(size=(1, 5, 2, *system.rays_size, system.codec.channels)).astype(np.float32)
  sample = jit(lambda params, rays: system.sample_latents(
    params, given, {"text": system.tokenize("night")[None], "rays": rays, "mask": mask, "sigma": 0 * mask},
    jax.random.key(0), steps=2, guidance=2.0))
  expected = sample(trained, still)
  np.testing.assert_allclose(sample(trained, moving), expected, atol=2e-4)
  np.testing.assert_array_equal(expected[:, 0], given[:, 0])
  assert float(jnp.abs(sample(trained, -moving) - expected)[:, 1:].max()) > 1e-3


# --- what is refused


@pytest.mark.parametrize("key, value", [
  ("conditioning.regimes", ("film",)),
  ("conditioning.regimes", ()),
])
def test_tasks_that_do_not_exist_are_refused_at_once(key, value):
  """In one sentence, before any data is read or any program compiled."""
  with pytest.raises(InputError, match="regimes must be some of text, video, continuation"):
    build(**{key: value})
