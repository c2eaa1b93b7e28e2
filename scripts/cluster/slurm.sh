#!/usr/bin/env bash
# Pretrain under Slurm: one torchrun per node. Change the lines below for your cluster, then
#
#   mkdir -p runs    # where the log goes; Slurm does not make it
#   sbatch --nodes 8 scripts/cluster/slurm.sh metro_t5_base DATA [hydra overrides]
#
# After a lost node Slurm starts the job again, after a time limit submit it again: it continues from checkpoint_last.pt,
# so that at most `checkpoint.save_interval_updates` updates are lost.
#SBATCH --job-name metro-t0
#SBATCH --nodes 1
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 64
#SBATCH --time 24:00:00
#SBATCH --requeue
#SBATCH --output runs/slurm-%j.log
#SBATCH --open-mode append
set -euo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR NODES=$SLURM_JOB_NUM_NODES GPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-8}
# NODE_RANK differs per node, so it is read inside the task.
exec srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec scripts/cluster/torchrun.sh "$@"' torchrun.sh "$@"
