"""For all tests."""

import gc

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def no_programs_left():
  """Forgets what the tests of a module traced and compiled: gigabytes by the end, and every collection looks at them."""
  yield
  jax.clear_caches()
  gc.collect()
