#!/usr/bin/env bash
# From a clone to a trained, evaluated and exported network: makes the environment, then runs scripts/quickstart.py.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment
install main "$ROOT/requirements.txt"
cd "$ROOT"
exec "$PYTHON" scripts/quickstart.py
