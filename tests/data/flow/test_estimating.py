"""Panoramic flow: the same everywhere for a panorama that turns, mirrored in the mirror; and other networks by name."""

import cv2
import numpy as np
import pytest

from panda_jax.data.flow import ESTIMATORS, DISFlow, FlowError, describe_flow, estimate, flip_flow, make_flow
from panda_jax.errors import InputError
from tests.data.made_clips import panorama
from tests.paths import REAL, needs_real


def turning(image: np.ndarray, pixels: int, frames: int = 3) -> np.ndarray:
  """A panorama that moves to the right: uint8 [f H W 3]."""
  return np.stack([np.roll(image, pixels * k, axis=1) for k in range(frames)])


def textured(height: int = 96, seed: int = 0) -> np.ndarray:
  noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (3 * height, 6 * height, 3)), (0, 0), 2)
  tile = noise[height:2 * height, 2 * height:4 * height]      # its ends do not meet: mix them where they do
  share = np.clip(np.arange(2 * height) / 16, 0, 1)[None, :, None]
  tile = share * tile + (1 - share) * noise[height:2 * height, 4 * height:6 * height]
  return np.clip(panorama(height, seed) + 90 * tile, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("pixels", [1, -3, 12])
def test_flow_of_a_turning_panorama_is_the_turn_everywhere_also_across_the_seam(name, pixels):
  flow = make_flow(name)(turning(textured(), pixels))
  error = np.hypot(flow[..., 0] - pixels, flow[..., 1])
  assert flow.shape == (3, 96, 192, 2) and flow.dtype == np.float32
  assert error.mean() < 0.15 and np.percentile(error, 95) < 0.4
  seam = error[:, :, [*range(-abs(pixels) - 2, abs(pixels) + 2)]]
  assert seam.mean() < 0.2


def test_without_the_band_the_seam_would_be_wrong():
  """What the band is for."""
  plain = DISFlow()
  plain.SEAM = 0
  frames = turning(textured(), 12)
  seam = np.s_[:, :, [*range(-14, 14)]]
  errors = [np.hypot(flow[..., 0] - 12, flow[..., 1])[seam].mean() for flow in (plain(frames), DISFlow()(frames))]
  assert errors[0] > 5 * errors[1]


def test_flow_of_a_mirrored_film_is_the_mirrored_flow():
  """To the last bit with dis-symmetric; where pictures have something to follow, nearly so with dis."""
  frames = np.stack([cv2.resize(np.roll(textured(), 4 * k, axis=1), (192, 96)) for k in range(3)])
  frames[1:, 30:60, 50:90] = np.roll(frames[1:, 30:60, 50:90], 3, axis=1)      # something moves on its own
  mirror = frames[:, :, ::-1]
  exact = make_flow("dis-symmetric")
  assert np.array_equal(flip_flow(exact(frames)), exact(mirror))
  difference = np.abs(flip_flow(DISFlow()(frames)) - DISFlow()(mirror))
  assert np.median(difference) < 0.05 and np.percentile(difference, 90) < 0.5


def test_the_last_frame_repeats_the_one_before_and_one_frame_stands_still():
  flow = DISFlow("fast")(turning(panorama(), 2))
  assert np.array_equal(flow[-1], flow[-2])
  assert not DISFlow()(panorama()[None]).any()


def test_flow_does_not_depend_on_how_many_frames_or_threads_there_are():
  frames, threads = turning(textured(), 3, 4), cv2.getNumThreads()
  try:
    cv2.setNumThreads(1)
    whole = DISFlow()(frames)
    cv2.setNumThreads(5)
    assert np.array_equal(DISFlow()(frames[1:3])[0], whole[1])
  finally:
    cv2.setNumThreads(threads)


@pytest.mark.parametrize("size", [(8, 16), (9, 17), (16, 32)])
def test_small_panoramas_are_fine(size):
  frames = turning(panorama(16)[:size[0], :size[1]], 1)
  flow = DISFlow()(frames)
  assert np.isfinite(flow).all() and np.array_equal(DISFlow()(frames[1:])[0], flow[1])


@needs_real
def test_flow_of_turned_photographs():
  """Half a pixel more than whole ones; a photograph has skies and floors in which nothing can be followed."""
  for name in ("googlearchive_petra.jpg", "sunset1995_demo.png"):
    large = cv2.resize(cv2.imread(str(REAL / "photo" / name)), (1024, 512), interpolation=cv2.INTER_AREA)
    for pixels in (1, 4.5, 20):
      turned = (np.roll(large, round(2 * pixels) * k, axis=1) for k in range(2))
      frames = np.stack([cv2.resize(frame, (512, 256), interpolation=cv2.INTER_AREA) for frame in turned])
      flow = DISFlow()(frames)[0]
      error = np.hypot(flow[..., 0] - pixels, flow[..., 1])
      assert error.mean() < 0.12 and error[:, [*range(-25, 25)]].mean() < 0.15, (name, pixels)


# Estimators by name


def test_your_own_network_is_found_by_its_name(tmp_path, monkeypatch):
  (tmp_path / "my_flow.py").write_text("""
import numpy as np
def still(frames):
  return np.zeros((*frames.shape[:3], 2), np.float32)
class Network:
  loaded = 0
  def __init__(self):
    Network.loaded += 1
  def about(self):
    return {"weights": "raft-things"}
  def __call__(self, frames):
    return still(frames) + 1
number = 3
""")
  monkeypatch.syspath_prepend(tmp_path)
  frames = turning(panorama(16), 1)
  assert not estimate(make_flow("my_flow:still"), frames).any()
  network = make_flow("my_flow:Network")
  assert (estimate(network, frames) == 1).all() and network.loaded == 1
  assert describe_flow("my_flow:Network", network) == {"estimator": "my_flow:Network", "weights": "raft-things"}
  assert describe_flow("my_flow:still", make_flow("my_flow:still")) == {"estimator": "my_flow:still"}
  with pytest.raises(InputError, match="cannot be called"):
    make_flow("my_flow:number")


@pytest.mark.parametrize("name, said", [
  ("raft", "no flow estimator 'raft': give dis, dis-symmetric, or your own as module:function"),
  ("no_such_module:run", "cannot be loaded"), ("math:no_such_name", "cannot be loaded"), (":x", "no flow estimator")])
def test_names_of_nothing_are_refused_in_one_sentence(name, said):
  with pytest.raises(InputError, match=said):
    make_flow(name)


@pytest.mark.parametrize("flow, said", [
  (lambda frames: np.zeros((len(frames) - 1, *frames.shape[1:3], 2), np.float32), "one for each frame"),
  (lambda frames: np.zeros((*frames.shape[:3], 2), int), "floating-point"),
  (lambda frames: np.full((*frames.shape[:3], 2), np.nan), "NaN")])
def test_estimators_are_held_to_their_contract(flow, said):
  with pytest.raises(FlowError, match=said):
    estimate(flow, turning(panorama(16), 1), "my_flow:run")


def test_bad_frames_are_refused():
  with pytest.raises(ValueError, match="uint8"):
    DISFlow()(np.zeros((2, 16, 32, 3)))
  with pytest.raises(ValueError, match="16x8"):
    DISFlow()(np.zeros((2, 4, 8, 3), np.uint8))
  with pytest.raises(ValueError, match="preset"):
    DISFlow("best")
