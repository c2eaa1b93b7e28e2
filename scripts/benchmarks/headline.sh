#!/usr/bin/env bash
# The headline benchmarks of docs/benchmarks.md in about four minutes on two cores, each beside its peers.
#
#   scripts/benchmarks/headline.sh OUTPUT TEXT VOCABULARY TASKS
#
# TEXT: a text file (.txt or .zst); VOCABULARY: a directory with sp.model and dict.txt; TASKS: local data sets as of
# --data-dir. Writes OUTPUT/*.txt. One thread each, processor time, so that other programs disturb little.
set -euo pipefail
[ $# -eq 4 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=$1 text=$2 vocabulary=$3 tasks=$4
mkdir -p "$output"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
one() { # name, benchmark, options
    local name=$1; shift
    echo "== $name" >&2
    (ulimit -t 240; exec python -m "scripts.benchmarks.$1" "${@:2}") > "$output/$name.txt"
    tail -n 4 "$output/$name.txt"
}
one tokenizer data --text "$text" --vocabulary "$vocabulary" --megabytes 8 --tokenizer-only --repeats 2 &
tokenizing=$!
one pretraining pretrain --preset tiny --batch 8 --length 256 --steps 5
wait "$tokenizing"
one prompts prompts --data-dir "$tasks" --rows 20 &
rendering=$!
python - "$vocabulary" "$output/tokenizer" <<'PYTHON'
import sys
from pathlib import Path
from metro_t0.hf import MetroT5TokenizerFast
from metro_t0.tokenization import Tokenizer
MetroT5TokenizerFast.from_vocabulary(Tokenizer.load(Path(sys.argv[1]))).save_pretrained(sys.argv[2])
PYTHON
one ranking rank_eval --size small --tokenizer "$output/tokenizer" --data-dir "$tasks" --rows 100 --turns 2 --cpu-time \
    --only "wsc (2 words)" "rte (2 choices)"
wait "$rendering"
echo "== wall time $SECONDS s; processor time, user and system, of this shell and of all it ran:" >&2
times >&2
