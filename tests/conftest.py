"""For all tests."""

import gc
import signal

import jax
import pytest

# Shells start background jobs with SIGINT ignored, and children inherit that: tests that send it would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def no_programs_left():
  """Forgets what the tests of a module traced and compiled: gigabytes by the end, and every collection looks at them."""
  yield
  jax.clear_caches()
  gc.collect()
