#!/usr/bin/env bash
# Start MindInsight, in an environment of its own, on the summaries of a run, or stop it.
set -euo pipefail
USAGE="$(basename "$0") SUMMARY_DIR [--port PORT (default: 8080)] | --stop [--port PORT]"
# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
VENV=.venv-mindinsight
DOWNLOAD="200 MB"

usage_error() {
  printf 'error: %s\nusage: %s\n' "$1" "$USAGE" >&2
  exit 2
}

# Set FOLDER, PORT and STOP.
read_arguments() {
  FOLDER='' PORT=8080 STOP=''
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        printf 'usage: %s\n' "$USAGE"
        exit 0
        ;;
      --stop) STOP=yes ;;
      --port)
        [[ ${2:-} =~ ^[0-9]+$ ]] || usage_error "--port is '${2:-}', expected a whole number"
        PORT=$2
        shift
        ;;
      -*) usage_error "$1 is not an option" ;;
      *)
        [ -z "$FOLDER" ] || usage_error "'$1' is one argument too many; give one folder"
        FOLDER=$1
        ;;
    esac
    shift
  done
  if [ -n "$STOP" ]; then
    [ -z "$FOLDER" ] || usage_error "--stop accepts no folder; remove $FOLDER"
  elif [ -z "$FOLDER" ]; then
    usage_error "SUMMARY_DIR is missing; give the config's summary_root_dir"
  elif [ -z "$(find "$FOLDER" -name '*.events.summary.*' -print -quit 2>/dev/null)" ]; then
    usage_error "$FOLDER contains no summaries; give the config's summary_root_dir or the folder of a run in it"
  fi
}

# mindinsight ARGS...: run MindInsight's command, which starts gunicorn from the PATH, with its output in $LOG.
mindinsight() {
  PATH=$ROOT/$VENV/bin:$PATH "$ROOT/$VENV/bin/mindinsight" "$@" --port "$PORT" >"$LOG" 2>&1
}

start() {
  local folder address="http://127.0.0.1:$PORT"
  folder=$(readlink -f "$FOLDER")
  if ! mindinsight start --summary-base-dir "$folder" --workspace "$ROOT/$VENV/workspace"; then
    if grep -q 'Reusing MindInsight' "$LOG"; then
      echo "MindInsight already serves $FOLDER"
    elif grep -qE 'already in use|not allowed' "$LOG"; then
      fail "port $PORT is not available; choose another with --port"
    else
      fail "MindInsight did not start: $(grep -vE '^ *$' "$LOG" | tail -n 1)"
    fi
  fi
  echo "$address shows the runs of $FOLDER; stop it with $0 --stop --port $PORT"
}

stop() {
  [ -x "$ROOT/$VENV/bin/mindinsight" ] || fail "MindInsight is not installed in $ROOT/$VENV; nothing to stop"
  mindinsight stop || fail "no MindInsight of this user listens on port $PORT; give the --port of its start"
  echo "stopped MindInsight on port $PORT"
}

read_arguments "$@"
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT
if [ -n "$STOP" ]; then
  stop
else
  make_environment
  install mindinsight "$ROOT/requirements-mindinsight.txt"
  start
fi
