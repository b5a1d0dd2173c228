#!/usr/bin/env bash
# Pre-trains on several devices of one or more machines: mpirun starts one process per device (see src/runtime/launcher.py).
set -euo pipefail
USAGE="$(basename "$0") CONFIG [--num_devices NUM_DEVICES] [--device_ids DEVICE_IDS (e.g. '0,1,2,3')] [--hostfile HOSTFILE] [--checkpoint CHECKPOINT] [--extra *EXTRA_ARGS]"
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/launch.sh"

read_arguments "--num_devices --device_ids --hostfile --checkpoint" "$@"
find_interpreter
launch_ranks pretrain.py
