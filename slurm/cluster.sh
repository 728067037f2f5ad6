#!/usr/bin/env bash
# Holds a Ray cluster for `ray job submit`; ends when no job has run on it for a while (--idle-minutes, default 30).
#
#   slurm/cluster.sh [--idle-minutes M]               hands itself to sbatch with the settings of site.sh
#   eval "$(taba cluster env JOBID)"                  then, on the login node
#   ray job submit -- taba run STUDY --store STORE
#
# Jobs end with the allocation: shortly before, they are drained (their status is then FAILED, with code 85), and the
# same submission to the next cluster goes on from the store. It is not requeued: nobody would know its new address.
#SBATCH --job-name=taba-cluster
#SBATCH --nodes=4 --ntasks-per-node=1 --cpus-per-task=288 --gpus-per-node=4 --exclusive
#SBATCH --time=08:00:00
#SBATCH --no-requeue --no-kill --open-mode=append --output=taba-%j.log
#SBATCH --signal=B:USR1@300
set -euo pipefail
TABA_SLURM_DIR=${TABA_SLURM_DIR:-$(dirname "$(realpath "$0")")}
if [ ! -e "$TABA_SLURM_DIR/ray_cluster.sh" ]; then # Slurm runs a copy; the record of the job knows the original
  TABA_SLURM_DIR=$(dirname "$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n 's/.* Command=\([^ ]*\).*/\1/p')")
fi
. "$TABA_SLURM_DIR/ray_cluster.sh"

submit_unless_allocated "$TABA_SLURM_DIR/cluster.sh" "$@"
TABA_REQUEUE=0
TABA_DASHBOARD=true # the Jobs API; bound to the head's address, behind the token
run_on_cluster cluster.slurm.bringup hold "$@"
