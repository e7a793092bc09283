#!/usr/bin/env bash
# Creates .venv and installs the project with its exact tested versions; does nothing if that is done already.
#
#   tools/setup_environment.sh                       # first of python3.12 ... python that fits
#   PYTHON=python3.10 tools/setup_environment.sh     # this one
#   TORCH="torch==2.13.0 --index-url https://..." tools/setup_environment.sh    # another build of torch
#
# A torch >= 2.8 that the chosen Python can already import is kept, and a Python that has one is preferred.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=${TORCH:-torch==2.13.0}
VENV_PYTHON=.venv/bin/python
STAMP=.venv/installed_for

fail() { echo "setup: $*" >&2; exit 1; }
run() { echo "+ $*"; "$@"; }

# Path of the installation behind a command, or nothing if it is no Python 3.10 to 3.12. For a virtual environment
# that is the Python it was made from: a second virtual environment sees the packages of that one only.
installation() {
  "$1" -c 'import sys
if (3, 10) <= sys.version_info[:2] <= (3, 12): print(sys._base_executable)' 2>/dev/null || true
}

has_torch() {
  "$1" -c 'import sys, torch
sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8))' >/dev/null 2>&1
}

find_python() {
  local name path first=""
  for name in ${PYTHON:-python3.12 python3.11 python3.10 python3 python}; do
    path=$(installation "$name")
    [ -n "$path" ] || continue
    if has_torch "$path"; then echo "$path"; return; fi
    first=${first:-$path}
  done
  echo "$first"
}

# What the installation depends on; the folder too, as the package is installed in place.
wanted() { cksum pyproject.toml constraints.txt tools/setup_environment.sh; "$VENV_PYTHON" --version; pwd; }

create() {
  local python
  python=$(find_python)
  [ -n "$python" ] || fail "found no Python 3.10, 3.11 or 3.12${PYTHON:+ under the name $PYTHON}; install one or set PYTHON"
  if has_torch "$python"; then
    run "$python" -m venv --clear --system-site-packages .venv
  else
    run "$python" -m venv --clear .venv
  fi || fail "$python cannot create .venv (on Debian and Ubuntu: apt-get install python3-venv)"
}

is_requested_version() {
  [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" --version 2>&1)" = "$("$VENV_PYTHON" --version)" ]
}

if "$VENV_PYTHON" -c 'import pip' >/dev/null 2>&1 && is_requested_version; then
  [ "$(wanted)" != "$(cat "$STAMP" 2>/dev/null)" ] || exit 0
else
  create
fi

if ! has_torch "$VENV_PYTHON"; then
  # Unquoted: TORCH may carry options of pip.
  run "$VENV_PYTHON" -m pip install $TORCH || fail "torch was not installed, see the message of pip above"
fi
run "$VENV_PYTHON" -m pip install -e ".[dev]" -c constraints.txt || fail "installation failed, see the message of pip above"
wanted > "$STAMP"
echo "setup: .venv is ready ($("$VENV_PYTHON" --version))"
