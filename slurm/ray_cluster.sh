#!/usr/bin/env bash
# A Ray cluster inside a Slurm allocation, the batch side. Sourced by the scripts beside it, which then call
#
#   run_on_cluster MODULE ARGUMENT...   Ray on every node; `python -P -m MODULE ARGUMENT... --address HOST:PORT` on the
#                                       first; the status of that driver is the status of the job
#
# One `srun` starts ray_node.sh once a node. A stop before the time limit (USR1) or at preemption (TERM) becomes a
# drain: running units finish, the driver ends with 85, the job is requeued and goes on from the store. A lost head
# node is requeued too; a driver that failed (1, 2, 3) or found its store taken (75) is not.
# Settings of a site: site.sh.example.
set -euo pipefail

readonly DRAINED=85
caller_umask=${TABA_UMASK:-$(umask)}
umask 077 # token, logs, Ray's files: this user's only

say() { echo "taba: $(date +%T) $*" >&2; }

fail() {
  say "error: $*"
  exit 2
}

load_site() {
  local site=${TABA_SITE:-$TABA_SLURM_DIR/site.sh}
  set +eu # `module` and conda's activation trip over both
  # shellcheck source=/dev/null
  if [ -e "$site" ]; then . "$site"; fi
  set -eu
  export TABA_HOME=${TABA_HOME:-$(dirname "$TABA_SLURM_DIR")}
  local own=$TABA_HOME/.venv/bin/python
  if [ -z "${TABA_PYTHON:-}" ]; then if [ -x "$own" ]; then TABA_PYTHON=$own; else TABA_PYTHON=python3; fi; fi
  export TABA_PYTHON PYTHONPATH="$TABA_HOME${PYTHONPATH:+:$PYTHONPATH}"
}

# Started by hand and not by Slurm, a script hands itself to sbatch with the site's account, partition and size.
submit_unless_allocated() { # SCRIPT ARGUMENT...
  export TABA_SLURM_DIR
  load_site
  if [ -n "${SLURM_JOB_ID:-}" ]; then return 0; fi
  local options
  read -ra options <<<"${TABA_SBATCH:-}"
  exec sbatch "${options[@]}" "$@"
}

# Address of this host as the other nodes see it. Compute nodes have several; the interface of the fast network, or
# else the name Slurm knows the host by, decides once, and everything uses the result.
own_address() { # HOST
  if [ -n "${TABA_HEAD_IFACE:-}" ]; then
    ip -4 -o address show dev "$TABA_HEAD_IFACE" | awk 'NR == 1 { sub("/.*", "", $4); print $4 }'
  else
    getent ahostsv4 "$1" | awk 'NR == 1 { print $1 }'
  fi
}

head_address() {
  local host address
  host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
  address=$(own_address "$host" || true)
  [ -n "$address" ] || fail "no IPv4 address for $host; name the network's interface: TABA_HEAD_IFACE in site.sh."
  if [ "$SLURM_NNODES" -gt 1 ] && [ -z "${TABA_HEAD_IFACE:-}" ] && [[ $address == 127.* ]]; then
    fail "$host resolves to $address, which other nodes cannot reach; set TABA_HEAD_IFACE in site.sh."
  fi
  echo "$address"
}

# Below the kernel's ephemeral ports (32768) and above Ray's worker ports (10002 to 19999). The next restart gets
# other ones: where Slurm does not track processes, the old head can outlive a requeue and hold its port.
first_port() {
  local hash
  hash=$(printf %s "$SLURM_JOB_ID" | cksum | cut -d' ' -f1)
  echo $((20000 + 4 * ((hash + attempt) % 3000)))
}

# Below a shared directory, named by the job; what an attempt says about itself is in a directory of its own, so that
# the next one cannot take an old `done` for its own.
make_run_directory() {
  local base=${TABA_RUN_DIR:-$PWD/runs/slurm}
  (umask "$caller_umask" && mkdir -p "$base")
  run_dir=$(cd "$base" && pwd)/$SLURM_JOB_ID
  mkdir -p "$run_dir/attempt-$attempt"
  [ -O "$run_dir" ] || fail "$run_dir belongs to another user; set TABA_RUN_DIR to a directory of yours."
  chmod 700 "$run_dir"
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$run_dir/token.new"
  mv "$run_dir/token.new" "$run_dir/token"
}

json_text() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

write_cluster_json() {
  local dashboard=null
  if [ "$TABA_DASHBOARD" = true ]; then dashboard=$(json_text "$RAY_API_SERVER_ADDRESS"); fi
  cat >"$run_dir/cluster.json.new" <<END
{
  "job_id": $(json_text "$SLURM_JOB_ID"),
  "attempt": $attempt,
  "address": $(json_text "$TABA_ADDRESS"),
  "dashboard": $dashboard,
  "token_path": $(json_text "$run_dir/token"),
  "nodes": $SLURM_NNODES,
  "head": $(json_text "$(hostname)"),
  "started": $(json_text "$(date -u +%FT%TZ)"),
  "requeue": $([ "$TABA_REQUEUE" = 1 ] && echo true || echo false)
}
END
  mv "$run_dir/cluster.json.new" "$run_dir/cluster.json"
}

# What ray_node.sh needs to know, on every node.
export_cluster() {
  export TABA_SLURM_DIR TABA_UMASK=$caller_umask
  export TABA_ATTEMPT_DIR=$run_dir/attempt-$attempt TABA_DRAIN_FILE=$run_dir/attempt-$attempt/drain
  export TABA_REQUEUE=${TABA_REQUEUE:-1} TABA_DASHBOARD=${TABA_DASHBOARD:-false}
  TABA_PORT=$(first_port)
  TABA_ADDRESS=$(head_address):$TABA_PORT
  export TABA_PORT TABA_ADDRESS
  # Ray's own default differs between `ray start` and `ray.init`: without a token the former runs open, and anybody
  # who reaches a port runs code as this user. RAY_AUTH_TOKEN would go before the file, and be seen in `ps e`.
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$run_dir/token
  unset RAY_AUTH_TOKEN
  if [ "$TABA_DASHBOARD" = true ]; then export RAY_API_SERVER_ADDRESS=http://${TABA_ADDRESS%:*}:$((TABA_PORT + 1)); fi
}

ask_to_drain() { # SIGNAL
  say "$1: no new units, running ones finish"
  [ -e "$TABA_DRAIN_FILE" ] || echo requeue >"$TABA_DRAIN_FILE"
}

start_step() { # MODULE ARGUMENT...
  # srun does not inherit --cpus-per-task since Slurm 22.05; without it Ray can end up bound to one core.
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
  export SLURM_EXPORT_ENV=ALL # `sbatch --export=NONE` would otherwise empty the environment of the step as well
  # --no-kill here and for sbatch: with one of them, losing a node ends the step. --wait=0: any other value ends all
  # tasks that long after the first has ended, and a worker that is lost is a task that ended.
  srun --no-kill --wait=0 --kill-on-bad-exit=0 \
    --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
    bash "$TABA_SLURM_DIR/ray_node.sh" "$@" &
  step=$!
}

# One tick, a second; the limits of all loops are counts of it. Unlike a plain sleep it lets a trap run at once.
pause() {
  sleep "${TABA_TICK_SECONDS:-1}" &
  wait $! || true
}

wait_for_step() {
  local after_done=0
  while kill -0 "$step" 2>/dev/null; do
    pause
    if [ -e "$TABA_ATTEMPT_DIR/done" ]; then after_done=$((after_done + 1)); fi
    # A node that no longer answers would hold the step for ever.
    if [ "$after_done" -ge 60 ]; then kill "$step" 2>/dev/null || true; fi
  done
  # The step's status says only that some task failed, often a worker that was killed: not what the driver says.
  wait "$step" || true
}

job_state() { scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p'; }

stopped_for_good() { [ "$(cat "$TABA_DRAIN_FILE" 2>/dev/null)" = no-requeue ]; }

# Why the job may not come back, or nothing. A job that is cancelled or preempted gets TERM too; a cancelled one must
# stay cancelled, and Slurm itself requeues a preempted one.
refusal_to_requeue() {
  local state
  state=$(job_state)
  if [ "$TABA_REQUEUE" != 1 ]; then
    echo "requeue is off"
  elif stopped_for_good; then
    echo "a drain without requeue was asked for"
  elif [ "${SLURM_RESTART_COUNT:-0}" -ge "${TABA_MAX_RESTARTS:-20}" ]; then
    echo "it was restarted ${SLURM_RESTART_COUNT:-0} times already (TABA_MAX_RESTARTS)"
  elif [ "$state" != RUNNING ]; then
    echo "it is $state"
  fi
}

requeue() { # WHY
  local refusal
  refusal=$(refusal_to_requeue)
  if [ -n "$refusal" ]; then
    say "$1; job $SLURM_JOB_ID is not requeued: $refusal."
    return 1
  fi
  say "$1: requeue of job $SLURM_JOB_ID"
  scontrol requeue "$SLURM_JOB_ID" && return
  say "this site does not requeue; submit again, or a chain of jobs: chain.sh."
  return 1
}

end_job() {
  local status=1
  if [ -e "$TABA_ATTEMPT_DIR/rc" ]; then
    status=$(cat "$TABA_ATTEMPT_DIR/rc")
    if [ "$status" = $DRAINED ]; then requeue "drained" || true; fi
    if [ "$status" != $DRAINED ] || stopped_for_good; then end_chain "$status"; fi
  else
    requeue "the head node or its Ray was lost" || true
  fi
  say "ends with status $status"
  exit "$status"
}

# Links of a chain (chain.sh) share a directory; when the work has ended, the links left over end at once.
end_chain() { # STATUS
  if [ -n "${TABA_CHAIN:-}" ]; then echo "$1" >"$TABA_CHAIN/status"; fi
}

leave_ended_chain() {
  if [ -n "${TABA_CHAIN:-}" ] && [ -e "$TABA_CHAIN/status" ]; then
    say "an earlier link of the chain ended with status $(cat "$TABA_CHAIN/status"); nothing is left to do"
    exit "$(cat "$TABA_CHAIN/status")"
  fi
}

run_on_cluster() { # MODULE ARGUMENT...
  leave_ended_chain
  attempt=${SLURM_RESTART_COUNT:-0}
  make_run_directory
  export_cluster
  write_cluster_json
  say "job $SLURM_JOB_ID attempt $attempt: $SLURM_NNODES nodes, head $TABA_ADDRESS, run directory $run_dir"
  trap 'ask_to_drain USR1' USR1
  trap 'ask_to_drain TERM' TERM
  start_step "$@"
  wait_for_step
  end_job
}
