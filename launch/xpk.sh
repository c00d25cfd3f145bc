#!/usr/bin/env bash
# Trains on a GKE cluster that was made with XPK. The same command resumes a training that has ended: XPK asks before
# it replaces a workload of the same name.
#
#   launch/xpk.sh [options] NAME CLUSTER TYPE IMAGE --config configs/tiny.py --workdir gs://bucket/run …
#   launch/xpk.sh lr my-cluster v6e-16 europe-docker.pkg.dev/my-project/my-repository/panda --config …
#
#   --slices N      slices of TYPE, joined over the data centre's network (default 1)
#   --restarts N    how often a failed training begins again by itself (default 100)
#   --grace N       seconds that a training has to save when it is to end (default 300)
#   --dry-run       print what would be run, and touch nothing
#
#   xpk workload list --cluster CLUSTER
#   xpk workload delete --cluster CLUSTER --workload NAME
#
# The image is made with launch/Dockerfile and `--build-arg RUN_AS=root`: XPK sets no user, and the TPUs' device files
# belong to root. Project and zone are gcloud's. Needs xpk, gcloud and kubectl.
# Never run against a real cluster; follows `xpk workload create` of XPK 1.13 (June 2026).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

example="launch/xpk.sh run my-cluster v6e-16 IMAGE --config configs/tiny.py --workdir gs://bucket/run"
slices=1 restarts=100 grace=300
while [[ ${1-} == --* ]]; do
  case $1 in
    --dry-run) dry_run=1 ;;
    --slices | --restarts | --grace)
      [[ $# -ge 2 ]] || refuse "$1 needs a value"
      need_number "$1" "$2"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) refuse "there is no option $1: see the top of $0" ;;
  esac
  shift
done
[[ $# -ge 4 && "$1 $2 $3 $4" != *" -"* ]] || refuse "give a name, a cluster, a type and an image: $example"
name=$1 cluster=$2 type=$3 image=$4
shift 4
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  refuse "$name is no name for a workload: up to 40 small letters, digits and hyphens, a letter first"
need_training "$example" "$@"
need_bucket "a pod's disk is gone when it ends" "$@"
need_program xpk "pip install xpk"

# XPK runs this in a subshell and sends SIGTERM to that: with exec it is the trainer that gets it. Restarts follow exit
# status 42 and 127 to 255 of themselves (143: ended by SIGTERM, saved), and 1 here: a host that has lost the others.
words=$(printf '%q ' panda train "$@")
run xpk workload create --workload "$name" --cluster "$cluster" --tpu-type="$type" --num-slices="$slices" \
  --docker-image="$image" --max-restarts="$restarts" --restart-on-exit-codes=1 \
  --termination-grace-period-seconds="$grace" --command="source /panda_jax/launch/tpu_flags.sh && exec ${words% }"
