#!/usr/bin/env bash
# Make .venv and install the pinned requirements. Idempotent: a second run installs nothing.
#
#   scripts/setup.sh          what training, fine-tuning and evaluation need
#   scripts/setup.sh --dev    and what tests and benchmarks need
#
# Needs Python 3.11 or 3.12 with its headers and a C++ compiler (fairseq is compiled, about 90 s).
# PYTHON chooses the interpreter (default: the first of python3.11, python3.12, python3 that fits).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
"" | --dev) ;;
-h | --help) sed -n '2,8p' scripts/setup.sh | sed 's/^# \{0,1\}//'; exit 0 ;;
*) echo "setup: unknown argument $1 (there is --dev)" >&2; exit 2 ;;
esac

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if fits "$candidate"; then echo "$candidate"; return; fi
    done
    echo "setup: Python 3.11 or 3.12 is needed; set PYTHON to its path" >&2
    exit 2
}

# stamp NAME FILE...: true where NAME was installed from exactly these files; otherwise forget the stamp.
stamp() {
    local file=".venv/.installed-$1"; shift
    current=$(cat "$@" | sha256sum | cut -d' ' -f1)
    stamp_file=$file
    [ -f "$file" ] && [ "$(cat "$file")" = "$current" ]
}

install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off "$@"; }

if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

if ! stamp main requirements.txt requirements-nodeps.txt pyproject.toml; then
    command -v c++ >/dev/null || { echo "setup: a C++ compiler is needed to build fairseq (apt install g++)" >&2; exit 2; }
    echo "setup: installing requirements.txt (a few minutes)"
    install -r requirements.txt
    echo "setup: compiling fairseq (about two minutes)"
    install --no-build-isolation --no-deps --ignore-requires-python -r requirements-nodeps.txt
    install --no-build-isolation --no-deps --editable .
    echo "$current" > "$stamp_file"
fi

if [ "${1:-}" = --dev ] && ! stamp dev requirements-dev.txt; then
    echo "setup: installing requirements-dev.txt"
    install -r requirements-dev.txt
    echo "$current" > "$stamp_file"
fi
