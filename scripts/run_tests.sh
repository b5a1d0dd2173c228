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
"$PYTHON" -m pytest -n 2 --dist loadfile "$@"
