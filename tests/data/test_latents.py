"""Stores of latents and text states: they are what the model makes of the crops, and batches are made of them."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from configs import tiny
from panda_jax import systems
from panda_jax.checksum import checksum
from panda_jax.data.latents import PanoramaLatents, ViewLatents
from panda_jax.data.matrix import MatrixSchedule
from panda_jax.data.records import decode_frame
from panda_jax.data.stores import Crops, check_fresh
from panda_jax.errors import InputError
from panda_jax.systems.starting_point import videopanda
from panda_jax.tree import unflatten
from tests.data.stored import clips, panorama, write_store
from tests.data.toy import assert_same, joined, take, train
from tests.fast import jit
from tests.systems import toy

SIZE, YAWS, CLIPS = (16, 32), 2, 4
BFLOAT16 = ml_dtypes.bfloat16
SHAPES = ((2, 3), (3, 2))


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
  """Leaves out XLA's optimisations: the stores compile their own programs."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
  """(system, params) on a VAE and CLIP, both very small."""
  folder = toy.write_tokenizer(tmp_path_factory.mktemp("latents") / "tokenizer")
  tensors, config = videopanda(toy.networks(block_out_channels=(8,), attention=(True,)), folder,
                               view_size=toy.VIEW_SIZE, frames=3)
  return systems.build(config), unflatten({path: tensor.read() for path, tensor in tensors.items()})


@pytest.fixture(scope="module")
def untrained():
  """(system, params) on the codec that needs no training."""
  config = tiny.get_config("runlocal")
  config.model.view_size = 8
  return systems.build(config), {}


@pytest.fixture(scope="module")
def view_store(learned):
  return ViewLatents(*learned, yaws=YAWS, flips=True, batch=3)


@pytest.fixture(scope="module")
def views(view_store, tmp_path_factory):
  members = {"train": clips(CLIPS, caption="a view of number {}")}
  return write_store(tmp_path_factory.mktemp("views") / "set", members, view_store, SIZE)


@pytest.fixture(scope="module")
def whole(learned, tmp_path_factory):
  store = PanoramaLatents(*learned, size=SIZE, flips=True)
  return write_store(tmp_path_factory.mktemp("whole") / "set", {"train": clips(CLIPS)}, store, SIZE)


def batches(path, system, **changes):
  return train(path, **dict(rig=system.rig, view_size=system.view_size, rays_size=system.rays_size, shapes=SHAPES,
                            tokenize=system.tokenize, fps=8) | changes)


@pytest.fixture(scope="module")
def encoded(learned):
  """(images uint8 [n h w 3], circular) -> what the VAE makes of them, [n h' w' c]; one program for each size."""
  system, params = learned
  program = jit(lambda images, circular: system.encode_stored(params, images, circular), static_argnums=1)

  def encode(images, circular=False):
    count = len(images)
    images = np.concatenate([images, images[:1].repeat(-count % 8, 0)])[:, None, None]
    parts = [program(images[start:start + 8], circular) for start in range(0, len(images), 8)]
    return np.concatenate(parts)[:count, 0, 0]

  return encode


def read(data, shape):
  return np.frombuffer(data, BFLOAT16).reshape(shape).astype(np.float32)


# --- what is stored


def test_view_latents_are_those_of_the_crops(learned, view_store, encoded):
  """In order, to bfloat16: mean and log-variance, also of mirrored panoramas."""
  crops = Crops(learned[0].rig, learned[0].view_size, YAWS, "png")
  variants, frames = view_store.variants("clip", "any"), [panorama(0)]
  assert variants[:YAWS] == crops.variants("clip", "any")
  images = np.stack([decode_frame(data) for data in crops.images(iter(frames), variants)])
  stored = np.stack([read(data, (4, 4, 8)) for data in view_store.images(iter(frames), variants)])
  np.testing.assert_allclose(stored, encoded(images), rtol=2**-8, atol=2e-3)
  np.testing.assert_array_equal(images[YAWS * 8], images[0, :, ::-1])                  # view 0 looks ahead in both
  assert np.abs(stored[YAWS * 8] - stored[0][:, ::-1]).max() > 0.1                     # latents are no pictures


def test_latents_of_a_codec_without_weights_are_stored_as_they_are(untrained):
  system, params = untrained
  store, crops = ViewLatents(system, params, batch=3), Crops(system.rig, system.view_size, 1, "png")
  variants = store.variants("clip", "any")
  images = np.stack([decode_frame(data) for data in crops.images(iter([panorama(0)]), variants)])
  stored = np.stack([read(data, store.about()["shape"]) for data in store.images(iter([panorama(0)]), variants)])
  np.testing.assert_allclose(stored, system.encode_images(params, images), rtol=2**-8, atol=1e-5)


def test_a_clips_bytes_do_not_depend_on_what_was_stored_before(view_store):
  """Though batches of three are filled up with images of nobody."""
  frames, variants = [panorama(seed) for seed in range(2)], view_store.variants("clip", "any")
  first = list(view_store.images(iter(frames), variants))
  list(view_store.images(iter(frames[:1]), variants[:1]))
  assert first == list(view_store.images(iter(frames), variants)) and len(first) == 2 * 2 * YAWS * 8


def test_variants_are_mirrored_behind_those_that_are_not_and_never_where_the_caption_names_sides(view_store):
  variants = view_store.variants("clip", "any")
  assert [(variant.flip, variant.yaw_deg) for variant in variants[YAWS:]] == [
    (True, variant.yaw_deg) for variant in variants[:YAWS]]
  assert view_store.variants("clip", "turning left") == variants[:YAWS]


def test_text_states_are_those_of_a_pretrained_encoder_and_nothing_otherwise(view_store, learned, untrained):
  system, params = learned
  ids = np.stack([system.tokenize("the sea")])
  expected = jit(system.encode_text)(params, ids, jnp.ones(1))[0]
  states = read(view_store.text("the sea"), view_store.about()["text shape"])
  np.testing.assert_allclose(states, expected, rtol=2**-8, atol=1e-3)
  store = ViewLatents(*untrained)
  assert store.text("the sea") == b"" and store.about()["text"] is None


def test_about_is_json_and_names_all_that_decides_the_bytes(view_store, learned):
  system, params = learned
  about = view_store.about()
  assert json.loads(json.dumps(about)) == about
  assert (about["factor"], about["shape"], about["dtype"], about["scaled"]) == (2, [4, 4, 8], "bfloat16", False)
  assert "scaling_factor" not in about["codec"]
  changed = jax.tree.map(np.array, params)
  changed["vae"]["encoder"]["conv_in"]["bias"][0] += 1e-3
  changed["text"]["final_layer_norm"]["bias"][0] += 1e-3
  other = ViewLatents(system, changed, yaws=YAWS, flips=True).about()
  assert {key for key in about if about[key] != other[key]} == {"codec weights", "text weights"}
  with pytest.raises(InputError, match="stale: it stores latents of other codec weights"):
    check_fresh("set", about, system.stored_key(changed))
  check_fresh("set", about, system.stored_key(system.key_params(params)))


# --- panoramas


def test_panorama_latents_commute_with_turning_as_those_of_a_plain_encoding_do_not(encoded):
  """The seam is nowhere: turned by whole latents, a panorama has the latents of the turned panorama."""
  image = panorama(3)[None]
  for pixels in (2, 8, 22):
    turned = np.roll(image, pixels, axis=-2)
    one, other = (encoded(picture, True) for picture in (image, turned))
    np.testing.assert_allclose(np.roll(one, pixels // 2, axis=-2), other, atol=1e-4)
    one, other = (encoded(picture, False) for picture in (image, turned))
    assert np.abs(np.roll(one, pixels // 2, axis=-2) - other).max() > 1e-2


def test_batches_of_panorama_latents_are_turned_and_have_one_view_and_no_rays(whole, learned, encoded):
  members, turns = [encoded(np.stack(clip.frames), True) for clip in clips(CLIPS)], set()
  for batch in take(batches(whole, learned[0], shapes=((1, 3),)), 6):
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
      "latents": ((2, 1, 3, 8, 16, 8), BFLOAT16), "text_states": ((2, 77, 8), BFLOAT16)}
    for latents in batch["latents"].astype(np.float32):
      fits = []
      for member in members:
        for start in range(4):
          fits += [turn for turn in range(16) if np.allclose(
            np.roll(member[start:start + 3], turn, axis=-2), latents[0], rtol=2**-7, atol=5e-3)]
      assert len(fits) == 1
      turns.update(fits)
  assert len(turns) > 4


def test_whole_panoramas_need_a_learned_codec_and_a_size_that_it_divides(learned, untrained):
  with pytest.raises(InputError, match="are for learned codecs"):
    PanoramaLatents(*untrained, size=SIZE)
  with pytest.raises(InputError, match="panoramas of 31x15 pixels make no whole latents of 2 x 2"):
    PanoramaLatents(*learned, size=(15, 31))


# --- batches


def test_a_batch_is_as_the_system_declares_it(views, learned):
  system, _ = learned
  schedule = MatrixSchedule(SHAPES, seed=1)
  for step, batch in enumerate(take(batches(views, system), 4)):
    spec = system.batch_spec(schedule.shape(step), 2, latents=True, text_states=True)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
      name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()}


def test_batches_of_latents_are_those_of_crops_encoded(views, learned, encoded, tmp_path):
  """The same clips, frames, yaws and cameras are drawn from both."""
  system, _ = learned
  crops = Crops(system.rig, system.view_size, YAWS, "png")
  path = write_store(tmp_path / "crops", {"train": clips(CLIPS, caption="a view of number {}")}, crops, SIZE)
  for batch, other in zip(take(batches(views, system), 4), take(batches(path, system), 4), strict=True):
    np.testing.assert_array_equal(batch["rays"], other["rays"])
    expected = encoded(other["images"].reshape(-1, 8, 8, 3)).reshape(batch["latents"].shape)
    np.testing.assert_allclose(batch["latents"].astype(np.float32), expected, rtol=2**-8, atol=2e-3)


@pytest.mark.parametrize("name, shapes", [("views", SHAPES), ("whole", ((1, 3), (1, 1)))])
@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_hosts_threads_and_interruptions_change_nothing(name, shapes, flip, learned, request):
  path, system = request.getfixturevalue(name), learned[0]
  settings = dict(shapes=shapes, flip=flip)
  alone = take(batches(path, system, batch_size=4, **settings), 5)
  for hosts in (2, 4):
    parts = [batches(path, system, batch_size=4 // hosts, process_index=index, process_count=hosts, **settings)
             for index in range(hosts)]
    assert_same(alone, [joined(part) for part in zip(*(take(part, 5) for part in parts))])
  for step in range(5):
    resumed = batches(path, system, batch_size=4, threads=1 + step % 3, prefetch=2, **settings)
    resumed.set_state({"next_index": step})
    assert_same(alone[step:step + 1], take(resumed, 1))


@pytest.mark.parametrize("name, shapes", [("views", SHAPES), ("whole", ((1, 2),))])
def test_mirrored_samples_are_those_that_were_stored_mirrored(name, shapes, learned, request):
  path, system = request.getfixturevalue(name), learned[0]
  plain, flipped, some = (take(batches(path, system, shapes=shapes, flip=flip), 8) for flip in (0.0, 1.0, 0.5))
  mirrored = 0
  for batch, other, either in zip(plain, flipped, some, strict=True):
    assert_same([{**batch, "latents": 0}], [{**other, "latents": 0}])      # no other draw has moved
    for index in range(2):
      assert (batch["latents"][index] != other["latents"][index]).any()
      chosen = other if (either["latents"][index] == other["latents"][index]).all() else batch
      np.testing.assert_array_equal(either["latents"][index], chosen["latents"][index])
      mirrored += chosen is other
  assert 2 < mirrored < 14


def test_latents_that_are_not_stored_mirrored_cannot_be(untrained, tmp_path):
  system, _ = untrained
  path = write_store(tmp_path / "set", {"train": clips(1, frames=3)}, ViewLatents(*untrained), SIZE)
  with pytest.raises(InputError, match="data.flip is 0.5, but .* stores no mirrored latents"):
    batches(path, system, flip=0.5)


@pytest.mark.parametrize("changes, words", [
  (dict(view_size=(16, 16)), "stores views of 8x8 pixels and this run has views of 16x16"),
  (dict(rays_size=(1, 1)), "stores latents of 4x4 and this run's have 1x1")])
def test_another_view_size_or_codec_is_refused_at_the_start(views, learned, changes, words):
  with pytest.raises(InputError, match=words):
    batches(views, learned[0], **changes)


def test_matrices_of_whole_panoramas_have_one_view(whole, learned):
  with pytest.raises(InputError, match=r"has \(2, 3\), but .* stores latents of whole panoramas"):
    batches(whole, learned[0])


def test_the_checksum_of_stored_weights_is_that_of_the_params(learned, view_store):
  assert view_store.about()["codec weights"] == checksum(learned[1]["vae"])
