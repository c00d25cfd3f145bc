# shellcheck shell=bash
# Compiler flags for training on TPUs (v5e, v5p, v6e). Source this file: it puts them before your own LIBTPU_INIT_ARGS.
#
# A step gathers each layer's `fsdp`-sharded parameters and sums the gradients over `data` and `fsdp`. These flags let
# the chips compute meanwhile. MaxText and MaxDiffusion use them; not measured here yet, for want of a TPU.

_panda_flags=(
  # Gather the next layers' parameters beside the matrix products of this one, over more than one of them if need be.
  --xla_enable_async_all_gather=true
  --xla_tpu_enable_async_collective_fusion=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
  --xla_tpu_enable_async_collective_fusion_multiple_steps=true
  # Sum gradients over `data` as they come out of the backward pass, small and large ones alike.
  --xla_tpu_enable_data_parallel_all_reduce_opt=true
  --xla_tpu_data_parallel_opt_different_sized_ops=true
  # 64 MiB of on-chip memory for one fusion, more than by default: larger tiles, fewer trips to HBM.
  --xla_tpu_scoped_vmem_limit_kib=65536
)
# Left out: --xla_tpu_overlap_compute_collective_tc. For 5 % of speed, beside the fusion above, it has turned outputs
# into NaN on v6e (MaxDiffusion issue 429).
export LIBTPU_INIT_ARGS="${_panda_flags[*]}${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"
unset _panda_flags
