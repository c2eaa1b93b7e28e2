#!/usr/bin/env bash
# Binarize a corpus on many nodes of a Slurm cluster: an array of parts, and a job that joins them.
#
#   JOB=$(sbatch --parsable --array 1-32 scripts/cluster/binarize.sh 'corpus/*.jsonl.zst' --tokenizer VOCAB --output DIR)
#   sbatch --dependency afterok:$JOB scripts/cluster/binarize.sh 'corpus/*.jsonl.zst' --tokenizer VOCAB --output DIR
#
# The arguments are those of metro-t0-data binarize; inputs, vocabulary and DIR lie on a disk that all nodes share. A
# part that failed goes on where it stopped, with the number of all parts, since Slurm counts those of the new array:
#
#   PARTS=32 sbatch --array 7 scripts/cluster/binarize.sh 'corpus/*.jsonl.zst' --tokenizer VOCAB --output DIR
#
#SBATCH --job-name metro-t0-binarize
#SBATCH --cpus-per-task 16
#SBATCH --time 12:00:00
set -euo pipefail

part=()
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || part=(--part "$SLURM_ARRAY_TASK_ID/${PARTS:-$SLURM_ARRAY_TASK_COUNT}")
exec ${DRY_RUN:+echo} metro-t0-data binarize "$@" --workers "${SLURM_CPUS_PER_TASK:-1}" ${part[@]+"${part[@]}"}
