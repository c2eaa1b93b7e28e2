#!/usr/bin/env bash
# The same set-up as the quickstart, then ruff, mypy and pytest. Arguments go to pytest:
#
#   scripts/test.sh                     everything
#   scripts/test.sh tests/modeling -x   one room, stop at the first failure
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh --dev
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg
ruff check .
ruff format --check .
mypy
# One worker per core, one thread each: the tests are many small models.
OMP_NUM_THREADS=1 pytest -n "${METRO_T0_TEST_WORKERS:-2}" --dist loadfile "$@"
