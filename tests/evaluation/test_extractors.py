"""Images reach networks as the tools do it that published numbers were made with; devices and batches change nothing."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from panda_jax.errors import InputError
from panda_jax.evaluation import extractors
from panda_jax.evaluation.extractors import Extractor, Weights, identify, load_extractors, parse_weights
from panda_jax.evaluation.protocol import Protocol

ROOT = Path(__file__).resolve().parents[2]


class Mean(nnx.Module):
  """Stands for a network: [n h w 3] or [n f h w 3] -> [n 3]."""

  def __init__(self):
    self.factor = nnx.Param(jnp.ones(3))

  def __call__(self, x):
    return self.factor[...] * x.mean(tuple(range(1, x.ndim - 1)))


def images(n: int, h: int = 20, w: int = 40) -> np.ndarray:
  return np.random.default_rng(n).integers(0, 256, (n, h, w, 3)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 32, 45])
def test_batches_and_devices_change_nothing(count):
  """Any number of images, on eight devices or one, gives each image's own features, in order; compiled once."""
  said = []
  extractor = Extractor(Weights("inception", "f", "0"), Mean(), Protocol(), said.append)
  all_of_them = extractor.features(images(count))
  assert all_of_them.shape == (count, 3) and len(said) == 1
  alone = np.concatenate([extractor.features(image[None]) for image in images(count)[:3]])
  np.testing.assert_allclose(all_of_them[:3], alone, rtol=1e-6)
  np.testing.assert_allclose(all_of_them, extractors.for_inception_bicubic(images(count)).mean((1, 2)), atol=1e-6)
  assert len(said) == 1


def test_images_are_spread_over_all_devices():
  """On eight devices: each holds an eighth of a batch, and features are those of one device."""
  program = """
import jax, numpy as np
from tests.evaluation.test_extractors import Extractor, Mean, Protocol, Weights, images
extractor = Extractor(Weights("inception", "f", "0"), Mean(), Protocol())
assert len(jax.local_devices()) == 8
placed = jax.device_put(np.zeros((extractor._batch, 4)), extractor._split)
assert {shard.data.shape[0] for shard in placed.addressable_shards} == {4}
np.save("features.npy", extractor.features(images(45)))
"""
  with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, env=os.environ | {
      "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)})
    features = np.load(Path(folder) / "features.npy")
  alone = Extractor(Weights("inception", "f", "0"), Mean(), Protocol()).features(images(45))
  np.testing.assert_allclose(features, alone, atol=1e-6)                # sums of pixels in another order


def test_the_default_resize_is_that_of_clean_fid():
  """Each channel in float32 through Pillow's antialiased bicubic, clipped; then the scaling of the 2015 graph."""
  picture = images(1, 500, 300)
  channels = [Image.fromarray(picture[0, ..., c].astype(np.float32), mode="F").resize((299, 299), Image.Resampling.BICUBIC)
              for c in range(3)]
  expected = (np.stack([np.asarray(channel) for channel in channels], -1).clip(0, 255) - 128) / 128
  np.testing.assert_array_equal(extractors.for_inception_bicubic(picture)[0], expected.astype(np.float32))


def test_the_other_resize_is_bilinear_at_pixel_centres():
  """As torch's interpolate without antialiasing: checked against its formula."""
  picture = images(1, 10, 7)
  y, x = ((np.arange(299) + 0.5) * size / 299 - 0.5 for size in (10, 7))
  y, x = y.clip(0, 9), x.clip(0, 6)
  y0, x0 = np.minimum(y.astype(int), 8), np.minimum(x.astype(int), 5)
  fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
  at = lambda dy, dx: picture[0][np.ix_(y0 + dy, x0 + dx)].astype(float)
  expected = (1 - fy) * ((1 - fx) * at(0, 0) + fx * at(0, 1)) + fy * ((1 - fx) * at(1, 0) + fx * at(1, 1))
  np.testing.assert_allclose(extractors.for_inception_bilinear(picture)[0], expected / 127.5 - 1, atol=1e-4)


def test_videos_are_resized_frame_by_frame():
  videos = images(6).reshape(2, 3, 20, 40, 3)
  prepared = extractors.for_i3d(videos)
  assert prepared.shape == (2, 3, 224, 224, 3)
  one = cv2.resize(videos[1, 2].astype(np.float32), (224, 224), interpolation=cv2.INTER_LINEAR) / 127.5 - 1
  np.testing.assert_allclose(prepared[1, 2], one, atol=1e-6)


def test_weights_are_named_by_their_content(tmp_path):
  (tmp_path / "a.pth").write_bytes(b"abc")
  (tmp_path / "b.pth").write_bytes(b"abc")
  (tmp_path / "clip").mkdir()
  (tmp_path / "clip" / "config.json").write_text("{}")
  (tmp_path / "clip" / "model.bin").write_bytes(b"x")
  named = identify(parse_weights([f"inception={tmp_path / 'a.pth'}", f"lpips_alex={tmp_path / 'a.pth'},{tmp_path / 'b.pth'}",
                                  f"clip={tmp_path / 'clip'}", "i3d=random"]))
  assert named["inception"] == Weights(
    "inception", "a.pth", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
  assert named["lpips_alex"].file == "a.pth, b.pth" and named["clip"].file == "clip"
  assert len({weights.sha256 for weights in named.values()}) == 4
  assert named["i3d"].random and not named["clip"].random


@pytest.mark.parametrize("words, sentence", [
  (["resnet=a"], "give NETWORK=FILE, with one of inception"), (["inception="], "give NETWORK=FILE"),
  (["i3d=a", "i3d=b"], "names i3d twice"), (["clip=random"], "for inception and i3d alone"),
])
def test_weights_that_cannot_be_meant_are_refused(words, sentence):
  with pytest.raises(InputError, match=sentence):
    parse_weights(words)


def test_weights_that_are_not_there_are_refused(tmp_path):
  with pytest.raises(InputError, match="nowhere.pth cannot be read"):
    identify({"inception": (str(tmp_path / "nowhere.pth"),)})
  (tmp_path / "a.pth").write_bytes(b"abc")
  with pytest.raises(InputError, match="2 files were given"):
    files = {"inception": (str(tmp_path / "a.pth"), str(tmp_path / "a.pth"))}
    load_extractors(files, identify(files), Protocol())
