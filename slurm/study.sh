#!/usr/bin/env bash
# One study on one node; resumable, requeues itself before the time limit.
#
#   slurm/study.sh STUDY [OPTION...]                  hands itself to sbatch with the settings of site.sh
#   sbatch --account=A slurm/study.sh STUDY ...       the same by hand
#
# Everything goes to `taba run`.
#SBATCH --job-name=taba-study
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=288 --gpus-per-node=4 --exclusive
#SBATCH --time=04:00:00
#SBATCH --requeue --no-kill --open-mode=append --output=taba-%j.log
#SBATCH --signal=B:USR1@300
set -euo pipefail
TABA_SLURM_DIR=${TABA_SLURM_DIR:-$(dirname "$(realpath "$0")")}
if [ ! -e "$TABA_SLURM_DIR/ray_cluster.sh" ]; then # Slurm runs a copy; the record of the job knows the original
  TABA_SLURM_DIR=$(dirname "$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n 's/.* Command=\([^ ]*\).*/\1/p')")
fi
. "$TABA_SLURM_DIR/ray_cluster.sh"

if [[ ${1:--} == -* ]]; then fail "name the study first: study.sh STUDY [OPTION...]; several, or all: full_repro.sh."; fi
submit_unless_allocated "$TABA_SLURM_DIR/study.sh" "$@"
run_on_cluster workflows run "$@"
