#!/usr/bin/env bash
# Predicts the class of one image, or of all images of a folder.
set -euo pipefail
USAGE="$(basename "$0") DATA --checkpoint CHECKPOINT [--arch ARCHITECTURE] [--output OUTPUT_JSON_FILE (default: predictions.json)] [--device DEVICE_ID (default: 0)] [--extra *EXTRA_ARGS]"
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/launch.sh"

read_arguments "--checkpoint --arch --output --device" "$@"
: "${FLAGS[--device]:=0}"
whole_number --device
find_interpreter
prepare_device
exec "$PYTHON" "$ROOT/infer.py" --data_path "$TARGET" --device_id "${FLAGS[--device]}" \
  ${FLAGS[--checkpoint]+--checkpoint "${FLAGS[--checkpoint]}"} ${FLAGS[--arch]+--arch "${FLAGS[--arch]}"} \
  ${FLAGS[--output]+--output "${FLAGS[--output]}"} "${EXTRA[@]}"
