# shellcheck shell=bash disable=SC2034  # what it sets is read by the scripts that source it
# Sourced by the run_*.sh wrappers: reads their arguments and finds the interpreter. Keeps paths relative to the caller.

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

usage_error() {
  printf 'error: %s\nusage: %s\n' "$1" "$USAGE" >&2
  exit 2
}

# Sets PYTHON to the first of these that exists: PYTHON_BIN, the active virtual environment, the project's .venv, python3.
find_interpreter() {
  local candidate
  for candidate in "${PYTHON_BIN:-}" "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "$ROOT/.venv/bin/python" "$(command -v python3)"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      PYTHON=$candidate
      return
    fi
  done
  usage_error "no Python was found; run scripts/quickstart.sh first, or set PYTHON_BIN to an interpreter"
}

# read_arguments "--flag1 --flag2" ARGS...: fills TARGET (the one positional argument), FLAGS[--flag] and EXTRA.
read_arguments() {
  local known=$1
  shift
  declare -gA FLAGS=()
  EXTRA=()
  TARGET=
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        printf 'usage: %s\n' "$USAGE"
        exit 0
        ;;
      --extra)
        shift
        EXTRA=("$@")
        break
        ;;
      --*)
        [[ " $known " == *" $1 "* ]] || usage_error "$1 is not an argument of this script; put options of the Python script after --extra"
        [ $# -gt 1 ] || usage_error "$1 needs a value"
        FLAGS[$1]=$2
        shift 2
        ;;
      *)
        [ -z "$TARGET" ] || usage_error "'$1' is an extra argument; this script takes one"
        TARGET=$1
        shift
        ;;
    esac
  done
  [ -n "$TARGET" ] || usage_error "the first argument is missing"
}

# Fails unless the value of a flag is a whole number.
whole_number() {
  [[ ${FLAGS[$1]} =~ ^[0-9]+$ ]] || usage_error "$1 is '${FLAGS[$1]}'; give a whole number"
}

# Prints the device_target of the config TARGET, a file or the name of a file of src/configs.
target_of_config() {
  local config=$TARGET
  [ -f "$config" ] || config=$ROOT/src/configs/${config%.yaml}.yaml
  [ -f "$config" ] || return 0
  sed -n "s/^device_target:[[:space:]]*[\"']\{0,1\}\([A-Za-z]*\).*/\1/p" "$config" | tail -n 1
}

# Exposes the libraries of the GPU if the script will use one. The device is that of EXTRA, else $1, else the GPU.
prepare_device() {
  local target=${1:-GPU} index
  for index in "${!EXTRA[@]}"; do
    case ${EXTRA[index]} in
      --device_target) target=${EXTRA[index + 1]-} ;;
      --device_target=*) target=${EXTRA[index]#*=} ;;
    esac
  done
  [ "$target" = GPU ] || return 0
  # shellcheck source=gpu_env.sh
  source "$ROOT/scripts/gpu_env.sh"
}

# run_alone SCRIPT: replaces this shell by the Python script on one device, with the flags and EXTRA as options.
run_alone() {
  : "${FLAGS[--device]:=0}"
  whole_number --device
  prepare_device "$(target_of_config)"
  exec "$PYTHON" "$ROOT/$1" --config_path "$TARGET" --device_id "${FLAGS[--device]}" --device_num 1 \
    ${FLAGS[--checkpoint]+--pretrained "${FLAGS[--checkpoint]}"} "${EXTRA[@]}"
}

# launch_ranks SCRIPT: replaces this shell by the launcher, which runs the script once per device.
launch_ranks() {
  prepare_device "$(target_of_config)"
  exec "$PYTHON" "$ROOT/scripts/launch_ranks.py" --config "$TARGET" \
    ${FLAGS[--num_devices]+--num_devices "${FLAGS[--num_devices]}"} \
    ${FLAGS[--device_ids]+--device_ids "${FLAGS[--device_ids]}"} \
    ${FLAGS[--hostfile]+--hostfile "${FLAGS[--hostfile]}"} \
    -- "$PYTHON" "$ROOT/$1" --config_path "$TARGET" \
    ${FLAGS[--checkpoint]+--pretrained "${FLAGS[--checkpoint]}"} "${EXTRA[@]}"
}
