#!/usr/bin/env bash
# A Ray cluster inside a Slurm allocation, one node: started by ray_cluster.sh, once on each. Node 0 is the head and
# runs the driver; the others join it, and join again when their Ray is lost.
#
# They talk by files in the attempt's directory: node-I (what node I does), driver (what the driver does), drain (stop
# gently), rc (the driver's status; absent when the head was lost), done (everybody leaves).
set -euo pipefail
# shellcheck source=/dev/null
. "$TABA_SLURM_DIR/ray_cluster.sh"

readonly node=$SLURM_NODEID
ray=

# A wrong setting is wrong at every attempt: it counts as the driver's failure, not as a lost head.
fail() {
  say "error: node $node: $*"
  if [ "$node" = 0 ]; then
    echo 2 >"$TABA_ATTEMPT_DIR/rc"
    touch "$TABA_ATTEMPT_DIR/done"
  fi
  exit 2
}

# The private directory of this node: Ray opens its own to everybody (0777) and unpacks submitted code there, hence
# the parent only we can enter. Node-local, and short: Ray's socket names leave 42 characters.
make_private_directory() {
  local base=${TABA_LOCAL_TMP:-/tmp}
  [ "$((${#base} + 14))" -le 42 ] || fail "$base is too long for Ray's sockets; set TABA_LOCAL_TMP to a shorter path."
  sweep "$base"
  private=$(mktemp -d "$base/taba-XXXXXX")
  # The lock lives as long as any process of this node; the next job can tell what nobody uses.
  exec 9>"$private/lock.new"
  flock 9
  mv "$private/lock.new" "$private/lock"
}

sweep() { # DIRECTORY: what killed jobs left behind
  local old
  for old in "$1"/taba-*; do
    if [ -O "$old" ] && [ -e "$old/lock" ]; then flock --nonblock "$old/lock" rm -rf "$old" || true; fi
  done
}

# One file that every node unpacks, in place of an environment that a hundred nodes import from the shared file
# system. site.sh may define its own (squashfs, container).
unpack_environment() { # IMAGE DIRECTORY
  tar -xf "$1" -C "$2"
  TABA_PYTHON=$2/bin/python
}

prepare() {
  load_site
  make_private_directory
  trap clean_up EXIT
  if [ -n "${TABA_ENV_IMAGE:-}" ]; then
    mkdir "$private/env"
    unpack_environment "$TABA_ENV_IMAGE" "$private/env"
    export TABA_PYTHON
  fi
  if [[ $TABA_PYTHON == */* ]]; then PATH=${TABA_PYTHON%/*}:$PATH; fi # a submitted job says `taba`, and means this one
  if [ "$node" = 0 ]; then address=${TABA_ADDRESS%:*}; else address=$(own_address "${SLURMD_NODENAME:-$(hostname)}"); fi
  # Per-node Prometheus ports answer without the token.
  export RAY_enable_metrics_collection=${RAY_enable_metrics_collection:-0}
}

clean_up() {
  stop_ray
  rm -rf "$private"
}

note() { # STATE
  echo "$1 $(hostname) $address $(date +%s)" >"$TABA_ATTEMPT_DIR/node-$node.new"
  mv "$TABA_ATTEMPT_DIR/node-$node.new" "$TABA_ATTEMPT_DIR/node-$node"
}

is_done() { [ -e "$TABA_ATTEMPT_DIR/done" ]; }

runs() { kill -0 "$1" 2>/dev/null; }

# -P, here and below: the directory a job was submitted from may hold anything, and no module is to be found there.
# --block: a daemon would survive a requeue where Slurm does not track processes. --node-ip-address: Ray would ask
# public name servers. Agent: where another Ray holds its default port, the head accepts no jobs. Ray's object store
# holds receipts only, and node-local temporary space is often memory: 1 GB. The files of the run, which Ray's workers
# write, get the user's own permissions.
start_ray() { # OPTION...
  (
    umask "$TABA_UMASK"
    exec "$TABA_PYTHON" -P -m ray.scripts.scripts start --block --disable-usage-stats "$@" \
      --node-ip-address="$address" --dashboard-agent-listen-port="$((TABA_PORT + 3 + node))" \
      --temp-dir="$private/r" --num-cpus="$SRUN_CPUS_PER_TASK" \
      --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --object-store-memory="${TABA_OBJECT_STORE_BYTES:-1000000000}"
  ) >>"$TABA_ATTEMPT_DIR/ray-$node.log" 2>&1 &
  ray=$!
}

stop_ray() {
  local second
  if [ -z "$ray" ]; then return 0; fi # in an exit trap a bare return hands on the status of the script
  kill "$ray" 2>/dev/null || true
  for second in {1..30}; do
    runs "$ray" || break
    if [ "$second" = 30 ]; then kill -9 "$ray" 2>/dev/null || true; fi
    pause
  done
  wait "$ray" || true
  ray=
}

# Ray's logs go with the private directory; after a failure they are what explains it.
keep_ray_logs() {
  tar -czhf "$TABA_ATTEMPT_DIR/ray-$node-logs.tgz" -C "$private/r" session_latest/logs 2>/dev/null || true
}

ended_well() { [[ $(cat "$TABA_ATTEMPT_DIR/rc" 2>/dev/null) =~ ^(0|85)$ ]]; }

# ---- node 0

run_head() { # MODULE ARGUMENT...
  trap 'ask_to_drain TERM' TERM
  local dashboard=(--include-dashboard=false)
  if [ "$TABA_DASHBOARD" = true ]; then
    dashboard=(--include-dashboard=true --dashboard-host="$address" --dashboard-port="$((TABA_PORT + 1))")
  fi
  start_ray --head --port="$TABA_PORT" --ray-client-server-port="$((TABA_PORT + 2))" "${dashboard[@]}"
  note up
  if wait_for_nodes; then run_driver "$@"; else say "the cluster did not come up: $TABA_ATTEMPT_DIR/ray-*.log"; fi
  ended_well || keep_ray_logs
  touch "$TABA_ATTEMPT_DIR/done"
  wait_for_leavers # a worker that outlives the head waits 30 s for it
  stop_ray
  note left
}

wait_for_nodes() {
  echo waiting >"$TABA_ATTEMPT_DIR/driver"
  "$TABA_PYTHON" -P -m cluster.bringup wait --address "$TABA_ADDRESS" --nodes "$SLURM_NNODES" \
    --min-nodes "${TABA_MIN_NODES:-1}" --seconds "${TABA_JOIN_SECONDS:-300}" &
  wait_beside_ray $! 0
}

# The status of a process, which is ended when the Ray of the head has gone for that many seconds.
wait_beside_ray() { # PROCESS SECONDS
  local gone=0
  while runs "$1"; do
    pause
    if ! runs "$ray"; then gone=$((gone + 1)); fi
    if [ "$gone" -gt "$2" ]; then kill -9 "$1" 2>/dev/null || true; fi
  done
  wait "$1"
}

# The status counts unless Ray was lost before. A driver that was killed starts again where its shards are; one that is
# killed three times (by the memory limit, say) counts as lost with its node.
run_driver() { # MODULE ARGUMENT...
  local start status
  for start in 1 2 3; do
    echo running >"$TABA_ATTEMPT_DIR/driver"
    (
      umask "$TABA_UMASK"
      export RAY_ADDRESS=$TABA_ADDRESS
      exec "$TABA_PYTHON" -P -m "$@" --address "$TABA_ADDRESS"
    ) &
    status=0
    wait_beside_ray $! 60 || status=$?
    # A driver can fail because a part of Ray was lost, seconds before Ray's own watch on its parts notices.
    if [ "$status" != 0 ] && [ "$status" != "$DRAINED" ]; then for _ in {1..5}; do pause; done; fi
    if [ "$status" -le 128 ] || ! runs "$ray"; then break; fi
    say "the driver was killed (status $status, start $start of 3)"
  done
  if [ "$status" -le 128 ] && { [ "$status" = 0 ] || [ "$status" = "$DRAINED" ] || runs "$ray"; }; then
    echo "$status" >"$TABA_ATTEMPT_DIR/rc.new"
    mv "$TABA_ATTEMPT_DIR/rc.new" "$TABA_ATTEMPT_DIR/rc"
  fi
}

wait_for_leavers() {
  local _
  for _ in {1..10}; do
    grep -q '^up' "$TABA_ATTEMPT_DIR"/node-[1-9]* 2>/dev/null || return 0
    pause
  done
}

# ---- other nodes

run_worker() {
  trap 'exit 143' TERM
  local join patience=${TABA_JOIN_SECONDS:-300}
  for join in {1..20}; do
    head_answers "$patience" || break
    start_ray --address="$TABA_ADDRESS"
    note up
    while runs "$ray"; do
      if is_done; then leave; fi
      pause
    done
    if is_done; then leave; fi
    patience=60 # it answered once: silence now is the loss of it
    note lost
    say "node $node: Ray ended (start $join of 20)"
    for _ in 1 2 3; do pause; done
  done
  if is_done; then leave; fi
  keep_ray_logs
  after_lost_head
}

head_answers() { # SECONDS
  local _
  for _ in $(seq "$1"); do
    # Reading the directory makes a network file system look for `done` anew.
    ls "$TABA_ATTEMPT_DIR" >/dev/null
    if is_done; then return 1; fi
    if timeout 5 bash -c "exec 8<>/dev/tcp/${TABA_ADDRESS%:*}/$TABA_PORT" 2>/dev/null; then return 0; fi
    pause
  done
  return 1
}

leave() {
  stop_ray
  ended_well || keep_ray_logs
  note left
  exit 0
}

# The batch script lives on the head node. With --no-kill Slurm lets a job run on without them, until its time limit.
after_lost_head() {
  local run=${TABA_ATTEMPT_DIR%/attempt-*} attempt=${TABA_ATTEMPT_DIR##*-}
  say "node $node: the head does not answer"
  note left
  # The other workers do the same: only the first finds the job running. A node that was cut off for long may even
  # find a later attempt.
  if [ ! -e "$run/attempt-$((attempt + 1))" ] && ! requeue "the head node was lost" && [ "$(job_state)" = RUNNING ]; then
    scancel "$SLURM_JOB_ID"
  fi
  exit 1
}

# The signals of Slurm are for the batch script and the driver, which sets its own handler; Ray would die of USR1.
trap '' USR1
prepare
if [ "$node" = 0 ]; then run_head "$@"; else run_worker; fi
