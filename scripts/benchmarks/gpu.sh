#!/usr/bin/env bash
# Correctness and speed of pretraining on one GPU, within 9 minutes: one table, JSON beside it.
#
#   scripts/benchmarks/gpu.sh OUTPUT_DIRECTORY [options of gpu.py, such as --presets base large_pp]
#
# Needs this repository and a Python with torch, numpy and rich (PYTHON, default python3). With WHEELS=DIRECTORY missing
# packages are installed from the wheels in it, without a network. transformers, where present, is the peer.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=$1; shift
PYTHON=${PYTHON:-python3}
mkdir -p "$output"
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m venv --system-site-packages "$output/venv"
    "$output/venv/bin/pip" install --quiet --no-index --find-links "$WHEELS" rich numpy
    [ -z "$(find "$WHEELS" -name 'transformers-*' -print -quit)" ] ||
        "$output/venv/bin/pip" install --quiet --no-index --find-links "$WHEELS" transformers
    PYTHON=$output/venv/bin/python
fi
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" "$here/gpu.py" --output "$output" "$@"
