# shellcheck shell=bash
# What the launch scripts share; they source this file. Bad input: one sentence on standard error, exit status 2.

dry_run=

refuse() {
  echo "$(basename "$0" .sh): $1" >&2
  exit 2
}

# Runs a command; with --dry-run prints it instead, quoted so that it can be pasted.
run() {
  if [[ $dry_run ]]; then
    local line
    printf -v line '%q ' "$@"
    echo "${line% }"
  else
    "$@"
  fi
}

# need_program NAME HINT: a dry run needs none.
need_program() {
  [[ $dry_run ]] || command -v "$1" >/dev/null || refuse "there is no $1 here: $2"
}

# need_number WHAT VALUE
need_number() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || refuse "$1 must be a whole number of 1 or more, not '$2'"
}

# need_training EXAMPLE ARGUMENT…: whether these look like the arguments of `panda train`.
need_training() {
  local example=$1 needed
  shift
  for needed in --config --workdir; do
    [[ " $* " == *" $needed"[\ =]* ]] || refuse "panda train needs $needed, as in $example"
  done
}

# need_bucket WHY ARGUMENT…: a workdir that outlives the machines.
need_bucket() {
  local why=$1
  shift
  [[ " $* " == *" --workdir"[\ =]gs://* ]] || refuse "$why: give --workdir gs://bucket/folder"
}
