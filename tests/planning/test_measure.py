"""What is reported of a program compiled for a topology; libtpu compiles, so without it most of this is skipped."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from panda_jax.parallel.topology import CHIPS, ENVIRONMENT
from panda_jax.planning.measure import needed_memory, roofline
from tests.planning.toy_plans import ROUNDS, ROWS, TOPOLOGY, WIDTH

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@pytest.mark.parametrize("message, needed", [
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.00G) exceeds "
     "available HBM (15.75G).", 18 * 2**30),
    ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G of "
     "15.75G hbm. Exceeded hbm capacity by 4.75G.", int(20.5 * 2**30)),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.50M of 16.00M vmem.", None),
    ("INVALID_ARGUMENT: no such thing (18.00G) exceeds available HBM (15.75G)", None)])
def test_what_the_compiler_says_when_it_does_not_fit(message, needed):
  assert needed_memory(message) == needed


def test_the_roofline_is_the_compilers_unless_it_does_not_know():
  """It counts operations between slices as less than nothing; FLOPs and bytes of all together remain."""
  chip = CHIPS["v5p"]
  costs = {"flops": 2 * chip.peak_flops, "bytes accessed": 3 * chip.hbm_bandwidth, "optimal_seconds": 4.0}
  assert roofline(costs, chip) == 4.0
  assert roofline({**costs, "optimal_seconds": -95.9}, chip) == 3.0


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
  environment = {**os.environ, **ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false"}
  done = subprocess.run([sys.executable, "-m", "tests.planning.toy_plans", str(tmp_path_factory.mktemp("plans"))],
                        env=environment, text=True, capture_output=True, timeout=600)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@needs_libtpu
def test_a_program_that_fits(reports):
  report, chip = reports["small"], CHIPS["v5e"]
  assert report["fits"] and report["mesh"] == {"data": 2, "fsdp": 2, "context": 1}
  memory = report["memory"]
  weights = ROUNDS * WIDTH * WIDTH * 4 // 2                     # on each of two chips; the step writes over them
  assert memory["arguments"] >= weights and memory["aliased"] == weights
  assert 0 < memory["needed"] < memory["limit"] == chip.hbm
  product = 2 * ROWS // 4 * WIDTH**2                            # of the clips of a chip
  assert report["flops"]["model"] == pytest.approx((3 * ROUNDS) * product, rel=0.1)
  assert report["flops"]["total"] == report["flops"]["model"] + ROUNDS * product
  gathered = next(item for item in report["collectives"] if item["kind"] == "all-gather")
  assert gathered["count"] >= 2 * ROUNDS and gathered["network"] == "ici"
  assert report["seconds"]["compiler"] > report["seconds"]["at_peak"] > 0
  assert 0 < report["mfu"]["exposed"] < report["mfu"]["hidden"] < 1
  assert report["buffers"] and report["compiling"]["host"] > 2**27


@needs_libtpu
def test_the_same_program_is_not_compiled_again(reports):
  first, again = reports["small"], reports["again"]
  assert again["compiling"]["compile"] == first["compiling"]["compile"]
  assert {**again, "compiling": 0, "made": 0} == {**first, "compiling": 0, "made": 0}


@needs_libtpu
def test_one_that_does_not_fit_is_a_result(reports):
  report = reports["wasteful"]
  assert not report["fits"]
  assert report["memory"]["needed"] > report["memory"]["limit"]
  assert "RESOURCE_EXHAUSTED" in report["reason"]
  assert report["flops"]["total"] > 0 and "seconds" not in report


@needs_libtpu
def test_a_state_that_is_too_large_is_not_even_traced(reports):
  report = reports["heavy"]
  assert not report["fits"] and report["memory"]["needed"] == 2**40 and "nothing was compiled" in report["reason"]
  assert TOPOLOGY == "v5e:2x2"
