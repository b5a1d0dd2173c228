# shellcheck shell=bash
# Sourced by the scripts beside it: finds a Python, makes .venv once, installs what is missing into it, and says in one
# line what stands in the way. Sets ROOT (the project's folder) and PYTHON (the environment's interpreter).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# a script that wants an environment of its own sets these two after sourcing
VENV=.venv
DOWNLOAD="1 GB"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit "${2:-2}"
}

# Prints the first interpreter that MindSpore 2.10 has wheels for.
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

# Why an installation failed, from pip's log, in words that say what to do.
explain_pip() {
  if grep -qiE 'no space left|Errno 28' "$1"; then
    echo "the disk is full: free 5 GB (df -h $ROOT shows what is left) and run this again"
  elif grep -qiE 'connection|resolve|timed out|retries|network|proxy' "$1"; then
    echo "the package index could not be reached: check the network (or pip's index and proxy settings) and run this again"
  else
    echo "pip failed: $(grep -E '^ERROR' "$1" | head -n 1); the whole log is in $1"
  fi
}

# install NAME FILE...: pip-installs requirement files unless this has been done with just these contents.
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

# Makes the environment if it is missing (or was left unfinished) and sets PYTHON.
make_environment() {
  local environment=$ROOT/$VENV
  [ "$(uname -s)" = Linux ] || fail "this needs Linux: MindSpore 2.10 has no wheels for $(uname -s)"
  PYTHON=$environment/bin/python
  "$PYTHON" -m pip --version >/dev/null 2>&1 && return
  local base log
  base=$(find_python) || fail "no Python 3.10, 3.11 or 3.12 with venv was found ($(python3 --version 2>&1)): install one, or name one in PYTHON_BIN"
  log=$(mktemp)
  if ! "$base" -m venv --clear "$environment" >"$log" 2>&1; then
    if grep -qi 'no space left' "$log" ; then fail "$(explain_pip "$log")"; fi
    fail "$base cannot make a virtual environment in $environment: $(tail -n 1 "$log")"
  fi
  rm -f "$log"
}
