#!/bin/sh
# Runs a script with a Python that suits the project: `sh tools/python.sh script.py [argument ...]`.
# PYTHON names one; otherwise python3 is taken, or the first versioned command that suits.
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

# Prints the interpreter behind a command. The command itself may be a link inside .venv, which
# ends when .venv is made anew, or a version manager's slow wrapper.
suitable() {
    "$1" -I -c '
import sys
if (3, 11) <= sys.version_info[:2] < (3, 14):
    print(sys._base_executable)
' 2>/dev/null || true
}

case "$(uname -s) $(uname -m)" in
    "Linux x86_64") ;;
    *) fail "The pinned packages are for Linux on x86_64, and this is $(uname -s) on $(uname -m)." ;;
esac

if [ -n "${PYTHON:-}" ]; then
    python=$(suitable "$PYTHON")
    [ -n "$python" ] || fail "PYTHON=$PYTHON is no working Python 3.11, 3.12 or 3.13: name one, or leave PYTHON out."
else
    python=
    for candidate in python3 python3.11 python3.12 python3.13; do
        python=$(suitable "$candidate")
        [ -z "$python" ] || break
    done
    [ -n "$python" ] || fail "No Python 3.11, 3.12 or 3.13 found: install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it with PYTHON=/path/to/python3."
fi

# Neither PYTHONPATH nor packages of the user: they are no part of the project.
exec "$python" -E -s "$@"
