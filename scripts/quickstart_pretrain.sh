#!/usr/bin/env bash
# Create the environment if needed and run scripts/quickstart_pretrain.py: tokenizer, pre-training, fine-tuning.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment
install main "$ROOT/requirements.txt"
cd "$ROOT"
exec "$PYTHON" scripts/quickstart_pretrain.py
