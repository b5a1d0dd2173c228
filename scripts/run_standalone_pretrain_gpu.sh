#!/usr/bin/env bash
# Pre-trains on one device.
set -euo pipefail
USAGE="$(basename "$0") CONFIG [--device DEVICE_ID (default: 0)] [--checkpoint CHECKPOINT] [--extra *EXTRA_ARGS]"
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/launch.sh"

read_arguments "--device --checkpoint" "$@"
find_interpreter
run_alone pretrain.py
