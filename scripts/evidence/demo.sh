#!/usr/bin/env bash
# METRO against T5 at the smallest size: pretraining, fine-tuning on the T0 mixture, evaluation; three seeds of every
# variant. Tables, curves and models go to OUTPUT; the same command again continues.
#
#   scripts/evidence/demo.sh CORPUS TASKS OUTPUT
#
# CORPUS: directory with train-*.txt.zst and valid-00.txt.zst. TASKS: local data sets (NAME[/SUBSET]/SPLIT.jsonl.gz).
# Environment, with its defaults: SIZE=demo SEEDS=3 UPDATES=2450 BATCH=64 (blocks) JOBS=18 (at the same time) PARTS="0.3 1"
# FINETUNING_UPDATES=1000 FINETUNING_BATCH=128 VARIANTS=metro,t5,t5_equal_time,t5_all_tokens,spactor,random PYTHON=python3
# 10 minutes on one H200 with 16 cores, 18 models at a time; on two CPU cores (JOBS=1) an estimated 15 hours.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
corpus=$1 tasks=$2 output=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
mkdir -p "$output"

[ -f "$output/vocab/dict.txt" ] ||
    "$PYTHON" -m metro_t0.data.cli tokenizer "$corpus/train-*.txt.zst" --vocab-size 8192 --lowercase --output "$output/vocab"
[ -f "$output/data/info.json" ] ||
    "$PYTHON" -m metro_t0.data.cli binarize "$corpus/train-*.txt.zst" --valid "$corpus/valid-00.txt.zst" \
        --tokenizer "$output/vocab" --output "$output/data"
[ -f "$output/prompted/mixture.json" ] ||
    "$PYTHON" -m finetune.cli build --mixture t0 --data-dir "$tasks" --tokenizer "$output/vocab" \
        --only ag_news,rotten_tomatoes,imdb,dbpedia_14,trec,glue/mrpc,wiki_qa,cos_e/v1.11,cosmos_qa,quail,qasc,social_i_qa,dream,ropes,common_gen,xsum \
        --validation all --held-out-limit 100 --max-source-tokens 224 --max-target-tokens 32 --output "$output/prompted"

exec "$PYTHON" -m ablation.cli run --preset "${SIZE:-demo}" --data "$output/data" --tokenizer "$output/vocab" \
    --prompted "$output/prompted" --tasks "$here/tasks.yaml" --data-dir "$tasks" --limit 300 --score-limit 50 \
    --variants-file "$here/variants.yaml" --variants "${VARIANTS:-metro,t5,t5_equal_time,t5_all_tokens,spactor,random}" \
    --seeds "${SEEDS:-3}" --jobs "${JOBS:-18}" --parts ${PARTS:-0.3 1} --precision fp32 \
    --updates "${UPDATES:-2450}" --batch-size "${BATCH:-64}" --finetuning-updates "${FINETUNING_UPDATES:-1000}" \
    --finetuning-batch-size "${FINETUNING_BATCH:-128}" \
    --pretraining-options="--sample-break-mode none --optimizer muon --muon-lr 0.02 --lr 0.004 --rtd-weight 5 --batch-size-valid 128 --num-workers 1 ${PRETRAINING_OPTIONS:-}" \
    --finetuning-options="--max-source-positions 224 --max-target-positions 32 --num-workers 1 ${FINETUNING_OPTIONS:-}" \
    --output "$output/runs"
