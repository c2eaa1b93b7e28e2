#!/usr/bin/env bash
# Pretrain on the GPUs of one machine, or of several (run it once on each), with torchrun.
#
#   scripts/cluster/torchrun.sh metro_t5_base DATA                                    8 GPUs here
#   scripts/cluster/torchrun.sh metro_t5_base DATA checkpoint.save_dir=runs/first     and hydra overrides
#   GPUS_PER_NODE=4 scripts/cluster/torchrun.sh metro_t5_base DATA
#   NODES=8 NODE_RANK=3 MASTER_ADDR=node0 scripts/cluster/torchrun.sh metro_t5_base DATA
#
# DATA is a directory of metro-t0-data binarize, or several joined by colons. The global batch of 2,048 sequences
# (GLOBAL_BATCH) is kept: update_freq is computed from the number of GPUs and the batch per GPU, BATCH, which is 32 where
# that many fit. Interrupted, the same command continues from checkpoint_last.pt.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2; }
config=$1 data=$2
shift 2

GPUS_PER_NODE=${GPUS_PER_NODE:-8} NODES=${NODES:-1} NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1} MASTER_PORT=${MASTER_PORT:-29500}
GLOBAL_BATCH=${GLOBAL_BATCH:-2048}
world=$((GPUS_PER_NODE * NODES))
BATCH=${BATCH:-$((GLOBAL_BATCH / world < 32 ? GLOBAL_BATCH / world : 32))}
[ "$BATCH" -gt 0 ] && [ $((GLOBAL_BATCH % (world * BATCH))) -eq 0 ] || {
    echo "torchrun.sh: $world GPUs x $BATCH sequences do not divide the global batch; set BATCH, or GLOBAL_BATCH ($GLOBAL_BATCH)" >&2
    exit 2
}
update_freq=$((GLOBAL_BATCH / (world * BATCH)))
echo "$config: $world GPUs x $BATCH sequences x $update_freq accumulation steps = $GLOBAL_BATCH sequences"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ -d "$root/.venv" ] && export PATH="$root/.venv/bin:$PATH"
train=$(command -v metro-t0-train) || { echo "torchrun.sh: no metro-t0-train; run scripts/setup.sh" >&2; exit 2; }
exec ${DRY_RUN:+echo} torchrun --nnodes "$NODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS_PER_NODE" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" \
    "$train" "$config" \
    "task.data=$data" "dataset.batch_size=$BATCH" "optimization.update_freq=[$update_freq]" \
    "distributed_training.distributed_world_size=$world" "$@"
