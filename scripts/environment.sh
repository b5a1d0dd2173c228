# shellcheck shell=bash
# Sourced by other scripts: finds a Python, creates .venv and installs requirements into it, each only once. Errors are
# one line. Sets ROOT (the project's folder) and PYTHON (the environment's interpreter).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A script with an environment of its own sets these two after sourcing.
VENV=.venv
DOWNLOAD="1 GB"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit "${2:-2}"
}

# Print the first interpreter for which MindSpore 2.10 has wheels.
find_python() {
  local candidate
  for candidate in ${PYTHON_BIN:-} python3.11 python3.12 python3.10 python3 python; do
    if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# explain_pip LOG: print why an installation failed, and the fix.
explain_pip() {
  if grep -qiE 'no space left|Errno 28' "$1"; then
    echo "the disk of $ROOT is full; free 5 GB and run this again"
  elif grep -qiE 'connection|resolve|timed out|retries|network|proxy' "$1"; then
    echo "pip cannot reach the package index; check the network and pip's proxy settings and run this again"
  else
    echo "pip failed: $(grep -E '^ERROR' "$1" | head -n 1); see $1"
  fi
}

# install NAME FILE...: install requirement files with pip unless files of the same content are already installed.
install() {
  local name=$1 environment=$ROOT/$VENV stamp log file
  shift
  stamp=$(cat "$@" | sha256sum | cut -d ' ' -f 1)
  [ "$(cat "$environment/.installed-$name" 2>/dev/null)" = "$stamp" ] && return
  log=$environment/install-$name.log
  echo "installing $(basename -a "$@" | paste -sd ' ') into $VENV (about $DOWNLOAD to download the first time)"
  local arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  if ! "$PYTHON" -m pip install --disable-pip-version-check "${arguments[@]}" >"$log" 2>&1; then
    fail "$(explain_pip "$log")"
  fi
  echo "$stamp" >"$environment/.installed-$name"
}

# Create the environment if it is missing or incomplete, and set PYTHON.
make_environment() {
  local environment=$ROOT/$VENV
  [ "$(uname -s)" = Linux ] || fail "the system is $(uname -s) but MindSpore 2.10 has no wheels for it; use Linux"
  PYTHON=$environment/bin/python
  "$PYTHON" -m pip --version >/dev/null 2>&1 && return
  local base log
  base=$(find_python) || fail "no Python 3.10, 3.11 or 3.12 with venv found ($(python3 --version 2>&1)); install one, or set PYTHON_BIN to one"
  log=$(mktemp)
  if ! "$base" -m venv --clear "$environment" >"$log" 2>&1; then
    if grep -qi 'no space left' "$log" ; then fail "$(explain_pip "$log")"; fi
    fail "$base cannot create the virtual environment $environment ($(tail -n 1 "$log")); install its venv package"
  fi
  rm -f "$log"
}
