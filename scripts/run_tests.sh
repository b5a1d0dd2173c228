#!/usr/bin/env bash
# Create the environment if needed and run the linters, the type checker and the tests. Arguments are passed to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment
install main "$ROOT/requirements.txt"
install dev "$ROOT/requirements-dev.txt"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
"$ROOT/.venv/bin/shellcheck" --external-sources --source-path=SCRIPTDIR scripts/*.sh .ci/*
# Many tests wait for processes, so three of them share two cores; more threads in each would only compete.
OMP_NUM_THREADS=1 "$PYTHON" -m pytest -n 3 --dist loadfile "$@"
