#!/usr/bin/env bash
# Trains on several devices of this machine: one process each, started by mpirun.
set -euo pipefail
USAGE="$(basename "$0") CONFIG [--num_devices NUM_DEVICES] [--device_ids DEVICE_IDS (e.g. '0,1,2,3')] [--checkpoint CHECKPOINT] [--extra *EXTRA_ARGS]"
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/launch.sh"

# How many devices, and which: the given ids, or the first NUM_DEVICES, or as many as CONFIG's device_num says.
choose_devices() {
  [ -z "${FLAGS[--num_devices]:-}" ] || whole_number --num_devices
  DEVICE_IDS=${FLAGS[--device_ids]:-}
  if [ -z "$DEVICE_IDS" ]; then
    NUM_DEVICES=${FLAGS[--num_devices]:-$(sed -n 's/^device_num: *\([0-9]*\).*/\1/p' "$TARGET" 2>/dev/null || true)}
    [ "${NUM_DEVICES:-0}" -ge 1 ] || usage_error "--num_devices is missing, and $TARGET has no device_num"
    DEVICE_IDS=$(seq -s , 0 $((NUM_DEVICES - 1)))
  fi
  [[ $DEVICE_IDS =~ ^[0-9]+(,[0-9]+)*$ ]] || usage_error "--device_ids is '$DEVICE_IDS', expected ids such as 0,1,2,3"
  NUM_DEVICES=$(tr ',' '\n' <<<"$DEVICE_IDS" | sort -u | wc -l)
  [ "${FLAGS[--num_devices]:-$NUM_DEVICES}" = "$NUM_DEVICES" ] ||
    usage_error "--num_devices is ${FLAGS[--num_devices]} and --device_ids names $NUM_DEVICES different devices"
}

# The process that the ranks meet through (see src/distributed.py), for as long as mpirun runs.
start_scheduler() {
  export MS_SCHED_HOST=127.0.0.1
  MS_SCHED_PORT=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export MS_SCHED_PORT
  # its own session: Ctrl-C is for the ranks, which still need it while they save
  (cd "$ROOT" && MS_ROLE=MS_SCHED MS_WORKER_NUM=$NUM_DEVICES exec setsid "$PYTHON" -m src.distributed) &
  SCHEDULER=$!
  trap 'kill "$SCHEDULER" 2>/dev/null || true' EXIT
}

find_mpirun() {
  MPIRUN=$(dirname "$PYTHON")/mpirun
  [ -x "$MPIRUN" ] || MPIRUN=$(command -v mpirun) || usage_error "mpirun was not found: pip install -r requirements.txt brings it"
}

read_arguments "--num_devices --device_ids --checkpoint" "$@"
choose_devices
find_interpreter
find_mpirun
start_scheduler
# A rank takes the device of its own number among the visible ones.
export CUDA_VISIBLE_DEVICES=$DEVICE_IDS ASCEND_RT_VISIBLE_DEVICES=$DEVICE_IDS
# Containers often run as root, and mpirun wants to be told that this is meant; it also counts cores, not devices.
"$MPIRUN" --allow-run-as-root --oversubscribe -n "$NUM_DEVICES" \
  -x MS_SCHED_HOST -x MS_SCHED_PORT -x CUDA_VISIBLE_DEVICES -x ASCEND_RT_VISIBLE_DEVICES \
  "$PYTHON" "$ROOT/train.py" --config_path "$TARGET" --device_num "$NUM_DEVICES" \
  ${FLAGS[--checkpoint]+--pretrained "${FLAGS[--checkpoint]}"} "${EXTRA[@]}"
