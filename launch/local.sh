#!/usr/bin/env bash
# Trains with several processes on this machine, as several hosts would: for trying what a pod does, or to give each GPU
# a process. When one fails, the others are ended; Ctrl-C lets all of them save.
#
#   launch/local.sh [options] PROCESSES --config configs/tiny.py:runlocal --workdir runs/two …
#
#   --devices N   N fake CPU devices for each process (default 1)
#   --gpus N      N GPUs for each process, instead: the first N for the first process and so on
#   --port N      where the processes meet (default: one between 20000 and 30000)
#   --grace N     seconds that the others have when one has failed (default 60)
#   --dry-run     print the commands, and run nothing
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

example="launch/local.sh 2 --config configs/tiny.py:runlocal --workdir runs/two"
devices=1 gpus='' port=$((20000 + RANDOM % 10000)) grace=60
while [[ ${1-} == --* ]]; do
  case $1 in
    --dry-run) dry_run=1 ;;
    --devices | --gpus | --port | --grace)
      [[ $# -ge 2 ]] || refuse "$1 needs a value"
      need_number "$1" "$2"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) refuse "there is no option $1: see the top of $0" ;;
  esac
  shift
done
[[ $# -ge 1 && $1 != -* ]] || refuse "give the number of processes and panda train's arguments: $example"
processes=$1
shift
need_number "the number of processes" "$processes"
need_training "$example" "$@"
need_program panda "install panda_jax and activate its environment"

pids=() status=0 stopping='' deadline=''
# Sends a signal to those that still run.
signal() { kill -s "$1" "${pids[@]}" 2>/dev/null || true; }
# shellcheck disable=SC2329      # called by the trap
stop() {
  echo "local: all processes save and end" >&2
  stopping=1
  signal TERM
}
[[ $dry_run ]] || trap stop INT TERM

for ((i = 0; i < processes; i++)); do
  if [[ $gpus ]]; then
    settings=(CUDA_VISIBLE_DEVICES="$(seq -s , $((i * gpus)) $((i * gpus + gpus - 1)))")
  else
    settings=(JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices")
  fi
  command=(env "${settings[@]}" panda train "$@"
    --coordinator "localhost:$port" --processes "$processes" --process "$i")
  if [[ $dry_run ]]; then
    run "${command[@]}"
  else
    "${command[@]}" > >(sed -u "s/^/[$i] /") 2>&1 &
    pids+=($!)
  fi
done

while ((${#pids[@]})); do
  sleep 0.2
  for i in "${!pids[@]}"; do
    if kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
    ended=0
    wait "${pids[i]}" || ended=$?
    unset "pids[i]"
    if [[ $ended == 0 || $status != 0 ]]; then continue; fi
    status=$ended
    if [[ $stopping || ${#pids[@]} == 0 ]]; then continue; fi
    echo "local: process $i ended with status $status; the others have $grace seconds to end" >&2
    deadline=$((SECONDS + grace))
    signal TERM
  done
  if [[ $deadline ]] && ((SECONDS >= deadline)); then signal KILL; fi
done
exit "$status"
