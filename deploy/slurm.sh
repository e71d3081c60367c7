#!/bin/bash
# A cohort as a Slurm array, without Ray: sbatch deploy/slurm.sh INPUT OUTPUT, both paths that all nodes see, or URLs.
#SBATCH --job-name=kits-cohort
#SBATCH --array=1-16
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
set -eu
# exec: the signal is then the program's, which ends after the case at hand.
exec srun kits segment --input "$1" --output "$2" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --report "$2/report-$SLURM_ARRAY_TASK_ID.json" \
    --skip-existing
