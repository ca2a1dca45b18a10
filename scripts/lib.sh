# Shared by the scripts here: where things are, how a phase is shown, how Python and Node are found. Source it.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
# scripts/solc is a Node program, so Node has to be on the path of whatever runs forge.
export PATH="$VENV/bin:$ROOT/node_modules/.bin:$PATH"
cd "$ROOT"

fail() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

usage() { # prints the comment at the head of the script, and ends it
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit 0
}

digest() { # of the given files together; one that is not there counts as empty
  { cat -- "$@" 2>/dev/null || true; } | cksum
}

phase() { # NAME COMMAND…: one line, a dot every 5 s; its output only if it fails
  local name=$1 log code=0 started=$SECONDS dotted=$SECONDS
  shift
  log=$(mktemp)
  printf '%-34s' "$name"
  "$@" >"$log" 2>&1 &
  local job=$!
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - dotted >= 5)); then
      dotted=$SECONDS
      printf '.'
    fi
  done
  wait "$job" || code=$?
  if ((code == 0)); then
    printf ' done, %d s\n' $((SECONDS - started))
  else
    printf ' failed\n'
    tail -n 40 "$log" >&2
  fi
  rm -f "$log"
  return "$code"
}

is_recent_python() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() { # prints a Python ≥ 3.11; $PYTHON goes first
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if is_recent_python "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

has_node() { # with npm, both new enough for the pinned packages
  command -v npm >/dev/null 2>&1 &&
    node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' >/dev/null 2>&1
}

FAILED=()

step() { # NAME COMMAND…: runs it under a heading and remembers a failure, so that later steps run all the same
  local name=$1
  shift
  printf '\n== %s\n' "$name"
  "$@" || FAILED+=("$name")
}

report() { # the closing line and the exit code of a script made of steps
  if ((${#FAILED[@]})); then
    printf '\nFailed: %s\n' "$(IFS=,; echo "${FAILED[*]}")"
    exit 1
  fi
  printf '\n%s\n' "$1"
}
