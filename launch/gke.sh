#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a job set that restarts when hosts fail. The same command resumes: a job set
# of this name that has ended is replaced, one that runs is left alone.
#
#   launch/gke.sh [options] NAME IMAGE ACCELERATOR TOPOLOGY --config configs/tiny.py --workdir gs://bucket/run …
#   launch/gke.sh lr europe-docker.pkg.dev/my-project/my-repository/panda tpu-v6e-slice 4x4 --config …
#
#   --slices N      slices of this topology, joined over the data centre's network (default 1)
#   --data BUCKET   the bucket of the dataset, mounted as /data for --config.data.path=/data/records
#   --chips N       chips of a host (default: 4, or all of a smaller topology)
#   --spot          nodes that may be taken away at any time
#   --restarts N    how often a failed training begins again by itself (default 100)
#   --grace N       seconds that a training has to save when it is to end (default 300)
#   --dry-run       print what would be run, and touch nothing
#
#   kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=NAME,batch.kubernetes.io/job-completion-index=0
#   kubectl delete jobset NAME
#
# The image is made with launch/Dockerfile. Needs kubectl with the cluster's credentials, and JobSet installed there.
# Never run against a real cluster; follows JobSet v0.12 and docs.cloud.google.com/kubernetes-engine (August 2026).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

example="launch/gke.sh run IMAGE tpu-v6e-slice 4x4 --config configs/tiny.py --workdir gs://bucket/run"
slices=1 data='' chips='' spot='' restarts=100 grace=300
while [[ ${1-} == --* ]]; do
  case $1 in
    --spot) spot='cloud.google.com/gke-spot: "true"' ;;
    --dry-run) dry_run=1 ;;
    --data)
      [[ ${2-} =~ ^[a-z0-9][-_.a-z0-9]+$ ]] || refuse "--data takes a bucket's name without gs://, not '${2-}'"
      data=$2
      shift
      ;;
    --slices | --chips | --restarts | --grace)
      [[ $# -ge 2 ]] || refuse "$1 needs a value"
      need_number "$1" "$2"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) refuse "there is no option $1: see the top of $0" ;;
  esac
  shift
done
[[ $# -ge 4 && "$1 $2 $3 $4" != *" -"* ]] || refuse "give a name, an image, an accelerator and a topology: $example"
name=$1 image=$2 accelerator=$3 topology=$4
shift 4
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  refuse "$name is no name for a job set: up to 40 small letters, digits and hyphens, a letter first"
[[ $image =~ ^[A-Za-z0-9._:/@-]+$ && $accelerator =~ ^tpu[-a-z0-9]+$ ]] ||
  refuse "$image $accelerator are no image and accelerator, as in $example"
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || refuse "$topology is no topology, such as 4x4 or 2x2x4"
need_training "$example" "$@"
need_bucket "a pod's disk is gone when it ends" "$@"
need_program kubectl "install it and get the cluster's credentials"

total=$((${topology//x/*}))
[[ $chips ]] || chips=$((total < 4 ? total : 4))
((total % chips == 0)) || refuse "$topology has $total chips, which hosts of $chips cannot share"

# Arguments as a list of JSON strings, which YAML reads, too.
arguments='"train"'
for word in "$@"; do
  word=${word//\\/\\\\}
  arguments+=", \"${word//\"/\\\"}\""
done

annotations='' mounts='' volumes=''
if [[ $data ]]; then
  annotations='gke-gcsfuse/volumes: "true"'
  mounts='{name: data, mountPath: /data, readOnly: true}'
  volumes="{name: data, csi: {driver: gcsfuse.csi.storage.gke.io, readOnly: true, volumeAttributes:
                {bucketName: $data, mountOptions: implicit-dirs, hostNetworkPodKSA: \"true\"}}}"
fi

text=$(<"$here/jobset.yaml")
for pair in "name=$name" "restarts=$restarts" "slices=$slices" "hosts=$((total / chips))" "grace=$grace" \
  "accelerator=$accelerator" "topology=$topology" "spot=$spot" "image=$image" "chips=$chips" \
  "annotations=$annotations" "mounts=$mounts" "volumes=$volumes" "arguments=$arguments"; do
  key=${pair%%=*} value=${pair#*=}
  text=${text//"@$key@"/"$value"}
done

get=(kubectl get jobset "$name" --ignore-not-found -o "jsonpath={.metadata.name} {.status.terminalState}")
if [[ $dry_run ]]; then
  run "${get[@]}"
  echo "# then, unless it runs, and after \`kubectl delete jobset $name\` if it has ended:"
  printf 'kubectl apply -f - <<%s\n%s\n%s\n' "'EOF'" "$text" EOF
  exit
fi
read -r found state <<<"$("${get[@]}")" || true
if [[ $found && $state ]]; then
  kubectl delete jobset "$name"
elif [[ $found ]]; then
  refuse "$name runs already: kubectl delete jobset $name ends it"
fi
kubectl apply -f - <<<"$text"
