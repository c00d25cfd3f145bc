"""A compiled program's text gives up its collectives, its estimate of time and its largest arrays."""

import json
import os
import subprocess
import sys

import pytest

from panda_jax.parallel.program_text import Buffer, Collective, read_program
from tests.parallel.compiled_for_eight import COLUMNS, ROUNDS, ROWS

# What libtpu's compiler writes, shortened: two nested loops, a fused reduce-scatter, an exchange that is begun and
# ended, one between slices, and a kernel with an attribute over several lines.
TPU = """HloModule jit_step, is_scheduled=true, num_partitions=4

FileNames
1 "toy.py"

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: bf16[2048,128]) -> bf16[512,128] {
  %input = bf16[2048,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[2048,128]{1,0:T(8,128)(2,1)} all-reduce(%input), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice = bf16[512,128]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %at), dynamic_slice_sizes={512,128}
}

%inner (state: (s32[], f32[8,40])) -> (s32[], f32[8,40]) {
  %state = (s32[]{:T(128)}, f32[8,40]{1,0:T(8,128)}) parameter(0)
  %gathered = f32[8,40]{1,0:T(8,128)} all-gather(%x),
    replica_groups=[2,2]<=[4], dimensions={0}, metadata={op_name="jit(step)/net/all_gather"}
  ROOT %work = f32[8,40]{1,0:T(8,128)S(1)} fusion(%gathered), kind=kLoop, calls=%nowhere,
    backend_config={"window_config":{"estimated_cycles":"10"}}
}

%inner_condition (state: (s32[], f32[8,40])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%outer (state: (s32[], f32[8,40])) -> (s32[], f32[8,40]) {
  %while.1 = (s32[]{:T(128)}, /*index=1*/f32[8,40]{1,0:T(8,128)}) while(%tuple),
    condition=%inner_condition, body=%inner, metadata={op_name="jit(step)/while"}
  ROOT %more = f32[8,40]{0,1:T(8,128)} copy(%y), metadata={op_name="jit(step)/net/copy"},
    backend_config={"window_config":{"estimated_cycles":"1"}}
}

%outer_condition (state: (s32[], f32[8,40])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  ROOT %less.1 = pred[]{:T(512)} compare(%i, %five), direction=LT
}

ENTRY %main (param: f32[8,40]) -> f32[8,40] {
  %param = f32[8,40]{1,0:T(8,128)} parameter(0)
  something that nobody has seen before
  %while.2 = (s32[]{:T(128)}, f32[8,40]{1,0:T(8,128)}) while(%tuple), condition=%outer_condition, body=%outer
  %while.3 = (s32[]{:T(128)}, f32[8,40]{1,0:T(8,128)}) while(%tuple), condition=%gone, body=%outer
  %scattered = bf16[512,128]{1,0:T(8,128)(2,1)} fusion(%big), kind=kCustom, calls=%all-reduce-scatter.1
  %moved-start = (bf16[64,128]{1,0:T(8,128)(2,1)}, bf16[64,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, u32[]{:S(2)})
    collective-permute-start(%z), source_target_pairs={{0,1},{1,0}}
  %moved-done = bf16[64,128]{1,0:T(8,128)(2,1)} collective-permute-done(%moved-start)
  %out = (f32[160,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%w, %after-all), channel_id=4,
    is_host_transfer=true,
    frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %out-done = token[] send-done(%out), channel_id=4, is_host_transfer=true
  %splash.1 = (f32[3,512,128]{2,1,0:T(8,128)}, bf16[3,2,64,40]{3,2,1,0:T(8,128)(2,1)}) custom-call(%q, %k),
    custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"block":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/splash/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv"}}
  ROOT %end = f32[8,40]{1,0:T(8,128)} copy(%param), backend_config={"window_config":{"estimated_cycles":"100"}}
}
"""


def test_loops_are_multiplied_out():
  program = read_program(TPU)
  # Five rounds of (three of 10, and 1), once the same for the loop that does not tell, and 100.
  assert program.cycles == 6 * (3 * 10 + 1) + 100
  assert program.unknown_loops == 1
  assert program.kernels == 1


def test_collectives_with_what_a_chip_sends():
  permuted, scattered = 64 * 128 * 2, 2048 * 128 * 2 * 3 // 4
  assert read_program(TPU).collectives == [
      Collective("all-reduce", "dcn", 1, 160 * 8 * 128 * 4), Collective("reduce-scatter", "ici", 1, scattered),
      Collective("collective-permute", "ici", 1, permuted), Collective("all-gather", "ici", 18, 18 * 8 * 40 * 4 // 2)]


def test_largest_arrays_with_their_padding_and_layer():
  buffers = read_program(TPU).buffers
  assert Buffer(3 * 512 * 128 * 4, "f32[3,512,128]", "jit(step)/splash/pallas_call", 1) == buffers[0]
  assert Buffer(3 * 2 * 64 * 128 * 2, "bf16[3,2,64,40]", "jit(step)/splash/pallas_call", 1) in buffers
  assert Buffer(8 * 128 * 4, "f32[8,40]", "jit(step)/net/all_gather", 1) in buffers
  assert Buffer(40 * 128 * 4, "f32[8,40]", "jit(step)/net/copy", 1) in buffers  # another order, more padding
  assert len(read_program(TPU, largest=2).buffers) == 2


@pytest.mark.parametrize("text", [
    "", "HloModule nothing", "ENTRY %main () -> f32[] {", TPU[:1500], TPU.replace("%", "")])
def test_what_is_not_understood_is_passed_over(text):
  read_program(text)


@pytest.fixture(scope="module")
def compiled():
  """A program that this machine's compiler made for eight devices."""
  environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
  done = subprocess.run([sys.executable, "-m", "tests.parallel.compiled_for_eight"], env=environment, text=True,
                        capture_output=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_a_program_for_eight_devices(compiled):
  """In each round the whole weight comes together from four devices, and rows are exchanged among four."""
  found = {item["kind"]: (item["network"], item["count"], item["bytes"]) for item in compiled["collectives"]}
  weight, rows = COLUMNS * COLUMNS * 4, ROWS // 8 * COLUMNS * 4
  assert found["all-gather"] == ("ici", ROUNDS, ROUNDS * weight * 3 // 4)
  assert found["all-to-all"] == ("ici", ROUNDS, ROUNDS * rows * 3 // 4)
  assert found["collective-permute"][:2] == ("ici", ROUNDS)
  assert found["all-reduce"] == ("ici", 1, round(2 * 4 * 7 / 8))
  assert compiled["unknown_loops"] == 0
  assert compiled["buffers"][0]["bytes"] == weight
