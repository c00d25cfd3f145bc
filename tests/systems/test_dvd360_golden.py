"""360DVD's sampler against the official pipeline written as a plain loop: see tests/golden/make_dvd360.py."""

import numpy as np
import pytest

from panda_jax import systems
from panda_jax.diffusion.enhancement import PRESETS
from panda_jax.systems.starting_dvd360 import dvd360
from panda_jax.tree import unflatten
from panda_jax.weights.files import cast
from tests.fast import jit
from tests.golden import make_dvd360 as golden
from tests.paths import GOLDEN
from tests.weights.networks import relative


@pytest.fixture(scope="module")
def model():
  """(system, parameters), as `panda convert --init dvd360` would have them."""
  tensors, config = dvd360(golden.load_networks(), GOLDEN / "pipeline", panorama_size=golden.SIZE)
  return systems.build(config), unflatten({path: cast(tensor, np.float32).read() for path, tensor in tensors.items()})


@pytest.fixture(scope="module")
def expected():
  with np.load(golden.FILE) as file:
    return {name: file[name] for name in file}


def test_every_step_and_the_panorama_are_those_of_the_official_pipeline(model, expected):
  """Within 1e-5 of the size of the latents, measured 2e-6; pixels to rounding."""
  system, params = model
  assert system.enhancement == PRESETS["official"]
  noise, motion = golden.make_inputs()
  request = {"text": system.tokenize(golden.PROMPT)[None], "motion": motion}
  trace = np.asarray(jit(lambda params, noise, request, negative: system.denoised(
      params, noise, request, steps=golden.STEPS, guidance=golden.GUIDANCE, negative=negative, trace=True))(
          params, noise, request, system.tokenize(golden.NEGATIVE)[None]))
  np.testing.assert_array_equal(trace[0], noise)
  errors = [relative(ours, theirs) for ours, theirs in zip(trace[1:], expected["trace"], strict=True)]
  print("relative rms of every step:", " ".join(f"{error:.1e}" for error in errors))
  assert max(errors) < 1e-5
  video = np.asarray(jit(system.decode)(params, trace[-1]))
  apart = np.abs(video / 255 - expected["video"]).max()
  print(f"pixels: {255 * apart:.3f} levels")
  assert video.dtype == np.uint8 and 255 * apart < 0.51
