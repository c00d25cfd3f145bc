#!/usr/bin/env bash
# Trains on a Cloud TPU VM or on all hosts of a pod, from your own machine: copies this checkout there, installs it,
# starts `panda train` and shows the log of the first host. Ctrl-C ends the showing, not the training; the same command
# resumes a training that has stopped.
#
#   launch/tpu_vm.sh [--dry-run] [--queued] NAME ZONE --config configs/tiny.py --workdir runs/tiny …
#
#   --dry-run   print what would be run, and touch nothing
#   --queued    NAME is that of a queued resource, of one slice or several (see queued_resource.sh)
#
# Paths are the hosts', seen from their home folders. With more than one host the workdir is gs://bucket/folder or a
# folder that they share, and the dataset is on every host:
#   gcloud compute tpus tpu-vm scp --recurse records NAME: --zone ZONE --worker=all
# The hosts find each other by themselves. For several, `ssh-add ~/.ssh/google_compute_engine` first.
#
# Needs gcloud, logged in. Never run on a real TPU VM; follows `gcloud compute tpus tpu-vm ssh --help` and
# `… queued-resources ssh --help` of Google Cloud SDK 528.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

example="launch/tpu_vm.sh my-tpu us-east5-b --config configs/tiny.py --workdir runs/tiny"
kind=tpu-vm
all=(--worker=all)
first=(--worker=0)
while [[ ${1-} == --* ]]; do
  case $1 in
    --dry-run) dry_run=1 ;;
    --queued)
      kind=queued-resources
      all+=(--node=all --batch-size=all)
      first+=(--node=0)
      ;;
    --config | --workdir) break ;;
    *) refuse "there is no option $1: see the top of $0" ;;
  esac
  shift
done
[[ $# -ge 2 && $1 != -* && $2 != -* ]] || refuse "give the VM's name, its zone and panda train's arguments: $example"
name=$1 zone=$2
shift 2
need_training "$example" "$@"
need_program gcloud "install the Google Cloud CLI and log in"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
parcel=${TMPDIR:-/tmp}/panda_jax-$name.tgz
pack="git -C $(printf %q "$root") ls-files -z --cached --others --exclude-standard"
pack+=" | tar -C $(printf %q "$root") -czf $(printf %q "$parcel") --null -T -"
# A training that runs keeps its sources: the lock is tried before they would be replaced.
unpack="mkdir -p panda_jax; flock --nonblock panda_train.lock true"
unpack+=" || { echo 'tpu_vm: a training runs there already: tail -f panda_train.log shows it' >&2; exit 2; }"
unpack+="; tar -xzf panda_jax.tgz -C panda_jax"
train=$(printf '%q ' bash panda_jax/launch/host.sh start "$@")

[[ $dry_run ]] || trap 'rm -f "$parcel"' EXIT
run bash -o pipefail -c "$pack"
run gcloud compute tpus "$kind" scp "$parcel" "$name:panda_jax.tgz" --zone="$zone" "${all[@]}"
run gcloud compute tpus "$kind" ssh "$name" --zone="$zone" "${all[@]}" --command="$unpack && ${train% }"
run gcloud compute tpus "$kind" ssh "$name" --zone="$zone" "${first[@]}" --command="bash panda_jax/launch/host.sh show"
