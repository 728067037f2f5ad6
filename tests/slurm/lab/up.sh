#!/usr/bin/env bash
# A real Slurm of three virtual nodes on this machine, beside whatever runs here: each slurmd has its own network, PID,
# UTS and mount namespace; configuration, keys and state are below one directory, nothing of /etc is touched.
#
#   sudo tests/slurm/lab/up.sh        then  export SLURM_CONF=/tmp/tlab/etc/slurm.conf  and  sinfo, sbatch, srun
#
# Needs root and: apt-get install --no-install-recommends slurm-wlm munge iproute2     (Debian 12: Slurm 22.05.8)
# Nodes have 2 CPUs and 4 devices that only look like GPUs. Partition `urgent` preempts `normal` by requeue. Killing
# the process in /tmp/tlab/node-I.pid is the failure of node I; up.sh brings it back. down.sh ends everything.
set -euo pipefail
lab=${TABA_LAB:-/tmp/tlab}
net=10.88.0
export SLURM_CONF=$lab/etc/slurm.conf
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

mkdir -p "$lab"/{state,log,etc,t}
if ! ip link show br-taba >/dev/null 2>&1; then
  ip link add br-taba type bridge
  ip address add $net.254/24 dev br-taba
  ip link set br-taba up
fi
printf '127.0.0.1 localhost\n%s\n' "$net.254 $(hostname)" >"$lab/etc/hosts"
for i in 1 2 3; do echo "$net.$i node$i" >>"$lab/etc/hosts"; done

# cred_expire: how long Slurm holds a requeued job (by default two minutes). taskplugin none, linuxproc: no control
# groups, hence no tracking of daemons, which is the hard case for what an attempt leaves behind.
cat >"$SLURM_CONF" <<END
ClusterName=lab
SlurmctldHost=$(hostname)($net.254)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$lab/munge.socket,cred_expire=30
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool-%n
SlurmctldPidFile=$lab/slurmctld.pid
SlurmdPidFile=$lab/slurmd-%n.pid
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmdLogFile=$lab/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=5
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=20
InactiveLimit=0
KillWait=10
MinJobAge=900
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=node[1-3] NodeAddr=$net.[1-3] CPUs=2 CoresPerSocket=2 RealMemory=4000 Gres=gpu:4 State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF
END
echo "Name=gpu File=/dev/tty[0-3]" >"$lab/etc/gres.conf"
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\n' >"$lab/etc/cgroup.conf"

if ! alive "$lab/munged.pid"; then
  [ -e "$lab/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$lab/munge.key")
  munged --force --socket="$lab/munge.socket" --key-file="$lab/munge.key" --pid-file="$lab/munged.pid" \
    --log-file="$lab/log/munged.log" --seed-file="$lab/munge.seed"
fi
alive "$lab/slurmctld.pid" || slurmctld -c

# nsenter and not `ip netns exec`, which hides the control groups slurmd insists on. A PID namespace, because Ray looks
# at all processes it can see. bash as its first process reaps what daemons leave.
start_node() { # I
  local space=taba$1
  if ! ip netns list | grep -qw "$space"; then
    ip netns add "$space"
    ip link add "veth-$space" type veth peer name eth0 netns "$space"
    ip link set "veth-$space" master br-taba up
    ip -n "$space" address add "$net.$1/24" dev eth0
    ip -n "$space" link set eth0 up
    ip -n "$space" link set lo up
  fi
  nsenter --net="/run/netns/$space" unshare --pid --fork --kill-child --uts --mount --mount-proc bash -c "
    hostname node$1
    mount --bind '$lab/etc/hosts' /etc/hosts
    mount -t tmpfs -o size=1g tmpfs /dev/shm
    slurmd -D -N node$1 &
    while :; do wait -n || sleep 1; done" >"$lab/log/node-$1.out" 2>&1 </dev/null &
  echo $! >"$lab/node-$1.pid"
}
for i in 1 2 3; do alive "$lab/node-$i.pid" || start_node "$i"; done

for _ in {1..60}; do
  [ "$(sinfo -h -N -t idle,alloc,mix -p normal -o %N 2>/dev/null | sort -u | wc -l)" = 3 ] && break
  sleep 1
done
sinfo -N -l
