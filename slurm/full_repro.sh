#!/usr/bin/env bash
# The whole paper, or the studies named, on a cluster of nodes; resumable, requeues itself before the time limit.
#
#   slurm/full_repro.sh [STUDY...] [OPTION...]        hands itself to sbatch with the settings of site.sh
#   sbatch --account=A slurm/full_repro.sh ...        the same by hand
#
# Everything goes to `taba run`: `slurm/full_repro.sh --model adm-64 --store STORE --set num_samples=10240`.
#SBATCH --job-name=taba
#SBATCH --nodes=4 --ntasks-per-node=1 --cpus-per-task=288 --gpus-per-node=4 --exclusive
#SBATCH --time=08:00:00
#SBATCH --requeue --no-kill --open-mode=append --output=taba-%j.log
#SBATCH --signal=B:USR1@300
set -euo pipefail
TABA_SLURM_DIR=${TABA_SLURM_DIR:-$(dirname "$(realpath "$0")")}
if [ ! -e "$TABA_SLURM_DIR/ray_cluster.sh" ]; then # Slurm runs a copy; the record of the job knows the original
  TABA_SLURM_DIR=$(dirname "$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n 's/.* Command=\([^ ]*\).*/\1/p')")
fi
. "$TABA_SLURM_DIR/ray_cluster.sh"

submit_unless_allocated "$TABA_SLURM_DIR/full_repro.sh" "$@"
if [[ ${1:--} == -* ]]; then set -- paper "$@"; fi # no study named: all of them
run_on_cluster workflows run "$@"
