#!/usr/bin/env bash
# For sites that do not requeue: submits the same work N times, each job after the one before has ended.
#
#   slurm/chain.sh N SCRIPT [ARGUMENT...]             chain.sh 4 slurm/full_repro.sh --model adm-64
#
# Each link goes on from the store. When one has finished the work, or failed for good, the links left end at once.
set -euo pipefail
TABA_SLURM_DIR=$(dirname "$(realpath "$0")")
. "$TABA_SLURM_DIR/ray_cluster.sh"

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]] || [ ! -e "${2:-}" ]; then fail "usage: chain.sh N SCRIPT [ARGUMENT...], N jobs in all."; fi
count=$1
shift
load_site
base=${TABA_RUN_DIR:-$PWD/runs/slurm}
(umask "$caller_umask" && mkdir -p "$base")
TABA_CHAIN=$(mktemp -d "$(cd "$base" && pwd)/chain-XXXXXX")
TABA_REQUEUE=0
export TABA_SLURM_DIR TABA_CHAIN TABA_REQUEUE

read -ra options <<<"${TABA_SBATCH:-}"
previous=
for ((link = 1; link <= count; link++)); do
  job=$(sbatch --parsable --no-requeue "${options[@]}" ${previous:+--dependency=afterany:"$previous"} "$@")
  previous=${job%%;*} # with several clusters sbatch says JOB;CLUSTER
  echo "$previous"
done
