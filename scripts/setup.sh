#!/usr/bin/env bash
# Make .venv and install the pinned requirements. Idempotent: a second run installs nothing.
#
#   scripts/setup.sh          what training, fine-tuning and evaluation need
#   scripts/setup.sh --dev    and what tests and benchmarks need
#
# Needs Python 3.12 (fairseq is a wheel there), or 3.11 with its headers and a C++ compiler (compiled, about 90 s).
# PYTHON chooses the interpreter (default: the first of python3.12, python3.11, python3 that fits).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
"" | --dev) ;;
-h | --help) sed -n '2,9p' scripts/setup.sh | sed 's/^# \{0,1\}//'; exit 0 ;;
*) echo "setup: unknown argument $1 (there is --dev)" >&2; exit 2 ;;
esac

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
    local candidate candidates=(python3.12 python3.11 python3)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
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
    [ -f "$file" ] && [ "$(cat "$file")" = "$current" ] || { rm -f "$file"; return 1; }
}

# pip's own progress bars on a terminal; in a log the packages as they come, and the time.
install() {
    local pip=(.venv/bin/python -m pip install --disable-pip-version-check) begin=$SECONDS
    if [ -t 1 ]; then
        "${pip[@]}" "$@"
    else
        "${pip[@]}" --progress-bar off "$@" | sed -nu -E 's/^ *Collecting ([^ ]+).*/setup:   \1/p; s/^ *(Building wheel for [^ ]+).*started.*/setup:   \1/p'
    fi
    echo "setup: done in $((SECONDS - begin)) s"
}

if ! .venv/bin/python -c 'import pip' 2>/dev/null; then  # a killed run may have left a Python without it
    python=$(find_python)
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

if ! stamp main requirements.txt requirements-nodeps.txt pyproject.toml; then
    version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$version" = 3.11 ] && ! command -v c++ >/dev/null; then
        echo "setup: on Python 3.11 a C++ compiler is needed to build fairseq (apt install g++); Python 3.12 needs none" >&2
        exit 2
    fi
    echo "setup: step 1 of 3: requirements.txt (a few minutes; torch alone is 200 MB on CPU, gigabytes with CUDA)"
    install -r requirements.txt
    if [ "$version" = 3.11 ]; then
        echo "setup: step 2 of 3: compiling fairseq (about two minutes)"
    else
        echo "setup: step 2 of 3: fairseq"
    fi
    install --no-build-isolation --no-deps --ignore-requires-python -r requirements-nodeps.txt
    echo "setup: step 3 of 3: this project"
    install --no-build-isolation --no-deps --editable .
    echo "$current" > "$stamp_file"
fi

if [ "${1:-}" = --dev ] && ! stamp dev requirements-dev.txt; then
    echo "setup: installing requirements-dev.txt"
    install -r requirements-dev.txt
    echo "$current" > "$stamp_file"
fi
