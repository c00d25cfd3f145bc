#!/usr/bin/env bash
# Trains on a Cloud TPU VM, from your own machine: copies this checkout there, installs it, starts `panda train` and
# shows its log. Ctrl-C ends the showing, not the training; the same command resumes a training that has stopped.
#
#   launch/tpu_vm.sh NAME ZONE --config configs/tiny.py --workdir runs/tiny --config.data.path=records
#
# Paths are the VM's, seen from its home folder. Bring the dataset first:
#   gcloud compute tpus tpu-vm scp --recurse records NAME: --zone ZONE
#
# For slices with one host, such as v5litepod-8 or v6e-8. Pods are refused: the trainer does not join several hosts yet.
# Needs gcloud, logged in. Not yet run on a real TPU VM.
set -euo pipefail

refuse() { echo "tpu_vm: $1" >&2; exit 2; }

example="launch/tpu_vm.sh my-tpu us-east5-b --config configs/tiny.py --workdir runs/tiny"
[[ $# -ge 2 && $1 != -* && $2 != -* ]] || refuse "give the VM's name, its zone and panda train's arguments: $example"
name=$1 zone=$2
shift 2
for needed in --config --workdir; do
  [[ " $* " == *" $needed"[\ =]* ]] || refuse "panda train needs $needed, as in $example"
done
command -v gcloud >/dev/null || refuse "there is no gcloud here: install the Google Cloud CLI and log in"

hosts=$(gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format="value(networkEndpoints.len())")
[[ $hosts == 1 ]] || refuse "$name has $hosts hosts, and the trainer runs on one: take a v5litepod-8, v6e-8 or the like"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
parcel=$(mktemp -d)
trap 'rm -rf "$parcel"' EXIT
git -C "$root" ls-files -z --cached --others --exclude-standard |
  tar -C "$root" -czf "$parcel/panda_jax.tgz" --null -T -
gcloud compute tpus tpu-vm scp "$parcel/panda_jax.tgz" "$name:" --zone="$zone" --worker=all

# The training inherits the lock, so it is held for as long as it runs.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="set -- $(printf '%q ' "$@")
$(cat <<'REMOTE'
set -euo pipefail
exec 9>panda_train.lock
flock --nonblock 9 || { echo "tpu_vm: a training runs there already: tail -f panda_train.log shows it" >&2; exit 2; }
mkdir -p panda_jax && cd panda_jax
tar -xzf ../panda_jax.tgz
if [[ ! -x .venv/bin/python ]]; then
  # Images with Python 3.10 are common; uv brings a newer one along.
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && python3 -m venv .venv ||
    { python3 -m pip install --quiet --user uv && ~/.local/bin/uv venv --quiet --seed --clear --python=3.12 .venv; }
fi
.venv/bin/python -m pip install --quiet '.[tpu]'
source launch/tpu_flags.sh
cd ..
: >panda_train.log      # the background job may not have made it yet when tail looks for it
nohup panda_jax/.venv/bin/panda train "$@" >>panda_train.log 2>&1 </dev/null &
tail -n +1 -f --pid=$! panda_train.log 9>&- && wait $!
REMOTE
)"
