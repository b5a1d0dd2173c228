#!/usr/bin/env bash
# Evaluates a checkpoint on the validation images: on one device, or on several, which share the images, with
# --num_devices, --device_ids or --hostfile.
set -euo pipefail
USAGE="$(basename "$0") CONFIG [--device DEVICE_ID (default: 0)] [--num_devices NUM_DEVICES] [--device_ids DEVICE_IDS (e.g. '0,1,2,3')] [--hostfile HOSTFILE] [--checkpoint CHECKPOINT] [--extra *EXTRA_ARGS]"
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/launch.sh"

read_arguments "--device --num_devices --device_ids --hostfile --checkpoint" "$@"
find_interpreter
if [ -n "${FLAGS[--num_devices]+x}${FLAGS[--device_ids]+x}${FLAGS[--hostfile]+x}" ]; then
  [ -z "${FLAGS[--device]+x}" ] || usage_error "--device is for one device and --device_ids for several; give one of them"
  launch_ranks eval.py
else
  run_alone eval.py
fi
