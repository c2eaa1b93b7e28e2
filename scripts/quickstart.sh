#!/usr/bin/env bash
# From nothing to a pretrained, prompt-finetuned and evaluated METRO-T0 on two CPU cores, without any download of data
# or models. Text: English documentation found in the Python installation. A second run continues where the first
# stopped and repeats nothing that is done.
#
#   scripts/quickstart.sh                    everything, into runs/quickstart
#   scripts/quickstart.sh --pretrain-only    stop after pretraining
#   OUTPUT=elsewhere scripts/quickstart.sh
#
# Takes 13 to 15 minutes on 2 idle cores: 2 to 4 to install, 8 to pretrain, 2 to fine-tune and evaluate.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
"" | --pretrain-only) ;;
-h | --help) sed -n '2,10p' scripts/quickstart.sh | sed 's/^# \{0,1\}//'; exit 0 ;;
*) echo "quickstart: unknown argument $1 (there is --pretrain-only)" >&2; exit 2 ;;
esac

OUTPUT=${OUTPUT:-runs/quickstart}
TEXT='builtin:python-docs?max_mb=24'
started=$SECONDS
step() { printf '\n[%3d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$1"; }

step "Installing into .venv"
scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONWARNINGS=ignore
# How long threads wait awake for the next operation (GNU OpenMP). Its default, milliseconds, slows training beside other
# busy programs; sleeping at once (OMP_WAIT_POLICY=PASSIVE) costs a quarter of the speed on idle cores.
export GOMP_SPINCOUNT=10000
mkdir -p "$OUTPUT"

step "Training a tokenizer (2,048 pieces) and binarizing the text"
[ -f "$OUTPUT/vocab/dict.txt" ] ||
    metro-t0-data tokenizer "$TEXT" --vocab-size 2048 --lowercase --output "$OUTPUT/vocab"
[ -f "$OUTPUT/data/info.json" ] ||
    metro-t0-data binarize "$TEXT" --tokenizer "$OUTPUT/vocab" --output "$OUTPUT/data"

step "Pretraining METRO-T5 demo (log: $OUTPUT/pretrained/train.log)"
pretrain=(metro_t5_demo "task.data=$OUTPUT/data" "checkpoint.save_dir=$OUTPUT/pretrained")
# One update first: its validation is the "start" of the table. Then the whole run resumes from it.
[ -f "$OUTPUT/pretrained/checkpoint_last.pt" ] || metro-t0-train "${pretrain[@]}" optimization.max_update=1
metro-t0-train "${pretrain[@]}"
metro-t0-analyze curves "METRO-T5 demo=$OUTPUT/pretrained" --dict "$OUTPUT/data/dict.txt" \
    --metrics mlm_loss,rtd_loss,clm_loss,rtd_auc,rtd_average_precision,clm_accuracy_masked --output "$OUTPUT/pretraining"
python scripts/pretraining_table.py "$OUTPUT/pretrained" --dict "$OUTPUT/data/dict.txt" \
    --output "$OUTPUT/pretraining.md"
step "Pretrained: $OUTPUT/pretrained/checkpoint_last.pt, curves: $OUTPUT/pretraining.png"
[ "${1:-}" != --pretrain-only ] || exit 0

step "Building the prompted tasks"
[ -f "$OUTPUT/prompted/mixture.json" ] ||
    metro-t0-prompts build --mixture embedded --max-source-tokens 128 --max-target-tokens 64 \
        --tokenizer "$OUTPUT/vocab" --output "$OUTPUT/prompted"

step "Prompt-finetuning (log: $OUTPUT/finetuned/train.log)"
metro-t0-train finetuning/demo \
    "task.data=$OUTPUT/prompted" "checkpoint.save_dir=$OUTPUT/finetuned" \
    "checkpoint.finetune_from_model=$OUTPUT/pretrained/checkpoint_last.pt"

step "Converting to a Hugging Face directory"
[ -f "$OUTPUT/model/config.json" ] ||
    metro-t0-convert fairseq "$OUTPUT/finetuned/checkpoint_last.pt" --tokenizer "$OUTPUT/vocab" --output "$OUTPUT/model"

step "Zero-shot evaluation on two held-out tasks, by rank classification"
metro-t0-eval tasks --tasks embedded --model "$OUTPUT/model" --output "$OUTPUT/results" \
    --max-source-tokens 128 --save-predictions
metro-t0-eval report "$OUTPUT/results" --output "$OUTPUT/report"

step "Done"
cat <<END
  pretrained checkpoint   $OUTPUT/pretrained/checkpoint_last.pt
  fine-tuned model        $OUTPUT/model   (AutoModelForSeq2SeqLM.from_pretrained)
  curves                  $OUTPUT/pretraining.png
  report                  $OUTPUT/report/report.html
END
