#!/usr/bin/env bash
# On a TPU host, in its home folder; tpu_vm.sh copies the checkout there and calls this.
#
#   panda_jax/launch/host.sh start ARGUMENTS   begins `panda train ARGUMENTS` in the background
#   panda_jax/launch/host.sh show              shows its log until it ends, and ends with its exit status
set -euo pipefail

log=panda_train.log status=$PWD/panda_train.status
case ${1-} in
  start)
    shift
    exec 9>panda_train.lock                   # the training inherits the lock, so it is held for as long as it runs
    flock --nonblock 9 || { echo "host: a training runs here already" >&2; exit 2; }
    rm -f "$status"
    nohup bash "$0" train "$@" >"$log" 2>&1 </dev/null &
    echo $! >panda_train.pid
    ;;
  train)
    # The installation is part of the background: gcloud may visit hosts one after the other, and this takes a minute.
    shift
    trap 'echo $? >"$status"' EXIT
    cd panda_jax
    if [[ ! -x .venv/bin/python ]]; then
      # Images with Python 3.10 are common; uv brings a newer one along.
      if ! { python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && python3 -m venv .venv; }; then
        python3 -m pip install --quiet --user uv
        ~/.local/bin/uv venv --quiet --seed --clear --python=3.12 .venv
      fi
    fi
    .venv/bin/python -m pip install --quiet '.[tpu,gs]'
    # shellcheck source=launch/tpu_flags.sh
    source launch/tpu_flags.sh
    cd ..
    panda_jax/.venv/bin/panda train "$@"
    ;;
  show)
    tail -n +1 -f --sleep-interval=0.2 --pid="$(<panda_train.pid)" "$log"
    exit "$(cat "$status" 2>/dev/null || echo 1)"      # none: the machine went down
    ;;
  *)
    echo "host: give start or show, not '${1-}'" >&2
    exit 2
    ;;
esac
