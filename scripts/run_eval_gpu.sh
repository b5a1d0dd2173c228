#!/usr/bin/env bash
# Evaluates a checkpoint on the validation images.
set -euo pipefail
USAGE="$(basename "$0") CONFIG [--device DEVICE_ID (default: 0)] [--checkpoint CHECKPOINT] [--extra *EXTRA_ARGS]"
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/launch.sh"

read_arguments "--device --checkpoint" "$@"
: "${FLAGS[--device]:=0}"
whole_number --device
find_interpreter
exec "$PYTHON" "$ROOT/eval.py" --config_path "$TARGET" --device_id "${FLAGS[--device]}" \
  ${FLAGS[--checkpoint]+--pretrained "${FLAGS[--checkpoint]}"} "${EXTRA[@]}"
