#!/usr/bin/env bash
# Ends what up.sh started and removes what it made; --keep-logs leaves stores, run directories and logs.
set -u
lab=${TABA_LAB:-/tmp/tlab}
for file in "$lab"/node-*.pid; do # --kill-child takes the whole node along
  if [ -s "$file" ]; then kill -9 "$(cat "$file")" 2>/dev/null; fi
done
for daemon in slurmctld munged; do
  if [ -s "$lab/$daemon.pid" ]; then kill "$(cat "$lab/$daemon.pid")" 2>/dev/null; fi
done
for i in 1 2 3; do # a link outlives its namespace by a moment, and is in the way of the next up.sh
  ip link del "veth-taba$i" 2>/dev/null
  ip netns del "taba$i" 2>/dev/null
done
ip link del br-taba 2>/dev/null
sleep 1
for one in "$lab"/* "$lab"; do
  case ${1:-}:$one in --keep-logs:"$lab" | --keep-logs:*/logs | --keep-logs:*/stores | --keep-logs:*/runs) ;;
  *) rm -rf "$one" ;;
  esac
done
