#!/usr/bin/env bash
# Queues for TPU slices, waits until they are there, and trains on them with tpu_vm.sh. The same command goes on: it
# waits for what is queued, and queues again for slices that have been taken away.
#
#   launch/queued_resource.sh [options] NAME ZONE TYPE --config configs/videopanda.py:size=sd15 --workdir gs://b/run …
#   launch/queued_resource.sh --delete NAME ZONE
#
#   --spot              slices that may be taken away at any time, cheaper
#   --slices N          N slices of TYPE, joined over the data centre's network (default 1)
#   --runtime VERSION   the VM's software (default: the one for TYPE)
#   --delete            give the slices back, or leave the queue
#   --dry-run           print what would be run, for slices that are not queued yet, and touch nothing
#
# Slices cost money until --delete, also when the training has ended.
# Needs gcloud, logged in. Never run against the real service; follows `gcloud compute tpus queued-resources --help` of
# Google Cloud SDK 528, cloud.google.com/tpu/docs/queued-resources (states) and …/runtimes (2025-08 and later).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

example="launch/queued_resource.sh my-tpu us-east5-b v6e-16 --config configs/tiny.py --workdir gs://bucket/tiny"
slices=1 runtime='' spot='' delete=''
while [[ ${1-} == --* ]]; do
  case $1 in
    --spot) spot=1 ;;
    --delete) delete=1 ;;
    --dry-run) dry_run=1 ;;
    --slices | --runtime)
      [[ $# -ge 2 ]] || refuse "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) refuse "there is no option $1: see the top of $0" ;;
  esac
  shift
done
[[ $# -ge 2 && $1 != -* && $2 != -* ]] || refuse "give a name, a zone and a type: $example"
name=$1 zone=$2
need_program gcloud "install the Google Cloud CLI and log in"
queue=(gcloud compute tpus queued-resources)

if [[ $delete ]]; then
  run "${queue[@]}" delete "$name" --zone="$zone" --force --quiet
  exit
fi

[[ $# -ge 3 && $3 != -* ]] || refuse "give the type of slice, such as v6e-16: $example"
type=$3
shift 3
need_number --slices "$slices"
need_training "$example" "$@"
if [[ -z $runtime ]]; then
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    *) refuse "$type is no known type of slice, such as v6e-16, v5p-32 or v5litepod-16: or give its --runtime" ;;
  esac
fi
create=("${queue[@]}" create "$name" --zone="$zone" --accelerator-type="$type" --runtime-version="$runtime")
if [[ $slices == 1 ]]; then
  create+=(--node-id="$name")
else
  create+=(--node-count="$slices" --node-prefix="$name")
fi
[[ ! $spot ]] || create+=(--spot)
describe=("${queue[@]}" describe "$name" --zone="$zone" --format="value(state.state)")

state() { "${describe[@]}" 2>/dev/null || echo none; }

if [[ $dry_run ]]; then
  run "${describe[@]}"
  run "${create[@]}"
  echo "# then waits until the first command says ACTIVE"
else
  found=$(state)
  case $found in
    SUSPENDING | SUSPENDED | FAILED)
      echo "queued_resource: $name is $found: queueing again" >&2
      "${queue[@]}" delete "$name" --zone="$zone" --force --quiet
      "${create[@]}"
      ;;
    none) "${create[@]}" ;;
  esac
  said=''
  until found=$(state) && [[ $found == ACTIVE ]]; do
    [[ $found == "$said" ]] || echo "queued_resource: $name is $found" >&2
    said=$found
    case $found in
      none | FAILED | SUSPENDING | SUSPENDED)
        echo "queued_resource: no slices came of it; \`${queue[*]} describe $name --zone=$zone\` says more" >&2
        exit 1
        ;;
    esac
    sleep 30
  done
fi
exec "$BASH" "$(dirname "${BASH_SOURCE[0]}")/tpu_vm.sh" ${dry_run:+--dry-run} --queued "$name" "$zone" "$@"
