#!/usr/bin/env bash
# Correctness and speed of pretraining on one GPU, within 9 minutes: one table, JSON and a kernel profile.
#
#   scripts/benchmarks/gpu.sh OUTPUT_DIRECTORY [options of gpu.py, such as --presets base --routes compiled]
#
# Needs this repository and a Python with torch, numpy and rich (PYTHON, default python3). With WHEELS=DIRECTORY the
# wheels in it are installed first, beside the Python's own packages and without a network. transformers, where
# present, is the peer; fairseq, where present, brings Muon.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=$1; shift
PYTHON=${PYTHON:-python3}
mkdir -p "$output"
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    PYTHONPATH=$PYTHONPATH:$site
fi
exec "$PYTHON" -m scripts.benchmarks.gpu --output "$output" "$@"
